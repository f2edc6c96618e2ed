"""What a program has started is found at its end, also while it is being started."""

import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from openmcp.sidecar.bridge import reaping
from openmcp.sidecar.bridge.spawning import MARK

SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(SLEEP, start_new_session=True, env={}) as process:
        yield process
        process.kill()


def seen(folder: Path, process: subprocess.Popen[bytes], env_end: int, *, program: bool) -> Path:
    """A process as /proc shows it that has no environment; `program`: and one that it runs."""
    entry = folder / str(process.pid)
    entry.mkdir()
    (entry / "environ").write_bytes(b"")
    fields = ["S", *["1"] * 47, str(env_end), "0"]
    (entry / "stat").write_text(f"{process.pid} (a) b) {' '.join(fields)}\n")
    if program:
        (entry / "exe").symlink_to(sys.executable)
    return entry


def test_what_is_being_started_is_looked_at_again(
    child: subprocess.Popen[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = seen(tmp_path, child, 0, program=True)

    def has_started(seconds: float) -> None:
        (entry / "environ").write_bytes(f"{MARK}=it\0".encode())

    monkeypatch.setattr(reaping, "_PROCESSES", tmp_path)
    monkeypatch.setattr("openmcp.sidecar.bridge.reaping.time.sleep", has_started)
    assert reaping.kill_marked("it") >= 1
    assert child.wait(10) == -9


@pytest.mark.parametrize(("env_end", "program"), [(0, False), (4096, True)])
def test_what_never_has_an_environment_is_not_waited_for(
    child: subprocess.Popen[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, env_end: int, program: bool
) -> None:
    def never(seconds: float) -> None:
        raise AssertionError(seconds)

    seen(tmp_path, child, env_end, program=program)
    monkeypatch.setattr(reaping, "_PROCESSES", tmp_path)
    monkeypatch.setattr("openmcp.sidecar.bridge.reaping.time.sleep", never)
    assert reaping.kill_marked("it") == 0
    assert child.poll() is None


def test_nothing_that_has_just_been_started_gets_away() -> None:
    for _ in range(100):
        mark = uuid.uuid4().hex
        with subprocess.Popen(["sleep", "600"], start_new_session=True, env={MARK: mark}) as process:
            reaping.kill_marked(mark)
            try:
                assert process.wait(10) == -9
            finally:
                process.kill()
