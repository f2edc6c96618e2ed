"""What looking through a result costs: two sidecars that differ in their response rules alone."""

from __future__ import annotations

from benchmarks.bench import Bench
from benchmarks.results import Samples, Section
from benchmarks.targets import Setup
from benchmarks.wire import tools_call

OFF, ON = "off", "on"


def run(bench: Bench) -> list[Section]:
    """The same load of results of 1 KiB, in interleaved rounds."""
    with bench.spinning() as spinning:
        return [_run(spinning)]


def _run(bench: Bench) -> Section:
    samples = Samples()
    sidecars = []
    calls = max(2000, int(bench.scale.seconds * 5000))
    try:
        for name, setup in ((OFF, Setup()), (ON, Setup(inspect=True))):
            sidecars.append(bench.sidecar(setup, name))
        for target in sidecars:
            bench.load.count(target.port, tools_call(), 2000)  # warm
        for target in bench.rounds(sidecars):
            before = target.usage().cpu_us
            bench.load.count(target.port, tools_call(), calls)
            samples.add("cpu", target.name, (target.usage().cpu_us - before) / calls)
    finally:
        for target in sidecars:
            target.stop()
    section = Section(
        "Inspection",
        "CPU µs of the sidecar for each call with a result of 1 KiB; ten detectors and five patterns.",
        ("response rules", "CPU µs"),
        samples=samples.plain(),
    )
    section.rows = [(name, f"{samples.median('cpu', name):.1f}") for name in (OFF, ON)]
    section.figures = {"inspection": samples.added("cpu", ON, OFF)}
    return section
