"""One request on a connection of HTTP/2 and the answering side of it (see `ports.Exchange`)."""

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence
from math import inf
from typing import TYPE_CHECKING, Final

from openmcp.sidecar.net.exchange import KEEP_ALIVE_AFTER
from openmcp.sidecar.ports import HttpRequest

if TYPE_CHECKING:
    from openmcp.sidecar.net.fields import Head
    from openmcp.sidecar.net.http2 import Http2Connection

WRITE_BUFFER: Final = 64 * 1024
"""Bytes that may wait for the client before whoever writes waits as well."""
_UNREAD: Final = HttpRequest("", "", {}, frozenset(), b"")


class Stream:
    """A request that comes in, and its answer. The body that waits is in `out`; the connection sends it."""

    def __init__(self, connection: "Http2Connection", number: int, head: "Head", limit: int) -> None:
        self.request: HttpRequest = _UNREAD
        self.number = number
        self.head = head
        self.limit = limit
        self.body: list[bytes] = []
        self.size = self.consumed = 0
        self.granted = self.complete = False
        self.deadline = inf
        self.task: asyncio.Task[None] | None = None
        self.started = self.finished = self.gone = False
        self.out: deque[bytes] = deque()
        self.pending = self._kept = 0
        self.progress = 0.0
        self._connection = connection
        self._keep_alive = b""
        self._last_write = 0.0
        self._drained: asyncio.Future[None] | None = None
        self._said: list[bytes] = []
        self._later: list[bytes] | None = None

    # ports.Exchange

    def respond(self, status: int, headers: bytes, body: bytes) -> None:
        self.started = self.finished = True
        whole = self.request.method == "HEAD" or not body
        self._connection.begin(self, status, headers, len(body), ends=whole)
        if not whole:
            self._put(body)

    async def respond_large(self, status: int, headers: bytes, pieces: Sequence[bytes]) -> None:
        self.started = True
        size = sum(map(len, pieces))
        self._connection.begin(self, status, headers, size, ends=False)
        self._keep(size)
        for piece in pieces:
            self._put(piece)
            await self._writable()
            await asyncio.sleep(0)
        self.finish()

    def start_stream(self, headers: bytes, keep_alive: bytes) -> None:
        self.started = True
        self._keep_alive = keep_alive
        self._last_write = self._connection.now()
        self._connection.begin(self, 200, headers, None, ends=False)

    def write(self, data: bytes) -> None:
        if self._later is not None:
            self._later.append(data)  # a large message is under way: this comes behind it
        elif data:
            self._said.append(data)

    async def write_large(self, pieces: Iterable[bytes]) -> None:
        later = self._later = []
        pieces = tuple(pieces)
        self._keep(sum(map(len, pieces)))
        for piece in pieces:
            if piece:
                self._said.append(piece)
            await self.drain()
            await asyncio.sleep(0)
        self._later = None
        for data in later:
            self.write(data)

    def flush(self) -> None:
        if self._said:
            data = b"".join(self._said)
            self._said.clear()
            self._last_write = self._connection.now()
            self._put(data)

    async def drain(self) -> None:
        self.flush()
        await self._writable()

    def finish(self) -> None:
        self.flush()
        self.finished = True
        if not self.gone:
            self._connection.push(self)

    def abort(self) -> None:
        self._connection.give_up(self)

    # for the connection

    def sent(self, size: int) -> None:
        """So many bytes have gone out."""
        self.pending -= size
        self._keep(-size)
        if self.pending < WRITE_BUFFER:
            self._wake()

    def end(self) -> None:
        """Nothing more goes out: it is complete, or nobody listens."""
        self._keep(-self._kept)
        self.gone = True
        self.out.clear()
        self._said.clear()
        self.body.clear()
        self._wake()

    def keep_alive(self, now: float) -> None:
        """Send the keep-alive of a silent stream."""
        if self._keep_alive and not self.pending and now - self._last_write >= KEEP_ALIVE_AFTER:
            self.write(self._keep_alive)
            self.flush()

    def _put(self, data: bytes) -> None:
        if self.gone or not data:
            return
        if not self.pending:
            self.progress = self._connection.now()
        self.out.append(data)
        self.pending += len(data)
        if self.pending > self._kept:  # not part of what is counted as a whole
            self._keep(self.pending - self._kept)
        self._connection.push(self)

    def _keep(self, size: int) -> None:
        if not self.gone:
            self._kept += size
            self._connection.unread.add(size)

    async def _writable(self) -> None:
        while self.pending >= WRITE_BUFFER and not self.gone:
            drained = self._drained = asyncio.get_running_loop().create_future()
            await drained

    def _wake(self) -> None:
        drained, self._drained = self._drained, None
        if drained is not None and not drained.done():
            drained.set_result(None)
