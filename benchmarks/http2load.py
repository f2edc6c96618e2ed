"""A load generator for HTTP/2: connections with prior knowledge, each with as many streams as wanted at any time.

Frames are made by hand, and answers are not decoded: what it costs is ours and counts for nobody.
"""

from __future__ import annotations

import asyncio
import json
from typing import cast

import uvloop
from hpack.hpack import Encoder

from benchmarks.processes import BenchmarkError
from benchmarks.wire import EXPECTED, PATH, Request

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RESET, _SETTINGS, _GOAWAY, _WINDOW = 0, 1, 3, 4, 7, 8
_WIDE = 2**30
_PATIENCE = 60.0


def count(port: int, request: Request, connections: int, streams: int, calls: int) -> None:
    """Make so many calls. Raises BenchmarkError when any answer is wrong."""
    uvloop.run(_count(port, request, connections, streams, calls))


async def _count(port: int, request: Request, connections: int, streams: int, calls: int) -> None:
    loop = asyncio.get_running_loop()
    clients = []
    for number in range(connections):
        share = calls // connections + (number < calls % connections)
        _, client = await loop.create_connection(lambda share=share: _Client(port, request, share), "127.0.0.1", port)
        clients.append(client)
    for client in clients:
        client.begin(streams)
    try:
        async with asyncio.timeout(_PATIENCE):
            await asyncio.gather(*(client.done for client in clients))
    except TimeoutError:
        raise BenchmarkError(f"HTTP/2: {sum(client.left for client in clients)} answers did not come") from None
    finally:
        for client in clients:
            client.transport.close()


class _Client(asyncio.Protocol):
    """One connection."""

    def __init__(self, port: int, request: Request, calls: int) -> None:
        encoder = Encoder()
        fields = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", PATH),
            (":authority", f"127.0.0.1:{port}"),
            *((name.lower(), value) for name, value in request.headers.items()),
            ("content-length", str(len(request.body))),
        ]
        self._first, self._block = encoder.encode(fields), encoder.encode(fields)
        self._body = request.body
        self._unsent = self.left = calls
        self._stream = 1
        self._rest = b""
        self._answers: dict[int, bytes] = {}
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Say hello, with windows that never close."""
        self.transport = cast(asyncio.Transport, transport)
        wide = (4).to_bytes(2) + _WIDE.to_bytes(4)
        self.transport.write(PREFACE + _frame(_SETTINGS, 0, 0, wide) + _frame(_WINDOW, 0, 0, _WIDE.to_bytes(4)))

    def begin(self, streams: int) -> None:
        """Keep so many streams going."""
        for _ in range(min(streams, self._unsent)):
            self._send()

    def data_received(self, data: bytes) -> None:
        """Frames."""
        data = self._rest + data
        at = 0
        while len(data) - at >= 9:
            end = at + 9 + int.from_bytes(data[at : at + 3])
            if end > len(data):
                break
            self._take(data[at + 3], data[at + 4], int.from_bytes(data[at + 5 : at + 9]), data[at + 9 : end])
            at = end
        self._rest = data[at:]

    def connection_lost(self, exc: Exception | None) -> None:
        """Too early, unless all is done."""
        if not self.done.done():
            self.done.set_exception(BenchmarkError(f"HTTP/2: the connection ended with {self.left} answers to come"))

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == _DATA:
            self._answers[stream] = self._answers.get(stream, b"") + payload
        elif kind == _SETTINGS and not flags & 1:
            self.transport.write(_frame(_SETTINGS, 1, 0, b""))
        elif kind in (_RESET, _GOAWAY):
            self.transport.abort()
        if kind in (_DATA, _HEADERS) and flags & 1:
            answer = self._answers.pop(stream, b"")
            if EXPECTED.encode() not in answer:
                self.done.set_exception(BenchmarkError(f"HTTP/2: a wrong answer: {json.dumps(answer.decode())}"))
            self.left -= 1
            if self._unsent:
                self._send()
            elif not self.left and not self.done.done():
                self.done.set_result(None)

    def _send(self) -> None:
        block, self._first = self._first or self._block, b""
        self._unsent -= 1
        self.transport.write(_frame(_HEADERS, 4, self._stream, block) + _frame(_DATA, 1, self._stream, self._body))
        self._stream += 2


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3) + bytes((kind, flags)) + stream.to_bytes(4) + payload
