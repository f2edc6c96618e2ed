"""Slow readers and slow servers: what the sidecar holds for them is bounded, and nothing is lost."""

import asyncio
from contextlib import suppress
from pathlib import Path

import pytest

from openmcp.sidecar.net import tail
from openmcp.sidecar.net.response import STREAM_BUFFER
from tests.net.test_upstream import ended
from tests.support.gate import Gate, call, configuration, gate
from tests.support.hostile import Hostile, Reply, Request, friendly
from tests.support.raw import Connection

MIB = 1024 * 1024
EVENT = 16 * 1024
FLOOD = 48 * MIB
HELD = 1 * MIB
"""Bytes that the sidecar may hold of one stream: its buffers and what two reads of the loop can bring."""


def held(sidecar: Gate) -> int:
    """The bytes that wait in the sidecar now, on both sides of it."""
    connections = sidecar.app._listener._connections
    waiting = sum(connection._transport.get_write_buffer_size() for connection in connections)
    for connection in connections:
        waiting += sum(len(request.body) for request, _, _ in connection._pending) + connection._body_bytes
    for endpoint in sidecar.app.snapshot.routes["/server"].upstream.endpoints:
        for upstream in endpoint._all:
            waiting += upstream._response._buffered if upstream._response is not None else 0
            waiting += upstream._transport.get_write_buffer_size()
    return waiting


async def stands_still(progress: list[int]) -> int:
    """Wait until a counter has not moved for a while, and return it: there is no event for nothing happening."""
    last, same = -1, 0
    async with asyncio.timeout(20):
        while same < 15:
            await asyncio.sleep(0.01)
            same = same + 1 if progress[0] == last else 0
            last = progress[0]
    return last


def stop_reading(connection: Connection) -> None:
    """Let what comes for this agent wait, in the kernel at first."""
    connection.writer.transport.pause_reading()  # type: ignore[attr-defined]  # a stream's transport is a whole one


async def test_an_agent_that_does_not_read_stops_the_server(sidecar: Gate, agent: Connection, server: Hostile) -> None:
    sent, peak = [0], [0]
    count = FLOOD // EVENT

    async def flood(request: Request, reply: Reply) -> None:
        await reply.stream()
        for number in range(count):
            params = {"level": "info", "data": f"{number:08}".ljust(EVENT, "x")}
            await reply.event({"jsonrpc": "2.0", "method": "notifications/message", "params": params})
            sent[0] += EVENT
            peak[0] = max(peak[0], held(sidecar))
        await reply.event({"jsonrpc": "2.0", "id": 1, "result": {"content": []}})
        await reply.end()

    server.handler = flood
    stop_reading(agent)
    await agent.send(agent.request(call()))
    assert await stands_still(sent) < FLOOD // 2  # the rest is what the kernel's buffers took
    assert held(sidecar) < HELD
    agent.writer.transport.resume_reading()  # type: ignore[attr-defined]  # a stream's transport is a whole one
    await agent.answer_head()
    for number in range(count):
        assert (await agent.event())["params"]["data"].startswith(f"{number:08}x")
    assert (await agent.event())["id"] == 1
    assert await agent.event() is None
    assert peak[0] < HELD


async def test_a_server_that_does_not_read_holds_one_request(server: Hostile, tmp_path: Path) -> None:
    """A call of 8 MiB that its server never reads is given up, and its memory with it."""
    release = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.pause_reading()  # type: ignore[attr-defined]  # a stream's transport is a whole one
        await release.wait()
        writer.close()

    listener = await asyncio.start_server(serve, "127.0.0.1", 0, limit=1024)
    url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}/mcp"
    config = configuration(url, limits={"requestBytes": "16MiB"}, timeouts={"request": "300ms"})
    async with gate(tmp_path, config) as sidecar, sidecar.connect() as agent:
        asking = asyncio.ensure_future(agent.ask(call(text="x" * (8 * MIB))))
        peak = 0
        while not asking.done():
            peak = max(peak, held(sidecar))
            await asyncio.sleep(0.001)
        assert 0 < peak < 17 * MIB  # the request as it came, and as it waits to be sent
        assert (await asking).code == -32603
        assert held(sidecar) == 0 or sidecar.app.snapshot.routes["/server"].upstream.in_flight == 0
    release.set()
    listener.close()


async def test_an_agent_that_sends_ahead_is_read_no_further(sidecar: Gate, agent: Connection, server: Hostile) -> None:
    """While a call is under way, requests of 1 MiB each come behind it: they wait with the agent, not here."""
    release, sent = asyncio.Event(), [0]

    async def wait(request: Request, reply: Reply) -> None:
        await release.wait()
        await friendly(request, reply)

    async def send() -> None:
        for number in range(30):
            await agent.send(agent.request(call(identifier=number, text="x" * MIB)))
            sent[0] += MIB

    server.handler = wait
    await agent.send(agent.request(call(identifier="first")))
    await server.received(1)
    sending = asyncio.ensure_future(send())
    assert await stands_still(sent) < 20 * MIB
    assert held(sidecar) < 3 * MIB
    release.set()
    assert (await agent.answer()).json["id"] == "first"
    for number in range(30):
        assert (await agent.answer()).json["id"] == number
    await sending


async def test_a_client_that_reads_nothing_is_cut(
    sidecar: Gate, agent: Connection, server: Hostile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tail, "STALL_TIMEOUT", 0.2)

    async def flood(request: Request, reply: Reply) -> None:
        await reply.stream()
        message = {"jsonrpc": "2.0", "method": "notifications/message", "params": {"data": "x" * STREAM_BUFFER}}
        with suppress(RuntimeError):  # uvloop's way to say that the sidecar left
            while not reply.writer.transport.is_closing():
                await reply.event(message)

    server.handler = flood
    stop_reading(agent)
    await agent.send(agent.request(call()))
    assert (await ended(sidecar))["outcome"] == "client_gone"
