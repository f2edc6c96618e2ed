"""A client of HTTP/2 with no manners: sends the frames a test gives it, and reads answers strictly.

Frames are made and read by hand (RFC 9113, 4.1), so that no fault of the sidecar's library is made on both sides.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from hpack.hpack import Decoder, Encoder

from tests.support.raw import PATIENCE, Answer, Closed

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM, ACK, END_HEADERS = 1, 1, 4
NO_ERROR, PROTOCOL_ERROR, REFUSED_STREAM, CANCEL, ENHANCE_YOUR_CALM = 0, 1, 7, 8, 11
MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE = 3, 4, 5
ANY_STREAM = 2**31 - 1
FRAME = 16384
"""Bytes of a frame, at most."""

Fields = Iterable[tuple[str | bytes, str | bytes]]


class Reset(AssertionError):
    """A stream was reset where an answer was expected; `code` says why."""

    def __init__(self, code: int) -> None:
        super().__init__(f"reset with code {code}")
        self.code = code


@dataclass
class Incoming:
    """What has come on one stream."""

    headers: list[list[tuple[str, str]]] = field(default_factory=list)
    body: bytes = b""
    ended: bool = False
    reset: int | None = None


@dataclass
class Http2:
    """One connection to the sidecar. Nothing is acknowledged but SETTINGS, unless a test does it."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    host: str
    path: str = "/server"
    scheme: str = "http"
    headers: dict[str, str] = field(default_factory=dict)
    streams: dict[int, Incoming] = field(default_factory=dict)
    settings: dict[int, int] = field(default_factory=dict)
    goaways: list[tuple[int, int]] = field(default_factory=list)
    pings: list[bytes] = field(default_factory=list)
    windows: dict[int, int] = field(default_factory=dict)
    encoder: Encoder = field(default_factory=Encoder)
    decoder: Decoder = field(default_factory=Decoder)
    answers_pings: bool = True
    last: int = -1

    async def send(self, *frames: bytes) -> None:
        """Send these bytes and nothing else."""
        self.writer.write(b"".join(frames))
        await self.writer.drain()

    def fields(self, method: str = "POST", **headers: str | None) -> list[tuple[str, str]]:
        """Return the header fields of a proper request; keywords set headers (`mcp_name`), None leaves one out."""
        lines: dict[str, str | None] = {"accept": "application/json, text/event-stream"}
        if method == "POST":
            lines["content-type"] = "application/json"
        lines |= self.headers
        lines |= {name.replace("_", "-"): value for name, value in headers.items()}
        pseudo = {":method": method, ":scheme": self.scheme, ":authority": self.host, ":path": self.path}
        return [(name, value) for name, value in {**pseudo, **lines}.items() if value is not None]

    def block(self, fields: Fields) -> bytes:
        """Return a header section, which has to be sent next."""
        return bytes(self.encoder.encode(list(fields)))

    def next(self) -> int:
        """Return the number of a new stream."""
        self.last += 2
        return self.last

    async def begin(self, fields: Fields, *, ends: bool = False) -> int:
        """Open a stream."""
        number = self.next()
        await self.send(frame(HEADERS, END_HEADERS | (END_STREAM if ends else 0), number, self.block(fields)))
        return number

    async def request(self, body: bytes | dict[str, Any] = b"", method: str = "POST", **headers: str | None) -> int:
        """Send a whole request; return its stream."""
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        number = await self.begin(self.fields(method, **headers), ends=not raw)
        for at in range(0, len(raw), FRAME):
            ends = END_STREAM if at + FRAME >= len(raw) else 0
            await self.send(frame(DATA, ends, number, raw[at : at + FRAME]))
        return number

    async def ask(self, body: bytes | dict[str, Any] = b"", method: str = "POST", **headers: str | None) -> Answer:
        """Send a request and read its whole answer."""
        return await self.answer(await self.request(body, method, **headers))

    async def answer(self, number: int) -> Answer:
        """Read until this stream has ended; raises `Reset` where it was reset before."""
        stream = self.streams.setdefault(number, Incoming())
        while not stream.ended and stream.reset is None:
            await self.read()
        if not stream.ended:
            assert stream.reset is not None
            raise Reset(stream.reset)
        final = stream.headers[-1]
        assert final[0][0] == ":status"
        return Answer(int(final[0][1]), final[1:], stream.body)

    async def was_reset(self, number: int) -> int:
        """Read until this stream is reset; return why."""
        stream = self.streams.setdefault(number, Incoming())
        while stream.reset is None:
            await self.read()
        return stream.reset

    async def begun(self, number: int, size: int = 0) -> Incoming:
        """Read until this stream has its headers and so many bytes of a body."""
        stream = self.streams.setdefault(number, Incoming())
        while not stream.headers or len(stream.body) < size:
            await self.read()
        return stream

    async def pinged(self) -> None:
        """Have all that was sent before worked through."""
        mark = f"{len(self.pings):08d}".encode()
        await self.send(frame(PING, 0, 0, mark))
        while mark not in self.pings:
            await self.read()

    async def said_goodbye(self, count: int = 1) -> tuple[int, int]:
        """Read until so many GOAWAYs have come; return last stream and code of the last one."""
        while len(self.goaways) < count:
            await self.read()
        return self.goaways[-1]

    async def closed(self) -> None:
        """Read until the sidecar closes the connection."""
        with suppress(Closed):
            while True:
                await self.read()

    async def read(self) -> None:
        """Read one frame and take note of it."""
        kind, flags, number, payload = await self.frame()
        if kind == SETTINGS and not flags & ACK:
            for at in range(0, len(payload), 6):
                self.settings[int.from_bytes(payload[at : at + 2])] = int.from_bytes(payload[at + 2 : at + 6])
            await self.send(frame(SETTINGS, ACK, 0))
        elif kind == PING and flags & ACK:
            self.pings.append(payload)
        elif kind == PING and self.answers_pings:
            await self.send(frame(PING, ACK, 0, payload))
        elif kind == GOAWAY:
            self.goaways.append((int.from_bytes(payload[:4]), int.from_bytes(payload[4:8])))
        elif kind == WINDOW_UPDATE:
            self.windows[number] = self.windows.get(number, 0) + int.from_bytes(payload)
        elif kind not in (SETTINGS, PING):
            self._stream_frame(kind, flags, self.streams.setdefault(number, Incoming()), payload)

    def _stream_frame(self, kind: int, flags: int, stream: Incoming, payload: bytes) -> None:
        if kind == RST_STREAM:
            stream.reset = int.from_bytes(payload) if stream.reset is None else stream.reset
            return
        assert stream.reset is None, "a frame came on a stream that was reset"
        assert not stream.ended, "a frame came on a stream that has ended"
        if kind == HEADERS:
            assert flags & END_HEADERS
            stream.headers.append(
                [(name.decode(), value.decode()) for name, value in self.decoder.decode(payload, True)]
            )
        else:
            assert (kind, bool(stream.headers)) == (DATA, True), "another frame, or DATA before HEADERS"
            stream.body += payload
        stream.ended = bool(flags & END_STREAM)

    async def frame(self) -> tuple[int, int, int, bytes]:
        """Read one frame: type, flags, stream and payload."""
        async with asyncio.timeout(PATIENCE):
            try:
                head = await self.reader.readexactly(9)
                payload = await self.reader.readexactly(int.from_bytes(head[:3]))
            except (asyncio.IncompleteReadError, ConnectionError) as error:
                raise Closed(f"no frame: {error!r}") from None
        return head[3], head[4], int.from_bytes(head[5:]), payload

    async def close(self) -> None:
        """Close the connection."""
        self.writer.close()
        with suppress(OSError):
            await self.writer.wait_closed()


