"""The audit log against real pipes, full devices and files that go away."""

import errno
import fcntl
import json
import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from openmcp.sidecar.telemetry import audit
from openmcp.sidecar.telemetry.audit import AuditLog
from openmcp.sidecar.telemetry.chain import Chain, Head, checkpoint_of, parse
from openmcp.sidecar.telemetry.writer import Writer

PIPE_SIZE = 65536


class Changes:
    """Collects what `on_change` says; `wait` returns the next."""

    def __init__(self) -> None:
        self.seen: list[OSError | None] = []
        self._new = threading.Condition()

    def __call__(self, error: OSError | None) -> None:
        with self._new:
            self.seen.append(error)
            self._new.notify_all()

    def wait(self, count: int) -> OSError | None:
        with self._new:
            assert self._new.wait_for(lambda: len(self.seen) >= count, 10), f"only {self.seen}"
            return self.seen[count - 1]


@pytest.fixture(autouse=True)
def fast_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "RETRY_INTERVAL", 0.02)


@pytest.fixture
def make() -> Iterator[Callable[..., AuditLog]]:
    logs: list[AuditLog] = []

    def open_log(output: Path | None, *, deny_on_failure: bool = True, **options: object) -> AuditLog:
        log = AuditLog(output, deny_on_failure=deny_on_failure, **options)  # type: ignore[arg-type]  # options are passed on as they are
        logs.append(log)
        return log

    yield open_log
    for log in logs:
        log.close(0.1)


