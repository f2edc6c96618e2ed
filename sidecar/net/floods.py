"""What a client of HTTP/2 may have us do for nothing: counted frame by frame, before anything else reads them.

Each limit is a bucket that fills with time, and with what is served: a busy client is quiet for its size.
"""

from typing import Final

MAX_BLOCK: Final = 48 * 1024
"""Bytes of a compressed header section, with all its CONTINUATION frames."""
MAX_CONTINUATIONS: Final = 8

_PREFACE: Final = 24
_DATA, _HEADERS, _SETTINGS, _CONTINUATION = 0x0, 0x1, 0x4, 0x9
_END_STREAM, _END_HEADERS, _PADDED = 0x1, 0x4, 0x8
_SMALL: Final = 256
"""Bytes of a DATA frame below which it counts as noise, unless it is the last one. A padded one always does: there
may be nothing else in it."""
_NOISE: Final = 1000.0
"""How many frames that carry nothing a client may send at once,"""
_NOISE_PER_SECOND: Final = 500.0
"""and how many for ever."""
_COSTS: Final = {_HEADERS: 4.0, _SETTINGS: 10.0}
"""For how many frames one of these counts: a request is work until it is answered, a SETTINGS changes every stream."""
_PER_ANSWER: Final = 8.0
_PER_DATA: Final = 2.0
"""A DATA frame of ours is acknowledged by one frame or two."""
_RESETS: Final = 200.0
"""How many requests a client may give up at once,"""
_RESETS_PER_SECOND: Final = 20.0
"""and how many for ever; each request that is answered allows for one more."""


class Flood(Exception):
    """The client has us work for nothing; the text says by what."""


class Guard:
    """Follows the frames of one connection."""

    def __init__(self) -> None:
        self.in_block = False
        """Whether a header section has begun and not ended."""
        self._head = b""
        self._left = _PREFACE
        self._block = self._continuations = 0
        self._block_ends = False
        self._noise, self._resets = _NOISE, _RESETS

    def watch(self, data: bytes) -> None:
        """`data` comes next. Raises `Flood`."""
        at, size = 0, len(data)
        while at < size:
            if self._left:
                step = min(self._left, size - at)
                self._left -= step
                at += step
            else:
                missing = 9 - len(self._head)
                self._head += data[at : at + missing]
                at += missing
                if len(self._head) == 9:
                    head, self._head = self._head, b""
                    self._left = head[0] << 16 | head[1] << 8 | head[2]
                    self._begun(head[3], head[4], self._left)
            if not self._left and self._block_ends:
                self.in_block = self._block_ends = False

    def answered(self) -> None:
        """A request was answered."""
        self._resets = min(_RESETS, self._resets + 1)
        self._noise = min(_NOISE, self._noise + _PER_ANSWER)

    def sent(self) -> None:
        """A DATA frame was sent, of the size that we chose."""
        self._noise = min(_NOISE, self._noise + _PER_DATA)

    def reset(self) -> None:
        """A request was given up, or ended for a fault of the client's."""
        self._resets -= 1

    def check(self) -> None:
        """Raises `Flood` where there were too many of these."""
        if self._resets < 0:
            raise Flood("too many requests that are given up")

    def rest(self, seconds: float) -> None:
        """So much time has gone by."""
        self._noise = min(_NOISE, self._noise + seconds * _NOISE_PER_SECOND)
        self._resets = min(_RESETS, self._resets + seconds * _RESETS_PER_SECOND)

    def _begun(self, kind: int, flags: int, length: int) -> None:
        if kind in (_HEADERS, _CONTINUATION):
            self._header_frame(kind, flags, length)
        if kind != _DATA or (length < _SMALL and not flags & _END_STREAM) or flags & _PADDED:
            self._noise -= _COSTS.get(kind, 1.0)
            if self._noise < 0:
                raise Flood("too many frames that carry nothing")

    def _header_frame(self, kind: int, flags: int, length: int) -> None:
        if kind == _HEADERS:
            self._block = self._continuations = 0
        else:
            self._continuations += 1
        self._block += length
        if self._block > MAX_BLOCK or self._continuations > MAX_CONTINUATIONS:
            raise Flood("a header section without end")
        self.in_block = True
        self._block_ends = bool(flags & _END_HEADERS)
