"""Checks that a record is whole: `openmcp audit verify`. Files are read once, line by line, however large they are.

Each line must follow the one before it (`chain`), the first must be a checkpoint that begins a record, and the last one
that ends it. With public keys every checkpoint must bear the signature of one of them. What is wrong is a `Finding`
with its place; what only has to be known (a process was killed, lines were dropped while the disk was full, an earlier
file is not here) is a note.
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO, Final

import msgspec

from openmcp.sidecar.telemetry.chain import (
    CLOSING,
    GENESIS,
    OPENING,
    ROTATION,
    START,
    STOP,
    Head,
    Link,
    checkpoint_of,
    parse,
    signed_part,
    statement,
)
from openmcp.sidecar.telemetry.output import tail
from openmcp.sidecar.telemetry.signing import Verifier
from openmcp.sidecar.telemetry.values import Checkpoint, Gap

MAX_LINE: Final = 4 * 1024 * 1024
"""Bytes; no line of a record is nearly as long."""
MAX_FINDINGS: Final = 100
_HEAD: Final = 80
"""Bytes of a line that hold its time and event."""


class Finding(msgspec.Struct, frozen=True):
    """Something at a line (counted from 1) of a file; `seq` is the line's own number where it has one."""

    file: str
    line: int
    seq: int | None
    what: str

    def __str__(self) -> str:
        number = f" (seq {self.seq})" if self.seq is not None else ""
        return f"{self.file}:{self.line}{number}: {self.what}"


class Report(msgspec.Struct, frozen=True):
    """What was found. `signatures`: `valid`, `wrong`, `unchecked` (no key was given) or `none` (there are none).

    `first` and `last` are line numbers of the record, `chain` the value of its last line; `missing` are lines of which
    the record itself says that they were dropped, `unsigned` lines at the end that no valid signature covers.
    """

    whole: bool
    problems: list[Finding]
    notes: list[Finding]
    files: int
    lines: int
    first: int
    last: int
    chain: str
    checkpoints: int
    signatures: str
    missing: int
    unsigned: int


class _Stray:
    """Lines that are part of no chain: the beginning of a line that was torn, or something foreign."""

    def __init__(self, file: str, line: int) -> None:
        self.file, self.line = file, line
        self.size = 0
        self.ended = True
        self._digest = hashlib.sha256()

    def add(self, text: bytes, *, ended: bool) -> None:
        """One more line of it."""
        data = b"\n" + text if self.size else text
        self.size += len(data)
        self.ended = ended
        self._digest.update(data)

    def told_by(self, checkpoint: Checkpoint | None) -> bool:
        """Whether the checkpoint behind it tells of exactly this."""
        told = checkpoint.torn if checkpoint is not None else None
        return told is not None and (told.bytes, told.sha256) == (self.size, self._digest.hexdigest())