@pytest.fixture
def fifo(tmp_path: Path) -> Iterator[tuple[Path, int]]:
    """A named pipe and the descriptor of its reader."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    fcntl.fcntl(reader, fcntl.F_SETFL, fcntl.fcntl(reader, fcntl.F_GETFL) & ~os.O_NONBLOCK)
    yield path, reader
    os.close(reader)


def read_until(reader: int, size: int) -> bytes:
    data = b""
    while len(data) < size:
        chunk = os.read(reader, size - len(data))
        assert chunk, "the pipe was closed early"
        data += chunk
    return data


def number(index: int, width: int = 100) -> bytes:
    return b'{"n":"%0*d"}' % (width - 8, index)


def given(written: bytes) -> bytes:
    """The lines as they were given: without checkpoints, numbers and chain values, which must all be right."""
    chain, lines = Chain(), []
    for line in written.splitlines(keepends=True):
        link = parse(line[:-1])
        assert link is not None, line
        if chain.seq:
            assert (link.seq, link.follows(chain.value)) == (chain.seq + 1, True), line
        chain.move(Head(link.seq, link.value))
        if checkpoint_of(link) is None:
            lines.append(link.body.rpartition(b',"seq":')[0] + b"}\n")
    return b"".join(lines)


def read_lines(reader: int, count: int) -> bytes:
    """Read so many lines that were given."""
    data = b""
    while b"\n" not in data[-1:] or len(given(data).splitlines()) < count:
        chunk = os.read(reader, 65536)
        assert chunk, "the pipe was closed early"
        data += chunk
    return data


def test_lines_come_out_in_order_and_whole(make: Callable[..., AuditLog], tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    log = make(path)
    for index in range(10_000):
        log.write(number(index))
    assert log.close(10)
    assert given(path.read_bytes()) == b"".join(number(index) + b"\n" for index in range(10_000))
    assert (log.stats.lines, log.stats.bytes, log.stats.buffered) == (10_000, path.stat().st_size, 0)
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_line_is_written_soon(make: Callable[..., AuditLog], fifo: tuple[Path, int]) -> None:
    path, reader = fifo
    log = make(path)
    log.write(b'{"n":1}')
    assert given(read_lines(reader, 1)) == b'{"n":1}\n'
    took = []
    for _ in range(10):  # the writer rests now: at most the interval, and this machine's scheduling
        started = time.monotonic()
        log.write(b'{"n":2}')
        assert given(read_lines(reader, 1)) == b'{"n":2}\n'
        took.append(time.monotonic() - started)
    assert sorted(took)[5] < audit.BATCH_INTERVAL + 0.2, "a machine that stalls may hold up some of them"


@pytest.mark.parametrize("blocking", [True, False])
def test_a_stuck_reader_stops_acceptance_but_never_the_loop(
    make: Callable[..., AuditLog], fifo: tuple[Path, int], blocking: bool
) -> None:
    """The pipe is full and nobody reads: `write` stays quick, and everything arrives when reading begins."""
    path, reader = fifo
    log = make(path, max_buffered=200_000)
    if blocking:
        fd = log._output._fd
        fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) & ~os.O_NONBLOCK)
    lines = [number(index) for index in range(3_500)]  # 353,500 bytes: over one limit, under the other
    took = []
    for line in lines:
        started = time.perf_counter()
        log.write(line)
        took.append(time.perf_counter() - started)
    assert sorted(took[-1000:])[500] < 0.1, "writes waited for the reader, and not for a machine that stalls"
    assert not log.accepting
    assert log.stats.dropped == 0
    assert not log.flush(0.1), "the pipe is full by now and the writer waits"
    assert log.stats.bytes <= PIPE_SIZE
    assert given(read_lines(reader, 3_500)) == b"".join(line + b"\n" for line in lines)
    assert log.flush(10)
    assert log.accepting
    assert log.stats.failures == 0


def test_memory_is_bounded_and_the_gap_is_told(make: Callable[..., AuditLog], fifo: tuple[Path, int]) -> None:
    path, reader = fifo
    log = make(path, max_buffered=PIPE_SIZE)
    for index in range(1_000):
        log.write(number(index))
    while log.flush(0.1) or log.stats.bytes < PIPE_SIZE - 4096:
        pass  # once the pipe is full no line finds room behind one that was dropped
    for index in range(1_000, 5_000):
        log.write(number(index))
    stats = log.stats
    assert stats.dropped > 0
    assert stats.buffered <= 2 * PIPE_SIZE
    output = b""
    while log.stats.buffered > PIPE_SIZE:
        output += os.read(reader, PIPE_SIZE)
    log.write(b'{"n":"after"}')
    while b"after" not in output or b"gap" not in output or not output.endswith(b"\n"):
        output += os.read(reader, PIPE_SIZE)
    lines = given(output).splitlines()
    gap = json.loads(next(line for line in lines if b"gap" in line))
    assert (gap["event"], gap["dropped"]) == ("gap", stats.dropped)
    kept = [line for line in lines if b"after" not in line and b"gap" not in line]
    assert kept == [number(index) for index in range(5_000 - stats.dropped)]


def test_without_deny_lines_are_dropped_and_requests_go_on(
    make: Callable[..., AuditLog], fifo: tuple[Path, int]
) -> None:
    path, _ = fifo
    log = make(path, deny_on_failure=False, max_buffered=PIPE_SIZE)
    for index in range(5_000):
        log.write(number(index))
    assert log.stats.dropped > 0
    assert log.stats.buffered <= PIPE_SIZE
    assert log.accepting


def test_a_full_device_denies_and_is_told_once(make: Callable[..., AuditLog]) -> None:
    changes = Changes()
    log = make(Path("/dev/full"), on_change=changes)  # not even the first checkpoint can be written
    error = changes.wait(1)
    assert error is not None
    assert error.errno == errno.ENOSPC
    assert not log.accepting
    assert log.stats.failing_since == pytest.approx(time.time(), abs=60)
    while log.stats.failures < 3:  # it is tried again
        time.sleep(0.01)
    assert len(changes.seen) == 1
    assert not log.close(0.1)
    assert not log.accepting


def test_a_full_device_without_deny_lets_requests_pass(make: Callable[..., AuditLog]) -> None:
    changes = Changes()
    log = make(Path("/dev/full"), deny_on_failure=False, on_change=changes)
    changes.wait(1)
    assert log.accepting


def test_a_line_torn_by_a_full_disk_is_continued(make: Callable[..., AuditLog], tmp_path: Path) -> None:
    """RLIMIT_FSIZE stands for the full disk: the write stops within a line, and later goes on there."""
    path = tmp_path / "audit.log"
    changes = Changes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    log = make(path, on_change=changes)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, hard))
        for index in range(30):
            log.write(number(index))
        error = changes.wait(1)
        assert error is not None
        assert error.errno == errno.EFBIG
        assert path.stat().st_size == 1_000, "the limit falls into a line"
        assert not log.accepting
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert changes.wait(2) is None
    assert log.accepting
    log.write(number(30))
    assert log.close(5)
    assert given(path.read_bytes()) == b"".join(number(index) + b"\n" for index in range(31))
    assert log.stats.failing_since is None


def test_a_line_torn_in_a_full_file_begins_again_in_the_new_one(make: Callable[..., AuditLog], tmp_path: Path) -> None:
    path, old = tmp_path / "audit.log", tmp_path / "audit.log.1"
    changes = Changes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    log = make(path, on_change=changes)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, hard))
        for index in range(7):
            log.write(number(index))
        changes.wait(1)
        path.rename(old)  # and no signal: the next attempt sees it
        changes.wait(2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert log.close(5)
    whole, _, torn = old.read_bytes().rpartition(b"\n")
    assert torn
    assert given(whole + b"\n" + path.read_bytes()) == b"".join(number(index) + b"\n" for index in range(7))
    assert json.loads(path.read_bytes().splitlines()[0])["torn"]["bytes"] == len(torn)


def test_reopening_a_full_file_continues_the_torn_line(make: Callable[..., AuditLog], tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    changes = Changes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    log = make(path, on_change=changes)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, hard))
        for index in range(12):
            log.write(number(index))
        changes.wait(1)
        failures = log.stats.failures
        log.reopen()
        while log.stats.failures < failures + 2:  # the file was reopened and refuses again
            time.sleep(0.001)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert log.close(5)
    assert given(path.read_bytes()) == b"".join(number(index) + b"\n" for index in range(12))


def test_a_reader_that_went_away_denies(make: Callable[..., AuditLog], tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    changes = Changes()
    log = make(path, on_change=changes)
    assert log.flush(5)
    os.close(reader)
    log.write(b'{"n":"lost to nobody"}')
    error = changes.wait(1)
    assert error is not None
    assert error.errno == errno.EPIPE
    assert not log.accepting
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    assert changes.wait(2) is None
    assert given(os.read(reader, 1000)) == b'{"n":"lost to nobody"}\n'
    assert log.accepting
    os.close(reader)


def test_a_file_that_cannot_be_opened_denies_until_it_can(make: Callable[..., AuditLog], tmp_path: Path) -> None:
    folder = tmp_path / "missing"
    changes = Changes()
    log = make(folder / "audit.log", on_change=changes)
    assert not log.accepting
    assert isinstance(changes.wait(1), FileNotFoundError)
    folder.mkdir()
    assert changes.wait(2) is None, "it is tried again without a line to write"
    log.write(b'{"n":1}')
    assert log.close(5)
    assert given((folder / "audit.log").read_bytes()) == b'{"n":1}\n'


def test_a_named_pipe_without_a_reader_does_not_stop_the_start(make: Callable[..., AuditLog], tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    log = make(path)
    assert not log.accepting


@pytest.mark.parametrize("signalled", [True, False])
def test_rotation_loses_nothing(make: Callable[..., AuditLog], tmp_path: Path, signalled: bool) -> None:
    path = tmp_path / "audit.log"
    log = make(path)
    for turn in range(5):
        for index in range(200):
            log.write(number(turn * 200 + index))
        path.rename(tmp_path / f"audit.log.{turn}") if path.exists() else None
        if signalled:
            log.reopen()
        else:
            assert log.flush(5)
    assert log.close(5)
    parts = [tmp_path / f"audit.log.{turn}" for turn in range(5)] + [path]
    together = b"".join(part.read_bytes() for part in parts if part.exists())
    assert given(together) == b"".join(number(index) + b"\n" for index in range(1_000))


def test_a_removed_file_is_made_again(make: Callable[..., AuditLog], tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    log = make(path)
    log.write(b'{"n":"before"}')
    assert log.flush(5)
    path.unlink()
    log.write(b'{"n":"after"}')
    assert log.close(5)
    assert given(path.read_bytes()) == b'{"n":"after"}\n'


def test_reopening_the_same_file_changes_nothing(make: Callable[..., AuditLog], tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    log = make(path)
    for index in range(100):
        log.write(number(index))
        log.reopen()
    assert log.close(5)
    assert given(path.read_bytes()) == b"".join(number(index) + b"\n" for index in range(100))


def test_a_fault_of_our_own_denies(
    make: Callable[..., AuditLog], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Should the thread ever die, nothing is let through unrecorded."""

    def broken(*_: object) -> None:
        raise RuntimeError("broken on purpose")

    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    monkeypatch.setattr(Writer, "add", broken)
    log = make(tmp_path / "audit.log")
    log.write(b'{"n":1}')
    log._writing.join(5)
    assert not log.accepting
    assert not log.close(0.1)


