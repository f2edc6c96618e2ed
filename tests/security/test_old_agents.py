"""Agents of 2024-11-05 that mean harm: the address for messages is as well guarded as the stream that named it."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from openmcp.sidecar.net.shares import Shares
from openmcp.sidecar.stages import older
from tests.support.gate import KEYS, Gate, call, configuration, gate, message, modern, modern_headers
from tests.support.hostile import Hostile, Reply, Request, friendly
from tests.support.old import OldAgent, OldServer, old_agent
from tests.support.raw import connect

SSE = {"compat": {"sse": True}}
STREAM = {"method": "GET", "accept": "text/event-stream"}


@pytest.fixture
async def sidecar(server: Hostile, tmp_path: Path) -> AsyncIterator[Gate]:
    """A sidecar that lets old agents in."""
    async with gate(tmp_path, configuration(server.url, **SSE)) as running:
        yield running


@pytest.fixture
async def alice(sidecar: Gate) -> AsyncIterator[OldAgent]:
    """An agent that has begun its session."""
    async with old_agent(sidecar) as agent:
        await agent.initialize()
        yield agent


async def gone(server: Hostile, method: str = "DELETE") -> Request:
    """Wait until the server gets a request of this kind."""
    count = 1
    while (request := await server.received(count)).method != method:
        count += 1
    return request


async def test_a_call_is_answered_on_the_stream(alice: OldAgent, sidecar: Gate, server: Hostile) -> None:
    answer = await alice.ask(call(identifier="x"))
    assert answer == {"jsonrpc": "2.0", "id": "x", "result": {"content": [{"type": "text", "text": "done"}]}}
    request = await sidecar.recorded(event="request", method="tools/call")
    assert (request["agent"], request["decision"], request["id"]) == ("key:alice", "allow", "x")
    assert server.requests[-1].header("mcp-session-id") == "upstream-session"
    assert "upstream-session" not in alice.path


async def test_policy_holds(alice: OldAgent, sidecar: Gate, server: Hostile) -> None:
    denied = await alice.ask(call("forbidden"))
    assert denied["result"]["isError"] is True
    listed = await alice.ask(message("tools/list", 2))
    assert [tool["name"] for tool in listed["result"]["tools"]] == ["allowed"]
    assert server.calls("tools/call") == []
    assert (await sidecar.recorded(event="request", method="tools/call"))["decision"] == "deny"


async def test_the_address_is_the_agents_alone(alice: OldAgent, sidecar: Gate, server: Hostile) -> None:
    """Another agent that knows the address, nobody, and somebody with a wrong key."""
    server.requests.clear()
    assert ((await alice.post(call(), "bob")).status) == 404
    async with connect(sidecar.url, alice.path) as stranger:
        assert (await stranger.ask(call())).status == 401
        assert (await stranger.ask(call(), x_api_key="wrong")).status == 401
    assert server.requests == []
    assert (await alice.ask(call()))["id"] == 1, "the owner's stream is none the worse"


async def test_before_a_session_the_address_is_the_agents_too(sidecar: Gate, server: Hostile) -> None:
    async with old_agent(sidecar) as agent:
        begin = message("initialize", 0, protocolVersion="2025-11-25", capabilities={}, clientInfo={})
        assert (await agent.post(begin, "bob")).status == 404
        assert server.requests == []


async def test_guessed_addresses(alice: OldAgent, sidecar: Gate, server: Hostile) -> None:
    server.requests.clear()
    path, token = alice.path.rsplit("/", 1)
    for guess in ("", token[:-1], token + "A", token.swapcase(), "../" + token, token + "/", token + "%00"):
        async with sidecar.connect(path=f"{path}/{guess}") as agent:
            assert (await agent.ask(call())).status == 404, guess
    for method in ("GET", "DELETE", "PUT"):
        async with sidecar.connect(path=alice.path) as agent:
            assert (await agent.ask(b"", method)).status == 404, method
    assert server.requests == []
    assert len(token) == 32


async def test_a_foreign_session_id_beside_the_address(alice: OldAgent, sidecar: Gate, server: Hostile) -> None:
    """What stands in the header does not count: the session is the stream's own."""
    async with old_agent(sidecar, "bob") as bob:
        await bob.initialize()
        stolen = sidecar.app._pipeline.older.streams[bob.path].sessions[0].decode()
        assert (await alice.post(call(), mcp_session_id=stolen)).status == 202
        assert "result" in await alice.stream.event()
        assert (await alice.post(call(), mcp_session_id=[stolen, stolen])).status == 400


