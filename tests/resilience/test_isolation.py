"""One bad server of several: the calls to the others are as fast and as good as without it."""

import asyncio
import json
import statistics
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.net.test_upstream import DONE, ended
from tests.support.gate import Gate, call, configuration, gate
from tests.support.hostile import Reply, Request, friendly, hostile

CALLS = 60
SLACK = 0.025
"""Seconds by which a median may be worse on a loaded machine: far less than what waiting for a bad server costs."""
NOTE = {"jsonrpc": "2.0", "method": "notifications/message", "params": {"level": "info", "data": "x" * 1000}}


async def hangs(request: Request, reply: Reply) -> None:
    """Never answer."""
    await reply.left()


async def floods(request: Request, reply: Reply) -> None:
    """Send events as fast as they are taken, and no answer."""
    await reply.stream()
    event = f"data: {json.dumps(NOTE)}\n\n".encode() * 20
    while not reply.writer.transport.is_closing():
        await reply.chunk(event)
        await asyncio.sleep(0)


async def babbles(request: Request, reply: Reply) -> None:
    """Answer something that is no HTTP."""
    await reply.raw(b"\x00\xff" * 2000)
    reply.close()


async def breaks(request: Request, reply: Reply) -> None:
    """Begin a stream and close in the middle of an event."""
    await reply.stream()
    await reply.event(NOTE)
    await reply.raw(b"400\r\ndata: {")
    reply.close()


async def latencies(sidecar: Gate) -> list[float]:
    """The seconds of some calls to the good server, each of which must succeed."""
    taken = []
    async with sidecar.connect(path="/good") as agent:
        for number in range(CALLS):
            started = time.perf_counter()
            answer = await agent.ask(call(identifier=number))
            taken.append(time.perf_counter() - started)
            assert answer.json["result"] == DONE
    return taken


@pytest.mark.parametrize(
    ("behaviour", "outcome", "patience"),
    [
        (hangs, "timeout", "500ms"),
        (floods, "timeout", "500ms"),
        (babbles, "protocol", "1m"),
        (breaks, "closed", "1m"),
    ],
)
async def test_a_bad_server_does_not_slow_another(
    tmp_path: Path, behaviour: Callable[[Request, Reply], Awaitable[None]], outcome: str, patience: str
) -> None:
    async with AsyncExitStack() as stack:
        good = await stack.enter_async_context(hostile(friendly))
        bad = await stack.enter_async_context(hostile(behaviour))
        config = configuration(good.url, name="good", path="/good")
        limits: dict[str, Any] = {"timeouts": dict.fromkeys(("request", "idle", "stream"), patience)}
        config["servers"] += configuration(bad.url, name="bad", path="/bad", **limits)["servers"]
        sidecar = await stack.enter_async_context(gate(tmp_path, config))
        alone = statistics.median(await latencies(sidecar))
        callers = [await stack.enter_async_context(sidecar.connect(path="/bad")) for _ in range(8)]
        calling = [asyncio.ensure_future(caller.ask(call())) for caller in callers]
        await bad.received(8)
        beside = statistics.median(await latencies(sidecar))
        answers = await asyncio.gather(*calling)
        for answer in answers:
            last = answer.events[-1] if answer.header("content-type") == "text/event-stream" else answer.json
            assert (answer.status, last["id"], last["error"]["code"]) == (200, 1, -32603)
        records = [line for line in await sidecar.records() if line.get("server") == "bad" and "latency" in line]
        assert [line["outcome"] for line in records] == [outcome] * 8
        assert beside < alone + SLACK
        assert statistics.median(await latencies(sidecar)) < alone + SLACK


async def test_a_full_server_refuses_its_own_calls_alone(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        good = await stack.enter_async_context(hostile(friendly))
        bad = await stack.enter_async_context(hostile(hangs))
        config = configuration(good.url, name="good", path="/good")
        config["servers"] += configuration(bad.url, name="bad", path="/bad", limits={"inFlight": 4})["servers"]
        sidecar = await stack.enter_async_context(gate(tmp_path, config))
        callers = [await stack.enter_async_context(sidecar.connect(path="/bad")) for _ in range(4)]
        calling = [asyncio.ensure_future(caller.ask(call())) for caller in callers]
        await bad.received(4)
        async with sidecar.connect(path="/bad") as agent:
            for _ in range(50):
                assert (await agent.ask(call(identifier=2))).status == 429
        assert (await ended(sidecar, 2))["outcome"] == "overloaded"
        assert len(await latencies(sidecar)) == CALLS
        for task in calling:
            task.cancel()
