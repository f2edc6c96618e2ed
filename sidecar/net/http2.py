"""One client connection of HTTP/2 (RFC 9113): requests in on streams, answers out as the windows let them.

A malformed request ends its stream; what breaks the protocol, or keeps us busy for nothing, ends the connection.
"""

import asyncio
import logging
from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING, Final, cast

from h2 import events
from h2.exceptions import ProtocolError

from openmcp.identity.peer import UNKNOWN
from openmcp.sidecar.net import http2wire as wire
from openmcp.sidecar.net.fields import Head, Malformed, TooLarge, check_trailers
from openmcp.sidecar.net.floods import Flood, Guard
from openmcp.sidecar.net.http1 import BODY_TIMEOUT, HEAD_TIMEOUT, IDLE_TIMEOUT
from openmcp.sidecar.net.lifetimes import lifetime, peer_of
from openmcp.sidecar.net.outbox import Outbox
from openmcp.sidecar.net.stream import Stream
from openmcp.sidecar.net.tail import LINGER_TIMEOUT, STALL_TIMEOUT
from openmcp.sidecar.net.uploads import Uploads
from openmcp.sidecar.ports import HttpRequest

if TYPE_CHECKING:
    from openmcp.sidecar.net.listener import Listener

GOODBYE: Final = 1.0
"""Seconds a client has to see that the connection takes no more requests, unless it says so before."""
_LEAVING: Final = b"leaving."
_log = logging.getLogger("openmcp.net")


