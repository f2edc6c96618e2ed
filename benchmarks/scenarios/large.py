"""Results of 10 MiB beside small calls: how long the small ones wait for them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from benchmarks.bench import Bench
from benchmarks.large import TOOLS
from benchmarks.processes import BenchmarkError, pinned
from benchmarks.results import Samples, Section
from benchmarks.targets import Setup, Target
from benchmarks.wire import tools_call

RATE = 1000
PAUSE = 0.1
"""Seconds between a large result and the next request for one."""
QUIET = "none"


def run(bench: Bench) -> list[Section]:
    """An open loop of calls through one sidecar with response rules, without and with large results beside it.

    A stall is what the longest of a round's calls waited longer than the longest of the round without large results.
    """
    samples = Samples()
    kinds = [(tool, form) for tool in TOOLS for form in ("JSON", "event")]
    with _server(bench) as port:
        target = bench.sidecar(Setup(conditions=True, inspect=True, large=port), "sidecar")
        try:
            for tool, form in kinds:
                with _reading(bench, target, tool, form, 0.5):
                    pass  # warm: the worker is there
            for _ in range(bench.scale.rounds):
                _measure(bench, target, QUIET, nullcontext(), samples)
                for tool, form in kinds:
                    reading = _reading(bench, target, tool, form, bench.scale.seconds + 0.5)
                    _measure(bench, target, f"{tool}, {form}", reading, samples)
        finally:
            target.stop()
    return [_section(samples, [QUIET, *(f"{tool}, {form}" for tool, form in kinds)])]


def _measure(bench: Bench, target: Target, name: str, beside: AbstractContextManager[None], samples: Samples) -> None:
    with beside:
        seen = bench.load.open(target.port, tools_call(), RATE, bench.scale.seconds)
    for metric, value in (("p50", seen.p50_us), ("p99", seen.p99_us), ("max", seen.max_us)):
        samples.add(metric, name, value)


def _section(samples: Samples, names: list[str]) -> Section:
    section = Section(
        "Results of 10 MiB beside small calls",
        f"µs of {RATE:,} calls a second with results of 1 KiB, from the intended moment of sending; beside them one "
        "agent reads results of 10 MiB, one text or many small objects, as JSON or as an event. The sidecar and all it "
        "starts has one CPU; all results are inspected.",
        ("large results", "p50", "p99", "longest", "stall, ms"),
        samples=samples.plain(),
    )
    stalls = {name: samples.added("max", name, QUIET) / 1000 for name in names[1:]}
    for name in names:
        cells = [f"{samples.median(metric, name):.0f}" for metric in ("p50", "p99", "max")]
        section.rows.append((name, *cells, f"{stalls[name]:.1f}" if name in stalls else ""))
    section.figures = {"stall": max(stalls.values())}
    return section


@contextmanager
def _server(bench: Bench) -> Iterator[int]:
    server = pinned([sys.executable, "-m", "benchmarks.large", "serve"], bench.cpus.load, stdout=subprocess.PIPE)
    assert server.stdout
    try:
        ready = server.stdout.readline().split()
        if len(ready) != 2:
            raise BenchmarkError("the server of large results did not start")
        yield int(ready[1])
    finally:
        server.terminate()
        server.wait()
        server.stdout.close()


@contextmanager
def _reading(bench: Bench, target: Target, tool: str, form: str, seconds: float) -> Iterator[None]:
    """An agent that reads large results inside the `with` block, for `seconds`."""
    command = [sys.executable, "-m", "benchmarks.large", "read", str(target.port), tool, str(seconds), str(PAUSE)]
    command += ["stream"] if form == "event" else []
    agent = pinned(command, bench.cpus.load, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        yield
        shown = agent.communicate(timeout=seconds + 60)[0]
    except BaseException:
        agent.kill()
        agent.communicate()
        raise
    if agent.returncode or not json.loads(shown)["results"]:
        raise BenchmarkError(f"large results ({tool}, {form}) did not come:\n{shown.decode(errors='replace')}")
