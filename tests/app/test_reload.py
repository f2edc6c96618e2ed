"""Another configuration while the sidecar runs: what goes on, what ends, and who hears of it."""

import asyncio
import copy
import json
import ssl
from pathlib import Path
from typing import Any

import pytest
import trustme

from openmcp.config.filesource import FileSource
from openmcp.sidecar.build import BuildError
from openmcp.sidecar.serve import follow
from tests.net.test_upstream import ended
from tests.support.gate import (
    PATIENCE,
    Gate,
    ask_modern,
    call,
    configuration,
    gate,
    initialize,
    message,
    modern,
    modern_headers,
)
from tests.support.hostile import Hostile, Reply, Request, friendly, hostile
from tests.support.raw import Connection

DONE = {"content": [{"type": "text", "text": "done"}]}
LISTEN = {"toolsListChanged": True}


def without_rules(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration with a policy that denies one thing more."""
    changed = copy.deepcopy(config)
    changed["policies"][0]["requests"].append({"name": "off", "tools": ["allowed_once"], "action": "deny"})
    return changed


async def streaming(request: Request, reply: Reply) -> None:
    """A server with a stream for every GET and every subscription, which it never ends."""
    if request.method == "POST" and request.json.get("method") != "subscriptions/listen":
        await friendly(request, reply)
        return
    await reply.stream()
    if request.method == "POST":
        identifier = request.json["id"]
        meta = {"io.modelcontextprotocol/subscriptionId": identifier}
        await reply.event(
            {
                "jsonrpc": "2.0",
                "method": "notifications/subscriptions/acknowledged",
                "params": {"_meta": meta, "notifications": request.json["params"]["notifications"]},
            }
        )
    else:
        await reply.event({"jsonrpc": "2.0", "method": "notifications/message", "params": {"data": "hello"}})
    await reply.left()


async def open_get(agent: Connection) -> None:
    """Open the session's stream and read its first message."""
    await agent.send(agent.request(method="GET", accept="text/event-stream"))
    assert (await agent.answer_head())[0] == 200
    assert (await agent.event())["params"] == {"data": "hello"}


async def open_listen(agent: Connection) -> None:
    """Open a subscription and read its acknowledgement."""
    document = message("subscriptions/listen", 7, notifications=LISTEN)
    await agent.send(agent.request(modern(document), **modern_headers(document)))
    assert (await agent.answer_head())[0] == 200
    assert (await agent.event())["method"] == "notifications/subscriptions/acknowledged"


COMPLETED = {
    "jsonrpc": "2.0",
    "id": 7,
    "result": {"resultType": "complete", "_meta": {"io.modelcontextprotocol/subscriptionId": 7}},
}


async def test_a_new_policy_holds_for_the_next_call(sidecar: Gate, agent: Connection, server: Hostile) -> None:
    config = configuration(server.url)
    assert (await agent.ask(call("allowed_once"))).json["result"] == DONE
    sidecar.reload(without_rules(config))
    assert (await agent.ask(call("allowed_once"))).json["result"]["isError"] is True
    sidecar.reload(config)
    assert (await agent.ask(call("allowed_once"))).json["result"] == DONE
    assert (len(server.requests), server.connections) == (2, 1)


async def test_calls_under_way_end_as_they_began(sidecar: Gate, agent: Connection, server: Hostile) -> None:
    release = asyncio.Event()

    async def wait(request: Request, reply: Reply) -> None:
        await release.wait()
        await friendly(request, reply)

    server.handler = wait
    calling = asyncio.ensure_future(agent.ask(call("allowed_once")))
    await server.received(1)
    sidecar.reload(without_rules(configuration(server.url)))
    release.set()
    assert (await calling).json["result"] == DONE


async def test_a_removed_server_is_left_when_its_calls_end(sidecar: Gate, agent: Connection, server: Hostile) -> None:
    release, left = asyncio.Event(), asyncio.Event()

    async def wait(request: Request, reply: Reply) -> None:
        await release.wait()
        await friendly(request, reply)
        await reply.left()
        left.set()

    server.handler = wait
    calling = asyncio.ensure_future(agent.ask(call()))
    await server.received(1)
    async with hostile() as other:
        sidecar.reload(configuration(other.url, path="/other"))
        release.set()
        assert (await calling).json["result"] == DONE
        async with asyncio.timeout(PATIENCE):
            await left.wait()
        assert (await agent.ask(call())).status == 404
        agent.path = "/other"
        assert (await agent.ask(call())).json["result"] == DONE


async def test_idle_connections_to_a_removed_server_are_closed(
    sidecar: Gate, agent: Connection, server: Hostile
) -> None:
    left = asyncio.Event()

    async def watch(request: Request, reply: Reply) -> None:
        await friendly(request, reply)
        await reply.left()
        left.set()

    server.handler = watch
    assert (await agent.ask(call())).json["result"] == DONE
    sidecar.reload(configuration("http://127.0.0.1:1/mcp"))
    async with asyncio.timeout(PATIENCE):
        await left.wait()


async def test_a_removed_server_keeps_its_time_limits(server: Hostile, tmp_path: Path) -> None:
    async def hang(request: Request, reply: Reply) -> None:
        await reply.left()

    server.handler = hang
    async with gate(tmp_path, configuration(server.url, timeouts={"request": "200ms"})) as sidecar:
        async with sidecar.connect() as agent:
            calling = asyncio.ensure_future(agent.ask(call()))
            await server.received(1)
            sidecar.reload(configuration("http://127.0.0.1:1/mcp"))
            async with asyncio.timeout(PATIENCE):
                assert (await calling).code == -32603
        assert (await ended(sidecar))["outcome"] == "timeout"


# Streams


async def test_open_streams_hear_that_lists_have_changed(sidecar: Gate, agent: Connection, server: Hostile) -> None:
    server.handler = streaming
    await initialize(agent)
    async with sidecar.connect() as modern_agent:
        await open_get(agent)
        await open_listen(modern_agent)
        sidecar.reload(without_rules(configuration(server.url)))
        heard = [(await agent.event())["method"] for _ in range(3)]
        assert heard == [f"notifications/{kind}/list_changed" for kind in ("tools", "prompts", "resources")]
        assert await modern_agent.event() == {
            "jsonrpc": "2.0",
            "method": "notifications/tools/list_changed",
            "params": {"_meta": {"io.modelcontextprotocol/subscriptionId": 7}},
        }
        sidecar.reload(without_rules(configuration(server.url, limits={"inFlight": 7})))  # nothing but an end follows
        assert (await agent.event(), await modern_agent.event()) == (None, COMPLETED)


async def test_streams_of_a_removed_server_end(sidecar: Gate, agent: Connection, server: Hostile) -> None:
    server.handler = streaming
    await initialize(agent)
    async with sidecar.connect() as modern_agent:
        await open_get(agent)
        await open_listen(modern_agent)
        sidecar.reload(configuration("http://127.0.0.1:1/mcp"))
        assert (await agent.event(), await modern_agent.event()) == (None, COMPLETED)
    assert (await agent.ask(method="GET", accept="text/event-stream")).status == 404


async def test_streams_of_an_agent_whose_key_is_gone_end(sidecar: Gate, agent: Connection, server: Hostile) -> None:
    server.handler = streaming
    await initialize(agent)
    async with sidecar.connect("bob") as bob:
        await initialize(bob)
        await open_get(agent)
        await open_get(bob)
        changed = configuration(server.url)
        changed["identity"]["agents"][0]["keys"] = changed["identity"]["agents"][0]["keys"][1:]
        sidecar.reload(changed)
        assert await agent.event() is None
        assert (await agent.ask(method="GET", accept="text/event-stream")).status == 401
        sidecar.reload(without_rules(changed))
        assert (await bob.event())["method"] == "notifications/tools/list_changed"


async def test_a_stream_is_judged_by_the_new_policy(sidecar: Gate, agent: Connection, server: Hostile) -> None:
    go, uri = asyncio.Event(), "file:///public/a"
    updated = {"jsonrpc": "2.0", "method": "notifications/resources/updated", "params": {"uri": uri}}

    async def updates(request: Request, reply: Reply) -> None:
        if request.method == "POST":
            await friendly(request, reply)
            return
        await reply.stream()
        await reply.event(updated)
        await go.wait()
        await reply.event(updated)
        await reply.end()

    server.handler = updates
    await initialize(agent)
    await agent.send(agent.request(method="GET", accept="text/event-stream"))
    await agent.answer_head()
    assert await agent.event() == updated
    changed = configuration(server.url)
    changed["policies"] = [{**changed["policies"][0], "requests": changed["policies"][0]["requests"][:3]}]
    sidecar.reload(changed)
    go.set()
    assert [event["method"].split("/")[-1] async for event in agent.events()] == ["list_changed"] * 3
    assert (await sidecar.recorded(event="dropped"))["reason"] == "an update of a resource that policy denies"


# Sessions


async def test_a_session_of_a_removed_endpoint_is_not_found(sidecar: Gate, agent: Connection, server: Hostile) -> None:
    await initialize(agent)
    async with hostile() as other:
        sidecar.reload(configuration(other.url))
        for method in ("POST", "GET", "DELETE"):
            answer = await agent.ask(call() if method == "POST" else b"", method)
            assert (answer.status, answer.code) == (404, 40400)
        sidecar.reload(configuration(server.url, other.url))
        assert (await agent.ask(call())).json["result"] == DONE
        assert other.requests == []


async def test_another_lifetime_holds_for_new_sessions(sidecar: Gate, agent: Connection, server: Hostile) -> None:
    await initialize(agent)
    sidecar.reload(configuration(server.url) | {"sessions": {"lifetime": "1s"}})
    assert sidecar.app._sessions.expiry(1000.0) == 1001
    assert (await agent.ask(call())).json["result"] == DONE


# What is wrong with it


async def test_a_bad_file_keeps_the_last_good_and_says_so(sidecar: Gate, agent: Connection, server: Hostile) -> None:
    """By the same loop as in the process: `follow` takes what the source finds."""
    looks: asyncio.Queue[None] = asyncio.Queue()

    async def sleep(interval: float) -> None:
        await looks.get()

    source = FileSource(sidecar.file, sleep=sleep)
    source.load()
    following = asyncio.ensure_future(follow(source, sidecar.app))
    try:
        good = sidecar.file.read_text()
        await _change(sidecar, looks, good.replace('"deny"', '"dney"'))
        await _until(sidecar, lambda state: state["configuration"]["refused"] is not None)
        status, state = await admin(sidecar, "/readyz")
        assert status == 200
        assert state["ready"] is True
        assert "gateway.yaml" in state["configuration"]["refused"]
        assert "dney" in state["configuration"]["refused"]
        assert 'openmcp_config_reloads_total{result="error"} 1' in (await admin(sidecar, "/metrics"))[1]
        assert (await agent.ask(call())).json["result"] == DONE
        assert (await agent.ask(call("forbidden"))).json["result"]["isError"] is True
        assert "dney" in (await sidecar.recorded(event="reload", outcome="error"))["reason"]
        await _change(sidecar, looks, json.dumps(without_rules(json.loads(good))))
        await _until(sidecar, lambda state: state["configuration"]["refused"] is None)
        assert (await agent.ask(call("allowed_once"))).json["result"]["isError"] is True
        assert await sidecar.recorded(event="reload", outcome="ok")
        assert 'openmcp_config_reloads_total{result="ok"} 1' in (await admin(sidecar, "/metrics"))[1]
    finally:
        following.cancel()


async def _change(sidecar: Gate, looks: "asyncio.Queue[None]", text: str) -> None:
    """Write the file, and let the source look twice."""
    sidecar.file.write_text(text)
    for _ in range(3):
        looks.put_nowait(None)


async def _until(sidecar: Gate, wanted: Any) -> None:
    async with asyncio.timeout(PATIENCE):
        while True:
            if wanted((await admin(sidecar, "/readyz"))[1]):
                return
            await asyncio.sleep(0.01)


async def admin(sidecar: Gate, path: str) -> tuple[int, Any]:
    """Ask the admin listener."""
    host, port = sidecar.app.admin_address
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(f"GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n".encode())
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    return int(head[9:12]), json.loads(body) if b"application/json" in head else body.decode()


async def test_a_configuration_that_cannot_be_used_changes_nothing(
    sidecar: Gate, agent: Connection, server: Hostile, tmp_path: Path
) -> None:
    before = sidecar.app.snapshot
    changed = configuration(server.url.replace("http:", "https:"), tls={"ca": {"file": str(tmp_path / "no.pem")}})
    with pytest.raises(BuildError, match=r"no\.pem"):
        sidecar.reload(changed)
    assert sidecar.app.snapshot is before
    assert (await agent.ask(call())).json["result"] == DONE


async def test_a_renewed_ca_is_used_though_the_configuration_is_the_same(tmp_path: Path) -> None:
    old, new, pem = trustme.CA(), trustme.CA(), tmp_path / "ca.pem"
    old.cert_pem.write_to_path(str(pem))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    new.issue_cert("127.0.0.1").configure_cert(context)
    async with hostile(tls=context) as server:
        config = configuration(server.url, tls={"ca": {"file": str(pem)}})
        async with gate(tmp_path, config) as sidecar, sidecar.connect() as agent:
            assert (await agent.ask(call())).code == -32603
            new.cert_pem.write_to_path(str(pem))
            sidecar.reload(config)
            assert (await agent.ask(call())).json["result"] == DONE
            upstream = sidecar.app.snapshot.routes["/server"].upstream
            sidecar.reload(config)
            assert sidecar.app.snapshot.routes["/server"].upstream is upstream


async def test_modern_calls_go_on_over_reloads(sidecar: Gate, agent: Connection, server: Hostile) -> None:
    """A reload between any two calls, with and without another set of servers: none fails."""
    for number in range(20):
        answer = await ask_modern(agent, call(identifier=number))
        assert answer.json["result"] == DONE | {"resultType": "complete"}
        sidecar.reload(configuration(server.url, limits={"inFlight": 5 + number % 3}))