async def test_other_names_and_origins(alice: OldAgent, sidecar: Gate) -> None:
    assert (await alice.post(call(), host="evil.example")).status == 403
    assert (await alice.post(call(), origin="http://evil.example")).status == 403
    async with sidecar.connect() as agent:
        assert (await agent.ask(b"", **STREAM, origin="http://evil.example")).status == 403
        assert (await agent.ask(b"", **STREAM, host="evil.example")).status == 403
        assert (await agent.ask(b"", **STREAM, x_api_key=None)).status == 401


async def test_nothing_of_a_stream_leaks_into_another(alice: OldAgent, sidecar: Gate, server: Hostile) -> None:
    waiting = asyncio.Event()
    going = asyncio.Event()

    async def slow(request: Request, reply: Reply) -> None:
        document = request.json if request.method == "POST" else {}
        if document.get("method") != "tools/call":
            await friendly(request, reply)
            return
        if document["params"]["arguments"]["of"] == "alice":
            waiting.set()
            await going.wait()
        await reply.result({"content": [{"type": "text", "text": document["params"]["arguments"]["of"]}]})

    server.handler = slow
    async with old_agent(sidecar, "bob") as bob:
        await bob.initialize()
        assert (await alice.post(call(identifier=5, of="alice"))).status == 202
        await waiting.wait()
        answers = [await bob.ask(call(identifier=5, of="bob")) for _ in range(3)]
        going.set()
        assert {answer["result"]["content"][0]["text"] for answer in answers} == {"bob"}
        assert (await alice.stream.event())["result"]["content"][0]["text"] == "alice"


async def test_a_message_without_a_stream(sidecar: Gate, server: Hostile) -> None:
    """The end of the stream ends the session, here and at the server; its address is gone with it."""
    async with old_agent(sidecar) as agent:
        await agent.initialize()
    await gone(server)
    server.requests.clear()
    assert (await agent.post(call())).status == 404
    assert server.requests == []


async def test_what_is_no_message_is_refused_in_http(alice: OldAgent) -> None:
    for body in (b"{", b"[]", b'{"jsonrpc":"2.0","id":null,"method":"ping"}', json.dumps([call()]).encode()):
        assert (await alice.post(body)).status == 400, body
    assert (await alice.post(call(), content_type="text/plain")).status == 415
    assert (await alice.post(call(), mcp_protocol_version="2099-01-01")).status in (202, 400)
    assert (await alice.post({"jsonrpc": "2.0", "id": "forged", "result": {}})).status == 400


async def test_the_modern_era_does_not_come_this_way(alice: OldAgent, server: Hostile) -> None:
    server.requests.clear()
    document = modern(call())
    assert (await alice.post(document, **modern_headers(call()))).status == 202
    answer = await alice.stream.event()
    assert (answer["id"], answer["error"]["code"]) == (1, -32022)
    assert "2026-07-28" not in answer["error"]["data"]["supported"]
    assert server.requests == []


async def test_bodies_are_bounded_as_everywhere(server: Hostile, tmp_path: Path) -> None:
    members = {**SSE, "limits": {"requestBytes": "128KiB"}}
    async with gate(tmp_path, configuration(server.url, **members)) as sidecar, old_agent(sidecar) as agent:
        await agent.initialize()
        assert (await agent.ask(call(text="x" * 100_000)))["id"] == 1
        assert (await agent.post(call(text="x" * 140_000))).status == 413


async def test_rate_limits_hold(server: Hostile, tmp_path: Path) -> None:
    limit = {"by": ["agent"], "requests": 1, "per": "1h", "tools": ["*"]}
    config = configuration(server.url, **SSE, rateLimit=[limit])
    async with gate(tmp_path, config) as sidecar, old_agent(sidecar) as agent:
        await agent.initialize()
        assert "result" in await agent.ask(call())
        assert (await agent.ask(call(identifier=2)))["error"]["code"] == 42900
        assert len(server.calls("tools/call")) == 1


async def test_secrets_are_redacted(server: Hostile, tmp_path: Path) -> None:
    async def leaky(request: Request, reply: Reply) -> None:
        if request.method == "POST" and request.json["method"] == "tools/call":
            await reply.result({"content": [{"type": "text", "text": "mail ann@corp.example"}]})
        else:
            await friendly(request, reply)

    server.handler = leaky
    config = configuration(server.url, **SSE)
    rule = {"name": "mail", "detect": ["email"], "action": "redact"}
    config["policies"] = [{**config["policies"][0], "responses": [rule]}]
    async with gate(tmp_path, config) as sidecar, old_agent(sidecar) as agent:
        await agent.initialize()
        assert "ann@" not in json.dumps(await agent.ask(call()))


