"""The record's way to disk: lines appended by the event loop, written by a thread of its own.

The loop never waits for the output. `AuditLog.write` puts a line into a queue (about 0.2 us) and a daemon
thread writes what has gathered, at most once in 10 ms, so that the interpreter lock changes hands per batch and
not per request. Nobody's `logging` is involved. An idle log has no timer: its thread sleeps in `SimpleQueue.get`.

A line is never torn, doubled or reordered. What the output took of a batch is remembered to the byte, and after
a failure (ENOSPC, EFBIG, EPIPE, EIO, ...) the rest follows, tried again every half second. Only when the output
is changed by `reopen` while a line is half written does that line start again, whole, in the new file.

Lines are handed to the kernel and not `fsync`ed: they survive this process, not a power cut.
"""

import contextlib
import errno
import os
import queue
import select
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from openmcp.sidecar.telemetry.records import encode, timestamp

BATCH_INTERVAL = 0.010
"""Seconds between two batches: a line is at most so old when it is written (the output permitting)."""
RETRY_INTERVAL = 0.5
"""Seconds between two attempts at an output that refuses."""
MAX_BUFFERED = 16 * 1024 * 1024
_LINES_PER_BATCH = 4096
_OPEN_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
"""O_NONBLOCK is for a named pipe: without a reader, opening it is an error (ENXIO) and not a wait."""


class AuditStats(msgspec.Struct, frozen=True):
    """Counters since the start. `lines` and `bytes` were written, `buffered` bytes wait to be written."""

    lines: int
    bytes: int
    buffered: int
    failures: int
    dropped: int
    failing_since: float | None
    """Unix time in seconds at which the output began to refuse; None: it does not."""


