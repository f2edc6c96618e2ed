"""Where the record goes: a file (or named pipe) that is opened, set aside and followed when it is moved, or stdout."""

import contextlib
import errno
import fcntl
import os
import re
import select
import stat
from pathlib import Path
from typing import Final, NamedTuple

from openmcp.sidecar.telemetry.chain import Head, parse, torn
from openmcp.sidecar.telemetry.values import Torn

_OPEN_FLAGS: Final = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
"""O_NONBLOCK is for a named pipe: without a reader, opening it is an error (ENXIO) and not a wait."""
_WINDOW: Final = 256 * 1024
_MAX_WINDOW: Final = 16 * 1024 * 1024
"""Bytes of a file's end in which its last line is looked for."""
_SET_ASIDE: Final = re.compile(r"\.\d{8}T\d{6}\.\d{6}Z\Z")


class Tail(NamedTuple):
    """How a file ends: the last line that is part of a chain, and what is behind it and is none."""

    head: Head | None = None
    torn: Torn | None = None


class Output:
    """A file descriptor that is opened, checked for rotation and written to; errors are `OSError`.

    `size` is how many bytes the file holds, `opened` whether there is one.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._fd = 1 if path is None else -1
        self._identity: tuple[int, int] | None = None
        self._poll = select.poll()
        self.size = 0

    @property
    def opened(self) -> bool:
        """Whether there is something to write to."""
        return self._fd >= 0

    @property
    def regular(self) -> bool:
        """Whether it is a file: what it holds can be read back, and it can be set aside."""
        return self._identity is not None

    def open(self) -> Tail:
        """Open the path (again); the file that was open is closed. Return how the file ends that is there already.

        A file is locked, for two writers would break its chain; a line that was torn is ended.
        """
        if self._path is None:
            return Tail()
        fd = os.open(self._path, _OPEN_FLAGS, 0o600)
        try:
            status = os.fstat(fd)
            identity = (status.st_dev, status.st_ino) if stat.S_ISREG(status.st_mode) else None
            end = self._take_over(fd, status.st_size) if identity is not None else Tail()
            size = os.fstat(fd).st_size
        except OSError:
            os.close(fd)
            raise
        self.close()
        self._fd, self._identity, self.size = fd, identity, size
        return end

    def _take_over(self, fd: int, size: int) -> Tail:
        assert self._path is not None
        _lock(fd)
        if size == 0:
            before = self._set_aside()
            return Tail(tail(before[-1]).head) if before else Tail()
        end = tail(self._path)
        if not end.ended:
            os.write(fd, b"\n")
        return Tail(end.head, end.torn)

    def moved(self) -> bool:
        """Whether the path no longer names the open file: removed, or rotated without a signal."""
        if self._identity is None or self._path is None:
            return False
        try:
            now = os.stat(self._path)
        except OSError:
            return True
        return (now.st_dev, now.st_ino) != self._identity

    def set_aside(self, stamp: str, keep: int) -> None:
        """Give the open file a name with the time `stamp` in it, and remove all but the last `keep` such files (0: keep
        all)."""
        assert self._path is not None
        compact = stamp.replace("-", "").replace(":", "")
        os.rename(self._path, self._path.with_name(f"{self._path.name}.{compact}"))
        for old in self._set_aside()[:-keep] if keep else ():
            with contextlib.suppress(OSError):  # tried again at the next rotation
                old.unlink()

    def _set_aside(self) -> list[Path]:
        """The files that were set aside, the oldest first."""
        assert self._path is not None
        name = self._path.name
        found = (path for path in self._path.parent.iterdir() if path.name.startswith(name))
        return sorted(path for path in found if _SET_ASIDE.fullmatch(path.name[len(name) :]))

    def write(self, data: memoryview) -> int:
        """Write some of `data` and return how much; 0 where the descriptor would block (then `wait`)."""
        try:
            written = os.write(self._fd, data)
        except BlockingIOError:
            return 0
        if written <= 0:
            raise OSError(errno.EIO, "the output took nothing")
        self.size += written
        return written

    def wait(self, seconds: float) -> None:
        """Wait until the descriptor takes more, or `seconds` have gone; an error shows at the next write."""
        self._poll.register(self._fd, select.POLLOUT)
        try:
            self._poll.poll(seconds * 1000)
        finally:
            self._poll.unregister(self._fd)

    def close(self) -> None:
        """Close the file; standard output stays open."""
        if self._path is not None and self._fd >= 0:
            with contextlib.suppress(OSError):  # what was written was written; there is nobody to tell
                os.close(self._fd)
            self._fd, self._identity = -1, None


class End(NamedTuple):
    """How a file on disk ends, see `tail`."""

    head: Head | None
    torn: Torn | None
    ended: bool


def tail(path: Path) -> End:
    """How a file ends: its last line that is part of a chain, what is behind it, and whether its last line is ended."""
    window = _WINDOW
    with path.open("rb") as stream:
        size = stream.seek(0, os.SEEK_END)
        while True:
            stream.seek(max(0, size - window))
            data = stream.read(window)
            found = _last_link(data)
            if found is not None or window >= min(size, _MAX_WINDOW):
                break
            window *= 8
    ended = data.endswith(b"\n")
    if found is None:
        return End(None, None, ended)
    head, rest = found
    return End(head, torn(rest) if rest else None, ended)


def _last_link(data: bytes) -> tuple[Head, bytes] | None:
    """The last line in `data` that is part of a chain, and what is behind it, without line ends at its end."""
    lines = data.split(b"\n")
    for index in range(len(lines) - 1, -1, -1):
        link = parse(lines[index])
        if link is not None:
            return Head(link.seq, link.value), b"\n".join(lines[index + 1 :]).removesuffix(b"\n")
    return None


def _lock(fd: int) -> None:
    """Claim the file for this process; where the file system has no locks, it does without."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise OSError(errno.EBUSY, "another process writes this file") from None
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
            raise
