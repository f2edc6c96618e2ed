"""Closed loop: requests per second and CPU per call at 16 and 64 connections, and in the legacy era."""

from __future__ import annotations

from benchmarks.bench import Bench
from benchmarks.results import Samples, Section
from benchmarks.targets import DIRECT, ENVOY, SIDECAR, Target
from benchmarks.wire import Request, initialize, tools_call

VARIANTS = ("16", "64", "legacy 16")


def run(bench: Bench) -> list[Section]:
    """Needs wrk; no table without it."""
    if not bench.tools.wrk:
        return []
    samples = Samples()
    with bench.everyone() as everyone:
        sessions = {target.name: initialize(target.port) for target in everyone}
        for target in everyone:
            bench.load.closed(target.port, tools_call(), 16, 1)  # warm
        for target in bench.rounds(everyone):
            for variant in VARIANTS:
                legacy = variant.startswith("legacy")
                request = tools_call(sessions[target.name] if legacy else None)
                _measure(bench, target, variant, request, samples)
        names = [target.name for target in everyone]
    return [_section(samples, names)]


def _measure(bench: Bench, target: Target, variant: str, request: Request, samples: Samples) -> None:
    before = target.usage()
    done = bench.load.closed(target.port, request, int(variant.split()[-1]), bench.scale.seconds)
    after = target.usage()
    samples.add(f"rps {variant}", target.name, done.per_second)
    if target.server:
        samples.add(f"cpu {variant}", target.name, (after.cpu_us - before.cpu_us) / done.requests)


def _section(samples: Samples, names: list[str]) -> Section:
    section = Section(
        "Throughput, closed loop (wrk)",
        "Requests a second; CPU is user and system time of the proxy process for each call.",
        (
            "target",
            "rps, 16",
            "to Envoy",
            "CPU µs",
            "to Envoy's",
            "rps, 64",
            "kept at 64",
            "CPU µs, 64",
            "legacy rps, 16",
            "CPU µs",
        ),
        samples=samples.plain(),
    )
    envoy = ENVOY in names
    for name in names:
        cpu = [f"{samples.median(f'cpu {v}', name):.1f}" if name != DIRECT else "" for v in VARIANTS]
        rps = [f"{samples.median(f'rps {v}', name):,.0f}" for v in VARIANTS]
        to_envoy = f"{samples.ratio('rps 16', name, ENVOY):.2f}" if envoy else ""
        cpu_to_envoy = f"{samples.ratio('cpu 16', name, ENVOY):.2f}" if envoy and name != DIRECT else ""
        kept = f"{_kept(samples, name):.2f}"
        section.rows.append((name, rps[0], to_envoy, cpu[0], cpu_to_envoy, rps[1], kept, cpu[1], rps[2], cpu[2]))
    section.figures = {"cpu": samples.median("cpu 16", SIDECAR), "scaling": _kept(samples, SIDECAR)}
    if envoy:
        section.figures["throughput"] = samples.ratio("rps 16", SIDECAR, ENVOY)
    return section


def _kept(samples: Samples, name: str) -> float:
    return samples.between("rps 64", "rps 16", name)
