"""A record that was touched is found out, and one that was not is whole: over restarts, rotations and kills."""

import io
import itertools
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openmcp.config.model import Rotation
from openmcp.sidecar.telemetry import writer as writing
from openmcp.sidecar.telemetry.chain import Chain, Head, checkpoint_of, parse
from openmcp.sidecar.telemetry.output import Output
from openmcp.sidecar.telemetry.signing import Signer, Verifier, generate
from openmcp.sidecar.telemetry.verify import MAX_LINE, Check, Report, in_order
from openmcp.sidecar.telemetry.writer import Writer
from tests.telemetry.recording import check, finish, keys, line, write

PUBLIC = keys()[1]


def verify(data: bytes, *, key: bytes | None = None, live: bool = False) -> Report:
    it = Check(Verifier([key]) if key is not None else None, live=live)
    it.read("audit.log", io.BytesIO(data))
    return it.finish()


def recorded(folder: Path, count: int = 8, *, signed: bool = True) -> bytes:
    path = folder / "audit.log"
    write(path, count, signed=signed)
    return path.read_bytes()


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return recorded(tmp_path_factory.mktemp("record"))


def whats(report: Report) -> list[str]:
    return [f"{problem.line} {problem.seq} {problem.what}" for problem in report.problems]


def test_a_whole_record(record: bytes) -> None:
    report = verify(record, key=PUBLIC)
    assert (report.problems, report.notes) == ([], [])
    assert (report.whole, report.lines, report.first, report.last) == (True, 10, 1, 10)
    assert (report.checkpoints, report.signatures, report.unsigned, report.missing) == (2, "valid", 0, 0)
    last = parse(record.splitlines()[-1])
    assert last is not None
    assert report.chain == last.value.hex()
    assert verify(record).signatures == "unchecked"


def test_every_kind_of_change_has_its_place_and_name(record: bytes) -> None:
    lines = record.splitlines(keepends=True)
    changed = lines[3].replace(b'"n":2', b'"n":7')
    assert whats(verify(b"".join([*lines[:3], changed, *lines[4:]]))) == [
        "4 4 the line was changed: its chain value does not fit"
    ]
    assert whats(verify(b"".join([*lines[:3], *lines[4:]]))) == ["4 5 seq 4 missing before this line"]
    assert whats(verify(b"".join([*lines[:3], *lines[6:]]))) == ["4 7 seq 4 to 6 missing before this line"]
    assert whats(verify(b"".join([*lines[:4], lines[3], *lines[4:]]))) == [
        "5 4 seq 4 behind seq 4: the line is doubled, or out of order"
    ]
    swapped = [*lines[:3], lines[4], lines[3], *lines[5:]]
    assert whats(verify(b"".join(swapped))) == [
        "4 5 seq 4 missing before this line",
        "5 4 seq 4 behind seq 5: the line is doubled, or out of order",
    ]
    assert whats(verify(b"".join([*lines[:3], b'{"event":"request"}\n', *lines[3:]]))) == [
        "4 None not a line of a record: changed, cut, or written by somebody else"
    ]
    end = "the record ends here without a last checkpoint: its end was cut, or it is still being written"
    assert whats(verify(b"".join(lines[:7]))) == [f"7 7 {end}"]
    assert whats(verify(record[:-1])) == ["10 None the file ends within a line: it was cut, or is still being written"]
    assert whats(verify(b"".join(lines[1:]))) == [
        "1 2 the record does not begin with a checkpoint: its beginning was cut"
    ]
    assert whats(verify(b"")) == ["0 None the file is empty: its lines were cut, or nothing was written yet"]
    more = Chain(Head(10, bytes.fromhex(verify(record).chain))).link(line(9))
    assert whats(verify(record + more)) == ["11 11 a line behind a last checkpoint", f"11 11 {end}"]


def test_a_live_record_may_have_an_open_end(record: bytes) -> None:
    lines = record.splitlines(keepends=True)
    assert verify(b"".join(lines[:7]), live=True).whole
    assert verify(b"".join(lines[:7]) + lines[7][:30], live=True).whole
    assert verify(b"", live=True).whole
    assert verify(b"".join(lines[:7]), live=True, key=PUBLIC).unsigned == 6
    assert not verify(b"".join(lines[:7]) + b'{"event":"request"}\n', live=True).whole, "a whole line of somebody else"
    assert not verify(b"".join(lines[:5]) + b"".join(lines[6:7]), live=True).whole