class Check:
    """One verification: `read` each file in order, then `finish`.

    `live`: the record is still being written, so that it need not have an end.
    """

    def __init__(self, verifier: Verifier | None = None, *, live: bool = False) -> None:
        self._verifier = verifier
        self._live = live
        self._problems: list[Finding] = []
        self._notes: list[Finding] = []
        self._files = self._lines = self._line = self._first = 0
        self._checkpoints = self._signed = self._missing = self._covered = 0
        self._file = ""
        # The last line: its number, the values that the next one may follow (two where this one is in doubt), its kind.
        self._head: Head | None = None
        self._values: tuple[bytes, ...] = ()
        self._kind = ""
        self._stray: _Stray | None = None
        self._begun: set[bytes] = set()  # the values of the first lines of chains

    def read(self, name: str, stream: BinaryIO) -> None:
        """Check the next file. Raises OSError where it cannot be read."""
        self._file, self._line = name, 0
        self._files += 1
        while line := stream.readline(MAX_LINE):
            self._line += 1
            if line.endswith(b"\n"):
                self._take(line[:-1])
                continue
            self._take_stray(line, ended=False)
            if len(line) == MAX_LINE:
                while line and not line.endswith(b"\n"):
                    line = stream.readline(MAX_LINE)
        if not self._line:
            self._problem(None, "the file is empty: its lines were cut, or nothing was written yet", fine=self._live)

    def finish(self) -> Report:
        """The end of the last file."""
        stray = self._stray
        if stray is not None:
            fine = self._live and not stray.ended
            self._line = stray.line
            self._problem(None, "the file ends within a line: it was cut, or is still being written", fine=fine)
        elif self._head is not None and self._kind not in CLOSING:
            what = "the record ends here without a last checkpoint: its end was cut, or it is still being written"
            self._problem(self._head.seq, what, fine=self._live)
        elif self._kind == ROTATION:
            self._note("the record goes on in another file, which is not among these")
        head = self._head or Head(0, GENESIS)
        return Report(
            whole=not self._problems,
            problems=self._problems,
            notes=self._notes,
            files=self._files,
            lines=self._lines,
            first=self._first,
            last=head.seq,
            chain=head.value.hex(),
            checkpoints=self._checkpoints,
            signatures=self._signatures(),
            missing=self._missing,
            unsigned=head.seq - self._covered,
        )

    def _signatures(self) -> str:
        if self._verifier is None:
            return "unchecked" if self._signed else "none"
        return "valid" if self._signed and self._signed == self._checkpoints else "wrong"

    def _problem(self, seq: int | None, what: str, *, fine: bool = False) -> None:
        if not fine and len(self._problems) < MAX_FINDINGS:
            self._problems.append(Finding(self._file, self._line, seq, what))

    def _note(self, what: str) -> None:
        if len(self._notes) < MAX_FINDINGS:
            seq = self._head.seq if self._head is not None else None
            self._notes.append(Finding(self._file, self._line, seq, what))

    def _take(self, line: bytes) -> None:
        link = parse(line)
        if link is None:
            self._take_stray(line, ended=True)
            return
        self._lines += 1
        checkpoint = checkpoint_of(link)
        self._settle_stray(checkpoint)
        before, opens = self._values, checkpoint is not None and checkpoint.kind in OPENING
        if self._kind in CLOSING and not opens:
            self._problem(link.seq, "a line behind a last checkpoint")
        fits = self._begins(link, checkpoint) if opens else self._follows(link)
        self._kind = checkpoint.kind if checkpoint is not None else ""
        if checkpoint is None:
            self._look_at(link)
        elif fits:
            self._check_signature(link, checkpoint, before)

    def _look_at(self, link: Link) -> None:
        head = link.body[:_HEAD]
        if b'"event":"checkpoint"' in head:
            self._problem(link.seq, "a checkpoint that is not well formed")
        elif b'"event":"gap"' in head:
            try:
                count = msgspec.json.decode(link.body + b"}", type=Gap).dropped
            except (msgspec.MsgspecError, UnicodeError):
                self._problem(link.seq, "a gap that is not well formed")
                return
            self._missing += count
            self._note(f"{count} lines are missing here: the output refused, and they were dropped")

    def _take_stray(self, text: bytes, *, ended: bool) -> None:
        if self._stray is None:
            self._stray = _Stray(self._file, self._line)
        self._stray.add(text, ended=ended)

    def _settle_stray(self, checkpoint: Checkpoint | None) -> None:
        """A torn line is told of by the checkpoint behind it; everything else does not belong here."""
        stray, self._stray = self._stray, None
        if stray is None:
            return
        if stray.told_by(checkpoint):
            self._note(
                f"{stray.file}:{stray.line} is a torn line; it was left by a process that was killed or a full disk"
            )
            return
        place = Finding(
            stray.file, stray.line, None, "not a line of a record: changed, cut, or written by somebody else"
        )
        if len(self._problems) < MAX_FINDINGS:
            self._problems.append(place)

    def _begins(self, link: Link, checkpoint: Checkpoint | None) -> bool:
        """An opening checkpoint: of a chain, of a process that continues one, or of a file."""
        assert checkpoint is not None
        previous = checkpoint.previous
        if previous is None:
            return self._begins_anew(link)
        if self._head is None:
            self._note(f"the record goes back to seq 1, but what is before seq {link.seq} is not in these files")
            self._begin_at(link, Head(previous.seq, _value(previous.chain)))
            return self._follows(link)
        if checkpoint.kind == START and self._kind != STOP:
            what = "the process before ended without a last checkpoint: it was killed, or its last lines were cut"
            self._note(what + self._in_doubt(self._head.seq))
        return self._follows(link)

    def _in_doubt(self, last: int) -> str:
        """Which lines of a process that was killed nobody had signed: the next one signs what it finds in the file."""
        if self._verifier is None or self._covered >= last:
            return ""
        lines = f"seq {self._covered + 1} to {last}" if self._covered + 1 < last else f"seq {last}"
        return f"; {lines} had no signature then, and may have been changed by whoever could write the file"

    def _begins_anew(self, link: Link) -> bool:
        if self._head is not None and self._kind == STOP:
            self._note("a new chain begins behind this line; nothing ties it to the one before")
        elif self._head is not None:
            self._problem(
                link.seq, "a new chain begins, but the one before has no end: its end was cut, or could not be read"
            )
        if link.value in self._begun:
            self._problem(link.seq, "this chain was here before: its lines are doubled")
        self._begun.add(link.value)
        self._begin_at(link, Head(0, GENESIS))
        return self._follows(link)

    def _begin_at(self, link: Link, before: Head) -> None:
        self._first = self._first or link.seq
        self._head, self._values = before, (before.value,)

    def _follows(self, link: Link) -> bool:
        """Whether a line is the next one; says what is wrong, and goes on from there."""
        head = self._head
        if head is None:
            self._problem(link.seq, "the record does not begin with a checkpoint: its beginning was cut")
            self._first = link.seq
        elif link.seq <= head.seq:
            self._problem(link.seq, f"seq {link.seq} behind seq {head.seq}: the line is doubled, or out of order")
            return False
        elif link.seq > head.seq + 1:
            missing = f"seq {head.seq + 1} to {link.seq - 1}" if link.seq > head.seq + 2 else f"seq {head.seq + 1}"
            self._problem(link.seq, f"{missing} missing before this line")
        elif not any(map(link.follows, self._values)):
            self._problem(link.seq, "the line was changed: its chain value does not fit")
            computed = (hashlib.sha256(value + link.body).digest() for value in self._values)
            self._head, self._values = Head(link.seq, link.value), (link.value, *computed)
            return False
        fits = head is not None and link.seq == head.seq + 1
        self._head, self._values = Head(link.seq, link.value), (link.value,)
        return fits

    def _check_signature(self, link: Link, checkpoint: Checkpoint, before: tuple[bytes, ...]) -> None:
        self._checkpoints += 1
        if self._verifier is None:
            self._signed += bool(checkpoint.signature)
            return
        unsigned = signed_part(link)
        if unsigned is None or not checkpoint.key:
            self._problem(link.seq, "the checkpoint is not signed")
        elif not self._verifier.knows(checkpoint.key):
            self._problem(link.seq, f"the checkpoint is signed by another key, {checkpoint.key}")
        elif not any(self._good(link, checkpoint, value, unsigned) for value in _bases(link, checkpoint, before)):
            self._problem(link.seq, "the signature of the checkpoint is wrong")
        else:
            self._signed += 1
            self._covered = link.seq

    def _good(self, link: Link, checkpoint: Checkpoint, value: bytes, unsigned: bytes) -> bool:
        assert self._verifier is not None
        said = statement(value, link.seq, unsigned)
        return link.follows(value) and self._verifier.good(checkpoint.key, checkpoint.signature, said)


