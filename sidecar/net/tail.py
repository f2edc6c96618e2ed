"""What a client has not taken yet of a connection, and how the connection is closed so that nothing of it is lost.

A socket that is closed while its peer still sends answers by RST, and throws away what is under way to that peer (RFC
9112, 9.6; RFC 9113, 9.1). A client of HTTP/2 nearly always sends: it opens its windows for what it reads.
"""

import asyncio
import fcntl
import sys
import termios
from collections.abc import Callable
from contextlib import suppress
from math import inf
from typing import Final

STALL_TIMEOUT: Final = 300.0
"""Seconds in which a client must read something of what is waiting for it."""
LINGER_TIMEOUT: Final = 2.0
"""Seconds in which a client that has everything should close a connection which takes no more requests."""


def unsent(transport: asyncio.Transport) -> int:
    """Bytes that are under way: ours and the kernel's, whose peer has not acknowledged them.

    A transport of TLS knows only those that are not encrypted yet; the kernel has some as long as there are others.
    """
    size = transport.get_write_buffer_size()
    sock = transport.get_extra_info("socket")
    if sock is not None:
        with suppress(OSError, ValueError):  # it is closed, or a system that cannot tell
            size += int.from_bytes(fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4)), sys.byteorder)
    return size


class Tail:
    """That of one connection."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._transport: asyncio.Transport | None = None
        self._size = 0
        self._since = 0.0
        self._deadline = inf
        self._lingers = LINGER_TIMEOUT

    def open(self, transport: asyncio.Transport) -> None:
        """The connection was made."""
        self._transport = transport

    def lost(self) -> None:
        """It is no more."""
        self._transport = None

    def watch(self) -> None:
        """Something waits from now on."""
        self._since = self._clock()

    def stalled(self, now: float) -> bool:
        """Whether the client has taken nothing for too long, since `watch` at most."""
        return self._transport is not None and self._rest(self._transport, now) > STALL_TIMEOUT

    def close(self) -> None:
        """Close, behind what is waiting; data that still comes is not wanted, or not expected."""
        self._leave(STALL_TIMEOUT)
        if self._transport is not None:
            self._transport.close()

    def shut(self, patience: float) -> None:
        """Send nothing behind what is waiting; what comes is to be read, and thrown away, for so many seconds at most.

        A connection of TLS says nothing at first: it takes no more data behind its own close_notify.
        """
        self._leave(patience)
        if self._transport is not None and self._transport.can_write_eof():
            with suppress(OSError):  # asyncio's: the client has reset it, of which we hear in a moment
                self._transport.write_eof()

    def finish(self) -> None:
        """After `shut`: the client has read everything, or is not to be waited for; over TLS too it is told the end."""
        if self._transport is not None and not self._transport.can_write_eof():
            self._transport.close()

    def leave(self, *, sends_on: bool = False) -> None:
        """`close`, but not before the client has all: who stops then should know. `shut`, where more comes from it."""
        if sends_on:
            self.shut(STALL_TIMEOUT)
        elif self._transport is not None and self._transport.can_write_eof() and unsent(self._transport):
            self.shut(STALL_TIMEOUT)
            self._lingers = 0.0
        else:
            self.close()

    def linger(self, now: float) -> None:
        """After one of these: end the connection of a client that has all and does not close, or that takes nothing."""
        transport = self._transport
        if transport is None:
            return
        rest = self._rest(transport, now)
        over = rest > (STALL_TIMEOUT if self._size else self._lingers)
        if now >= self._deadline or (over and (self._size or transport.is_closing())):
            transport.abort()
        elif over:
            transport.close()  # no more time for a client of TLS to say goodbye

    def _leave(self, patience: float) -> None:
        self._since = self._clock()
        self._deadline = self._since + patience

    def _rest(self, transport: asyncio.Transport, now: float) -> float:
        """For how many seconds the client has taken nothing."""
        before, self._size = self._size, unsent(transport)
        if self._size != before:
            self._since = now
        return now - self._since
