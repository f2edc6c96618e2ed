"""The CPU that sidecars of different set-ups take for the same calls."""

from __future__ import annotations

from collections.abc import Mapping

from benchmarks.bench import Bench
from benchmarks.results import Samples
from benchmarks.targets import Setup, Target
from benchmarks.wire import tools_call

_WARM = 2000


def per_call(bench: Bench, setups: Mapping[str, Setup]) -> Samples:
    """`cpu`: µs for each call, by the names of the set-ups, in interleaved rounds after a warm-up."""
    samples = Samples()
    sidecars: list[Target] = []
    calls = max(2000, int(bench.scale.seconds * 5000))
    try:
        for name, setup in setups.items():
            sidecars.append(bench.sidecar(setup, name))
        for target in sidecars:
            bench.load.count(target.port, tools_call(), _WARM)
        for target in bench.rounds(sidecars):
            before = target.usage().cpu_us
            bench.load.count(target.port, tools_call(), calls)
            samples.add("cpu", target.name, (target.usage().cpu_us - before) / calls)
    finally:
        for target in sidecars:
            target.stop()
    return samples