def test_an_idle_log_does_not_wake_up(make: Callable[..., AuditLog], tmp_path: Path) -> None:
    log = make(tmp_path / "audit.log")
    log.write(b'{"n":1}')
    assert log.flush(5)
    status = Path(f"/proc/self/task/{log._writing.native_id}/status")

    def switches() -> int:
        return int(status.read_text().split("voluntary_ctxt_switches:")[1].split()[0])

    for _ in range(50):  # the rest after the batch ends first, on a machine that stalls with delay
        before = switches()
        time.sleep(0.2)
        if switches() == before:
            return
    pytest.fail("it woke up again and again")


def test_lines_from_a_busy_loop_while_rotating_and_failing(make: Callable[..., AuditLog], tmp_path: Path) -> None:
    """Stress: rotation by signal and by name, flushes from other threads, and not one line lost or doubled."""
    path = tmp_path / "audit.log"
    log = make(path)
    ended = threading.Event()
    turns = 0

    def disturb() -> None:
        nonlocal turns
        while not ended.is_set():
            if path.exists():
                path.rename(tmp_path / f"audit.log.{turns:05d}")
                turns += 1
            log.reopen()
            log.flush(5)

    disturber = threading.Thread(target=disturb)
    disturber.start()
    count = 0
    while count < 50_000 or turns <= 3:
        log.write(number(count, 20))
        count += 1
        if count % 5_000 == 0:
            assert log.flush(10)  # lets the disturber in
    ended.set()
    disturber.join()
    assert log.close(10)
    parts = [*sorted(tmp_path.glob("audit.log.*")), path]
    together = b"".join(part.read_bytes() for part in parts if part.exists())
    assert given(together) == b"".join(number(index, 20) + b"\n" for index in range(count))


def test_standard_output_that_does_not_block(tmp_path: Path) -> None:
    """An inherited non-blocking standard output that is full: lines wait, and none is lost or torn."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    code = (
        "from openmcp.sidecar.telemetry.audit import AuditLog\n"
        "log = AuditLog(None, deny_on_failure=True)\n"
        'for index in range(5000): log.write(b\'{"n":"%092d"}\' % index)\n'
        "raise SystemExit(0 if log.close(20) else 1)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=writer)
    os.close(writer)
    data = b"".join(iter(lambda: os.read(reader, 65536), b""))
    assert process.wait(20) == 0
    os.close(reader)
    assert given(data) == b"".join(number(index) + b"\n" for index in range(5_000))
