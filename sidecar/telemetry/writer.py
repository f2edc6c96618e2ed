"""Writes lines into a chain, file after file: numbered, signed at checkpoints, never torn, doubled or reordered.

Used by one thread. `step` does one thing at a time and raises `OSError` where the output refuses; called again, it goes
on to the byte where it was. When the file was moved away it is ended by a checkpoint and its path opened anew; only
where a file refuses while a line is half written does that line begin again, whole, in the next file.
"""

import time
from collections import deque
from typing import Final

from openmcp.config.model import Rotation
from openmcp.sidecar.telemetry.chain import (
    CONTINUED,
    GENESIS,
    INTERVAL,
    OPENING,
    ROTATION,
    START,
    STOP,
    Chain,
    Head,
    Signs,
    parse,
    torn,
)
from openmcp.sidecar.telemetry.output import Output
from openmcp.sidecar.telemetry.records import timestamp
from openmcp.sidecar.telemetry.values import Torn

CHECKPOINT_LINES: Final = 10_000
CHECKPOINT_SECONDS: Final = 60.0
"""How many lines, and for how long, the record may go on without a signature."""
_SEGMENT: Final = 1024 * 1024
"""Bytes that are encoded at a time."""


class Writer:
    """The chain and the output it goes to.

    `lines` and `bytes` were written; `settled` are the bytes of the given lines that were, each with a line end.
    """

    def __init__(self, output: Output, rotation: Rotation | None = None, signer: Signs | None = None) -> None:
        self.lines = self.bytes = self.settled = 0
        self.reopen = False
        self._output = output
        self._rotation = rotation
        self._signer = signer
        self._chain: Chain | None = None
        self._pending: deque[bytes] = deque()
        self._refused = False
        # What is being written: encoded lines and those they were made from, or one checkpoint of this kind.
        self._data = b""
        self._done = 0
        self._given: list[bytes] = []
        self._ended = 0
        self._base = Head(0, b"")
        self._kind = ""
        # How the output ends now: the kind of its last line where that is a checkpoint, and lines since it was begun.
        self._last_kind = ""
        self._lines_here = 0
        self._opening = START
        self._uncovered = 0

    @property
    def head(self) -> Head:
        """Where the chain is."""
        return self._chain.head if self._chain is not None else Head(0, GENESIS)

    def open(self) -> None:
        """Open the output, and have its first line written next. Raises OSError."""
        fragment = self._take_back()
        end = self._output.open()
        self.reopen = False
        if self._chain is None:
            self._chain = Chain(end.head)
        self._lines_here = int(self._output.size > 0)
        self._load_checkpoint(self._opening, fragment or end.torn)

    def add(self, lines: list[bytes]) -> None:
        """Give lines (JSON objects without line ends) that the next steps write."""
        self._pending.extend(lines)

    def close(self) -> None:
        """Have the last checkpoint written."""
        if self._chain is not None and self._last_kind != STOP:
            self._load_checkpoint(STOP)

    def due_in(self) -> float | None:
        """Seconds until the lines that no signature covers get a checkpoint; None where there are none."""
        if self._signer is None or not self._uncovered:
            return None
        return max(0.0, self._uncovered_since + CHECKPOINT_SECONDS - time.monotonic())

    def step(self, patience: float) -> bool:
        """Do one thing, waiting at most `patience` seconds for a slow reader; True where nothing is left to do."""
        try:
            return self._step(patience)
        except OSError:
            self._refused = True
            raise

    def _step(self, patience: float) -> bool:
        if self._must_change() and self._may_change():
            self.open()
        elif self._done < len(self._data):
            self._write(patience)
        elif self._full() and self._last_kind == ROTATION:
            self._output.set_aside(timestamp(time.time_ns()), self._rotation.keep if self._rotation else 0)
        else:
            return not self._load()
        return False

    def _must_change(self) -> bool:
        if not self._output.opened or self._output.moved():
            return True
        if self.reopen and self._output.regular:
            self.reopen = False  # it is the same file
        return self.reopen

    def _may_change(self) -> bool:
        """Whether the output may be left now: its last line is whole, and a checkpoint; or it takes nothing."""
        if self._refused or not self._output.opened:
            return True
        if self._done < len(self._data):
            return False
        if self._last_kind == ROTATION or not self._output.regular:
            return True
        self._load_checkpoint(ROTATION)
        return False

    def _full(self) -> bool:
        limit = self._rotation
        if limit is None or not (self._pending and self._lines_here and self._output.regular):
            return False
        return self._output.size >= limit.size

    def _load(self) -> bool:
        """Take what is to be written next; False where there is nothing."""
        if self._full():
            self._load_checkpoint(ROTATION)
        elif self._pending and self._last_kind == ROTATION:
            self._load_checkpoint(CONTINUED)  # it was moved away and back
        elif self._uncovered >= CHECKPOINT_LINES or self.due_in() == 0.0:
            self._load_checkpoint(INTERVAL)
        elif self._pending:
            self._load_lines()
        else:
            return False
        return True

    def _load_lines(self) -> None:
        chain = self._begin_loading("")
        room = _SEGMENT if self._rotation is None else min(_SEGMENT, self._rotation.size - self._output.size)
        self._given, linked = chain.link_some(self._pending, room)
        self._data = b"".join(linked)

    def _load_checkpoint(self, kind: str, fragment: Torn | None = None) -> None:
        chain = self._begin_loading(kind)
        self._given = [b""]
        self._data = chain.checkpoint(kind, timestamp(time.time_ns()), self._signer, fragment)

    def _begin_loading(self, kind: str) -> Chain:
        assert self._chain is not None
        self._base = self._chain.head
        self._done = self._ended = 0
        self._given = []
        self._kind = kind
        return self._chain

    def _take_back(self) -> Torn | None:
        """Take back what was not written whole; what was torn stays behind, and is told in the next file."""
        written, rest = self._data[: self._done], self._given[self._ended :]
        self._data, self._done = b"", 0
        if self._chain is None or not rest:
            return None
        whole, _, fragment = written.rpartition(b"\n")
        last = parse(whole.rpartition(b"\n")[2])
        self._chain.move(Head(last.seq, last.value) if last is not None else self._base)
        if not self._kind:
            self._pending.extendleft(reversed(rest))
        return torn(fragment) if fragment else None

    def _write(self, patience: float) -> None:
        written = self._output.write(memoryview(self._data)[self._done :])
        if written == 0:
            self._output.wait(patience)
            return
        self._refused = False
        self.bytes += written
        if self._done + written == len(self._data):  # nearly always
            ends = len(self._given) - self._ended
        else:
            ends = self._data.count(b"\n", self._done, self._done + written)
        self._done += written
        if ends:
            self._count(self._given[self._ended : self._ended + ends])
            self._ended += ends

    def _count(self, given: list[bytes]) -> None:
        """The lines that were made from these are out, or the checkpoint."""
        self._last_kind = self._kind
        if self._kind:
            self._uncovered = 0
            if self._kind in OPENING:
                self._opening = CONTINUED
            return
        if not self._uncovered:
            self._uncovered_since = time.monotonic()
        self.lines += len(given)
        self.settled += len(given) + sum(map(len, given))
        self._uncovered += len(given)
        self._lines_here += len(given)
