"""Samples, the goals they are held against, and the tables they become."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median


@dataclass(frozen=True)
class Goal:
    """A figure with what it must at least reach and what it should. `floor`: more is better, else less."""

    text: str
    at_least: float
    aim: float
    unit: str
    floor: bool = False

    def met(self, value: float) -> bool:
        """Whether the "at least" column is met."""
        return value >= self.at_least if self.floor else value <= self.at_least


GOALS = {
    "throughput": Goal("throughput, 16 connections, to Envoy", 0.6, 1.0, "x", floor=True),
    "added_p50": Goal("added p50 at 1,000 rps, to Envoy's", 1.3, 1.0, "x"),
    "added_p95": Goal("added p95 at 1,000 rps, to Envoy's", 1.5, 1.0, "x"),
    "cpu": Goal("CPU per tools/call", 60, 40, "µs"),
    "scaling": Goal("64 connections against 16: throughput kept", 0.95, 1.0, "x", floor=True),
    "event": Goal("SSE event: added p50", 150, 80, "µs"),
    "rss": Goal("RSS after load", 50, 45, "MiB"),
    "start": Goal("start to ready", 1.0, 0.5, "s"),
    "rules": Goal("CPU with 1,000 rules to 10", 1.2, 1.05, "x"),
    "inspection": Goal("CPU of inspecting a result of 1 KiB", 15, 10, "µs"),
    "http2": Goal("CPU of a call by HTTP/2, to HTTP/1.1", 3.5, 2.5, "x"),
    "stall": Goal("stall of other calls by results of 10 MiB", 5, 2, "ms"),
    "growth": Goal("memory after the calls and the sessions", 5, 1, "MiB"),
}


@dataclass
class Section:
    """One table of the report. `figures` are values for GOALS, `samples` what they were made from."""

    title: str
    note: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]] = field(default_factory=list)
    figures: dict[str, float] = field(default_factory=dict)
    samples: dict[str, dict[str, list[float]]] = field(default_factory=dict)


class Samples:
    """Values by metric and target, one for each round."""

    def __init__(self) -> None:
        self._values: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))

    def add(self, metric: str, target: str, value: float) -> None:
        """Appends the value of one round."""
        self._values[metric][target].append(value)

    def has(self, metric: str, target: str) -> bool:
        """Whether the target took part."""
        return bool(self._values[metric][target])

    def median(self, metric: str, target: str) -> float:
        """Over the rounds. Raises StatisticsError without any."""
        return median(self._values[metric][target])

    def ratio(self, metric: str, target: str, base: str) -> float:
        """The median of the rounds' own ratios: what disturbs a whole round falls out."""
        pairs = zip(self._values[metric][target], self._values[metric][base], strict=True)
        return median(a / b for a, b in pairs)

    def between(self, metric: str, base_metric: str, target: str) -> float:
        """The same for two metrics of one target."""
        pairs = zip(self._values[metric][target], self._values[base_metric][target], strict=True)
        return median(a / b for a, b in pairs)

    def added(self, metric: str, target: str, base: str) -> float:
        """The median of the rounds' own differences."""
        pairs = zip(self._values[metric][target], self._values[metric][base], strict=True)
        return median(a - b for a, b in pairs)

    def plain(self) -> dict[str, dict[str, list[float]]]:
        """For JSON."""
        return {metric: {k: v for k, v in by.items() if v} for metric, by in self._values.items()}


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, aligned so that it also reads well in a terminal."""
    widths = [max(len(row[i]) for row in [columns, *rows]) for i in range(len(columns))]
    lines = [list(columns), ["-" * w for w in widths], *map(list, rows)]
    return "\n".join(
        "| " + " | ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)) + " |" for line in lines
    )


def goal_rows(figures: dict[str, float]) -> list[tuple[str, ...]]:
    """One row for each goal that was measured."""
    return [
        (
            goal.text,
            f"{figures[key]:.2f} {goal.unit}",
            f"{goal.at_least:g}",
            f"{goal.aim:g}",
            verdict(goal, figures[key]),
        )
        for key, goal in GOALS.items()
        if key in figures
    ]


def verdict(goal: Goal, value: float) -> str:
    """`yes`, `aim` where even that is reached, or `no`."""
    if not goal.met(value):
        return "no"
    return "aim" if (value >= goal.aim if goal.floor else value <= goal.aim) else "yes"


def missed(figures: dict[str, float]) -> list[str]:
    """The goals whose "at least" is not met."""
    return [GOALS[key].text for key, value in figures.items() if not GOALS[key].met(value)]


def mib(size: float) -> str:
    """Bytes as MiB."""
    return f"{size / (1 << 20):.1f}"
