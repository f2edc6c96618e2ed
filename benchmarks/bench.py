"""One run: its scale, its upstream, and the targets of a scenario."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks import targets
from benchmarks.load import Load
from benchmarks.processes import BenchmarkError, Cpus, pinned
from benchmarks.targets import Place, Setup, Target
from benchmarks.tools import Tools


@dataclass(frozen=True)
class Scale:
    """How much a run does. Seconds are of one target in one round."""

    rounds: int
    seconds: float
    starts: int
    idle_streams: int
    flood_events: int
    calls: int
    sessions: int


SMOKE = Scale(rounds=1, seconds=1, starts=1, idle_streams=50, flood_events=2_000, calls=5_000, sessions=200)
QUICK = Scale(rounds=3, seconds=2, starts=3, idle_streams=200, flood_events=10_000, calls=30_000, sessions=3_000)
FULL = Scale(rounds=7, seconds=5, starts=7, idle_streams=1_000, flood_events=50_000, calls=1_000_000, sessions=100_000)


@dataclass(frozen=True)
class Bench:
    """What the scenarios share."""

    scale: Scale
    tools: Tools
    cpus: Cpus
    work: Path
    command: Sequence[str]
    upstream: int
    load: Load

    def place(self) -> Place:
        """Where the next target goes."""
        return Place(self.work, self.cpus.proxy, self.upstream)

    def direct(self) -> Target:
        """The upstream itself."""
        return Target(targets.DIRECT, self.upstream)

    def sidecar(self, setup: Setup = targets.PLAIN, name: str = targets.SIDECAR) -> Target:
        """A new sidecar, ready and checked."""
        return targets.sidecar(self.place(), self.command, setup, name)

    def start(self, name: str) -> Target | None:
        """A new target of that name; None where its program is missing."""
        if name == targets.SIDECAR:
            return self.sidecar()
        if name == targets.GOVERNED:
            return self.sidecar(targets.FULL, name)
        if name == targets.NGINX and self.tools.nginx:
            return targets.nginx(self.place(), self.tools.nginx)
        if name == targets.ENVOY and self.tools.envoy:
            return targets.envoy(self.place(), self.tools.envoy)
        return None

    @contextmanager
    def spinning(self) -> Iterator[Bench]:
        """The same with an upstream and generators that poll instead of sleeping; with one CPU nothing can."""
        if self.cpus.proxy == self.cpus.load:
            yield self
            return
        with upstream(self.tools, self.cpus.load, spin=True) as port:
            yield replace(self, upstream=port, load=replace(self.load, spin=True))

    @contextmanager
    def everyone(self) -> Iterator[list[Target]]:
        """Direct and every proxy there is, all up at once; ended with the block."""
        found = [self.direct()]
        try:
            for name in (targets.NGINX, targets.ENVOY, targets.SIDECAR, targets.GOVERNED):
                if target := self.start(name):
                    found.append(target)
            yield found
        finally:
            for target in found:
                target.stop()

    def rounds(self, among: Sequence[Target]) -> Iterator[Target]:
        """The targets, each once a round, beginning with another one each time."""
        for number in range(self.scale.rounds):
            say(f"  round {number + 1} of {self.scale.rounds}")
            for index in range(len(among)):
                target = among[(number + index) % len(among)]
                target.tidy()
                yield target


@contextmanager
def upstream(tools: Tools, cpu: int, *, spin: bool = False) -> Iterator[int]:
    """The stub server; yields its port."""
    stub = pinned([tools.stub, *(["-s"] if spin else [])], cpu, stdout=subprocess.PIPE)
    assert stub.stdout
    try:
        ready = stub.stdout.readline().split()
        if len(ready) != 2:
            raise BenchmarkError("the stub upstream did not start")
        yield int(ready[1])
    finally:
        stub.terminate()
        stub.wait()
        stub.stdout.close()


def say(text: str) -> None:
    """Progress, on standard error and only for people."""
    if sys.stderr.isatty():
        print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr)
