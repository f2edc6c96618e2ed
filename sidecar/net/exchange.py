"""The answering side of one HTTP/1.1 request: status, headers, and a body that is whole or chunked (RFC 9112, 7.1)."""

import asyncio
from collections.abc import Iterable, Sequence
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from openmcp.sidecar.ports import HttpRequest

if TYPE_CHECKING:
    from openmcp.sidecar.net.http1 import Connection

KEEP_ALIVE_AFTER: Final = 15.0
"""Seconds of silence after which a stream gets a keep-alive."""
_STATUS_LINES: Final = {
    status.value: b"HTTP/1.1 %d %b\r\n" % (status.value, status.phrase.encode()) for status in HTTPStatus
}


def status_line(status: int) -> bytes:
    """The first line of an answer."""
    return _STATUS_LINES.get(status) or b"HTTP/1.1 %d Unknown\r\n" % status


class HttpExchange:
    """The answering side of one request on a connection (see `ports.Exchange`)."""

    __slots__ = ("_chunked", "_connection", "_later", "_out", "keep_alive", "last_write", "request", "started")

    def __init__(self, connection: "Connection", request: HttpRequest, *, chunked: bool) -> None:
        self.request = request
        self.started = False
        self.keep_alive = b""
        self.last_write = 0.0
        self._connection = connection
        self._chunked = chunked
        self._out: list[bytes] = []
        self._later: list[bytes] | None = None

    def respond(self, status: int, headers: bytes, body: bytes) -> None:
        self.started = True
        connection = self._connection
        head = b"%b%b%bcontent-length: %d\r\n\r\n" % (status_line(status), connection.common(), headers, len(body))
        connection.send(head if self.request.method == "HEAD" else head + body)
        connection.done(self)

    async def respond_large(self, status: int, headers: bytes, pieces: Sequence[bytes]) -> None:
        self.started = True
        connection = self._connection
        length = sum(map(len, pieces))
        connection.send(
            b"%b%b%bcontent-length: %d\r\n\r\n" % (status_line(status), connection.common(), headers, length)
        )
        for piece in pieces:
            connection.send(piece)
            await connection.writable()
            await asyncio.sleep(0)
        connection.done(self)

    def start_stream(self, headers: bytes, keep_alive: bytes) -> None:
        self.started = True
        self.keep_alive = keep_alive
        self.last_write = self._connection.now()
        if not self._chunked:
            self._connection.close_after()
        framing = b"transfer-encoding: chunked\r\n\r\n" if self._chunked else b"\r\n"
        self._out.append(b"%b%b%b%b" % (status_line(200), self._connection.common(), headers, framing))

    async def write_large(self, pieces: Iterable[bytes]) -> None:
        later = self._later = []
        for piece in pieces:
            self._add(piece)
            await self.drain()
            await asyncio.sleep(0)
        self._later = None
        for data in later:
            self._add(data)

    def write(self, data: bytes) -> None:
        if self._later is not None:
            self._later.append(data)  # a large message is under way: this comes behind it
        else:
            self._add(data)

    def _add(self, data: bytes) -> None:
        if data:
            self._out.append(b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data)

    async def drain(self) -> None:
        self.flush()
        await self._connection.writable()

    def finish(self) -> None:
        if self._chunked:
            self._out.append(b"0\r\n\r\n")
        self.flush()
        self._connection.done(self)

    def abort(self) -> None:
        self._connection.abort()

    def sweep(self, now: float) -> None:
        """Send the keep-alive of a silent stream; called by the connection's sweep."""
        if self.keep_alive and now - self.last_write >= KEEP_ALIVE_AFTER and self._connection.can_write:
            self.write(self.keep_alive)
            self.flush()

    def flush(self) -> None:
        """See `ports.Exchange`."""
        if self._out:
            self._connection.send(b"".join(self._out))
            self._out.clear()
            self.last_write = self._connection.now()
