"""The record's way to disk: lines appended by the event loop, written by a thread of its own.

The loop never waits for the output. `AuditLog.write` puts a line into a queue (about 0.2 us) and a daemon
thread writes what has gathered, at most once in 10 ms, so that the interpreter lock changes hands per batch and
not per request. Nobody's `logging` is involved. An idle log has no timer: its thread sleeps in `SimpleQueue.get`.

What the thread does with them (number, chain, write, sign, change files) is in `writer`. After a failure (ENOSPC,
EFBIG, EPIPE, EIO, ...) it goes on where it was, tried again every half second. Lines are handed to the kernel and not
`fsync`ed: they survive this process, not a power cut.
"""

import queue
import threading
import time
from collections.abc import Callable
from pathlib import Path

from openmcp.config.model import Rotation
from openmcp.sidecar.telemetry.chain import Head, Signs
from openmcp.sidecar.telemetry.output import Output
from openmcp.sidecar.telemetry.records import encode, timestamp
from openmcp.sidecar.telemetry.values import AuditStats
from openmcp.sidecar.telemetry.writer import Writer

BATCH_INTERVAL = 0.010
"""Seconds between two batches: a line is at most so old when it is written (the output permitting)."""
RETRY_INTERVAL = 0.5
"""Seconds between two attempts at an output that refuses."""
MAX_BUFFERED = 16 * 1024 * 1024
_LINES_PER_BATCH = 4096


class AuditLog:
    """An append-only log of lines: `write` from the event loop's thread, everything else from a thread inside.

    `output` is a file (created with mode 0600) or None, standard output; `rotation` says when it is set aside, `signer`
    signs its checkpoints. With `deny_on_failure`, `accepting` is False while the output refuses or more than
    `max_buffered` bytes wait: the caller then refuses requests. Their refusals are records too, so up to twice as much
    is held before lines are dropped and counted. Without it, lines beyond `max_buffered` are dropped and counted. After
    a gap a line with `event: "gap"` and the number of lines that are missing is written.

    `on_change` is called in the writing thread with the error when the output begins to refuse, and with None
    when it takes lines again. Opening a file that cannot be opened is such a refusal, not an exception.
    """

    __slots__ = (
        "_abandoned",
        "_bytes_in",
        "_closing",
        "_complete",
        "_deny",
        "_dropped",
        "_dropped_known",
        "_failing_since",
        "_failures",
        "_hard_limit",
        "_max_buffered",
        "_on_change",
        "_output",
        "_queue",
        "_refusing",
        "_stop",
        "_writing",
        "_writer",
    )

    def __init__(
        self,
        output: Path | None,
        *,
        deny_on_failure: bool,
        max_buffered: int = MAX_BUFFERED,
        on_change: Callable[[OSError | None], None] | None = None,
        rotation: Rotation | None = None,
        signer: Signs | None = None,
    ) -> None:
        self._deny = deny_on_failure
        self._max_buffered = max_buffered
        self._hard_limit = 2 * max_buffered if deny_on_failure else max_buffered
        self._on_change = on_change or _ignore
        self._queue: queue.SimpleQueue[bytes | threading.Event] = queue.SimpleQueue()
        # Each counter has one thread that writes it, so none needs a lock.
        self._bytes_in = self._dropped = 0  # the loop's
        self._failures = self._dropped_known = 0  # the thread's, as those of the writer
        self._failing_since: float | None = None
        self._refusing = False
        self._closing = self._abandoned = self._complete = False
        self._stop = threading.Event()
        self._output = Output(output)
        self._writer = Writer(self._output, rotation, signer)
        try:
            self._writer.open()
        except OSError as error:
            self._fail(error)
        self._writing = threading.Thread(target=self._run, name="audit", daemon=True)
        self._writing.start()

    @property
    def accepting(self) -> bool:
        """Whether a request may be let through: its record would be written."""
        return not self._refusing and self._bytes_in - self._writer.settled <= self._max_buffered

    @property
    def stats(self) -> AuditStats:
        """A snapshot of the counters."""
        return AuditStats(
            self._writer.lines,
            self._writer.bytes,
            self._bytes_in - self._writer.settled,
            self._failures,
            self._dropped,
            self._failing_since,
        )

    @property
    def head(self) -> Head:
        """The last line that was begun: where the record ends, once it is closed."""
        return self._writer.head

    def write(self, line: bytes) -> None:
        """Append one line: a JSON object with a member or more, without a line end. Never blocks."""
        total = self._bytes_in + len(line) + 1
        if total - self._writer.settled > self._hard_limit or self._closing:
            self._dropped += 1
            return
        self._bytes_in = total
        self._queue.put(line)

    def reopen(self) -> None:
        """Close the file at the end of a line and open its path again (SIGHUP, log rotation)."""
        self._writer.reopen = True
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
        self._writing.join(timeout)
        self._abandoned = True
        return self._complete

    # What follows runs in the thread.

    def _run(self) -> None:
        try:
            self._write_out()
            while not self._closing or not self._queue.empty():
                self._drain(self._take())
                self._rest()
            self._writer.close()
            self._write_out()
            self._complete = not self._abandoned
        finally:
            # Closed, or broken by a fault of our own: in both cases nothing would be written any more.
            self._refusing = self._deny
            self._output.close()

    def _take(self) -> list[bytes | threading.Event]:
        """Wait for a line and take it with those behind it; none where a checkpoint is due."""
        try:
            first = self._queue.get(timeout=self._writer.due_in())
        except queue.Empty:
            return []
        more = min(self._queue.qsize(), _LINES_PER_BATCH)
        return [first, *(self._queue.get() for _ in range(more))]

    def _rest(self) -> None:
        """Let lines gather, unless there is work or `close` or `reopen` asked for haste."""
        hurry = self._closing or self._queue.qsize() >= _LINES_PER_BATCH
        if not hurry and self._stop.wait(BATCH_INTERVAL):
            self._stop.clear()

    def _drain(self, items: list[bytes | threading.Event]) -> None:
        lines = [item for item in items if isinstance(item, bytes)]
        self._writer.add(lines + self._gap())
        self._write_out()
        for item in items:
            if isinstance(item, threading.Event) and not self._abandoned:
                item.set()

    def _gap(self) -> list[bytes]:
        missing = self._dropped - self._dropped_known
        if not missing:
            return []
        self._dropped_known += missing
        line = encode({"time": timestamp(time.time_ns()), "event": "gap", "dropped": missing})
        self._writer.settled -= len(line) + 1  # it was never counted in
        return [line]

    def _write_out(self) -> None:
        """Write all there is, however often that takes; returns early only when `close` gave up."""
        while not self._abandoned:
            try:
                if self._writer.step(RETRY_INTERVAL):
                    self._recover()
                    return
            except OSError as error:
                self._fail(error)
                self._pause()

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
