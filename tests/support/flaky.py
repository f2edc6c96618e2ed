"""A way to a server on which some connections fail: at once, or when the answer should come."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field


@dataclass
class Way:
    """A forwarder in front of the server at `target`; `fails` is asked once for each connection."""

    target: str
    fails: Callable[[], bool]
    url: str = ""
    connections: int = 0
    failed: int = 0
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry one connection, or cut it."""
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self.connections += 1
        if self.fails():
            self.failed += 1
            writer.transport.abort()
            return
        host, _, port = self.target.partition("://")[2].partition("/")[0].rpartition(":")
        with suppress(OSError, asyncio.CancelledError):
            onward, back = await asyncio.open_connection(host, int(port))
            try:
                await asyncio.gather(_carry(reader, back), _carry(onward, writer))
            finally:
                back.close()
                writer.close()


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()


@asynccontextmanager
async def flaky(target: str, share: float = 0.2, seed: int = 7) -> AsyncIterator[Way]:
    """Forward to the server at `target`, but cut this share of the connections as soon as they are made."""
    chance = random.Random(seed)
    way = Way(target, lambda: chance.random() < share)
    listener = await asyncio.start_server(way.serve, "127.0.0.1", 0)
    way.url = target.partition("://")[0] + f"://127.0.0.1:{listener.sockets[0].getsockname()[1]}/mcp"
    try:
        yield way
    finally:
        listener.close()
        for task in tuple(way._tasks):
            task.cancel()
        await asyncio.gather(*way._tasks, return_exceptions=True)