def frame(kind: int, flags: int, number: int, payload: bytes = b"") -> bytes:
    """Return a frame."""
    return len(payload).to_bytes(3) + bytes((kind, flags)) + number.to_bytes(4) + payload


def settings(values: dict[int, int]) -> bytes:
    """Return a SETTINGS frame."""
    return frame(SETTINGS, 0, 0, b"".join(key.to_bytes(2) + value.to_bytes(4) for key, value in values.items()))


def window(number: int, size: int) -> bytes:
    """Return a WINDOW_UPDATE frame."""
    return frame(WINDOW_UPDATE, 0, number, size.to_bytes(4))


def reset(number: int, code: int = CANCEL) -> bytes:
    """Return a RST_STREAM frame."""
    return frame(RST_STREAM, 0, number, code.to_bytes(4))


@asynccontextmanager
async def http2(
    address: Sequence[Any],
    tls: ssl.SSLContext | None = None,
    changed: dict[int, int] | None = None,
    path: str = "/server",
    **headers: str,
) -> AsyncIterator[Http2]:
    """Connect to a host and port, and begin with these SETTINGS; keywords are headers of every request."""
    if tls is not None:
        tls.set_alpn_protocols(["h2"])
    host, port = address[:2]
    name = "x" if tls is not None else None
    reader, writer = await asyncio.open_connection(host, port, ssl=tls, server_hostname=name)
    if tls is not None:
        assert writer.get_extra_info("ssl_object").selected_alpn_protocol() == "h2"
    names = {key.replace("_", "-"): value for key, value in headers.items()}
    client = Http2(reader, writer, f"{host}:{port}", path, "http" if tls is None else "https", names)
    await client.send(PREFACE, settings(changed or {}))
    try:
        yield client
    finally:
        await client.close()