def _bases(link: Link, checkpoint: Checkpoint, before: tuple[bytes, ...]) -> tuple[bytes, ...]:
    """The values that a checkpoint may follow: of an opening one, what it names itself (the chain was compared)."""
    if checkpoint.kind not in OPENING:
        return before
    return (GENESIS,) if checkpoint.previous is None else (_value(checkpoint.previous.chain),)


def _value(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        return b""


def in_order(paths: Iterable[Path]) -> list[Path]:
    """The files as their record goes on from one to the next; what belongs nowhere stays in the order given.

    Raises OSError where one cannot be read.
    """
    given = list(dict.fromkeys(paths))
    ends = {path: tail(path).head for path in given}
    after: dict[Head, Path] = {}
    for path in given:
        before = _before(path)
        if before is not None:
            after.setdefault(before, path)
    followers = set(after.values())
    begun = [path for path in given if path not in followers or _before(path) not in ends.values()]
    found: dict[Path, None] = {}
    for path in (*begun, *given):
        following: Path | None = path
        while following is not None and following not in found:
            found[following] = None
            end = ends[following]
            following = after.get(end) if end is not None else None
    return list(found)


def _before(path: Path) -> Head | None:
    """The line that the first line of a file says it follows."""
    with path.open("rb") as stream:
        link = parse(stream.readline(MAX_LINE).removesuffix(b"\n"))
    checkpoint = checkpoint_of(link) if link is not None else None
    if checkpoint is None or checkpoint.previous is None:
        return None
    return Head(checkpoint.previous.seq, _value(checkpoint.previous.chain))
