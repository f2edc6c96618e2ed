"""Servers of 2024-11-05 that mean harm: where they would have our messages go, and what they say on whose stream."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from openmcp.sidecar.bridge import channel
from tests.support.gate import Gate, ask_modern, call, configuration, gate, initialize, message
from tests.support.hostile import Hostile, Reply, Request, friendly, hostile
from tests.support.old import ENDPOINT, OldServer, plain


@asynccontextmanager
async def before(folder: Path, server: Hostile, **members: Any) -> AsyncIterator[Gate]:
    """Run a sidecar in front of the server, which it takes for one of 2024-11-05."""
    async with gate(folder, configuration(server.url, transport="sse", **members)) as running:
        yield running


@pytest.fixture
def old(server: Hostile) -> OldServer:
    """A server that behaves until the test changes that."""
    old = OldServer()
    server.handler = old
    return old


def sent(server: Hostile) -> list[Request]:
    """Return what the server got, without health checks."""
    return [request for request in server.requests if request.method != "OPTIONS"]


BEGIN = message(
    "initialize", 0, protocolVersion="2025-11-25", capabilities={}, clientInfo={"name": "t", "version": "1"}
)

FOREIGN = {
    "another host": "http://{evil}/messages",
    "another host, no scheme": "//{evil}/messages",
    "another scheme": "https://{own}/messages",
    "another port": "http://127.0.0.1:1/messages",
    "a user": "http://user@{own}/messages",
    "the host as a user": "http://{own}@{evil}/messages",
    "backslashes": "\\\\{evil}\\messages",
    "no http": "javascript:alert(1)",
    "a blank, and a header": "/messages HTTP/1.1\r\ndata: x: y",
    "control characters": "/messages\x00\x01",
    "not ASCII": "/messages?\u00e9",
    "empty": "",
    "too long": "/" + "m" * 2048,
    "a bad port": "http://127.0.0.1:x/messages",
}


@pytest.mark.parametrize("named", FOREIGN.values(), ids=FOREIGN.keys())
async def test_sse_endpoint_to_a_foreign_host(old: OldServer, server: Hostile, tmp_path: Path, named: str) -> None:
    async with hostile(friendly) as evil, before(tmp_path, server) as sidecar, sidecar.connect() as agent:
        own, other = server.url.split("/")[2], evil.url.split("/")[2]
        old.named = named.replace("{own}", own).replace("{evil}", other) or " "
        answer = await agent.ask(BEGIN)
        assert (answer.status, answer.code, answer.header("mcp-session-id")) == (200, -32603, None)
        assert [request.method for request in sent(server)] == ["GET"]
        assert evil.connections == 0
        record = await sidecar.recorded(event="response", method="initialize")
        assert record["outcome"] == "protocol"


@pytest.mark.parametrize("named", ["http://{own}/m?session=0", "m?session=0", "/m?session=0"])
async def test_addresses_of_the_servers_own_origin(old: OldServer, server: Hostile, tmp_path: Path, named: str) -> None:
    old.named = named.replace("{own}", server.url.split("/")[2])
    async with before(tmp_path, server) as sidecar, sidecar.connect() as agent:
        await initialize(agent)
    assert [request.path for request in sent(server)] == ["/mcp", "/m?session=0"]


async def test_a_second_endpoint_event(old: OldServer, server: Hostile, tmp_path: Path) -> None:
    async with before(tmp_path, server) as sidecar, sidecar.connect() as agent:
        await initialize(agent)
        await (await old.stream()).chunk(ENDPOINT + b"/elsewhere?session=0\n\n")
        await old.left()
        assert (await agent.ask(call())).status == 404
        assert {request.path for request in sent(server)[1:]} == {"/messages?session=0"}


async def test_a_message_before_the_address(old: OldServer, server: Hostile, tmp_path: Path) -> None:
    old.named = ""
    async with before(tmp_path, server) as sidecar, sidecar.connect() as agent:
        await agent.send(agent.request(BEGIN))
        await (await old.stream()).event({"jsonrpc": "2.0", "id": 1, "result": {}})
        assert (await agent.answer()).code == -32603
        assert [request.method for request in sent(server)] == ["GET"]


async def test_no_address_at_all(old: OldServer, server: Hostile, tmp_path: Path) -> None:
    old.named = ""
    async with before(tmp_path, server, timeouts={"request": "300ms"}) as sidecar, sidecar.connect() as agent:
        assert (await agent.ask(BEGIN)).code == -32603
        await old.left()


async def test_an_answer_reaches_its_own_session_alone(old: OldServer, server: Hostile, tmp_path: Path) -> None:
    """Ids are ours, for each session anew: what is said on another stream, or under the agent's own id, is nobody's."""
    asked: list[Request] = []
    called = asyncio.Event()

    async def on_message(old: OldServer, request: Request, reply: Reply) -> None:
        if request.json.get("method") != "tools/call":
            await old.serve(request, reply)
            return
        await reply.accepted()
        asked.append(request)
        called.set()
        if len(asked) < 2:
            return
        first, second = asked
        assert first.json["id"] == second.json["id"], "each session counts by itself"
        stolen = {"content": [{"type": "text", "text": "stolen"}]}
        for wrong in (str(first.json["id"]), 77, None, float(first.json["id"]) + 0.5):
            await old.say(first, {"jsonrpc": "2.0", "id": wrong, "result": stolen})
        await old.say(second, {"jsonrpc": "2.0", "id": second.json["id"], "result": plain(second)})
        await old.say(second, {"jsonrpc": "2.0", "id": second.json["id"], "result": stolen})
        await old.say(first, {"jsonrpc": "2.0", "id": first.json["id"], "result": plain(first)})

    old.on_message = on_message
    async with before(tmp_path, server) as sidecar, sidecar.connect() as alice, sidecar.connect("bob") as bob:
        await initialize(alice)
        await initialize(bob)
        await alice.send(alice.request(call(identifier=77, of="alice")))
        await called.wait()
        await bob.send(bob.request(call(identifier=77, of="bob")))
        for agent, name in ((bob, "bob"), (alice, "alice")):
            answer = (await agent.answer()).json
            assert (answer["id"], answer["result"]["content"][0]["text"]) == (77, f'{{"of": "{name}"}}')


async def test_the_end_of_the_stream_ends_the_session(old: OldServer, server: Hostile, tmp_path: Path) -> None:
    async def on_message(old: OldServer, request: Request, reply: Reply) -> None:
        if request.json.get("method") != "tools/call":
            await old.serve(request, reply)
            return
        await reply.accepted()
        await old.stream_of(request).end()

    old.on_message = on_message
    async with before(tmp_path, server) as sidecar, sidecar.connect() as agent:
        await initialize(agent)
        assert (await agent.ask(call())).code == -32603
        assert (await agent.ask(call())).status == 404


@pytest.mark.parametrize("status", [400, 500, 307, 401, 404])
async def test_a_message_that_is_not_taken(old: OldServer, server: Hostile, tmp_path: Path, status: int) -> None:
    async def on_message(old: OldServer, request: Request, reply: Reply) -> None:
        if request.json.get("method") != "tools/call":
            await old.serve(request, reply)
        else:
            await reply.respond(b"no", status, location=elsewhere.url, www_authenticate="Bearer")

    old.on_message = on_message
    async with hostile(friendly) as elsewhere, before(tmp_path, server) as sidecar, sidecar.connect() as agent:
        await initialize(agent)
        answer = await agent.ask(call())
        assert (answer.status, answer.code) == ((404, 40400) if status == 404 else (200, -32603))
        assert answer.header("www-authenticate") is None
        assert elsewhere.connections == 0
        assert len(server.calls("tools/call")) == 1, "what may have been served is not sent again"


async def test_an_event_that_is_too_large(old: OldServer, server: Hostile, tmp_path: Path) -> None:
    async with before(tmp_path, server, limits={"responseBytes": "64KiB"}) as sidecar, sidecar.connect() as agent:
        await initialize(agent)
        await (await old.stream()).chunk(b"data: " + b"x" * 70_000)
        await old.left()
        assert (await agent.ask(call())).status == 404


async def test_a_flood_of_events(
    old: OldServer, server: Hostile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channel, "ODD", 100)
    async with before(tmp_path, server) as sidecar, sidecar.connect() as agent:
        await initialize(agent)
        await (await old.stream()).chunk(b"event: noise\ndata: x\n\n" * 200)
        await old.left()
        assert (await agent.ask(call())).status == 404


async def test_our_credential_goes_to_the_stream_and_to_messages(
    old: OldServer, server: Hostile, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("s3cret")
    auth = {"type": "header", "name": "Authorization", "prefix": "Bearer ", "value": {"file": str(secret)}}
    async with before(tmp_path, server, auth=auth) as sidecar, sidecar.connect() as agent:
        await initialize(agent)
        assert (await agent.ask(call())).status == 200
    for request in sent(server):
        assert request.header("authorization") == "Bearer s3cret"
        assert request.header("x-api-key") is None, "the agent's own goes nowhere"
        assert request.header("mcp-session-id") is None, "that is of the other transport"
        assert request.header("traceparent") is not None


async def test_a_health_check_opens_no_stream(old: OldServer, server: Hostile, tmp_path: Path) -> None:
    async with before(tmp_path, server) as sidecar:
        request = await server.received(1)
        assert request.method == "OPTIONS"
        assert old.streams == []
        assert '"healthy":true' in (await sidecar.page("/readyz")).replace(" ", "")


async def test_a_session_ends_where_its_agent_ends_it(old: OldServer, server: Hostile, tmp_path: Path) -> None:
    async with before(tmp_path, server) as sidecar, sidecar.connect() as agent, sidecar.connect("bob") as bob:
        session = await initialize(agent)
        assert (await bob.ask(b"", "DELETE", mcp_session_id=session)).status == 404
        assert (await agent.ask(call())).status == 200
        assert (await agent.ask(b"", "DELETE")).status == 200
        await old.left()
        assert (await agent.ask(call())).status == 404


async def test_modern_agents_are_told_the_versions(old: OldServer, server: Hostile, tmp_path: Path) -> None:
    async with before(tmp_path, server) as sidecar, sidecar.connect() as agent:
        answer = await ask_modern(agent, call())
        assert (answer.status, answer.code) == (400, -32022)
        assert sent(server) == []


async def test_questions_without_an_end_whose_answers_are_not_taken(
    old: OldServer, server: Hostile, tmp_path: Path
) -> None:
    """Each answer of ours is a request: there are no more of them than a few at a time."""

    async def asks(old: OldServer, request: Request, reply: Reply) -> None:
        if "method" not in request.json:
            await reply.left()
            return
        await old.serve(request, reply)
        for number in range(200 if request.json["method"] == "notifications/initialized" else 0):
            await old.say(request, message("ping", number))

    async with before(tmp_path, server) as sidecar, sidecar.connect() as agent:
        await initialize(agent)
        old.on_message = asks
        assert (await agent.ask(message("notifications/initialized", None))).status == 202
        async with asyncio.timeout(10):
            while (await agent.ask(call())).status != 404:
                pass  # the session goes on until the server has been asked for too much
        assert len([one for one in server.requests if one.method == "POST" and "result" in one.json]) <= 16