@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_any_flipped_byte_is_found(record: bytes, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(record) - 1))
    flipped = record[place] ^ data.draw(st.integers(1, 255))
    assert not verify(record[:place] + bytes([flipped]) + record[place + 1 :]).whole


@given(place=st.integers(0, 9))
def test_any_dropped_line_is_found(record: bytes, place: int) -> None:
    lines = record.splitlines(keepends=True)
    del lines[place]
    assert not verify(b"".join(lines)).whole


@given(order=st.permutations(range(10)))
def test_any_other_order_of_lines_is_found(record: bytes, order: list[int]) -> None:
    lines = record.splitlines(keepends=True)
    assert verify(b"".join(lines[place] for place in order)).whole == (order == sorted(order))


@given(place=st.integers(0, 9), behind=st.integers(0, 9))
def test_any_doubled_line_is_found(record: bytes, place: int, behind: int) -> None:
    lines = record.splitlines(keepends=True)
    lines.insert(behind, lines[place])
    assert not verify(b"".join(lines)).whole


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_any_cut_at_either_end_is_found(record: bytes, data: st.DataObject) -> None:
    cut = data.draw(st.integers(1, len(record)))
    assert not verify(record[:-cut]).whole
    assert not verify(record[cut:]).whole


@given(noise=st.binary(max_size=300))
def test_noise_is_never_a_record(noise: bytes) -> None:
    assert not verify(noise).whole


def rewritten(record: bytes, signer: Signer | None, *, drop: int) -> bytes:
    """The record without one line and with all values made anew, as somebody can who may write the file."""
    chain, lines = Chain(), []
    for number, one in enumerate(record.splitlines()):
        link = parse(one)
        assert link is not None
        if number == drop:
            continue
        checkpoint = checkpoint_of(link)
        members = link.body.rpartition(b',"seq":')[0] + b"}"
        lines.append(chain.checkpoint(checkpoint.kind, checkpoint.time, signer) if checkpoint else chain.link(members))
    return b"".join(lines)


def test_a_record_that_was_made_anew_passes_only_without_a_key(record: bytes) -> None:
    unsigned = rewritten(record, None, drop=4)
    assert verify(unsigned).whole, "this is what the signatures are for"
    assert whats(verify(unsigned, key=PUBLIC)) == [
        "1 1 the checkpoint is not signed",
        "9 9 the checkpoint is not signed",
    ]
    other = Signer(generate()[0])
    forged = verify(rewritten(record, other, drop=4), key=PUBLIC)
    assert whats(forged) == [f"{n} {n} the checkpoint is signed by another key, {other.key_id}" for n in (1, 9)]
    assert forged.signatures == "wrong"


def test_a_signature_moved_to_another_record_is_wrong(tmp_path: Path, record: bytes) -> None:
    """The checkpoints of one record, chained into another: the signature is over all lines before it."""
    chain, lines = Chain(), []
    for number, one in enumerate(record.splitlines()):
        link = parse(one)
        assert link is not None
        members = link.body.rpartition(b',"seq":')[0] + b"}"
        lines.append(chain.link(members if number != 4 else line(77)))
    moved = b"".join(lines)
    assert verify(moved).whole
    assert whats(verify(moved, key=PUBLIC)) == ["10 10 the signature of the checkpoint is wrong"]


def test_a_record_without_signatures(tmp_path: Path) -> None:
    report = verify(recorded(tmp_path, signed=False))
    assert (report.whole, report.signatures) == (True, "none")


