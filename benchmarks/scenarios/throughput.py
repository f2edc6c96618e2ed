"""Closed loop: requests per second and CPU per call at 16 and 64 connections, in the legacy era, and by wrk."""

from __future__ import annotations

from benchmarks.bench import Bench
from benchmarks.results import Samples, Section
from benchmarks.targets import DIRECT, ENVOY, GOVERNED, Target
from benchmarks.wire import initialize, tools_call

VARIANTS = ("16", "64", "legacy 16")


def run(bench: Bench) -> list[Section]:
    """First with peers that never sleep, which is what the goals are held against; then by wrk, where it is."""
    with bench.spinning() as spinning:
        sections = [_ours(spinning)]
    if bench.tools.wrk:
        sections.append(_by_wrk(bench))
    return sections


def _ours(bench: Bench) -> Section:
    samples = Samples()
    with bench.everyone() as everyone:
        sessions = {target.name: initialize(target.port) for target in everyone}
        for target in everyone:
            bench.load.closed(target.port, tools_call(), 16, 1)  # warm
        for target in bench.rounds(everyone):
            for variant in VARIANTS:
                _measure(bench, target, variant, sessions[target.name], samples)
        return _section(samples, [target.name for target in everyone])


def _by_wrk(bench: Bench) -> Section:
    """The same load from a tool of others, whose peers sleep when they have nothing to do."""
    samples = Samples()
    with bench.everyone() as everyone:
        for target in bench.rounds(everyone):
            before = target.usage()
            done = bench.load.wrk(target.port, tools_call(), 16, bench.scale.seconds)
            samples.add("rps", target.name, done.per_second)
            samples.add("cpu", target.name, (target.usage().cpu_us - before.cpu_us) / done.requests)
        names = [target.name for target in everyone]
    section = Section(
        "Throughput by wrk, 16 connections",
        "The same call; here load and upstream sleep when idle, and a write that wakes them costs the proxy more.",
        ("target", "rps", "to Envoy", "CPU µs", "to Envoy's"),
        samples=samples.plain(),
    )
    for name in names:
        ratios = [f"{samples.ratio(m, name, ENVOY):.2f}" if ENVOY in names else "" for m in ("rps", "cpu")]
        cpu = [f"{samples.median('cpu', name):.1f}", ratios[1]] if name != DIRECT else ["", ""]
        section.rows.append((name, f"{samples.median('rps', name):,.0f}", ratios[0], *cpu))
    return section


def _measure(bench: Bench, target: Target, variant: str, session: str, samples: Samples) -> None:
    request = tools_call(session if variant.startswith("legacy") else None)
    before = target.usage()
    done = bench.load.closed(target.port, request, int(variant.split()[-1]), bench.scale.seconds)
    after = target.usage()
    samples.add(f"rps {variant}", target.name, done.per_second)
    if target.server:
        samples.add(f"cpu {variant}", target.name, (after.cpu_us - before.cpu_us) / done.requests)


def _section(samples: Samples, names: list[str]) -> Section:
    section = Section(
        "Throughput, closed loop",
        "Requests a second; CPU is user and system time of the proxy process for each call. Load and upstream poll.",
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
    section.figures = {"cpu": samples.median("cpu 16", GOVERNED), "scaling": _kept(samples, GOVERNED)}
    if envoy:
        section.figures["throughput"] = samples.ratio("rps 16", GOVERNED, ENVOY)
    return section


def _kept(samples: Samples, name: str) -> float:
    return samples.between("rps 64", "rps 16", name)
