"""Open loop at 1,000 requests a second: what a proxy adds to p50 and p95."""

from __future__ import annotations

from benchmarks.bench import Bench
from benchmarks.results import Samples, Section
from benchmarks.targets import DIRECT, ENVOY, GOVERNED
from benchmarks.wire import tools_call

RATE = 1000


def run(bench: Bench) -> list[Section]:
    """Latency counts from the moment a request was due, over 16 connections."""
    samples = Samples()
    with bench.everyone() as everyone:
        for target in everyone:
            bench.load.open(target.port, tools_call(), RATE, 1)  # warm
        for target in bench.rounds(everyone):
            seen = bench.load.open(target.port, tools_call(), RATE, bench.scale.seconds)
            for metric, value in (("p50", seen.p50_us), ("p95", seen.p95_us), ("p99", seen.p99_us)):
                samples.add(metric, target.name, value)
        names = [target.name for target in everyone]
    return [_section(samples, names)]


def _section(samples: Samples, names: list[str]) -> Section:
    section = Section(
        f"Latency, open loop at {RATE:,} requests a second",
        "µs from the intended moment of sending; added is what remains after the direct path of the same round.",
        ("target", "p50", "p95", "p99", "added p50", "to Envoy's", "added p95", "to Envoy's"),
        samples=samples.plain(),
    )
    for name in names:
        row = [name, *(f"{samples.median(metric, name):.0f}" for metric in ("p50", "p95", "p99"))]
        for metric in ("p50", "p95"):
            row.append(f"{samples.added(metric, name, DIRECT):+.0f}" if name != DIRECT else "")
            ratio = _to_envoy(samples, metric, name) if ENVOY in names and name != DIRECT else None
            row.append(f"{ratio:.2f}" if ratio is not None else "")
        section.rows.append(tuple(row))
    if ENVOY in names:
        section.figures = {f"added_{metric}": _to_envoy(samples, metric, GOVERNED) for metric in ("p50", "p95")}
    return section


def _to_envoy(samples: Samples, metric: str, name: str) -> float:
    """Of the medians, not of single rounds: a difference of two latencies may be near zero in one of them."""
    return samples.added(metric, name, DIRECT) / max(samples.added(metric, ENVOY, DIRECT), 1.0)