def test_a_restart_continues_the_chain(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    write(path, 3)
    write(path, 3)
    report = check(path, key=PUBLIC)
    assert (report.problems, report.notes, report.last, report.checkpoints) == ([], [], 10, 4)
    lines = path.read_bytes().splitlines(keepends=True)
    assert whats(verify(b"".join(lines[:2] + lines[5:]))) == ["3 6 seq 3 to 5 missing before this line"]


def test_what_was_written_into_a_record_before_a_restart_is_in_doubt(tmp_path: Path) -> None:
    """The process that goes on signs what it finds, which somebody else may have put there."""
    path = tmp_path / "audit.log"
    write(path, 3, killed=True)
    begun = path.read_bytes().splitlines(keepends=True)[:2]
    two = parse(begun[1][:-1])
    assert two is not None
    forged = Chain(Head(two.seq, two.value)).link(line(7))
    path.write_bytes(b"".join([*begun, forged]))
    write(path, 1)
    write(path, 1)
    report = check(path, key=PUBLIC)
    assert (report.whole, report.signatures) == (True, "valid")
    (note,) = report.notes
    assert note.what == (
        "the process before ended without a last checkpoint: it was killed, or its last lines were cut;"
        " seq 2 to 3 had no signature then, and may have been changed by whoever could write the file"
    )


def test_a_gap_that_is_no_json_does_not_end_the_check(record: bytes) -> None:
    lines = record.splitlines(keepends=True)
    lines[3] = lines[3].replace(b'"event":"request"', b'"event":"gap",oops')
    assert whats(verify(b"".join(lines))) == [
        "4 4 the line was changed: its chain value does not fit",
        "4 4 a gap that is not well formed",
    ]


def test_what_was_killed_is_told_and_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    write(path, 3, killed=True)
    assert not check(path).whole
    with path.open("ab") as stream:
        stream.write(line(3)[:33])  # the kernel had taken half of a line
    write(path, 3)
    report = check(path, key=PUBLIC)
    assert report.problems == []
    assert [str(note) for note in report.notes] == [
        "audit.log:6 (seq 4): audit.log:5 is a torn line; it was left by a process that was killed or a full disk",
        "audit.log:6 (seq 4): the process before ended without a last checkpoint: it was killed, or its last lines were"
        " cut; seq 2 to 4 had no signature then, and may have been changed by whoever could write the file",
    ]
    other = path.read_bytes().replace(line(3)[:33] + b"\n", line(3)[:32] + b"?\n")
    assert whats(verify(other)) == ["5 None not a line of a record: changed, cut, or written by somebody else"]


@settings(max_examples=60, deadline=None)
@given(cut=st.integers(1, 900), again=st.integers(0, 300))
def test_wherever_a_process_was_killed_the_next_goes_on(
    tmp_path_factory: pytest.TempPathFactory, cut: int, again: int
) -> None:
    path = tmp_path_factory.mktemp("killed") / "audit.log"
    write(path, 8, signed=False, killed=True)
    for remove in (cut, again):
        path.write_bytes(path.read_bytes()[:-remove] if remove else path.read_bytes())
        write(path, 1, signed=False, killed=True)
    write(path, 1, signed=False)
    assert check(path).problems == []


def test_a_record_in_many_files_in_any_order(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    for _ in range(2):
        write(path, 40, rotation=Rotation(size=2000))
    files = sorted(tmp_path.iterdir(), key=lambda file: (file.name == "audit.log", file.name))
    assert len(files) > 4
    for given_order in itertools.islice(itertools.permutations(files), 0, 5000, 173):
        assert in_order(given_order) == files
    report = check(*files, key=PUBLIC)
    assert (report.problems, report.notes, report.files) == ([], [], len(files))
    assert sum(b'"n":' in one for file in files for one in file.read_bytes().splitlines()) == 80
    assert all(file.stat().st_size < 3000 for file in files)
    # a file in the middle is missing; the first ones are gone; the last one is not here
    gone = check(*files[:2], *files[3:])
    (problem,) = gone.problems
    assert problem.file == files[3].name
    assert problem.what.endswith("missing before this line")
    later = check(*files[2:], key=PUBLIC)
    assert later.whole
    assert [note.what for note in later.notes] == [
        f"the record goes back to seq 1, but what is before seq {later.first} is not in these files"
    ]
    earlier = check(*files[:2], key=PUBLIC)
    assert earlier.whole
    assert [note.what for note in earlier.notes] == ["the record goes on in another file, which is not among these"]


def test_so_many_files_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    (tmp_path / "audit.log.1").write_text("somebody else's")
    write(path, 100, rotation=Rotation(size=2000, keep=2))
    kept = sorted(file.name for file in tmp_path.iterdir())
    assert kept[:2] == ["audit.log", "audit.log.1"]
    assert len(kept) == 4
    files = in_order(file for file in tmp_path.iterdir() if file.name != "audit.log.1")
    assert files[-1] == path
    assert check(*files, key=PUBLIC).problems == []


def test_a_size_below_a_checkpoint_rotates_behind_each_line_and_not_for_ever(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    write(path, 3, rotation=Rotation(size=1))
    files = in_order(tmp_path.iterdir())
    assert len(files) == 3
    assert check(*files).problems == []


def test_a_process_that_died_between_two_files_is_continued(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    write(path, 30, rotation=Rotation(size=2000))
    path.unlink()  # as if it was set aside, and not opened again
    write(path, 1)
    files = in_order(tmp_path.iterdir())
    assert files[-1] == path
    report = check(*files, key=PUBLIC)
    assert (report.problems, report.first) == ([], 1)


def test_a_file_that_was_moved_away_and_back(tmp_path: Path) -> None:
    path, aside = tmp_path / "audit.log", tmp_path / "aside"
    output = Output(path)
    writer = Writer(output)
    writer.open()
    writer.add([line(0)])
    finish(writer)
    path.rename(aside)
    assert not writer.step(0.0), "the last checkpoint is written"
    aside.rename(path)
    writer.add([line(1)])
    finish(writer)
    writer.close()
    finish(writer)
    assert check(path).problems == []
    output.close()


def test_a_second_writer_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    first = Output(path)
    first.open()
    with pytest.raises(OSError, match="another process writes this file"):
        Output(path).open()
    first.close()
    second = Output(path)
    second.open()
    second.close()


def test_chains_of_standard_output_one_behind_the_other(tmp_path: Path) -> None:
    one = recorded(tmp_path, 2)
    (tmp_path / "audit.log").unlink()
    two = recorded(tmp_path, 3)
    report = verify(one + two, key=PUBLIC)
    assert report.problems == []
    assert [note.what for note in report.notes] == [
        "a new chain begins behind this line; nothing ties it to the one before"
    ]
    assert whats(verify(one + two + one, key=PUBLIC)) == [
        f"{len((one + two).splitlines()) + 1} 1 this chain was here before: its lines are doubled"
    ]
    cut = b"".join(one.splitlines(keepends=True)[:-1])
    assert whats(verify(cut + two)) == [
        "4 1 a new chain begins, but the one before has no end: its end was cut, or could not be read"
    ]


def test_checkpoints_come_by_number_and_by_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "audit.log"
    monkeypatch.setattr(writing, "CHECKPOINT_LINES", 3)
    write(path, 7)
    kinds = [checkpoint_of(link) for link in map(parse, path.read_bytes().splitlines()) if link is not None]
    assert [kind.kind if kind else "" for kind in kinds] == [
        "start",
        *[""] * 3,
        "interval",
        *[""] * 3,
        "interval",
        "",
        "stop",
    ]
    monkeypatch.setattr(writing, "CHECKPOINT_LINES", 1000)
    output = Output(tmp_path / "other.log")
    writer = Writer(output, None, Signer(keys()[0]))
    writer.open()
    finish(writer)
    assert writer.due_in() is None, "there is nothing new"
    writer.add([line(0)])
    finish(writer)
    left = writer.due_in()
    assert left is not None
    assert 59 < left <= 60
    monkeypatch.setattr(writing, "CHECKPOINT_SECONDS", 0.0)
    finish(writer)
    assert b'"kind":"interval"' in (tmp_path / "other.log").read_bytes().splitlines()[-1]
    assert writer.due_in() is None
    output.close()


def test_a_gap_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    output = Output(path)
    writer = Writer(output)
    writer.open()
    writer.add([line(0), b'{"time":"2026-07-28T09:30:00.123456Z","event":"gap","dropped":17}'])
    finish(writer)
    writer.close()
    finish(writer)
    output.close()
    report = check(path)
    assert (report.whole, report.missing) == (True, 17)
    assert [str(note) for note in report.notes] == [
        "audit.log:3 (seq 3): 17 lines are missing here: the output refused, and they were dropped"
    ]


def test_a_line_without_an_end_does_not_fill_memory() -> None:
    class Endless(io.RawIOBase):
        def __init__(self) -> None:
            self.left = 40

        def readable(self) -> bool:
            return True

        def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]  # what the buffered reader gives
            self.left -= 1
            buffer[:] = b"x" * len(buffer)
            return len(buffer) if self.left > 0 else 0

    it = Check()
    it.read("endless", io.BufferedReader(Endless(), MAX_LINE))  # type: ignore[arg-type]  # a raw stream is enough
    assert [problem.what for problem in it.finish().problems] == [
        "the file ends within a line: it was cut, or is still being written"
    ]


def test_the_example_of_the_documentation_is_a_record() -> None:
    text = (Path(__file__).parents[2] / "docs" / "record.md").read_text()
    example = text.partition("## An example")[2].partition("```json\n")[2].partition("```")[0]
    report = verify(example.encode(), live=True)
    assert (report.problems, report.lines) == ([], 3)
