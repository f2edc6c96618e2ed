"""An MCP server that answers exactly the bytes a test gives it, on real sockets.

A test hands over a handler, `async def handler(request, reply)`, which is called for each HTTP request. What the
sidecar sent is kept in `requests`. Shares no code with the sidecar.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

PATIENCE = 10.0


@dataclass(frozen=True)
class Request:
    """One HTTP request as the server got it; header names in lower case, every repetition kept."""

    method: str
    path: str
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
        return json.loads(self.body)

    @property
    def is_health_check(self) -> bool:
        """Tell whether the sidecar asks for a sign of life; such requests are not the test's business."""
        return self.method == "GET" and self.header("accept") == "application/json"


class Reply:
    """The answering side of one connection."""

    def __init__(self, request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.request = request
        self.reader = reader
        self.writer = writer
        self.gone = asyncio.Event()

    async def raw(self, data: bytes) -> None:
        """Send these bytes."""
        self.writer.write(data)
        with suppress(ConnectionError):
            await self.writer.drain()

    async def respond(self, body: bytes = b"", status: int = 200, **headers: str) -> None:
        """Send a proper response; keywords set headers (`content_type`)."""
        await self.raw(head(status, {"content-length": str(len(body)), **_named(headers)}) + body)

    async def result(self, result: Any = None, **headers: str) -> None:
        """Answer the request with a JSON-RPC result, as JSON."""
        await self.message({"jsonrpc": "2.0", "id": self.request.json.get("id"), "result": result or {}}, **headers)

    async def message(self, message: Any, **headers: str) -> None:
        """Answer with this JSON document."""
        await self.respond(json.dumps(message).encode(), **{"content_type": "application/json", **headers})

    async def accepted(self) -> None:
        """Answer 202, as to a notification."""
        await self.respond(status=202)

    async def stream(self, **headers: str) -> None:
        """Begin an SSE answer of chunks."""
        lines = {"content-type": "text/event-stream", "transfer-encoding": "chunked", **_named(headers)}
        await self.raw(head(200, lines))

    async def chunk(self, data: bytes) -> None:
        """Send one chunk of the stream."""
        await self.raw(b"%x\r\n%b\r\n" % (len(data), data))

    async def event(self, message: Any, **fields: str) -> None:
        """Send one message as an event; keywords are further fields of it."""
        lines = "".join(f"{name}: {value}\n" for name, value in fields.items())
        await self.chunk(f"{lines}data: {json.dumps(message)}\n\n".encode())

    async def end(self) -> None:
        """End the stream properly."""
        await self.raw(b"0\r\n\r\n")

    def close(self) -> None:
        """Close the connection."""
        self.writer.close()

    async def left(self) -> None:
        """Wait until the sidecar closes this connection."""
        async with asyncio.timeout(PATIENCE):
            with suppress(ConnectionError):
                assert await self.reader.read(1) == b"", "the sidecar sent something instead"


Handler = Callable[[Request, Reply], Awaitable[None]]


@dataclass
class Hostile:
    """A running server; `handler` may be replaced at any time."""

    handler: Handler
    url: str = ""
    requests: list[Request] = field(default_factory=list)
    connections: int = 0
    faults: list[BaseException] = field(default_factory=list)
    _changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def received(self, count: int) -> Request:
        """Wait for the `count`-th request (from 1) and return it."""
        async with asyncio.timeout(PATIENCE), self._changed:
            await self._changed.wait_for(lambda: len(self.requests) >= count)
        return self.requests[count - 1]

    def calls(self, method: str) -> list[Any]:
        """Return the JSON-RPC messages with this method that came so far."""
        posts = [request.json for request in self.requests if request.method == "POST"]
        return [message for message in posts if message.get("method") == method]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Handle one connection until either side closes it."""
        self.connections += 1
        try:
            while True:
                request = await read_request(reader)
                if request.is_health_check:
                    await Reply(request, reader, writer).respond(status=405)
                    continue
                async with self._changed:
                    self.requests.append(request)
                    self._changed.notify_all()
                await self.handler(request, Reply(request, reader, writer))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        except asyncio.CancelledError:
            raise
        except Exception as error:
            self.faults.append(error)
        finally:
            writer.close()


async def read_request(reader: asyncio.StreamReader) -> Request:
    """Read one request of Content-Length framing, which is what the sidecar sends."""
    raw = await reader.readuntil(b"\r\n\r\n")
    first, *lines = raw.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
    method, path, version = first.split(" ")
    assert version == "HTTP/1.1"
    headers = [(name.lower(), value) for name, value in (line.split(": ", 1) for line in lines)]
    named = dict(headers)
    assert "transfer-encoding" not in named
    body = await reader.readexactly(int(named.get("content-length", "0")))
    return Request(method, path, headers, body)


def head(status: int, headers: dict[str, str]) -> bytes:
    """Return a status line and headers."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {status} X\r\n{lines}\r\n".encode("latin-1")


def _named(headers: dict[str, str]) -> dict[str, str]:
    return {name.replace("_", "-"): value for name, value in headers.items()}


async def friendly(request: Request, reply: Reply) -> None:
    """Answer as a plain legacy server with sessions and one tool would."""
    if request.method != "POST":
        await reply.respond(status=405 if request.method == "GET" else 200)
    elif "id" not in request.json or "method" not in request.json:
        await reply.accepted()
    elif request.json["method"] == "initialize":
        await reply.result(initialized(request), mcp_session_id="upstream-session")
    elif request.json["method"] == "tools/call":
        await reply.result({"content": [{"type": "text", "text": "done"}]})
    elif request.json["method"] == "tools/list":
        await reply.result({"tools": [tool("allowed"), tool("forbidden")]})
    else:
        await reply.result()


def initialized(request: Request) -> dict[str, Any]:
    """Return an initialize result for the version that was asked for."""
    return {
        "protocolVersion": request.json["params"]["protocolVersion"],
        "capabilities": {"tools": {}, "resources": {"subscribe": True}, "prompts": {}, "logging": {}},
        "serverInfo": {"name": "hostile", "version": "1"},
    }


def tool(name: str) -> dict[str, Any]:
    """Return a tool's definition."""
    return {"name": name, "description": name, "inputSchema": {"type": "object"}}


@asynccontextmanager
async def hostile(handler: Handler = friendly, tls: ssl.SSLContext | None = None) -> AsyncIterator[Hostile]:
    """Run a server on a free loopback port."""
    server = Hostile(handler)
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        with suppress(asyncio.CancelledError):  # the end of the test, which asyncio's streams would report as a fault
            await server.serve(reader, writer)

    listener = await asyncio.start_server(serve, "127.0.0.1", 0, limit=2**26, ssl=tls)
    server.url = f"http{'s' if tls else ''}://127.0.0.1:{listener.sockets[0].getsockname()[1]}/mcp"
    try:
        yield server
    finally:
        listener.close()
        for task in tuple(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    assert not server.faults, server.faults
