"""HTTP/2 under load: 8 connections of different agents by mTLS, 8 streams on each, some of them given up.

OPENMCP_CALLS=20000 plays the long form; the figures are printed (pytest -s).
"""

from __future__ import annotations

import asyncio
import gc
import os
import random
from collections import deque
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from openmcp.sidecar.net.http2 import Http2Connection
from openmcp.sidecar.net.stream import Stream
from tests.app.test_withdrawn import BY_SVID, Files
from tests.fakes.pki import Ca
from tests.support.gate import Gate, call, configuration, gate
from tests.support.hostile import Hostile, Reply, Request, hostile
from tests.support.http2 import INITIAL_WINDOW_SIZE, Http2, http2, reset, window
from tests.support.mtls import careless_client
from tests.support.raw import Answer

CONNECTIONS = STREAMS = 8
CALLS = int(os.environ.get("OPENMCP_CALLS", "1000"))
ROUNDS = 3
GROWTH = 4 * 1024
"""KiB by which the process grows at most in one of the rounds that do the same once more: what is not given back would
show in all of them, what the allocator keeps for fragments does not. Both ends and the server are in it."""
WIDE = 2**30


async def answering(request: Request, reply: Reply) -> None:
    """Say what was asked: whole, in a large answer, or behind an event on a stream; not at once where asked for."""
    if "id" not in request.json:  # of a call that was given up
        await reply.accepted()
        return
    said = request.json["params"]["arguments"]
    await asyncio.sleep(said["after"])
    result = {"content": [{"type": "text", "text": said["text"] + "." * said["more"]}]}
    told = {"jsonrpc": "2.0", "method": "notifications/message", "params": {"level": "info", "data": 1}}
    with suppress(RuntimeError):  # uvloop's, where the call was given up and the connection closed
        if said["streamed"]:
            await reply.stream()
            await reply.event(told)
            await reply.event({"jsonrpc": "2.0", "id": request.json["id"], "result": result})
            await reply.end()
        else:
            await reply.result(result)


@pytest.fixture
async def server() -> AsyncIterator[Hostile]:
    async with hostile(answering) as running:
        running.requests = deque(maxlen=1)  # type: ignore[assignment]  # else they are what grows
        yield running


class Agent:
    """One of the agents, with so many calls to make."""

    def __init__(self, name: str, client: Http2, calls: int) -> None:
        self._name = name
        self._client = client
        self._left = calls
        self._random = random.Random(name)
        self._asked: dict[int, dict[str, Any]] = {}
        self.answered = self.given_up = 0

    async def work(self) -> None:
        """Make the calls, so many of them at once."""
        await self._client.send(window(0, WIDE))
        for _ in range(STREAMS):
            await self._ask()
        while self._asked:
            await self._client.read()
            for number in [number for number in self._asked if self._ended(number)]:
                self._check(await self._client.answer(number), self._asked.pop(number))
                del self._client.streams[number]
                self.answered += 1
                await self._ask()
                await self._give_up_some()

    def _ended(self, number: int) -> bool:
        stream = self._client.streams.get(number)
        assert stream is None or stream.reset is None, f"stream {number} was reset: {stream}"
        return stream is not None and stream.ended

    async def _ask(self) -> None:
        if not self._left:
            return
        self._left -= 1
        chance = self._random.random()
        said = {
            "text": f"{self._name} {self._left}",
            "after": 0.02 if chance < 0.2 else 0,
            "more": 100_000 if chance > 0.95 else 0,
            "streamed": 0.2 < chance < 0.4,
        }
        number = await self._client.request(call(identifier=self._left, **said))
        self._asked[number] = {"id": self._left, **said}

    async def _give_up_some(self) -> None:
        if self._asked and self._random.random() < 0.3:
            number = self._random.choice(list(self._asked))
            if number not in self._client.streams:
                del self._asked[number]
                self.given_up += 1
                await self._client.send(reset(number))
                await self._ask()

    def _check(self, answer: Answer, asked: dict[str, Any]) -> None:
        assert answer.status == 200, answer
        streamed = answer.header("content-type") == "text/event-stream"
        message = answer.events[-1] if streamed else answer.json
        assert message["id"] == asked["id"]
        assert message["result"]["content"][0]["text"] == asked["text"] + "." * asked["more"]


async def load(sidecar: Gate, ca: Ca, calls: int) -> tuple[int, int]:
    """Have all agents make their calls; how many were answered, and how many given up."""
    address = sidecar.app.mcp_address

    async def one(number: int) -> Agent:
        leaf = ca.leaf(f"spiffe://example.org/agent-{number}")
        async with http2(address, careless_client(leaf), {INITIAL_WINDOW_SIZE: WIDE}) as client:
            agent = Agent(f"agent-{number}", client, calls // CONNECTIONS)
            await agent.work()
            return agent

    agents = await asyncio.gather(*(one(number) for number in range(CONNECTIONS)))
    async with asyncio.timeout(10):
        while sidecar.app._listener.connections:  # noqa: ASYNC110 - it is no event's
            await asyncio.sleep(0.01)
    return sum(agent.answered for agent in agents), sum(agent.given_up for agent in agents)


def rss() -> int:
    """KiB of this process."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1])


async def test_streams_and_cancels_by_mtls(server: Hostile, tmp_path: Path) -> None:
    ca, files = Ca("example.org"), Files(tmp_path)
    files.clients(ca)
    made = configuration(server.url) | {"identity": {"workloadApi": "none", "agents": [BY_SVID]}}
    made["listen"]["tls"] = files.tls
    async with gate(tmp_path, made) as sidecar:
        await load(sidecar, ca, CALLS)
        grown = []
        for _ in range(ROUNDS):
            gc.collect()
            before = rss()
            answered, given_up = await load(sidecar, ca, CALLS)
            left = [one for one in gc.get_objects() if isinstance(one, (Http2Connection, Stream))]
            assert left == [], "without a collection"
            gc.collect()
            grown.append(rss() - before)
        print(
            f"\n{answered} answered, {given_up} given up, {server.connections} connections to the server, {grown} KiB"
        )
        assert (answered + given_up, given_up > CALLS // 20) == (CALLS, True)
        assert sidecar.app.snapshot.routes["/server"].upstream.in_use == 0
        assert min(grown) < GROWTH
        lines = await sidecar.records()
        assert {line["agent"] for line in lines if "agent" in line} == {
            f"spiffe://example.org/agent-{number}" for number in range(CONNECTIONS)
        }
        outcomes = [line["outcome"] for line in lines if "latency" in line]
        assert set(outcomes) == {"ok", "client_gone"}
        assert outcomes.count("ok") >= (1 + ROUNDS) * answered
