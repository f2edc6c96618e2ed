"""Compare the official conformance suite's figures, directly and through the sidecar.

    python -m tests.conformance.run                 both, and the client scenarios
    python -m tests.conformance.run --direct-only   only what the fixture server gives by itself
    python -m tests.conformance.run --results DIR   keep every check's details

Exit code 0: the direct figures are whole (every check of 2025-11-25, every required scenario of
2026-07-28) and nothing is worse through the sidecar. 1: they are not; what differs is named.
3: a part is missing (``python tests/real_parts/install.py node conformance``) or did not run.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.conformance.suite import (
    Outcome,
    SuiteFailed,
    client_command,
    client_run,
    client_scenarios,
    server_run,
)
from tests.real_parts import install
from tests.support.process import ProcessFailed, allow_all, free_ports, mcp_server, python_server, sidecar

LEGACY, MODERN = "2025-11-25", "2026-07-28"
CHECKS_2025, SCENARIOS_2026 = 84, 37  # what a whole server reaches with the pinned suite

FIXTURE = "tests.fixtures.conformance_server"
WIDE = "{:<56}{:>20}{:>18}"

Pair = tuple[Outcome, Outcome | None]

Way = Callable[[str, Outcome, Path], list[str]]
"""Runs the server scenarios of a revision by another way, prints the figures and returns what is worse than directly.
Results go to the folder."""


def run_server(revision: str, through: bool, results: Path) -> Pair:
    """Run one revision's server scenarios: directly, and through a sidecar where asked."""
    with mcp_server("fixture server", python_server(FIXTURE)) as url:
        direct = server_run(url, revision, results / f"server-{revision}-direct")
        if not through:
            return direct, None
        with sidecar({**allow_all(fixture=url), "listen": listen_for_browsers()}) as gateway:
            where = results / f"server-{revision}-through"
            return direct, server_run(f"{gateway.url}/fixture", revision, where)


def listen_for_browsers() -> dict[str, Any]:
    """Return a listener that takes its own origin: the suite calls as a page of the server itself would."""
    address = f"127.0.0.1:{free_ports(1)[0]}"
    return {"mcp": address, "allowedOrigins": [f"http://{address}"]}


def run_client(scenario: str, revision: str, through: bool, results: Path) -> Pair:
    """Run one client scenario: directly, and through a sidecar where asked."""
    outcomes = [
        client_run(client_command(side), scenario, revision, results / f"client-{revision}-{scenario}-{side}")
        for side in ([False, True] if through else [False])
    ]
    return outcomes[0], outcomes[1] if through else None


def judge_server(revision: str, pair: Pair) -> list[str]:
    """Print the rows of one revision and return what is wrong with it."""
    direct, through = pair
    checks = [f"{each.passed} of {each.passed + each.failed}" if each else "-" for each in pair]
    whole = [f"{each.required_passed} of {len(each.required)}" if each else "-" for each in pair]
    print(WIDE.format(f"server {revision}, checks", *checks))
    print(WIDE.format(f"server {revision}, required scenarios", *whole), flush=True)
    wrong = []
    if revision == LEGACY and (direct.passed, direct.failed) != (CHECKS_2025, 0):
        wrong.append(f"{revision}: {CHECKS_2025} checks are expected to pass directly")
    if direct.required_passed < max(len(direct.required), SCENARIOS_2026 if revision == MODERN else 1):
        wrong.append(f"{revision}: every required scenario is expected to pass directly")
    return wrong + worse(f"server {revision}", direct, through)


def judge_client(revision: str, scenario: str, pair: Pair) -> list[str]:
    """Print the row of one client scenario and return what is wrong with it."""
    direct, through = pair
    cells = [_verdict(each) for each in pair]
    print(WIDE.format(f"client {revision} {scenario}", *cells), flush=True)
    if direct.failing:
        return [f"client {revision} {scenario}: expected to pass directly"]
    return worse(f"client {revision} {scenario}", direct, through)


def _verdict(outcome: Outcome | None) -> str:
    if outcome is None:
        return "-"
    return f"{outcome.passed} of {outcome.passed + outcome.failed}" + (" (failed)" if outcome.failing else "")


def figures(outcome: Outcome) -> str:
    """Return what came of a run of server scenarios, in words."""
    checks = f"{outcome.passed} of {outcome.passed + outcome.failed} checks"
    return f"{checks}, {outcome.required_passed} of {len(outcome.required)} required scenarios"


def worse(what: str, direct: Outcome, through: Outcome | None) -> list[str]:
    """Name what is worse through the sidecar, in words."""
    if through is None:
        return []
    lost = [f"{what}: worse through the sidecar: {check}" for check in direct.regressions(through)]
    more = sorted(through.failing - direct.failing)
    return lost + [f"{what}: fails through the sidecar alone: {scenario}" for scenario in more]


def compare(through: bool, ways: Sequence[Way], results: Path) -> list[str]:
    """Run everything, print the table, and return what is wrong, in words."""
    print(WIDE.format("", "direct", "through openmcp" if through else ""))
    wrong: list[str] = []
    for revision in (LEGACY, MODERN):
        pair = run_server(revision, through, results)
        wrong += judge_server(revision, pair)
        for way in ways:
            wrong += way(revision, pair[0], results)
    for revision in (LEGACY, MODERN):
        for scenario in client_scenarios(revision):
            wrong += judge_client(revision, scenario, run_client(scenario, revision, through, results))
    return wrong


def alone(way: Way) -> int:
    """Run one way for both revisions, print what is wrong and return the exit code."""

    def both(results: Path) -> list[str]:
        wrong: list[str] = []
        for revision in (LEGACY, MODERN):
            direct, _ = run_server(revision, False, results)
            print(f"{revision} direct: {figures(direct)}", flush=True)
            wrong += way(revision, direct, results)
        return wrong

    return tell(both, None)


def tell(run: Callable[[Path], list[str]], results: Path | None) -> int:
    """Run, with a folder that is not kept where none is given; print what is wrong and return the exit code."""
    missing = [part for part in ("node", "conformance") if not install.is_installed(part)]
    if missing:
        print(f"not installed: {', '.join(missing)} (python tests/real_parts/install.py)", file=sys.stderr)
        return 3
    with tempfile.TemporaryDirectory(prefix="openmcp-conformance-") as scratch:
        try:
            wrong = run((results or Path(scratch)).resolve())
        except (SuiteFailed, ProcessFailed) as error:
            print(error, file=sys.stderr)
            return 3
    print("\n".join(wrong) or "nothing is worse")
    return 1 if wrong else 0


def main(arguments: Sequence[str] | None = None, ways: Sequence[Way] = ()) -> int:
    """Run the command line and return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--direct-only", action="store_true", help="without the sidecar")
    parser.add_argument("--results", type=Path, help="keep the suite's results in this folder")
    options = parser.parse_args(arguments)
    through = not options.direct_only
    return tell(lambda results: compare(through, ways if through else (), results), options.results)


if __name__ == "__main__":
    sys.exit(main())
