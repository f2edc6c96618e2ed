"""Event streams: the delay of an event, events a second, and what an idle stream costs."""

from __future__ import annotations

import time

from benchmarks.bench import Bench
from benchmarks.processes import Server
from benchmarks.results import Samples, Section
from benchmarks.targets import DIRECT, GOVERNED, Target
from benchmarks.wire import watch_call

STREAMS = 4
PER_SECOND = 250  # on each stream: 1,000 events a second together


def run(bench: Bench) -> list[Section]:
    """Events are progress notifications of a running tools/call; the sidecar parses and re-emits each."""
    samples = Samples()
    with bench.everyone() as everyone:
        for target in everyone:
            bench.load.read_streams(target.port, watch_call(100), STREAMS)  # warm
        for target in bench.rounds(everyone):
            _delay(bench, target, samples)
            _flood(bench, target, samples)
        for target in everyone:
            if target.server:
                _idle(bench, target, samples)
        names = [target.name for target in everyone]
    return [_events(samples, names), _idle_section(bench, samples, [n for n in names if n != DIRECT])]


def _delay(bench: Bench, target: Target, samples: Samples) -> None:
    events = max(1, int(bench.scale.seconds * PER_SECOND))
    seen = bench.load.read_streams(target.port, watch_call(events, PER_SECOND), STREAMS)
    samples.add("p50", target.name, seen.p50_us)
    samples.add("p95", target.name, seen.p95_us)


def _flood(bench: Bench, target: Target, samples: Samples) -> None:
    before = target.usage()
    seen = bench.load.read_streams(target.port, watch_call(bench.scale.flood_events), STREAMS)
    after = target.usage()
    samples.add("events", target.name, seen.count / seen.seconds)
    samples.add("cpu", target.name, (after.cpu_us - before.cpu_us) / seen.count)


def _idle(bench: Bench, target: Target, samples: Samples) -> None:
    """Twice: what the second time adds was not given back (or not used again) after the first."""
    assert target.server
    for turn in ("first", "second"):
        before, open_before = target.usage().rss, target.server.descriptors()
        with bench.load.held_streams(target.port, watch_call(0), bench.scale.idle_streams):
            held = target.usage().rss
        samples.add(f"idle {turn}", target.name, (held - before) / bench.scale.idle_streams)
        _wait_closed(target.server, open_before)


def _wait_closed(server: Server, before: int) -> None:
    """Until the proxy has closed what its clients closed: as many descriptors as before, or five seconds."""
    end = time.monotonic() + 5
    while server.descriptors() > before and time.monotonic() < end:
        time.sleep(0.02)


def _events(samples: Samples, names: list[str]) -> Section:
    section = Section(
        "Event streams",
        f"Delay from the upstream's write to the reader, {STREAMS} streams of {PER_SECOND} events a second; "
        "then the same streams as fast as they go.",
        ("target", "p50 µs", "p95 µs", "added p50", "added p95", "events/s", "CPU µs each"),
        samples=samples.plain(),
    )
    for name in names:
        added = [f"{samples.added(m, name, DIRECT):+.0f}" if name != DIRECT else "" for m in ("p50", "p95")]
        cpu = f"{samples.median('cpu', name):.1f}" if name != DIRECT else ""
        delay = [f"{samples.median(m, name):.0f}" for m in ("p50", "p95")]
        section.rows.append((name, *delay, *added, f"{samples.median('events', name):,.0f}", cpu))
    section.figures = {"event": samples.added("p50", GOVERNED, DIRECT)}
    return section


def _idle_section(bench: Bench, samples: Samples, names: list[str]) -> Section:
    section = Section(
        f"{bench.scale.idle_streams:,} idle streams",
        "RSS for each open stream in KiB, opened on a warm process and again after all were closed; "
        "near zero the second time means that the memory of the first was used again.",
        ("target", "first", "second"),
    )
    for name in names:
        cells = [f"{samples.median(f'idle {turn}', name) / 1024:.1f}" for turn in ("first", "second")]
        section.rows.append((name, *cells))
    return section
