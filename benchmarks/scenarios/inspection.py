"""What looking through a result costs: two sidecars that differ in their response rules alone."""

from __future__ import annotations

from benchmarks.bench import Bench
from benchmarks.results import Section
from benchmarks.scenarios.cpu import per_call
from benchmarks.targets import Setup

OFF, ON = "off", "on"


def run(bench: Bench) -> list[Section]:
    """The same load of results of 1 KiB, in interleaved rounds."""
    with bench.spinning() as spinning:
        return [_run(spinning)]


def _run(bench: Bench) -> Section:
    samples = per_call(bench, {OFF: Setup(), ON: Setup(inspect=True)})
    section = Section(
        "Inspection",
        "CPU µs of the sidecar for each call with a result of 1 KiB; ten detectors and five patterns.",
        ("response rules", "CPU µs"),
        samples=samples.plain(),
    )
    section.rows = [(name, f"{samples.median('cpu', name):.1f}") for name in (OFF, ON)]
    section.figures = {"inspection": samples.added("cpu", ON, OFF)}
    return section
