"""Which bodies of requests may come in on a connection of HTTP/2: all small ones, and large ones as there is room.

Each stream has a window of its own (RFC 9113, 5.2), so that a body that waits holds up no other request.
"""

from collections import deque
from math import inf
from typing import Final

from openmcp.sidecar.net import http2wire as wire
from openmcp.sidecar.net.http1 import BODY_TIMEOUT
from openmcp.sidecar.net.stream import Stream

MAX_UPLOADS: Final = 8 * 1024 * 1024
"""Bytes of large bodies that come in at once; one may be larger, the others wait for it."""


class Uploads:
    """The windows that a connection opens to its client."""

    def __init__(self, machine: wire.Machine) -> None:
        self._machine = machine
        self._taken = 0
        self._unacknowledged = 0
        self._waiting: deque[Stream] = deque()

    def came(self, size: int) -> None:
        """So many bytes came: the connection's window is opened for as many, whatever stream they were for."""
        self._unacknowledged += size
        if self._unacknowledged >= wire.CONNECTION_WINDOW // 2:
            self._machine.increment_flow_control_window(self._unacknowledged)
            self._unacknowledged = 0

    def more(self, stream: Stream, size: int, now: float) -> None:
        """So many of them were for this stream, and more are to come: have them come where there is room for all."""
        stream.consumed += size
        if stream.consumed < wire.STREAM_WINDOW // 2:
            return
        if stream.granted or self._has_room(stream):
            self._open(stream, now)
        elif stream.deadline != inf:
            stream.deadline = inf  # those that it waits for have theirs
            self._waiting.append(stream)

    def ended(self, stream: Stream, now: float) -> None:
        """Nothing more comes for this stream: others have its room."""
        stream.deadline = inf
        if not stream.granted:
            return
        stream.granted = False
        self._taken -= _whole(stream)
        while self._waiting and (self._waiting[0].gone or self._has_room(self._waiting[0])):
            following = self._waiting.popleft()
            if not following.gone:
                self._open(following, now)

    def _has_room(self, stream: Stream) -> bool:
        return not self._taken or self._taken + _whole(stream) <= MAX_UPLOADS

    def _open(self, stream: Stream, now: float) -> None:
        if not stream.granted:
            stream.granted = True
            stream.deadline = now + BODY_TIMEOUT
            self._taken += _whole(stream)
        self._machine.increment_flow_control_window(stream.consumed, stream.number)
        stream.consumed = 0


def _whole(stream: Stream) -> int:
    return stream.head.length if stream.head.length is not None else stream.limit
