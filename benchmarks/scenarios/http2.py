"""What HTTP/2 costs: the same calls on 64 connections of HTTP/1.1, and on 8 streams of each of 8 of HTTP/2."""

from __future__ import annotations

from benchmarks import http2load
from benchmarks.bench import Bench
from benchmarks.results import Samples, Section
from benchmarks.targets import Target
from benchmarks.wire import tools_call

CONNECTIONS = STREAMS = 8
_OLD, _NEW = "HTTP/1.1", "HTTP/2"
_WARM = 1000


def run(bench: Bench) -> list[Section]:
    """One sidecar, which is asked in turns."""
    samples = Samples()
    calls = max(2000, int(bench.scale.seconds * 2000))
    sidecar = bench.sidecar()
    try:
        for name in (_OLD, _NEW):
            _ask(bench, sidecar, name, _WARM)
        for target in bench.rounds([sidecar]):
            for name in (_OLD, _NEW):
                before = target.usage().cpu_us
                _ask(bench, target, name, calls)
                samples.add("cpu", name, (target.usage().cpu_us - before) / calls)
    finally:
        sidecar.stop()
    old, new = samples.median("cpu", _OLD), samples.median("cpu", _NEW)
    section = Section(
        "HTTP/2",
        "CPU µs of the sidecar for each call: 64 connections of HTTP/1.1; 8 of HTTP/2 with 8 streams each.",
        ("protocol", "CPU µs", "to HTTP/1.1"),
        [(_OLD, f"{old:.1f}", "1.00"), (_NEW, f"{new:.1f}", f"{new / old:.2f}")],
        {"http2": new / old},
        samples.plain(),
    )
    return [section]


def _ask(bench: Bench, target: Target, name: str, calls: int) -> None:
    if name == _OLD:
        bench.load.count(target.port, tools_call(), calls, CONNECTIONS * STREAMS)
    else:
        http2load.count(target.port, tools_call(), CONNECTIONS, STREAMS, calls)
