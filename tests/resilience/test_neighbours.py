"""One agent of several takes what it can get: there is always something left for the others."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from openmcp.sidecar.bridge import httpsse
from openmcp.sidecar.net.shares import Shares
from openmcp.sidecar.stages import older
from tests.support.gate import call, configuration, gate, initialize, message, modern, modern_headers
from tests.support.hostile import Hostile, Reply, Request, friendly, hostile
from tests.support.old import OldServer, old_agent
from tests.support.raw import Answer, Connection

PLACES = 8
STREAM = {"method": "GET", "accept": "text/event-stream"}


async def waits(request: Request, reply: Reply) -> None:
    """Never answer a call, and keep each stream open."""
    if request.method == "GET" or request.json["method"] == "subscriptions/listen":
        await reply.stream()
        await reply.left()
    elif request.json["method"] == "tools/call":
        await reply.left()
    else:
        await friendly(request, reply)


@pytest.fixture
async def server() -> AsyncIterator[Hostile]:
    async with hostile(waits) as running:
        yield running


def refused(answer: Answer) -> None:
    """Expect that an agent is told that it has its share."""
    assert (answer.status, answer.code, answer.header("retry-after")) == (429, 42900, "1")
    assert "the rest is for others" in answer.json["error"]["message"]


async def test_calls_that_take_long_leave_room(server: Hostile, tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        config = configuration(server.url, limits={"inFlight": PLACES})
        sidecar = await stack.enter_async_context(gate(tmp_path, config))
        bob = await stack.enter_async_context(sidecar.connect("bob"))
        await initialize(bob)
        for number in range(6 + 1):  # two of the first six were taken while nobody counted
            agent = await stack.enter_async_context(sidecar.connect())
            await agent.send(agent.request(call(identifier=number)))
        await server.received(1 + 7)
        async with sidecar.connect() as alice:
            refused(await alice.ask(call(identifier="late")))
        await bob.send(bob.request(call(identifier="bob")))
        await server.received(1 + 7 + 1)
        line = await sidecar.recorded(outcome="share")
        assert (line["agent"], line["status"]) == ("key:alice", 429)
        assert line["reason"] == "7 of at most 8 calls are under way, and this agent has its share"
        metrics = await sidecar.page("/metrics")
        assert 'openmcp_errors_total{kind="share",method="tools/call",server="server"} 1.0' in metrics


@pytest.mark.parametrize("kind", ["get", "listen"])
async def test_streams_without_an_end_leave_room(server: Hostile, tmp_path: Path, kind: str) -> None:
    async def opened(agent: Connection) -> int:
        if kind == "get":
            await agent.send(agent.request(b"", "GET", accept="text/event-stream"))
        else:
            document = modern(message("subscriptions/listen", 1, notifications={"toolsListChanged": True}))
            await agent.send(agent.request(document, **modern_headers(document)))
        status, _ = await agent.answer_head()
        return status

    async with AsyncExitStack() as stack:
        sidecar = await stack.enter_async_context(gate(tmp_path, configuration(server.url)))
        sidecar.app.snapshot.routes["/server"].upstream.long_lived = Shares(PLACES, "streams are open")

        async def opens(name: str) -> int:
            agent = await stack.enter_async_context(sidecar.connect(name))
            return await opened(agent)

        assert await opens("bob") == 200
        assert [await opens("alice") for _ in range(PLACES)].count(200) < PLACES - 1
        assert await opens("bob") == 200
        assert (await sidecar.records())[-2]["outcome"] == "share"


async def test_streams_at_all_servers_leave_room(server: Hostile, tmp_path: Path) -> None:
    """Each may be a connection, of which there are fewer than streams at all servers together."""
    async with AsyncExitStack() as stack:
        config = configuration(server.url)
        config["servers"].append(config["servers"][0] | {"name": "other"})
        sidecar = await stack.enter_async_context(gate(tmp_path, config))
        sidecar.app._pipeline.relays.shares = Shares(PLACES, "streams are open at all servers")

        async def opens(name: str, path: str) -> int:
            agent = await stack.enter_async_context(sidecar.connect(name, path))
            await agent.send(agent.request(b"", "GET", accept="text/event-stream"))
            status, _ = await agent.answer_head()
            return status

        assert await opens("bob", "/server") == 200
        assert [await opens("alice", path) for path in ("/server", "/other") * 4] == [200] * 6 + [429] * 2
        assert await opens("bob", "/other") == 200


async def test_a_subscription_is_small(server: Hostile, tmp_path: Path) -> None:
    """What it says is kept for as long as it lasts, and an agent may have thousands."""
    async with gate(tmp_path, configuration(server.url)) as sidecar, sidecar.connect() as agent:
        document = modern(message("subscriptions/listen", 1, notifications={}, cursor="x" * 65536))
        answer = await agent.ask(document, **modern_headers(document))
        assert (answer.status, answer.json["error"]["message"]) == (413, "a subscription may have at most 64 KiB")
        assert server.requests == []
        assert (await sidecar.recorded(ends=True))["outcome"] == "too_large"


async def test_streams_of_old_agents_leave_room(
    server: Hostile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(older, "MAX_STREAMS", PLACES)
    async with AsyncExitStack() as stack:
        config = configuration(server.url, compat={"sse": True})
        sidecar = await stack.enter_async_context(gate(tmp_path, config))
        await stack.enter_async_context(old_agent(sidecar, "bob"))
        for _ in range(6):
            await stack.enter_async_context(old_agent(sidecar, "alice"))
        async with sidecar.connect() as alice:
            refused(await alice.ask(b"", **STREAM))
        await stack.enter_async_context(old_agent(sidecar, "bob"))


async def test_sessions_of_an_older_server_leave_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(httpsse, "MAX_SESSIONS", PLACES)
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(hostile(OldServer()))
        sidecar = await stack.enter_async_context(gate(tmp_path, configuration(server.url, transport="sse")))
        begin: dict[str, Any] = message(
            "initialize", 0, protocolVersion="2025-11-25", capabilities={}, clientInfo={"name": "t", "version": "1"}
        )
        async with sidecar.connect("bob") as bob, sidecar.connect("alice") as alice:
            assert (await bob.ask(begin)).status == 200
            answers = await asyncio.gather(*(_once(sidecar, begin) for _ in range(PLACES)))
            assert sum(answer.status == 200 for answer in answers) == 6
            refused(await alice.ask(begin))
            assert (await bob.ask(begin)).status == 200
            line = (await sidecar.records())[-3]
            assert line["reason"] == "7 of at most 8 sessions are open, and this agent has its share"


async def _once(sidecar: Any, document: dict[str, Any]) -> Answer:
    async with sidecar.connect("alice") as agent:
        answer: Answer = await agent.ask(document)
        return answer