async def test_questions_of_the_server(sidecar: Gate, server: Hostile) -> None:
    """They come on the stream under ids of ours; an answer is taken once, and from this agent alone."""
    answered: list[Any] = []
    done = asyncio.Event()

    async def asking(request: Request, reply: Reply) -> None:
        document = request.json if request.method == "POST" else {}
        if document.get("method") == "tools/call":
            await reply.stream()
            await reply.event(message("elicitation/create", "secret-id", message="?", requestedSchema={}))
            await done.wait()
            await reply.event({"jsonrpc": "2.0", "id": document["id"], "result": {"content": []}})
            await reply.end()
        elif "result" in document:
            answered.append(document)
            await reply.accepted()
            done.set()
        else:
            await friendly(request, reply)

    server.handler = asking
    async with old_agent(sidecar) as agent:
        await agent.initialize(elicitation={})
        question = await agent.ask(call())
        assert (question["method"], "secret-id" in question["id"]) == ("elicitation/create", False)
        said = {"jsonrpc": "2.0", "id": question["id"], "result": {"action": "decline"}}
        assert (await agent.post(said, "bob")).status == 404
        assert (await agent.post(said | {"id": "secret-id"})).status == 400
        assert (await agent.post(said)).status == 202
        assert (await agent.stream.event())["id"] == 1
        assert (await agent.post(said)).status == 400
        assert [one["id"] for one in answered] == ["secret-id"]


async def test_what_the_server_says_by_itself(sidecar: Gate, server: Hostile) -> None:
    """The session's own stream is opened for the agent, on which the server may speak without being asked."""

    async def speaking(request: Request, reply: Reply) -> None:
        if request.method == "GET":
            await reply.stream()
            await reply.event(message("notifications/tools/list_changed", None))
            await reply.event({"jsonrpc": "2.0", "id": 1, "result": {"stolen": True}})
            await reply.event(message("notifications/prompts/list_changed", None), id="7")
            await reply.reader.read()
        else:
            await friendly(request, reply)

    server.handler = speaking
    async with old_agent(sidecar) as agent:
        await agent.initialize()
        heard = [(await agent.stream.event())["method"] for _ in range(2)]
        assert heard == ["notifications/tools/list_changed", "notifications/prompts/list_changed"]


async def test_a_session_that_the_server_forgot(alice: OldAgent, server: Hostile) -> None:
    """The agent is told, and its stream ends: it has to connect anew."""

    async def forgetful(request: Request, reply: Reply) -> None:
        await reply.respond(status=404)

    server.handler = forgetful
    assert (await alice.ask(call()))["error"]["code"] == 40400
    assert await alice.stream.event() is None
    assert (await alice.post(call())).status == 404