class _Output:
    """A file descriptor that is opened, checked for rotation and written to; errors are `OSError`."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._fd = 1 if path is None else -1
        self._identity: tuple[int, int] | None = None
        self._poll = select.poll()

    def open(self) -> bool:
        """Open the path (again) and return True; False where that is the file that is open already."""
        if self._path is None:
            return False
        fd = os.open(self._path, _OPEN_FLAGS, 0o600)
        try:
            status = os.fstat(fd)
            identity = (status.st_dev, status.st_ino) if stat.S_ISREG(status.st_mode) else None
            if identity is not None and identity == self._identity:
                os.close(fd)
                return False
            if identity is not None and status.st_size:
                _end_torn_line(self._path, fd)
        except OSError:
            os.close(fd)
            raise
        self.close()
        self._fd, self._identity = fd, identity
        return True

    def was_replaced(self) -> bool:
        """Whether the path no longer names the open file: removed, or rotated without a signal."""
        if self._identity is None or self._path is None:
            return False
        try:
            now = os.stat(self._path)
        except OSError:
            return True
        return (now.st_dev, now.st_ino) != self._identity

    def write(self, data: memoryview) -> int:
        """Write some of `data` and return how much; 0 where the descriptor would block (then `wait`)."""
        try:
            written = os.write(self._fd, data)
        except BlockingIOError:
            return 0
        if written <= 0:
            raise OSError(errno.EIO, "the output took nothing")
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


def _end_torn_line(path: Path, fd: int) -> None:
    """Begin a new line where a crash left half of one at the end of the file."""
    with path.open("rb") as existing:
        existing.seek(-1, os.SEEK_END)
        if existing.read(1) != b"\n":
            os.write(fd, b"\n")


class AuditLog:
    """An append-only log of lines: `write` from the event loop's thread, everything else from a thread inside.

    `output` is a file (created with mode 0600) or None, standard output. With `deny_on_failure`, `accepting`
    is False while the output refuses or more than `max_buffered` bytes wait: the caller then refuses requests.
    Their refusals are records too, so up to twice as much is held before lines are dropped and counted.
    Without it, lines beyond `max_buffered` are dropped and counted. After a gap a line with `event: "gap"` and
    the number of lines that are missing is written.

    `on_change` is called in the writing thread with the error when the output begins to refuse, and with None
    when it takes lines again. Opening a file that cannot be opened is such a refusal, not an exception.
    """

    __slots__ = (
        "_abandoned",
        "_bytes_in",
        "_bytes_out",
        "_closing",
        "_complete",
        "_deny",
        "_dropped",
        "_dropped_known",
        "_failing_since",
        "_failures",
        "_hard_limit",
        "_lines_out",
        "_max_buffered",
        "_on_change",
        "_output",
        "_queue",
        "_refusing",
        "_reopen",
        "_stop",
        "_thread",
    )

    def __init__(
        self,
        output: Path | None,
        *,
        deny_on_failure: bool,
        max_buffered: int = MAX_BUFFERED,
        on_change: Callable[[OSError | None], None] | None = None,
    ) -> None:
        self._deny = deny_on_failure
        self._max_buffered = max_buffered
        self._hard_limit = 2 * max_buffered if deny_on_failure else max_buffered
        self._on_change = on_change or _ignore
        self._queue: queue.SimpleQueue[bytes | threading.Event] = queue.SimpleQueue()
        # Each counter has one thread that writes it, so none needs a lock.
        self._bytes_in = self._dropped = 0  # the loop's
        self._bytes_out = self._lines_out = self._failures = self._dropped_known = 0  # the thread's
        self._failing_since: float | None = None
        self._refusing = False
        self._closing = self._abandoned = self._complete = self._reopen = False
        self._stop = threading.Event()
        self._output = _Output(output)
        try:
            self._output.open()
        except OSError as error:
            self._fail(error)
            self.reopen()  # tried again without waiting for a line
        self._thread = threading.Thread(target=self._run, name="audit", daemon=True)
        self._thread.start()

    @property
    def accepting(self) -> bool:
        """Whether a request may be let through: its record would be written."""
        return not self._refusing and self._bytes_in - self._bytes_out <= self._max_buffered

    @property
    def stats(self) -> AuditStats:
        """A snapshot of the counters."""
        return AuditStats(
            self._lines_out,
            self._bytes_out,
            self._bytes_in - self._bytes_out,
            self._failures,
            self._dropped,
            self._failing_since,
        )

    def write(self, line: bytes) -> None:
        """Append one line, given without its newline and containing none. Never blocks."""
        total = self._bytes_in + len(line) + 1
        if total - self._bytes_out > self._hard_limit or self._closing:
            self._dropped += 1
            return
        self._bytes_in = total
        self._queue.put(line)

    def reopen(self) -> None:
        """Close the file at the end of a line and open its path again (SIGHUP, log rotation)."""
        self._reopen = True
        self._stop.set()
        self._queue.put(threading.Event())

    def flush(self, timeout: float) -> bool:
        """Wait until every line written so far is out; False when `timeout` seconds did not suffice."""
        done = threading.Event()
        self._queue.put(done)
        return done.wait(timeout)

    def close(self, timeout: float) -> bool:
        """Write what is left, within `timeout` seconds, and end. Return whether nothing was left behind."""
        self._closing = True
        self._queue.put(threading.Event())
        self._stop.set()
        self._thread.join(timeout)
        self._abandoned = True
        return self._complete

    # What follows runs in the thread.

    def _run(self) -> None:
        try:
            while not self._closing or not self._queue.empty():
                self._drain(self._take())
                self._rest()
            self._complete = not self._abandoned
        finally:
            # Closed, or broken by a fault of our own: in both cases nothing would be written any more.
            self._refusing = self._deny
            self._output.close()

    def _take(self) -> list[bytes | threading.Event]:
        """Wait for a line and take it with those behind it."""
        first = self._queue.get()
        more = min(self._queue.qsize(), _LINES_PER_BATCH)
        return [first, *(self._queue.get() for _ in range(more))]

    def _rest(self) -> None:
        """Let lines gather, unless there is work or `close` or `reopen` asked for haste."""
        hurry = self._closing or self._queue.qsize() >= _LINES_PER_BATCH
        if not hurry and self._stop.wait(BATCH_INTERVAL):
            self._stop.clear()

    def _drain(self, items: list[bytes | threading.Event]) -> None:
        lines = [item for item in items if isinstance(item, bytes)]
        lines += self._gap()
        if lines or self._reopen:
            self._write_all(b"".join(b"%b\n" % line for line in lines), len(lines))
        for item in items:
            if isinstance(item, threading.Event) and not self._abandoned:
                item.set()

    def _gap(self) -> list[bytes]:
        missing = self._dropped - self._dropped_known
        if not missing:
            return []
        self._dropped_known += missing
        line = encode({"time": timestamp(time.time_ns()), "event": "gap", "dropped": missing})
        self._bytes_out -= len(line) + 1  # it was never counted in
        return [line]

    def _write_all(self, data: bytes, lines: int) -> None:
        """Write the batch, however often that takes; returns early only when `close` gave up."""
        done = 0
        while not self._abandoned:
            try:
                done = self._switch(data, done)
                done = self._write_some(data, done)
            except OSError as error:
                self._fail(error)
                self._pause()
                continue
            if done == len(data):
                self._recover()
                self._lines_out += lines
                return

    def _switch(self, data: bytes, done: int) -> int:
        """Change to a new file where that is due and possible; return from where on `data` is written to it."""
        inside_line = done > 0 and data[done - 1 : done] != b"\n"
        if inside_line and self._failing_since is None:
            return done  # finish the line where it began
        if not (self._reopen or self._output.was_replaced()):
            return done
        self._reopen = True  # until it worked
        changed = self._output.open()
        self._reopen = False
        if not (changed and inside_line):
            return done
        whole = data.rfind(b"\n", 0, done) + 1
        self._bytes_out -= done - whole
        return whole

    def _write_some(self, data: bytes, done: int) -> int:
        """Write up to the end; where a reopening waits only to the end of the line."""
        end = len(data) if not self._reopen else data.find(b"\n", done) + 1
        if done == end:
            return done
        written = self._output.write(memoryview(data)[done:end])
        if written == 0:
            self._output.wait(RETRY_INTERVAL)
        self._bytes_out += written
        return done + written

    def _pause(self) -> None:
        """Wait before the next attempt; `close` and `reopen` cut the wait short, once."""
        if self._stop.wait(RETRY_INTERVAL):
            self._stop.clear()

    def _fail(self, error: OSError) -> None:
        self._failures += 1
        self._refusing = self._deny
        if self._failing_since is None:
            self._failing_since = time.time()
            self._on_change(error)

    def _recover(self) -> None:
        if self._failing_since is not None:
            self._failing_since = None
            self._refusing = False
            self._on_change(None)


def _ignore(_: OSError | None) -> None:
    """Nobody wants to know."""
