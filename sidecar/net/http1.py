"""One client connection of HTTP/1.1 (RFC 9112) on llhttp: requests in, answers out, in order.

Everything ambiguous is refused and the connection closed: two framings at once, a repeated Content-Length, bare LF,
folded headers (llhttp refuses these), a Transfer-Encoding other than `chunked`.
"""

import asyncio
import logging
from collections import deque
from math import inf
from typing import TYPE_CHECKING, Final, cast

import httptools

from openmcp.identity.peer import UNKNOWN
from openmcp.sidecar.net.exchange import HttpExchange, status_line
from openmcp.sidecar.net.framing import well_framed, without_offer
from openmcp.sidecar.net.handover import Handover, turn
from openmcp.sidecar.net.lifetimes import lifetime, peer_of
from openmcp.sidecar.net.tail import LINGER_TIMEOUT, Tail
from openmcp.sidecar.net.values import State
from openmcp.sidecar.ports import HttpRequest

if TYPE_CHECKING:
    from openmcp.sidecar.net.listener import Listener

MAX_HEAD: Final = 32 * 1024
"""Bytes of request line and headers; more is answered 431."""
MAX_HEADERS: Final = 100
MAX_PIPELINED: Final = 16
MAX_AHEAD: Final = 256 * 1024
"""Requests, and bytes of their bodies, that wait on one connection before it is read no further."""
HEAD_TIMEOUT: Final = 10.0
BODY_TIMEOUT: Final = 60.0
IDLE_TIMEOUT: Final = 120.0
WRITE_BUFFER: Final = 64 * 1024

_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
_log = logging.getLogger("openmcp.net")
_SPENT_PARSER: Final = httptools.HttpRequestParser(None)
_IDLE, _HEAD, _BODY, _BUSY, _CLOSING = State  # looking a member up in its class costs 0.12 us
_NOTHING: Final[frozenset[bytes]] = frozenset()


