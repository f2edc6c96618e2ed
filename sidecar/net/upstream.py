"""One connection to an MCP server.

A JSON answer is delivered whole, an SSE answer as a stream with back-pressure. A request is sent once: whatever
happens after that, nobody here sends it again.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from math import inf
from ssl import SSLError
from typing import Final, cast

import httptools

from openmcp.identity.peer import PeerCertificate
from openmcp.identity.spiffe_id import SpiffeId
from openmcp.sidecar.errors import UpstreamFailed
from openmcp.sidecar.net.handover import Handover, turn
from openmcp.sidecar.net.response import UpstreamResponse
from openmcp.sidecar.net.values import Patience

LARGE: Final = 256 * 1024
"""Bytes from which on the pieces of a body are not joined."""
_TURN: Final = 64 * 1024
"""Bytes of a body that are read at once, before others have their turn."""
_PIECE: Final = 4096
"""Bytes below which pieces of a body are joined as they come."""
UNWANTED_TIMEOUT: Final = 1.0
"""Seconds for which a stream that was answered may stay open."""
MAX_HEAD: Final = 64 * 1024
EVENT_STREAM: Final = b"text/event-stream"
_SPENT_PARSER: Final = httptools.HttpResponseParser(None)


class UpstreamConnection(asyncio.Protocol):
    """A connection that carries one request at a time. `on_idle` is told when it can take the next one, `on_closed`
    when it never will. By the loop's time it takes requests `until` then, and carries streams that do not end by
    themselves until it `ends`; `certificate` is the server's SVID, if it showed one, `shown` the ID that we showed."""

    def __init__(
        self, on_idle: Callable[["UpstreamConnection"], None], on_closed: Callable[["UpstreamConnection"], None]
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._turn = turn()
        self._on_idle = on_idle
        self._on_closed = on_closed
        self._parser = httptools.HttpResponseParser(self)
        self._response: UpstreamResponse | None = None
        self._head: Handover[UpstreamResponse] | None = None
        self._ready: UpstreamResponse | None = None
        self._body: list[bytes] = []
        self._small = bytearray()
        self._body_bytes = 0
        self._body_limit = 0
        self._head_bytes = 0
        self._keep = False
        self._in_body = False
        self._over = False
        self._named_bytes = 0
        self.closed = False
        self.until = self.ends = inf
        self.certificate: PeerCertificate | None = None
        self.shown: SpiffeId | None = None
        self.idle_since = 0.0
        self._last_byte = 0.0
        self._patience = Patience(head=0.0, idle=0.0, total=0.0)
        self._started = 0.0

    async def request(self, data: tuple[bytes, ...], body_limit: int, patience: "Patience") -> UpstreamResponse:
        """Send one request (its bytes) and wait for the answer: whole, or the head of a stream.

        Raises `UpstreamFailed`: closed, protocol, too_large. Cancelling closes the connection, if it is still in use.
        """
        if self.closed:
            raise UpstreamFailed("closed", "the pooled connection was closed", sent=False)
        response = self._response = UpstreamResponse(self)
        head = self._head = Handover(self._turn)
        self._body, self._body_bytes, self._body_limit, self._head_bytes = [], 0, body_limit, 0
        self._small.clear()
        self._over, self._named_bytes = False, 0
        self._last_byte = self._started = self._loop.time()
        self._patience = patience
        for piece in data:
            self._transport.write(piece)
        try:
            return await head
        except asyncio.CancelledError:
            self.release(response, complete=False)  # one that was answered meanwhile may be another call's by now
            raise

    @property
    def silent(self) -> bool:
        """Whether nothing has come in answer to the last request."""
        return self._head_bytes == 0

    def release(self, response: UpstreamResponse, *, complete: bool) -> None:
        """The response is done with; a connection in the middle of one cannot be used again."""
        if self._response is not response:
            return
        self._response = None
        if complete and self._keep and not self.closed:
            self.idle_since = self._loop.time()
            self._on_idle(self)
        else:
            self.abort()

    def sweep(self, now: float) -> None:
        """Enforce the time limits of the request under way."""
        if self._response is None:
            return
        if self._head is not None:
            if now - self._started > self._patience.head:
                self.fail(UpstreamFailed("timeout", f"no answer in {self._patience.head:g} s"))
        elif self._response.unwanted:
            if now - self._started > UNWANTED_TIMEOUT:
                self.abort()
        elif now - self._started > self._patience.total:
            self.fail(UpstreamFailed("timeout", f"the stream lasted longer than {self._patience.total:g} s"))
        elif self._transport.is_reading() and now - self._last_byte > self._patience.idle:
            self.fail(UpstreamFailed("timeout", f"the stream was silent for {self._patience.idle:g} s"))

    def expect_end(self) -> None:
        """Read on for as long as a stream may take to end that nobody wants any more."""
        self._started = self._loop.time()
        self.resume()

    def end(self) -> None:
        """Take no more requests; the one under way ends by itself, or is ended where it would not."""
        self.until = 0.0
        if self._response is None:
            self.abort()
        elif self._patience.endless:
            self._response.stop()

    def resume(self) -> None:
        """Read on after back-pressure."""
        if not self.closed and not self._transport.is_reading():
            self._transport.resume_reading()

    def fail(self, failure: UpstreamFailed) -> None:
        """End what is under way with this failure and close."""
        response, self._response = self._response, None
        head = self._head if self._ready is None else None
        if head is not None and not head.done():
            self._head = None
            head.fail(failure)
        elif response is not None:
            response.end(failure)
        self.abort()

    def abort(self) -> None:
        """Close at once; nothing of it is used again."""
        if not self.closed:
            self.closed = True
            self._on_closed(self)
        self._transport.abort()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.closed:
            self.closed = True
            self._on_closed(self)
        self._take_rest()
        self._parser = _SPENT_PARSER  # ours holds our methods: only the collector would free the two
        if self._response is None:
            return
        if self._in_body and exc is None and self._until_close():
            self._complete()
            self._deliver()
            return
        # A server that refuses us says so after the handshake.
        alert = exc.reason if isinstance(exc, SSLError) else None
        why = f" (TLS: {alert.lower().replace('_', ' ')})" if alert else ""
        self.fail(UpstreamFailed("closed", f"the server closed the connection before the answer was complete{why}"))

    def data_received(self, data: bytes) -> None:
        self._last_byte = self._loop.time()
        if not self._awaited:
            self.abort()  # bytes nobody asked for: whatever they are, they are not the next answer
            return
        self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self.fail(UpstreamFailed("protocol", "the server's answer is not valid HTTP/1.1"))
        else:
            if self._head_bytes > MAX_HEAD and self._awaited:
                self._fail_head()
        self._deliver()

    def _take_rest(self) -> None:
        """Read what came over TLS while reading was paused: uvloop ends a connection as soon as its peer has, and keeps
        that to itself."""
        tls = self._transport.get_extra_info("ssl_object")
        rest = []
        with suppress(SSLError):  # there is no more
            while tls is not None and (data := tls.read(LARGE)):
                rest.append(data)
        if rest and self._awaited:
            self.data_received(b"".join(rest))

    @property
    def _awaited(self) -> bool:
        """Whether an answer is expected; asked anew each time, since the parser's callbacks end it."""
        return self._response is not None

    # httptools callbacks

    def on_message_begin(self) -> None:
        if self._over:  # a second answer to one request: neither it nor anything behind it is used
            self._response = None
            self.abort()

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._response is None or self._in_body:
            return  # a trailer changes nothing of how an answer is read (RFC 9110, 6.5.1)
        headers, name = self._response.headers, name.lower()
        if name in headers and name in (b"content-length", b"transfer-encoding", b"content-type", b"mcp-session-id"):
            value = headers[name] + b", " + value  # ambiguous: refused where it is read
        headers[name] = value
        self._named_bytes += len(name) + len(value)
        if self._named_bytes > MAX_HEAD:
            self._fail_head()

    def on_headers_complete(self) -> None:
        response = self._response
        if response is None:
            return
        response.status = self._parser.get_status_code()
        if response.status < 200:
            return
        self._in_body = True
        self._head_bytes = 0
        response.streaming = response.status == 200 and response.media_type == EVENT_STREAM
        self._keep = self._parser.should_keep_alive()
        if response.headers.get(b"content-encoding", b"identity").lower() != b"identity":
            self.fail(UpstreamFailed("protocol", "the server compressed its answer although nobody offered that"))
        elif b"transfer-encoding" in response.headers and b"content-length" in response.headers:
            self.fail(UpstreamFailed("protocol", "the server's answer has two framings"))
        elif response.streaming:
            self._ready = response

    def on_body(self, body: bytes) -> None:
        self._head_bytes = 0
        response = self._response
        if response is None:
            return
        if response.streaming:
            if not response.hold(body):
                self._transport.pause_reading()
            return
        if len(body) < _PIECE and self._body_bytes:
            self._small += body  # a server may send byte by byte: an object for each would take 40 times the memory
        else:
            self._join_small()
            self._body.append(body)
        self._body_bytes += len(body)
        if len(body) >= _TURN and self._transport.is_reading():
            self._transport.pause_reading()  # uvloop would read on for as long as there is something
            self._loop.call_soon(self.resume)
        if self._body_bytes > self._body_limit:
            self.fail(UpstreamFailed("too_large", f"the server's answer exceeds {self._body_limit} bytes"))

    def on_message_complete(self) -> None:
        if self._response is None:
            return
        if self._response.status < 200:
            self._response.headers.clear()
            return
        self._complete()

    def _complete(self) -> None:
        response = self._response
        self._in_body, self._over = False, True
        if response is None:
            return
        if response.streaming:
            response.end(None)
            return
        self._join_small()
        if self._body_bytes > LARGE:
            response.pieces = tuple(self._body)
        else:
            response.body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        self._body = []
        response.end(None)
        self._ready = response
        response.close()

    def _join_small(self) -> None:
        if self._small:
            self._body.append(bytes(self._small))
            self._small.clear()

    def _fail_head(self) -> None:
        self.fail(UpstreamFailed("protocol", f"head or trailers of the server's answer exceed {MAX_HEAD} bytes"))

    def _deliver(self) -> None:
        """Hand over what was read. Last in a callback: the task goes on inside, and may use this connection again."""
        ready, response = self._ready, self._response
        if ready is not None:
            head, self._head, self._ready = self._head, None, None
            if head is not None:
                head.give(ready)
        elif response is not None:
            response.tell()

    def _until_close(self) -> bool:
        """Whether the answer is one that the end of the connection completes (RFC 9112, 6.3, rule 8)."""
        response = self._response
        return response is not None and not {b"content-length", b"transfer-encoding"} & response.headers.keys()
