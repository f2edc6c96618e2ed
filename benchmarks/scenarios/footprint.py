"""A fresh start: seconds until ready, memory then, after the first load, and after sessions of the older era."""

from __future__ import annotations

from benchmarks.bench import Bench, say
from benchmarks.results import Samples, Section, mib
from benchmarks.scenarios.growth import sessions
from benchmarks.targets import ENVOY, GOVERNED, NGINX, SIDECAR
from benchmarks.wire import tools_call

LOAD_CALLS = 20_000
SESSIONS = 100


def run(bench: Bench) -> list[Section]:
    """Ready: the sidecar's /readyz says so; a plain proxy forwards its first call."""
    samples = Samples()
    for number in range(bench.scale.starts):
        say(f"  start {number + 1} of {bench.scale.starts}")
        for name in (NGINX, ENVOY, SIDECAR, GOVERNED):
            _once(bench, name, samples)
    section = Section(
        "Start and memory",
        f"Start to ready in seconds; RSS in MiB when ready, after {LOAD_CALLS:,} calls over 16 connections, and after "
        f"{SESSIONS} sessions of 2025-11-25 with a call each: sealing their ids loads a library.",
        ("target", "start to ready", "RSS idle", "RSS after load", "and sessions"),
        samples=samples.plain(),
    )
    for name in (NGINX, ENVOY, SIDECAR, GOVERNED):
        if samples.has("start", name):
            memory = [mib(samples.median(metric, name)) for metric in ("idle", "loaded", "sessions")]
            section.rows.append((name, f"{samples.median('start', name):.2f}", *memory))
    section.figures = {
        "start": samples.median("start", SIDECAR),
        "rss": samples.median("loaded", SIDECAR) / (1 << 20),
    }
    return [section]


def _once(bench: Bench, name: str, samples: Samples) -> None:
    target = bench.start(name)
    if not target:
        return
    try:
        samples.add("start", name, target.start_seconds)
        samples.add("idle", name, target.usage().rss)
        bench.load.count(target.port, tools_call(), LOAD_CALLS)
        samples.add("loaded", name, target.usage().rss)
        sessions(target, SESSIONS)
        samples.add("sessions", name, target.usage().rss)
    finally:
        target.stop()
