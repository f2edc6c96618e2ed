"""The load generators: our own, and wrk as a second opinion on closed loops."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.processes import BenchmarkError, pinned
from benchmarks.tools import Tools
from benchmarks.wire import EXPECTED, Request

MOST_PER_SECOND = 400_000
"""More than any target answers on one CPU: room for the latencies of a closed loop."""


@dataclass(frozen=True)
class Closed:
    """What a closed loop did."""

    requests: int
    per_second: float


@dataclass(frozen=True)
class Latency:
    """What an open loop saw, in µs from the intended moment of sending."""

    p50_us: float
    p95_us: float
    p99_us: float
    max_us: float


@dataclass(frozen=True)
class Events:
    """What the readers of streams saw: delays in µs since the upstream wrote the event."""

    count: int
    seconds: float
    p50_us: float
    p95_us: float


@dataclass(frozen=True)
class Load:
    """Runs generators on one CPU. Every method raises BenchmarkError when any answer was wrong.

    With `spin`, ours poll instead of sleeping (all but streams and wrk).
    """

    tools: Tools
    cpu: int
    work: Path
    spin: bool = False

    def closed(self, port: int, request: Request, connections: int, seconds: float) -> Closed:
        """`connections` keep-alive connections, each sending as soon as it has its answer."""
        most = int(seconds * MOST_PER_SECOND)
        result = self._openloop(port, request, connections, most, ["-d", str(seconds)], seconds)
        return Closed(int(result["done"]), result["done"] / result["seconds"])

    def wrk(self, port: int, request: Request, connections: int, seconds: float) -> Closed:
        """The same by wrk, one thread; it looks at nothing but the status of an answer."""
        assert self.tools.wrk
        script = self.work / "wrk.lua"
        script.write_text(_wrk_script(request))
        shown = self._run(
            [self.tools.wrk, "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "-s", str(script)]
            + [f"http://127.0.0.1:{port}/mcp"],
            seconds,
        )
        found = re.search(r"^RESULT (\d+) (\d+) (\d+)$", shown, re.MULTILINE)
        if not found or int(found[3]) or not int(found[1]):
            raise BenchmarkError(f"wrk saw errors:\n{shown}")
        return Closed(int(found[1]), int(found[1]) * 1e6 / int(found[2]))

    def open(self, port: int, request: Request, rate: float, seconds: float, connections: int = 16) -> Latency:
        """`rate` requests a second for `seconds`, each at its due time."""
        result = self._openloop(port, request, connections, max(1, int(rate * seconds)), ["-r", str(rate)], seconds)
        return Latency(result["p50_us"], result["p95_us"], result["p99_us"], result["max_us"])

    def count(self, port: int, request: Request, calls: int, connections: int = 16) -> Closed:
        """Exactly `calls` requests, as fast as they are answered."""
        result = self._openloop(port, request, connections, calls, [], calls / 500)
        return Closed(calls, calls / result["seconds"])

    def read_streams(self, port: int, request: Request, streams: int) -> Events:
        """Opens `streams` streams at once and reads each to its end."""
        result = json.loads(self._run(self._streams(port, request, streams), 60))
        if result["broken"]:
            raise BenchmarkError(f"{result['broken']} of {streams} streams on port {port} broke: {result}")
        return Events(result["events"], result["seconds"], result["p50_us"], result["p95_us"])

    @contextmanager
    def held_streams(self, port: int, request: Request, streams: int) -> Iterator[None]:
        """Holds `streams` open streams, each after its first event, inside the `with` block."""
        command = [*self._streams(port, request, streams), "-h"]
        held = pinned(command, self.cpu, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert held.stdin
        assert held.stdout
        try:
            result = json.loads(held.stdout.readline() or b"{}")
            if result.get("open") != streams or result.get("broken"):
                raise BenchmarkError(f"{streams} streams wanted on port {port}, got {result}")
            yield
        finally:
            held.stdin.close()
            held.wait(10)
            held.stdout.close()

    def _openloop(
        self, port: int, request: Request, connections: int, calls: int, pace: list[str], seconds: float
    ) -> dict[str, float]:
        command = [self.tools.openloop, "-p", str(port), "-f", self._file(request, port), "-e", EXPECTED]
        command += ["-c", str(connections), "-n", str(calls), *pace, *(["-s"] if self.spin else [])]
        result: dict[str, float] = json.loads(self._run(command, seconds))
        if result["bad"] or result["missing"]:
            raise BenchmarkError(f"wrong or missing answers on port {port}: {result}")
        return result

    def _streams(self, port: int, request: Request, streams: int) -> list[str]:
        return [self.tools.streams, "-p", str(port), "-f", self._file(request, port), "-c", str(streams)]

    def _file(self, request: Request, port: int) -> str:
        path = self.work / "request.http"
        path.write_bytes(request.raw(port))
        return str(path)

    def _run(self, command: list[str], seconds: float) -> str:
        """Output of a generator that should take about `seconds`."""
        process = pinned(command, self.cpu, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        try:
            shown = process.communicate(timeout=seconds + 60)[0].decode(errors="replace")
        except subprocess.TimeoutExpired as e:
            process.kill()
            process.communicate()
            raise BenchmarkError(f"{command!r} did not end") from e
        if process.returncode:
            raise BenchmarkError(f"{command!r} ended with {process.returncode}:\n{shown}")
        return shown


def _wrk_script(request: Request) -> str:
    """A script for wrk: one constant request, and a line with requests, µs and errors of all kinds."""
    headers = "\n".join(f"wrk.headers[{json.dumps(k)}] = {json.dumps(v)}" for k, v in request.headers.items())
    return f"""wrk.method = "POST"
wrk.body = [==[{request.body.decode()}]==]
{headers}
done = function(summary)
  local e = summary.errors
  local bad = e.connect + e.read + e.write + e.status + e.timeout
  io.write(string.format("RESULT %d %d %d\\n", summary.requests, summary.duration, bad))
end
"""