class Http2Connection(asyncio.Protocol):
    """A client's connection. Each request is handled by a task of its own."""

    def __init__(self, listener: "Listener") -> None:
        self._listener = listener
        self._loop = listener.loop
        self.now = listener.loop.time
        self.peer = UNKNOWN
        self.unread = listener.unread.share(self.abort)
        self._machine = wire.Machine()
        self._guard = Guard()
        self._uploads = Uploads(self._machine)
        self._outbox = Outbox(self._machine, listener.loop)
        self._streams: dict[int, Stream] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._until = self._ends = self._block_since = self._announced = inf
        self._deadline = self.now() + HEAD_TIMEOUT
        self._dead: frozenset[int] = frozenset()
        self._final = self._closing = self._lost = False
        self._swept = self.now()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self.peer = peer_of(self._transport)
        self._until, self._ends = lifetime(self.now(), self.peer)
        self._outbox.open(self._transport, self._sent)
        self._listener.joined(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._closing = self._lost = True
        self._forget_all()
        self.unread.close()
        self._outbox.close()
        if not self._tasks:  # else the drain waits for what they have to tidy up and to record
            self._listener.left(self)

    def pause_writing(self) -> None:
        self._outbox.pause()

    def resume_writing(self) -> None:
        self._outbox.resume()

    def data_received(self, data: bytes) -> None:
        if self._closing:
            return
        self._outbox.hold()  # all that is answered at once goes out together, below
        try:
            self._guard.watch(data)
            came = self._machine.receive_data(data)
            self._take_resets(came)
            for event in came:
                take = _TAKES.get(type(event))
                if take is not None:
                    take(self, event)
            self._guard.check()
        except Flood as flood:
            _log.debug("a client of HTTP/2 is cut: %s", flood)  # the record has it; a log could be filled by it
            self._break(429, wire.ENHANCE_YOUR_CALM)
        except ProtocolError:
            self._break(400, None)
        self._block_since = min(self._block_since, self._listener.clock) if self._guard.in_block else inf
        self._outbox.flush()

    # for streams

    def begin(self, stream: Stream, status: int, headers: bytes, length: int | None, *, ends: bool) -> None:
        """Send the head of an answer; `headers` are ready lines of HTTP/1.1."""
        if stream.gone:
            return
        fields = wire.fields_of(status, self._listener.date, headers, length)
        self._machine.send_headers(stream.number, fields, end_stream=ends)
        if ends:
            self._guard.answered()
            self._remove(stream)
        self._outbox.flush_soon()

    def push(self, stream: Stream) -> None:
        """Send what a stream has to say, as far as it goes."""
        self._outbox.push(stream)

    def give_up(self, stream: Stream) -> None:
        """Reset a stream, so that the client cannot take what it has got for an answer."""
        if not stream.gone:
            self._reset(stream, wire.INTERNAL_ERROR)
            self._outbox.flush_soon()

    # for the listener

    @property
    def waiting(self) -> bool:
        """Whether no request is being served."""
        return not self._tasks

    def close_when_idle(self) -> None:
        """Drain: take no more requests as soon as the client knows; then close when the last one is answered."""
        if self._closing or self._final or self._announced != inf:
            return
        self._announced = self.now()
        self._outbox.goaway(wire.ANY_STREAM, wire.NO_ERROR)
        self._machine.ping(_LEAVING)
        self._outbox.flush()

    def end(self) -> None:
        """Take no further request; those under way end by themselves."""
        if self._closing or self._final:
            return
        self._final = True
        self._outbox.goaway(self._machine.highest_inbound_stream_id, wire.NO_ERROR)
        for stream in tuple(self._streams.values()):
            if not stream.complete:
                self._reset(stream, wire.REFUSED_STREAM)
        self._close()

    def abort(self) -> None:
        """Cut the connection."""
        self._closing = True
        self._transport.abort()

    def sweep(self, now: float) -> int:
        """See `values.Client`: enforce the deadlines of reading and of the connection, and keep streams alive."""
        self._guard.rest(now - self._swept)
        self._swept = now
        if self._closing:
            self._outbox.linger(now)
        elif self._outbox.stands_still(now):
            self.abort()
        elif now - self._block_since >= HEAD_TIMEOUT:
            self._break(408, wire.ENHANCE_YOUR_CALM)
        else:
            self._sweep_lifetime(now)
            for stream in tuple(self._streams.values()):
                self._sweep_stream(stream, now)
            self._outbox.flush()
        return sum(stream.size for stream in self._streams.values() if not stream.complete)

    def _sweep_lifetime(self, now: float) -> None:
        idle = not self._streams and now >= self._deadline
        if idle or now >= self._ends or now - self._announced >= GOODBYE:
            self.end()
        elif now >= self._until or not self._listener.accepting:
            self.close_when_idle()

    def _sweep_stream(self, stream: Stream, now: float) -> None:
        if stream.gone:
            return
        if now >= stream.deadline:
            self._refuse(stream, 408)
        elif stream.pending and now - stream.progress > self.unread.patience(STALL_TIMEOUT):
            self._reset(stream, wire.CANCEL)
        elif stream.started:
            stream.keep_alive(now)

    # what the client sends

    def _take_resets(self, came: list[events.Event]) -> None:
        """Requests that are given up, first: h2 has read on, and takes nothing more for their streams."""
        resets = [event.stream_id for event in came if isinstance(event, events.StreamReset)]
        self._dead = frozenset(resets)
        found = [self._streams[number] for number in resets if number in self._streams]
        for stream in found:
            stream.end()
        for stream in found:
            self._remove(stream)
            self._cancel(stream)
            self._guard.reset()

    def _on_request(self, event: events.RequestReceived) -> None:
        number = event.stream_id
        busy = max(len(self._streams), len(self._tasks)) >= wire.MAX_STREAMS or self.unread.many
        if number in self._dead or self._final or busy:
            self._guard.reset()
            if number not in self._dead:
                self._machine.reset_stream(number, wire.REFUSED_STREAM)
            return
        try:
            head = Head(event.headers)
        except Malformed:
            self._malformed(number)
            return
        except TooLarge:
            self._answer_early(number, 431, complete=event.stream_ended is not None)
            return
        stream = Stream(self, number, head, self._listener.body_limit(head.path))
        self._streams[number] = stream
        if head.length is not None and head.length > stream.limit:
            self._refuse(stream, 413)
        elif event.stream_ended is None:
            stream.deadline = self._listener.clock + BODY_TIMEOUT
            if b"expect" in head.headers:
                self._answer_expectation(stream)

    def _answer_expectation(self, stream: Stream) -> None:
        if stream.head.headers[b"expect"].lower() == b"100-continue":
            self._machine.send_headers(stream.number, wire.CONTINUE)
        else:
            self._refuse(stream, 417)

    def _on_data(self, event: events.DataReceived) -> None:
        self._uploads.came(event.flow_controlled_length)
        stream = self._streams.get(event.stream_id)
        if stream is None:
            return
        stream.body.append(event.data)
        stream.size += len(event.data)
        if stream.size > stream.limit:
            self._refuse(stream, 413)
        elif event.stream_ended is None:
            self._uploads.more(stream, event.flow_controlled_length, self._listener.clock)

    def _on_trailers(self, event: events.TrailersReceived) -> None:
        if event.stream_id not in self._streams:
            return
        try:
            check_trailers(event.headers)
        except Malformed:
            self._malformed(event.stream_id)

    def _on_ended(self, event: events.StreamEnded) -> None:
        stream = self._streams.get(event.stream_id)
        if stream is None:
            return
        head = stream.head
        if head.length is not None and head.length != stream.size:
            self._malformed(stream.number)
            return
        stream.complete = True
        self._uploads.ended(stream, self._listener.clock)
        body = stream.body[0] if len(stream.body) == 1 else b"".join(stream.body)
        stream.body = []
        stream.request = HttpRequest(head.method, head.path, head.headers, head.repeated, body, self.peer)
        task = stream.task = self._loop.create_task(self._serve(stream))
        self._tasks.add(task)
        task.add_done_callback(self._served)

    def _on_window(self, event: events.WindowUpdated) -> None:
        if event.stream_id:
            self._outbox.push_one(event.stream_id)
        else:
            self._outbox.push_all()

    def _on_settings(self, event: events.RemoteSettingsChanged) -> None:
        if not self._streams and self._announced == inf:
            self._deadline = self._listener.clock + IDLE_TIMEOUT
        self._outbox.push_all()

    def _on_ping_ack(self, event: events.PingAckReceived) -> None:
        if self._announced != inf and event.ping_data == _LEAVING:
            self.end()
            if self._closing:
                self._outbox.finish()

    def _on_goaway(self, event: events.ConnectionTerminated) -> None:
        self._final = True  # it asks for nothing more
        if event.error_code:
            self._forget_all()
        self._close()

    # streams from their begin to their end

    async def _serve(self, stream: Stream) -> None:
        try:
            await self._listener.handler(stream)
        except Exception:
            _log.exception("an exchange failed")
            if not stream.started:
                stream.respond(500, b"", b"")
        finally:
            stream.task = None
            if not stream.finished:  # a handler that returned without an answer, or failed within it
                self.give_up(stream)

    def _served(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if self._lost and not self._tasks:
            self._listener.left(self)

    def _sent(self, stream: Stream, ends: bool, forced: bool) -> None:
        """A DATA frame has gone out, perhaps the last of a stream; `forced` to be small by its window."""
        if not forced:
            self._guard.sent()
        stream.progress = self._listener.clock
        if ends:
            self._guard.answered()
            self._remove(stream)

    def _remove(self, stream: Stream) -> None:
        """A stream has ended, one way or another."""
        stream.end()
        self._streams.pop(stream.number, None)
        self._outbox.forget(stream.number)
        if not stream.complete:
            self._uploads.ended(stream, self._listener.clock)
        if not self._streams:
            self._deadline = self._listener.clock + IDLE_TIMEOUT
            self._close()

    def _refuse(self, stream: Stream, status: int) -> None:
        """Answer a request whose body is not wanted; the reason is the status alone."""
        self._answer_early(stream.number, status, complete=stream.complete)
        self._remove(stream)

    def _answer_early(self, number: int, status: int, *, complete: bool) -> None:
        self._listener.refused(status)
        self._machine.send_headers(number, wire.fields_of(status, self._listener.date, b"", 0), end_stream=True)
        if not complete:  # the client may stop sending (RFC 9113, 8.1)
            self._machine.reset_stream(number, wire.NO_ERROR)
        self._guard.reset()

    def _malformed(self, number: int) -> None:
        self._listener.refused(400)
        self._guard.reset()
        self._machine.reset_stream(number, wire.PROTOCOL_ERROR)
        stream = self._streams.get(number)
        if stream is not None:
            self._remove(stream)

    def _reset(self, stream: Stream, code: int) -> None:
        self._machine.reset_stream(stream.number, code)
        self._remove(stream)
        self._cancel(stream)

    def _cancel(self, stream: Stream) -> None:
        task, stream.task = stream.task, None  # which holds the stream: only the collector would free them
        if task is not None and task is not asyncio.current_task(self._loop):
            task.cancel()

    # the connection's end

    def _forget_all(self) -> None:
        for stream in self._streams.values():
            stream.end()
        self._streams.clear()
        for task in self._tasks:
            task.cancel()

    def _close(self) -> None:
        """Close, if no more requests are taken and none is under way."""
        if not self._final or self._streams or self._closing:
            return
        self._closing = True
        self._outbox.shut(STALL_TIMEOUT)

    def _break(self, status: int, code: int | None) -> None:
        """End a connection that cannot be read on; without a code h2 has said why."""
        self._listener.refused(status)
        if code is not None:
            self._outbox.goaway(self._machine.highest_inbound_stream_id, code)
        self._closing = True
        self._outbox.shut(LINGER_TIMEOUT)
        self._outbox.finish()
        self._forget_all()


_TAKES: Final[dict[type, Callable[..., None]]] = {
    events.RequestReceived: Http2Connection._on_request,
    events.DataReceived: Http2Connection._on_data,
    events.StreamEnded: Http2Connection._on_ended,
    events.WindowUpdated: Http2Connection._on_window,
    events.TrailersReceived: Http2Connection._on_trailers,
    events.RemoteSettingsChanged: Http2Connection._on_settings,
    events.PingAckReceived: Http2Connection._on_ping_ack,
    events.ConnectionTerminated: Http2Connection._on_goaway,
}
