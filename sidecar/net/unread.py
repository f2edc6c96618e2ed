"""Answers that clients of HTTP/2 have not taken yet: how many bytes of them are kept, on a connection and on all.

A client of HTTP/1.1 has one answer under way; on a connection of HTTP/2 a hundred may wait for a window that never
opens.
"""

from collections.abc import Callable
from typing import Final

MANY: Final = 8 * 1024 * 1024
"""Bytes on one connection above which it takes no new requests, and waits less long for those who read nothing."""
PATIENCE: Final = 10.0
"""Seconds that an answer waits for its client there, if nothing at all of it is taken."""
MOST: Final = 128 * 1024 * 1024
"""Bytes on all of them; above it the connection that keeps most is cut."""


def _nothing() -> None:
    """There is nothing to be cut."""


class Unread:
    """What all connections of a listener keep; `on_cut` is told of each one that is cut."""

    def __init__(self, on_cut: Callable[[], None]) -> None:
        self.total = 0
        self._on_cut = on_cut
        self._shares: set[Share] = set()

    def share(self, cut: Callable[[], None]) -> "Share":
        """That of a new connection, which `cut` ends."""
        return Share(self, cut)

    def changed(self, share: "Share", by: int) -> None:
        """A connection keeps so much more, or less."""
        self.total += by
        if share.size:
            self._shares.add(share)
        else:
            self._shares.discard(share)
        while self.total > MOST:
            self._on_cut()
            max(self._shares, key=lambda one: one.size).end()


class Share:
    """What one connection keeps: `size` bytes."""

    def __init__(self, unread: Unread, cut: Callable[[], None]) -> None:
        self.size = 0
        self._unread: Unread | None = unread
        self._cut = cut

    @property
    def many(self) -> bool:
        """Whether there should not be more."""
        return self.size > MANY

    def patience(self, usual: float) -> float:
        """How many seconds to wait for a client that takes nothing of an answer, instead of `usual`."""
        return PATIENCE if self.many else usual

    def add(self, size: int) -> None:
        """So much waits to be taken, or less where it is negative."""
        self.size += size
        if self._unread is not None:
            self._unread.changed(self, size)

    def end(self) -> None:
        """Cut the connection; what it keeps is no longer counted."""
        cut = self._cut
        self.close()
        cut()

    def close(self) -> None:
        """It is gone: nothing is counted any more, and nothing of it held."""
        self.add(-self.size)
        self._unread = None
        self._cut = _nothing