class Connection(asyncio.Protocol):
    """A client's connection. Requests are handled one after the other, all by one task: cheaper than one for each."""

    def __init__(self, listener: "Listener") -> None:
        self._listener = listener
        self._loop = listener.loop
        self.now = listener.loop.time
        self._parser = httptools.HttpRequestParser(self)
        self._pending: deque[tuple[HttpRequest, bool, bool]] = deque()
        self._exchange: HttpExchange | None = None
        self._task: asyncio.Task[None] | None = None
        self._given: Handover[None] | None = None
        self._turn = turn()
        self._drained: asyncio.Future[None] | None = None
        self.peer = UNKNOWN
        self._keep = True
        self._leaving = False
        self._until = self._ends = inf
        self._state = _IDLE
        self._deadline = self.now() + HEAD_TIMEOUT
        self._url = b""
        self._headers: dict[bytes, bytes] = {}
        self._repeated = _NOTHING
        self._path = self._version = ""
        self._in_head = self._in_message = self._owes_continue = False
        self._begun = self._ahead = self._limit = self._head_bytes = self._body_bytes = 0
        self._tail = Tail(self.now)
        self._body: list[bytes] = []

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=WRITE_BUFFER)
        self._tail.open(self._transport)
        self.peer = peer_of(self._transport)
        self._until, self._ends = lifetime(self.now(), self.peer)
        self._listener.joined(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._state = _CLOSING
        self._tail.lost()
        self._pending.clear()
        if self._task is None:
            self._listener.left(self)
        else:  # the drain waits for what its handler has to tidy up and to record
            self._task.add_done_callback(lambda _: self._listener.left(self))
            self._task.cancel()
        self.resume_writing()
        # The parser holds our methods and we hold the parser: left alone, only the collector would free them.
        self._task = self._exchange = None
        self._parser = _SPENT_PARSER

    def pause_writing(self) -> None:
        self._drained = self._loop.create_future()
        self._tail.watch()

    def resume_writing(self) -> None:
        drained, self._drained = self._drained, None
        if drained is not None and not drained.done():
            drained.set_result(None)

    def data_received(self, data: bytes) -> None:
        if self._state is _CLOSING:
            return  # what a refused client still sends is read and thrown away, so that it can see the answer
        if self._state is _IDLE:
            self._state, self._deadline = _HEAD, self._listener.clock + HEAD_TIMEOUT
        before = (self._begun, self._in_head, self._body_bytes)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._ignore_upgrades(memoryview(data), upgrade.args[0])
        except httptools.HttpParserError:
            self.refuse(400)
        if self._in_message:
            self._count(before, len(data))
        given = self._given
        if given is not None and self._state is _BUSY:
            given.give(None)  # last: from here on the request is served

    def _count(self, before: tuple[int, bool, int], size: int) -> None:
        """Bound a head or trailer section that comes in pieces: llhttp keeps a header until it is complete."""
        self._listener.came(size)
        now = (self._begun, self._in_head, self._body_bytes)
        if before == now:
            self._head_bytes += size
            if self._head_bytes > MAX_HEAD:
                self.refuse(431)
        elif not self._in_head:
            self._head_bytes = 0

    # httptools callbacks

    def on_message_begin(self) -> None:
        self._begun += 1
        self._in_head = self._in_message = True
        self._head_bytes = 0
        self._url = b""
        self._headers, self._repeated = {}, _NOTHING
        self._owes_continue = False

    def on_url(self, url: bytes) -> None:
        self._url += url
        self._head_bytes += len(url)
        if self._head_bytes > MAX_HEAD:
            self.refuse(431)

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._in_head:
            return  # a trailer: never a header (RFC 9110, 6.5.1), since it was not there when the head was judged
        name = name.lower()
        self._head_bytes += len(name) + len(value)
        if value and value[-1] <= 0x20:  # the parser drops the blanks before it alone (RFC 9110, 5.5)
            value = value.rstrip(b" \t")
        if name in self._headers:
            self._repeated |= {name}
            if name == b"accept":  # a list header: its lines add up (RFC 9110, 5.3)
                self._headers[name] += b"," + value
        else:
            self._headers[name] = value
        if len(self._headers) > MAX_HEADERS or self._head_bytes > MAX_HEAD:
            self.refuse(431)

    def on_headers_complete(self) -> None:
        self._in_head = False
        if self._state is _CLOSING:
            return
        self._version = self._parser.get_http_version()
        self._path = self._url.partition(b"?")[0].decode("latin-1")
        if not well_framed(self._parser.get_method(), self._url, self._version, self._headers, self._repeated):
            self.refuse(400)
            return
        self._limit = self._listener.body_limit(self._path)
        length = self._headers.get(b"content-length")
        if length is not None and int(length) > self._limit:
            self.refuse(413)
            return
        if b"expect" in self._headers and not self._answer_expectation():
            return
        if self._state is _HEAD:
            self._state, self._deadline = _BODY, self._listener.clock + BODY_TIMEOUT

    def on_body(self, body: bytes) -> None:
        if self._state is _CLOSING:
            return
        self._body.append(body)
        self._body_bytes += len(body)
        if self._body_bytes > self._limit:
            self.refuse(413)
        elif self._state is _BUSY and self._ahead + self._body_bytes > MAX_AHEAD:
            self._transport.pause_reading()

    def on_message_complete(self) -> None:
        if b"upgrade" in self._headers and self._parser.should_upgrade():
            return  # llhttp takes the body for the other protocol: see `_ignore_upgrade`
        self._in_message = False
        if self._state is _CLOSING:
            return
        body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        self._body, self._body_bytes = [], 0  # an idle connection keeps nothing of it
        method = self._parser.get_method().decode("ascii")
        request = HttpRequest(method, self._path, self._headers, self._repeated, body, self.peer)
        item = (request, self._parser.should_keep_alive(), self._version == "1.1")
        if self._state is _BUSY:
            self._pending.append(item)
            self._ahead += len(request.body)
            if len(self._pending) >= MAX_PIPELINED:
                self._transport.pause_reading()
        else:
            self._handle(item)

    # for the exchange

    @property
    def can_write(self) -> bool:
        """Whether the client keeps up with what is written."""
        return self._drained is None

    async def writable(self) -> None:
        """Wait while the client is slow to read."""
        if self._drained is not None:
            await self._drained

    def common(self) -> bytes:
        """The header lines that every answer carries."""
        return self._listener.date if self._keep and self._listener.accepting else self._listener.date_and_close

    def send(self, data: bytes) -> None:
        """Write to the client; after the connection is lost it goes nowhere."""
        if not self._transport.is_closing():
            self._transport.write(data)

    def close_after(self) -> None:
        """Close once the present answer is complete."""
        self._keep = False

    def done(self, exchange: HttpExchange) -> None:
        """The exchange's answer is complete: go on with the next request."""
        if self._exchange is not exchange:
            return
        self._exchange = None
        if not self._keep or not self._listener.accepting:
            self._close()

    def abort(self) -> None:
        """Cut the connection."""
        self._state = _CLOSING
        self._transport.abort()

    # for the listener

    @property
    def waiting(self) -> bool:
        """Whether no request is being served."""
        return self._state is not _BUSY

    def close_when_idle(self) -> None:
        """Drain: close now if no request is under way or waiting, else when it is answered."""
        if self._state in (_IDLE, _HEAD):
            self._state = _CLOSING
            self._tail.leave()

    def end(self) -> None:
        """Serve no further request; the one under way ends by itself."""
        self._leaving, self._keep = True, False
        if self._state is _BODY:
            self.refuse(408)
        else:
            self.close_when_idle()

    def sweep(self, now: float) -> int:
        """See `values.Client`: enforce the deadlines of reading and of the connection, and keep streams alive."""
        self._sweep_lifetime(now)
        if self._state is _CLOSING:
            self._tail.linger(now)
        elif self._drained is not None and self._tail.stalled(now):
            self.abort()
        elif self._state is _BUSY:
            if self._exchange is not None:
                self._exchange.sweep(now)
        elif now >= self._deadline:
            if self._state is _HEAD and self._in_message:
                self.refuse(408)
            else:
                self.end()
        return self._body_bytes + self._ahead

    def _sweep_lifetime(self, now: float) -> None:
        if now >= self._until:
            self._leaving = True
            if now >= self._ends:
                self.end()

    def refuse(self, status: int) -> None:
        """Answer a request that cannot be read and close; the reason is the status alone."""
        if self._state is _CLOSING:
            return  # one answer is enough, whatever else is wrong with the request
        waiting = self._state is _BUSY
        self._state = _CLOSING
        self._listener.refused(status)
        if waiting:  # the answer before it is not out yet: no order could be kept
            self.abort()
            return
        head = b"%b%bcontent-length: 0\r\n\r\n" % (status_line(status), self._listener.date_and_close)
        self.send(head)
        self._tail.shut(LINGER_TIMEOUT)

    def _ignore_upgrades(self, data: memoryview, offset: int) -> None:
        """Offers to upgrade (h2c) are not taken (RFC 9110, 7.8): such a request is read again without it.

        llhttp ends it at its head. Were the rest, from `offset`, read as the next request, a body would become one.
        """
        while self._state is not _CLOSING:
            line = b"%b %b HTTP/%b\r\n" % (self._parser.get_method(), self._url, self._version.encode())
            head = line + without_offer(self._headers, self._repeated, keep=self._parser.should_keep_alive())
            data = data[offset:]
            self._parser = httptools.HttpRequestParser(self)
            try:
                self._parser.feed_data(head)
                self._parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                offset = upgrade.args[0]
            except httptools.HttpParserError:
                self.refuse(400)
            else:
                return

    def _close(self) -> None:
        self._state = _CLOSING
        self._tail.leave(sends_on=self._in_message or bool(self._pending))

    def _answer_expectation(self) -> bool:
        if self._headers[b"expect"].lower() != b"100-continue":
            self.refuse(417)
            return False
        if self._state is _BUSY:
            self._owes_continue = True
        else:
            self.send(_CONTINUE)
        return True

    def _handle(self, item: tuple[HttpRequest, bool, bool]) -> None:
        request, keep, chunked = item
        self._keep = keep and not self._leaving
        self._state = _BUSY
        self._exchange = HttpExchange(self, request, chunked=chunked)
        if self._task is None:
            self._task = self._loop.create_task(self._run())

    async def _run(self) -> None:
        while self._state is not _CLOSING:
            exchange = self._exchange
            if exchange is None:
                given = self._given = Handover(self._turn)
                await given
                self._given = None
                continue
            try:
                await self._listener.handler(exchange)
            except Exception:
                _log.exception("an exchange failed")
                if exchange.started:
                    self.abort()
                else:
                    exchange.respond(500, b"", b"")
            await self.writable()
            self._next()

    def _next(self) -> None:
        if self._state is _CLOSING:
            return
        if self._exchange is not None:  # a handler that returned without an answer
            self.abort()
            return
        if not self._keep:  # the connection came to its end just after this answer
            self._close()
            return
        if not self._transport.is_reading():
            self._transport.resume_reading()
        if self._pending:
            item = self._pending.popleft()
            self._ahead -= len(item[0].body)
            self._handle(item)
        elif self._in_message:
            self._state, self._deadline = _BODY, self.now() + BODY_TIMEOUT
            if self._owes_continue:
                self.send(_CONTINUE)
        else:
            self._rest()

    def _rest(self) -> None:
        """Nothing is asked for, at present."""
        self._state, self._deadline = _IDLE, self._listener.clock + IDLE_TIMEOUT
        if not self._listener.accepting:  # the drain began while the client was slow to take the last answer
            self.close_when_idle()
