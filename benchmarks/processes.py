"""Child processes pinned to a CPU, and what /proc says about them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


class BenchmarkError(Exception):
    """A run that cannot give a true figure: a part did not start, or answered wrongly."""


@dataclass(frozen=True)
class Usage:
    """Of a process and its descendants: CPU time since their start in µs (user and system), RSS in bytes."""

    cpu_us: float
    rss: int


@dataclass(frozen=True)
class Cpus:
    """The CPU of the proxy under test, and the one of load and upstream."""

    proxy: int
    load: int

    @classmethod
    def choose(cls) -> Cpus:
        """The first two CPUs this process may use; the same one twice where there is only one."""
        usable = sorted(os.sched_getaffinity(0))
        return cls(usable[0], usable[1] if len(usable) > 1 else usable[0])


def pinned(command: Sequence[str], cpu: int, **options: object) -> subprocess.Popen[bytes]:
    """Starts `command` on `cpu` alone. The affinity is inherited, so no thread starts elsewhere."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {cpu})
    try:
        return subprocess.Popen(list(command), **options)  # type: ignore[call-overload, no-any-return]  # the stubs cannot see through **options
    finally:
        os.sched_setaffinity(0, before)


def free_port() -> int:
    """A loopback port that was free a moment ago (for programs that cannot report the one they took)."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port: int = s.getsockname()[1]
        return port


class Server:
    """A process under test. Its output goes to `log`; it is ended by `stop`, at the latest by SIGKILL."""

    def __init__(self, command: Sequence[str], cpu: int, log: Path, env: Mapping[str, str] | None = None) -> None:
        self.log = log
        self.started = time.monotonic()
        with log.open("ab") as out:
            self.process = pinned(
                command, cpu, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env={**os.environ, **(env or {})}
            )

    def wait_until(self, probe: Callable[[], bool], seconds: float = 20.0) -> float:
        """Polls `probe` until it holds; returns the seconds since the start of the process.

        Raises BenchmarkError with the tail of the log when the process ends or the time is over.
        """
        while not probe():
            ended = self.process.poll() is not None
            if ended or time.monotonic() - self.started > seconds:
                why = f"ended with {self.process.returncode}" if ended else f"was not ready in {seconds:g} s"
                raise BenchmarkError(f"{self.process.args!r} {why}:\n{self.tail()}")
            time.sleep(0.002)
        return time.monotonic() - self.started

    def tail(self) -> str:
        """The last lines the process wrote."""
        return self.log.read_text(errors="replace")[-2000:]

    def usage(self) -> Usage:
        """CPU and memory now. Raises BenchmarkError when the process is gone."""
        pids = descendants(self.process.pid)
        if self.process.poll() is not None or not pids:
            raise BenchmarkError(f"{self.process.args!r} ended during the run:\n{self.tail()}")
        return Usage(sum(map(_cpu_us, pids)), sum(map(_rss, pids)))

    def descriptors(self) -> int:
        """Open file descriptors of the process and its descendants."""
        return sum(len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in descendants(self.process.pid))

    def stop(self) -> None:
        """SIGTERM, ten seconds, SIGKILL."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self.process.wait()


def descendants(pid: int) -> list[int]:
    """The process and all below it that are alive."""
    children: dict[int, list[int]] = defaultdict(list)
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (fields := _stat(int(entry.name))):
            children[int(fields[1])].append(int(entry.name))
    found, todo = [], [pid]
    while todo:
        current = todo.pop()
        if _stat(current):
            found.append(current)
            todo += children[current]
    return found


def _stat(pid: int) -> list[str]:
    """/proc/PID/stat from field 3 (state) on; empty where there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def _cpu_us(pid: int) -> float:
    fields = _stat(pid)  # utime and stime are fields 14 and 15 of proc(5)
    return (int(fields[11]) + int(fields[12])) * 1e6 / TICKS_PER_SECOND if fields else 0.0


def _rss(pid: int) -> int:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    for line in status.splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return 0
