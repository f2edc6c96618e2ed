"""Agents that call without a pause: short calls at a steady rate, streams longer than an SVID lives, open sessions.

Each speaks plain HTTP/1.1 over TLS with the SVID that its source has at that moment, keeps its connection for as long
as the sidecar does, and takes anything but the right answer for a failure.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.support.gate import call, initialize, modern, modern_headers
from tests.support.raw import Answer, Connection, NoAnswer, connect

PATIENCE = 10.0
_FOREVER = 86_400.0


@dataclass
class Tally:
    """What came of it: counts, the failures in words with the second they came in, and latencies in seconds."""

    began: float = field(default_factory=time.monotonic)
    calls: int = 0
    streams: int = 0
    events: int = 0
    sessions: int = 0
    listened: int = 0
    connections: int = 0
    crossed: int = 0
    failures: list[str] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)

    def failed(self, what: str, why: object) -> None:
        """Count a failure."""
        self.failures.append(f"second {time.monotonic() - self.began:.1f}: {what}: {why!r}")


@dataclass
class Agents:
    """Agents of one identity that call the server `path` of the sidecar at `url`; `tls` gives the context of a new
    connection (None: no TLS), `right` is what the server has to answer to `document`: by default whom it sees. `again`:
    a call that gets no byte of an answer on a connection that was used before is made again (RFC 9112, 9.3.1) and
    counted, since it crossed with the end of that."""

    url: str
    path: str
    tls: Callable[[], ssl.SSLContext | None]
    right: str
    tally: Tally = field(default_factory=Tally)
    document: dict[str, Any] = field(default_factory=lambda: modern(call("whoami")))
    ending: asyncio.Event = field(default_factory=asyncio.Event)
    again: bool = False

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """Open a connection."""
        self.tally.connections += 1
        async with asyncio.timeout(PATIENCE):
            opening = connect(self.url, self.path, self.tls())
            connection = await opening.__aenter__()
        try:
            yield connection
        finally:
            await opening.__aexit__(None, None, None)

    async def call(self, every: float) -> None:
        """Call once in so many seconds until the end, on one connection for as long as it is kept open."""
        due = time.monotonic()
        while not self.ending.is_set():
            served = 0
            try:
                async with self.connection() as agent:
                    while not self.ending.is_set():
                        due = max(due + every, time.monotonic() - 1)
                        if await self.served(agent) == "close":
                            break
                        served += 1
                        await self._pause(due - time.monotonic())
                        if agent.writer.transport.is_closing() or agent.reader.at_eof():
                            break  # closed while nothing was under way, which HTTP clients look for before a request
            except Exception as error:
                if self.again and served and isinstance(error, NoAnswer):
                    self.tally.crossed += 1
                    continue
                self.tally.failed("a call", error)
                await self._pause(every)

    async def served(self, agent: Connection) -> str | None:
        """Call once and look at the answer; return its `connection` header."""
        began = time.perf_counter()
        answer = await agent.ask(self.document, **modern_headers(self.document))
        self.tally.latencies.append(time.perf_counter() - began)
        self.tally.calls += 1
        if answer.status != 200 or said(answer) != self.right:
            self.tally.failed("a call", answer)
        return answer.header("connection")

    async def stream(self, seconds: float, every: float = 0.5) -> None:
        """Have calls answered by streams of so many seconds, one after the other; none is begun after the end."""
        times = round(seconds / every)
        document = call("tick", times=times, every=every)
        document["params"]["_meta"] = {"progressToken": "t"}
        document = modern(document)
        while not self.ending.is_set():
            try:
                async with self.connection() as agent:
                    await self._streamed(agent, document, times)
            except Exception as error:
                self.tally.failed("a stream", error)
                await self._pause(every)

    async def _streamed(self, agent: Connection, document: dict[str, Any], times: int) -> None:
        await agent.send(agent.request(document, **modern_headers(document)))
        status, headers = await agent.answer_head()
        assert (status, dict(headers).get("content-type")) == (200, "text/event-stream"), (status, headers)
        seen = []
        async for message in agent.events():
            self.tally.events += 1
            seen.append(message.get("params", {}).get("progress") or message["result"]["content"][0]["text"])
        assert seen == [*range(1, times + 1), "done"], seen
        self.tally.streams += 1

    async def listen(self) -> None:
        """Keep a session with its GET stream open; where the sidecar ends that properly, open it again and go on in
        the same session."""
        session: dict[str, str] = {}
        while not self.ending.is_set():
            try:
                async with self.connection() as agent:
                    if not session:
                        await initialize(agent)
                        session = dict(agent.headers)
                        self.tally.sessions += 1
                    agent.headers |= session
                    await self._until_end(self._listened(agent))
            except Exception as error:
                self.tally.failed("a session", error)
                await self._pause(1)

    async def _listened(self, agent: Connection) -> None:
        status, headers = await self._opened(agent)
        assert status == 200, (status, headers)
        self.tally.listened += 1
        agent.patience = _FOREVER
        async for message in agent.events():
            raise AssertionError(f"nobody sent this: {message}")

    async def _opened(self, agent: Connection) -> tuple[int, list[tuple[str, str]]]:
        await agent.send(agent.request(method="GET"))
        return await agent.answer_head()

    async def _until_end(self, work: Coroutine[Any, Any, None]) -> None:
        """Wait for `work`, or give it up at the end."""
        task, ending = asyncio.create_task(work), asyncio.create_task(self.ending.wait())
        try:
            await asyncio.wait({task, ending}, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                await task
        finally:
            for each in (task, ending):
                each.cancel()
            await asyncio.wait({task, ending})

    async def _pause(self, seconds: float) -> None:
        """Wait for so long, or to the end."""
        try:
            async with asyncio.timeout(max(0.0, seconds)):
                await self.ending.wait()
        except TimeoutError:
            return


def said(answer: Answer) -> str | None:
    """The text of a tool's answer; None where it is no such thing."""
    messages = answer.events if answer.header("content-type") == "text/event-stream" else [answer.json]
    result = messages[-1].get("result", {})
    return None if result.get("isError") or not result else str(result["content"][0]["text"])
