"""An agent with no manners: sends exactly the bytes a test gives it, and reads answers strictly.

Shares no code with the sidecar, so that a fault cannot hide by being made on both sides.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

PATIENCE = 10.0
"""Seconds until a test gives up on an answer."""


class Closed(AssertionError):
    """The other side closed the connection where an answer was expected."""


class NoAnswer(Closed):
    """It did so without a byte of one."""


@dataclass(frozen=True)
class Answer:
    """One HTTP response: names in lower case, values as they came, chunks put together."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> str | None:
        """Return the only value of a header; None where there is none."""
        values = [value for key, value in self.headers if key == name]
        assert len(values) < 2, f"{name} came {len(values)} times"
        return values[0] if values else None

    @property
    def json(self) -> Any:
        """Return the decoded body."""
        assert self.header("content-type") == "application/json", (self.status, self.headers, self.body)
        return json.loads(self.body)

    @property
    def code(self) -> int | None:
        """Return the JSON-RPC error code of the body; None where it is no error."""
        error = self.json.get("error")
        return error["code"] if error is not None else None

    @property
    def events(self) -> list[Any]:
        """Return the JSON messages of a whole SSE body, which must be in the sidecar's own canonical form."""
        assert self.header("content-type") == "text/event-stream", (self.status, self.headers, self.body)
        return [message for message in map(_event_data, _blocks(self.body)) if message is not None]


@dataclass
class Connection:
    """One TCP connection to the sidecar."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    host: str
    path: str = "/server"
    headers: dict[str, str] = field(default_factory=dict)
    patience: float = PATIENCE

    async def send(self, data: bytes) -> None:
        """Send these bytes and nothing else."""
        self.writer.write(data)
        await self.writer.drain()

    def request(
        self, body: bytes | dict[str, Any] | list[Any] = b"", method: str = "POST", **headers: str | list[str] | None
    ) -> bytes:
        """Return a proper request with this body; keywords set headers (`mcp_name`), None leaves one out, a list
        repeats one."""
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        lines: dict[str, str | list[str] | None] = {"host": self.host, "accept": "application/json, text/event-stream"}
        if method == "POST":
            lines |= {"content-type": "application/json", "content-length": str(len(raw))}
        lines |= self.headers
        lines |= {name.replace("_", "-"): value for name, value in headers.items()}
        return self.head(method, lines) + raw

    def head(self, method: str, lines: dict[str, str | list[str] | None]) -> bytes:
        """Return request line and headers."""
        head = [f"{method} {self.path} HTTP/1.1"]
        for name, value in lines.items():
            values = [] if value is None else [value] if isinstance(value, str) else value
            head += [f"{name}: {one}" for one in values]
        return "\r\n".join([*head, "", ""]).encode("utf-8", "surrogateescape")

    async def ask(
        self, body: bytes | dict[str, Any] | list[Any] = b"", method: str = "POST", **headers: str | list[str] | None
    ) -> Answer:
        """Send a request (see `request`) and read its whole answer."""
        await self.send(self.request(body, method, **headers))
        return await self.answer()

    async def answer(self) -> Answer:
        """Read one whole response; those with status 100 are passed over."""
        async with asyncio.timeout(self.patience):
            status, headers = await self.answer_head()
            while status == 100:
                status, headers = await self.answer_head()
            return Answer(status, headers, await self._body(headers))

    async def answer_head(self) -> tuple[int, list[tuple[str, str]]]:
        """Read status line and headers of a response."""
        async with asyncio.timeout(self.patience):
            try:
                head = await self.reader.readuntil(b"\r\n\r\n")
            except (asyncio.IncompleteReadError, ConnectionError) as error:
                begun = isinstance(error, asyncio.IncompleteReadError) and error.partial
                raise (Closed if begun else NoAnswer)(f"no answer: {error!r}") from None
        first, *lines = head.decode("ascii").removesuffix("\r\n\r\n").split("\r\n")
        version, status, _ = first.split(" ", 2)
        assert version == "HTTP/1.1"
        pairs = [line.split(": ", 1) for line in lines]
        return int(status), [(name.lower(), value) for name, value in pairs]

    async def event(self) -> Any:
        """Read on in a chunked SSE answer whose head was read: the next JSON message, or None at the end."""
        while True:
            while b"\n\n" not in self._pending:
                async with asyncio.timeout(self.patience):
                    chunk = await self._chunk()
                if not chunk:
                    assert self._pending == b"", "the stream ended within an event"
                    return None
                self._pending += chunk
            block, _, self._pending = self._pending.partition(b"\n\n")
            message = _event_data(block)
            if message is not None:
                return message

    async def events(self) -> AsyncIterator[Any]:
        """Read the messages of a stream to its end."""
        while (message := await self.event()) is not None:
            yield message

    async def closed(self) -> bytes:
        """Wait until the sidecar closes the connection; return what it sent before."""
        async with asyncio.timeout(self.patience):
            try:
                return await self.reader.read()
            except ConnectionError:
                return b""

    async def close(self) -> None:
        """Close the connection."""
        self.writer.close()
        with suppress(OSError):
            await self.writer.wait_closed()

    def reset(self) -> None:
        """Cut the connection without a word (RST where there is unread data)."""
        self.writer.transport.abort()

    _pending: bytes = b""

    async def _body(self, headers: list[tuple[str, str]]) -> bytes:
        names = dict(headers)
        assert not ("content-length" in names and "transfer-encoding" in names)
        if "content-length" in names:
            return await self.reader.readexactly(int(names["content-length"]))
        if names.get("transfer-encoding") == "chunked":
            chunks = []
            while chunk := await self._chunk():
                chunks.append(chunk)
            return b"".join(chunks)
        return await self.reader.read()

    async def _chunk(self) -> bytes:
        try:
            size = int((await self.reader.readuntil(b"\r\n"))[:-2], 16)
            data = await self.reader.readexactly(size + 2)
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            raise Closed(f"the answer was cut: {error!r}") from None
        assert data.endswith(b"\r\n")
        return data[:-2]


@asynccontextmanager
async def connect(
    url: str, path: str = "/server", tls: ssl.SSLContext | None = None, **headers: str
) -> AsyncIterator[Connection]:
    """Open a connection to the sidecar at `url` (`http://127.0.0.1:PORT`, or https with `tls`); keywords are headers of
    every request."""
    _, _, host = url.partition("://")
    name, _, port = host.rpartition(":")
    reader, writer = await asyncio.open_connection(name, int(port), limit=2**26, ssl=tls)
    named = {key.replace("_", "-"): value for key, value in headers.items()}
    connection = Connection(reader, writer, host, path, named)
    try:
        yield connection
    finally:
        await connection.close()


def _blocks(body: bytes) -> list[bytes]:
    assert body.endswith(b"\n\n") or not body, "the stream ended within an event"
    return body.split(b"\n\n")[:-1]


def _event_data(block: bytes) -> Any:
    """The JSON of an event; None for comments and events without data."""
    assert b"\r" not in block
    fields = [line.split(b": ", 1) for line in block.split(b"\n") if not line.startswith(b":")]
    data = [field[1] for field in fields if field[0] == b"data" and len(field) > 1 and field[1]]
    assert len(data) < 2, "an event of several data lines"
    return json.loads(data[0]) if data else None
