"""The two HTTP/1.1 parsers without sockets: bytes in, what was understood and what was answered out."""

import asyncio
from typing import Any

from openmcp.sidecar.errors import UpstreamFailed
from openmcp.sidecar.net.exchange import HttpExchange
from openmcp.sidecar.net.http1 import Connection
from openmcp.sidecar.net.http2 import Http2Connection
from openmcp.sidecar.net.listener import Listener
from openmcp.sidecar.net.sweep import Sweeper
from openmcp.sidecar.net.upstream import UpstreamConnection
from openmcp.sidecar.net.values import Patience

BODY_LIMIT = 2_000
Understood = tuple[str, str, tuple[tuple[bytes, bytes], ...], frozenset[bytes], bytes]


class Transport(asyncio.Transport):
    """Collects what is written, and is as strict as a real transport about what may follow what."""

    def __init__(self, protocol: asyncio.Protocol) -> None:
        super().__init__()
        self.written = b""
        self.closed = False
        self._protocol = protocol
        self._ended = False
        self._reading = True

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._ended:
            raise RuntimeError("Cannot call write() after write_eof()")
        if not self.closed:
            self.written += bytes(data)

    def write_eof(self) -> None:
        self._ended = True

    def can_write_eof(self) -> bool:
        return True

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            asyncio.get_running_loop().call_soon(self._protocol.connection_lost, None)

    def abort(self) -> None:
        self.close()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def pause_reading(self) -> None:
        self._reading = False

    def resume_reading(self) -> None:
        self._reading = True

    def is_reading(self) -> bool:
        return self._reading

    def get_write_buffer_size(self) -> int:
        return 0


class Agent:
    """A client's connection to a listener whose handler writes down each request and answers it."""

    def __init__(self, protocol: type[Connection] | type[Http2Connection] = Connection) -> None:
        self.requests: list[Understood] = []
        self.refused: list[int] = []
        listener = Listener(self._handle, lambda path: BODY_LIMIT, self.refused.append, Sweeper())
        listener.date, listener.date_and_close = b"", b"connection: close\r\n"
        self.connection = protocol(listener)
        self.transport = Transport(self.connection)
        self.connection.connection_made(self.transport)

    async def _handle(self, exchange: HttpExchange) -> None:
        request = exchange.request
        await asyncio.sleep(0)
        self.requests.append(
            (request.method, request.path, tuple(request.headers.items()), frozenset(request.repeated), request.body)
        )
        exchange.respond(200, b"", b"%d" % len(self.requests))

    def feed(self, data: bytes) -> None:
        """Deliver bytes as a socket would: none after the connection was closed."""
        if not self.transport.closed and data:
            self.connection.data_received(data)

    @property
    def busy(self) -> bool:
        """Whether a request is under way."""
        connection = self.connection
        return connection._task is not None if isinstance(connection, Connection) else bool(connection._tasks)

    async def end(self) -> tuple[list[Understood], list[int], bytes]:
        """Let everything under way finish, close, and return what was understood, refused and written."""
        for _ in range(400):
            if not self.busy:
                break
            await asyncio.sleep(0)
        await asyncio.sleep(0)  # HTTP/2 sends what has collected in a turn of the loop with its end
        self.transport.close()
        for _ in range(3):
            await asyncio.sleep(0)
        return self.requests, self.refused, self.transport.written


async def listened(
    pieces: list[bytes], protocol: type[Connection] | type[Http2Connection] = Connection
) -> tuple[list[Understood], list[int], bytes]:
    """What a listener makes of these bytes, delivered piece by piece."""
    agent = Agent(protocol)
    for piece in pieces:
        agent.feed(piece)
    return await agent.end()


async def answered(pieces: list[bytes]) -> tuple[Any, ...]:
    """What is made of a server's answer that comes in these pieces and ends with the connection.

    `(status, headers, body)`, then the class of the failure of a stream (None: it ended properly); or the class of
    the failure alone. Raises `AssertionError` where nobody was told the end.
    """
    idle: list[UpstreamConnection] = []
    closed: list[UpstreamConnection] = []
    connection = UpstreamConnection(idle.append, closed.append)
    transport = Transport(connection)
    connection.connection_made(transport)
    patience = Patience(head=60.0, idle=60.0, total=60.0)
    task = asyncio.ensure_future(connection.request((b"x",), BODY_LIMIT, patience))
    await asyncio.sleep(0)
    for piece in pieces:
        if not transport.closed and piece:
            connection.data_received(piece)
    pooled = bool(idle) and not connection.closed
    transport.close()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert task.done(), "nobody was told that the connection has ended"
    try:
        response = task.result()
    except UpstreamFailed as failure:
        return (failure.kind,)
    head = (response.status, tuple(sorted(response.headers.items())))
    if not response.streaming:
        return (*head, response.body, pooled)
    body, end = b"", None
    try:
        async with asyncio.timeout(1):
            while chunk := await response.chunk():
                body += chunk
    except UpstreamFailed as failure:
        end = failure.kind
    response.close()
    return (*head, body, end)