async def test_too_many_messages_at_once(alice: OldAgent, server: Hostile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(older, "UNDER_WAY", 3)
    going = asyncio.Event()

    async def slow(request: Request, reply: Reply) -> None:
        if request.method == "POST":
            await going.wait()
        await friendly(request, reply)

    server.handler = slow
    assert [(await alice.post(call(identifier=one))).status for one in range(4)] == [202, 202, 202, 429]
    going.set()
    assert {(await alice.stream.event())["id"] for _ in range(3)} == {0, 1, 2}


async def test_an_agent_that_does_not_read(alice: OldAgent, sidecar: Gate, server: Hostile) -> None:
    """What waits for it is bounded: then its messages are not taken."""

    async def large(request: Request, reply: Reply) -> None:
        if request.method == "POST" and request.json["method"] == "tools/call":
            await reply.result({"content": [{"type": "text", "text": "x" * 1_000_000}]})
        else:
            await friendly(request, reply)

    server.handler = large
    alice.stream.writer.transport.pause_reading()  # type: ignore[attr-defined]  # a stream's transport is a whole one
    # else the system's buffers grow, and there is room again
    alice.stream.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    stream = sidecar.app._pipeline.older.streams[alice.path]
    posted = [asyncio.create_task(alice.post(call(identifier=one))) for one in range(20)]
    async with asyncio.timeout(10):
        while stream._waiting < 10_000_000:  # noqa: ASYNC110 - nothing says when it is full
            await asyncio.sleep(0.01)
    late = asyncio.create_task(alice.post(call(identifier="late")))
    async with old_agent(sidecar, "bob") as bob:
        await bob.initialize()
        assert (await bob.ask(call()))["id"] == 1, "others go on"
    assert not late.done()
    assert "late" not in [one["id"] for one in server.calls("tools/call")]
    alice.stream.writer.transport.resume_reading()  # type: ignore[attr-defined]  # as above
    heard = {(await alice.stream.event())["id"] for _ in range(21)}
    assert heard == {*range(20), "late"}
    assert {answer.status for answer in await asyncio.gather(late, *posted)} == {202}


async def test_many_idle_streams(sidecar: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sidecar.app._pipeline.older, "_shares", Shares(3, "streams are open"))
    async with old_agent(sidecar), old_agent(sidecar), old_agent(sidecar, "bob"), sidecar.connect() as agent:
        answer = await agent.ask(b"", **STREAM)
        assert (answer.status, answer.header("retry-after")) == (429, "1")


async def test_a_stream_that_begins_no_session_ends(sidecar: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(older, "BEGIN", 0.0)
    async with old_agent(sidecar) as agent:
        assert await agent.stream.event() is None
        assert (await agent.post(call())).status == 404


async def test_drain_lets_what_is_under_way_end(sidecar: Gate, server: Hostile) -> None:
    asked, going = asyncio.Event(), asyncio.Event()

    async def slow(request: Request, reply: Reply) -> None:
        if request.method == "POST" and request.json["method"] == "tools/call":
            asked.set()
            await going.wait()
        await friendly(request, reply)

    server.handler = slow
    async with old_agent(sidecar) as agent, old_agent(sidecar, "bob") as idle:
        await agent.initialize()
        assert (await agent.post(call())).status == 202
        await asked.wait()
        stopping = asyncio.create_task(sidecar.app.stop(patience=10.0))
        assert await idle.stream.event() is None
        going.set()
        assert (await agent.stream.event())["result"]["content"][0]["text"] == "done"
        assert await agent.stream.event() is None
        await stopping


async def test_an_agent_that_may_not_use_the_server(server: Hostile, tmp_path: Path) -> None:
    config = configuration(server.url, **SSE)
    config["policies"] = [{**config["policies"][0], "agents": ["key:alice"]}]
    async with gate(tmp_path, config) as sidecar, sidecar.connect("bob") as bob:
        assert (await bob.ask(b"", **STREAM)).status == 405
        async with old_agent(sidecar) as alice:
            sidecar.reload({**config, "policies": [{**config["policies"][0], "agents": ["key:nobody"]}]})
            assert await alice.stream.event() is None, "what it had ends with its right to it"


async def test_without_compat_there_is_no_such_stream(server: Hostile, tmp_path: Path) -> None:
    async with gate(tmp_path, configuration(server.url)) as sidecar, sidecar.connect() as agent:
        assert (await agent.ask(b"", **STREAM)).status == 405


@asynccontextmanager
async def both(folder: Path, server: Hostile) -> AsyncIterator[Gate]:
    """Run a sidecar with the old transport on both sides."""
    async with gate(folder, configuration(server.url, **SSE, transport="sse")) as running:
        yield running


async def test_old_agents_and_old_servers(server: Hostile, tmp_path: Path) -> None:
    server.handler = old = OldServer()
    async with both(tmp_path, server) as sidecar, old_agent(sidecar) as alice, old_agent(sidecar, "bob") as bob:
        for agent in (alice, bob):
            assert (await agent.initialize("2024-11-05"))["result"]["protocolVersion"] == "2024-11-05"
        for agent in (bob, alice, bob):
            answer = await agent.ask(call(of=agent.name))
            assert answer["result"]["content"][0]["text"] == f'{{"of": "{agent.name}"}}'
        await bob.stream.close()
        await old.left(2)
        await old.streams[0].event(message("notifications/tools/list_changed", None))
        assert (await alice.stream.event())["method"] == "notifications/tools/list_changed"
        await old.streams[0].end()
        assert (await alice.ask(call()))["error"]["code"] in (40400, -32603)


async def test_records_name_no_address(alice: OldAgent, sidecar: Gate) -> None:
    await alice.ask(call())
    assert KEYS["alice"] not in json.dumps(await sidecar.records())
    assert alice.path.rsplit("/", 1)[1] not in json.dumps(await sidecar.records())
    alice.stream.reset()
    ended = await sidecar.recorded(event="stream-end", method="", outcome="client_gone")
    assert ended["agent"] == "key:alice"
