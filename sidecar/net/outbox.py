"""What goes out on a connection of HTTP/2: as far as its windows and the socket let it, stream by stream."""

import asyncio
from collections.abc import Callable
from typing import Final

from openmcp.sidecar.net import http2wire as wire
from openmcp.sidecar.net.stream import WRITE_BUFFER, Stream
from openmcp.sidecar.net.tail import Tail

MAX_BACKLOG: Final = 1024 * 1024
"""Bytes that wait for a client which reads nothing: only answers to its control frames can make them so many."""

DRIBBLE: Final = 256
"""Bytes: a smaller window for what is larger has us make many frames of little."""


def _nobody(stream: Stream, ends: bool, forced: bool) -> None:
    """Nobody is told."""


class Outbox:
    """Sends for one connection; `sent` is told of each DATA frame, of the stream that it ended, if any, and whether the
    client's window had it be so small."""

    def __init__(self, machine: wire.Machine, loop: asyncio.AbstractEventLoop) -> None:
        self.paused = False
        self._machine = machine
        self._loop = loop
        self._ready: dict[int, Stream] = {}
        self._transport: asyncio.Transport | None = None
        self._sent: Callable[[Stream, bool, bool], None] = _nobody
        self._soon = False
        self._tail = Tail(loop.time)

    def open(self, transport: asyncio.Transport, sent: Callable[[Stream, bool, bool], None]) -> None:
        """The connection was made."""
        self._transport, self._sent = transport, sent
        self._tail.open(transport)
        transport.set_write_buffer_limits(high=WRITE_BUFFER)
        self.flush()

    def close(self) -> None:
        """Nothing goes out any more."""
        self._transport = None
        self._tail.lost()
        self._sent = _nobody  # which would hold the connection in memory, and it us
        self._ready.clear()

    def pause(self) -> None:
        """The socket takes no more for now."""
        self.paused = True
        self._tail.watch()

    def resume(self) -> None:
        """It does again."""
        self.paused = False
        self.push_all()

    def push(self, stream: Stream) -> None:
        """Send what a stream has to say; the rest when its window, or the socket, opens."""
        while self._frame(stream):
            pass
        if stream.out:
            self._ready[stream.number] = stream
        self.flush_soon()

    def push_all(self) -> None:
        """One frame of each stream after the other, until nothing more can go."""
        going = list(self._ready.values())
        while going:
            going = [stream for stream in going if self._frame(stream) and stream.out]
        self.flush_soon()

    def push_one(self, number: int) -> None:
        """The window of a stream was opened."""
        stream = self._ready.get(number)
        if stream is not None:
            self.push(stream)

    def forget(self, number: int) -> None:
        """A stream has ended."""
        self._ready.pop(number, None)

    def hold(self) -> None:
        """Collect what is to be sent until `flush`, which follows at once."""
        self._soon = True

    def flush_soon(self) -> None:
        """Send what h2 has written, together with what else comes in this turn of the loop."""
        if not self._soon:
            self._soon = True
            self._loop.call_soon(self.flush)

    def flush(self) -> None:
        """Send it now."""
        self._soon = False
        transport, machine = self._transport, self._machine
        if transport is None or not machine.waiting:
            return
        transport.write(machine.data_to_send())
        if self.paused and transport.get_write_buffer_size() > MAX_BACKLOG:
            transport.abort()

    def goaway(self, last: int, code: int) -> None:
        """Send a GOAWAY, behind what is to be sent: streams up to `last` are worked on."""
        self.flush()
        if self._transport is not None:
            self._transport.write(wire.goaway(last, code))

    def shut(self, patience: float) -> None:
        """Nothing comes after what is to be sent, for which the client has `patience` seconds."""
        self.flush()
        self._transport = None
        self._tail.shut(patience)

    def finish(self) -> None:
        """After `shut`: the client has read everything."""
        self._tail.finish()

    def linger(self, now: float) -> None:
        """End the connection after `shut`, when the client has had its time."""
        self._tail.linger(now)

    def stands_still(self, now: float) -> bool:
        """Whether the client read nothing of what is waiting for it, for too long."""
        return self.paused and self._tail.stalled(now)

    def _frame(self, stream: Stream) -> bool:
        """Send one DATA frame; whether there may be another."""
        if stream.gone or self.paused:
            return False
        machine, out = self._machine, stream.out
        if not out:
            if stream.finished:
                machine.end_stream(stream.number)
                self._sent(stream, True, False)
            return False
        most = min(machine.local_flow_control_window(stream.number), wire.MAX_FRAME)
        if most <= 0:
            return False
        data = out.popleft()
        forced = len(data) > most < DRIBBLE
        if len(data) > most:
            out.appendleft(data[most:])
            data = data[:most]
        ends = stream.finished and not out
        machine.send_data(stream.number, data, end_stream=ends)
        stream.sent(len(data))
        if not out:
            self._ready.pop(stream.number, None)
        self._sent(stream, ends, forced)
        if machine.waiting >= WRITE_BUFFER:
            soon = self._soon
            self.flush()
            self._soon = soon
        return not ends
