"""Run the official conformance suite and read what it found.

The figures come from what a run printed (its summary) and wrote (``checks.json`` of each scenario);
nothing here knows a scenario's name.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.real_parts import install
from tests.support.process import ROOT

PACKAGE = "@modelcontextprotocol/conformance"
TIMEOUT = 600  # seconds for one run of the suite, far above what it takes

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_SCENARIO = re.compile(r"^[✓✗] (\S+): (\d+) passed, (\d+) failed$", re.MULTILINE)
_TOTAL = re.compile(r"^Total: (\d+) passed, (\d+) failed$", re.MULTILINE)
_NOT_SCORED = re.compile(r"^  [✓✗] (\S+) \((?:extension|added-after-release|pending)\)$", re.MULTILINE)
_CLIENT_RESULT = re.compile(r"^Passed: (\d+)/(\d+), (\d+) failed, (\d+) warnings$", re.MULTILINE)


class SuiteFailed(Exception):
    """The suite itself did not run, or printed what cannot be understood; its output is in the text."""


@dataclass(frozen=True)
class Outcome:
    """What one run found: the suite's totals, and its checks by (scenario, check, status)."""

    passed: int
    failed: int
    required: frozenset[str]
    failing: frozenset[str]
    checks: Counter[tuple[str, str, str]] = field(default_factory=Counter)

    @property
    def required_passed(self) -> int:
        """How many of the scored scenarios passed whole."""
        return len(self.required - self.failing)

    def regressions(self, other: Outcome) -> list[str]:
        """Name every check that passed here and not in ``other``, or failed there alone, in order."""
        lost = {key[:2] for key in self.checks - other.checks if key[2] == "SUCCESS"}
        broken = {key[:2] for key in other.checks - self.checks if key[2] in ("FAILURE", "WARNING")}
        return [f"{scenario}: {check}" for scenario, check in sorted(lost | broken)]


def server_run(url: str, revision: str, results: Path) -> Outcome:
    """Run the server scenarios of ``revision`` against ``url``; detailed results go to ``results``.

    :raises SuiteFailed: the suite did not run to its summary.
    """
    printed = _run(["server", "--url", url, "--requirements", revision, "-o", str(results)])
    return read_summary(printed, _checks(results))


def read_summary(printed: str, checks: Counter[tuple[str, str, str]]) -> Outcome:
    """Return what the summary at the end of a server run says.

    :raises SuiteFailed: there is no summary.
    """
    total = _TOTAL.search(printed)
    scenarios = _SCENARIO.findall(printed)
    if total is None or not scenarios:
        raise SuiteFailed(f"no summary in the suite's output:\n{printed[-4000:]}")
    return Outcome(
        passed=int(total[1]),
        failed=int(total[2]),
        required=frozenset(name for name, _, _ in scenarios) - frozenset(_NOT_SCORED.findall(printed)),
        failing=frozenset(name for name, _, failed in scenarios if failed != "0"),
        checks=checks,
    )


def client_run(command: Sequence[str], scenario: str, revision: str, results: Path) -> Outcome:
    """Run one client scenario with ``command`` (the suite appends its server's URL).

    A client that ends with an error fails its scenario, as in the suite's own verdict.

    :raises SuiteFailed: the suite did not run to its result.
    """
    line = shlex.join(command)
    where = ["-o", str(results)]
    printed = _run(["client", "--command", line, "--scenario", scenario, "--spec-version", revision, *where])
    result = _CLIENT_RESULT.search(printed)
    if result is None:
        raise SuiteFailed(f"no result in the suite's output:\n{printed[-4000:]}")
    good = "OVERALL: PASSED" in printed
    return Outcome(
        passed=int(result[1]),
        failed=int(result[3]) + int(result[4]),
        required=frozenset([scenario]),
        failing=frozenset() if good else frozenset([scenario]),
        checks=_checks(results),
    )


def client_scenarios(revision: str) -> list[str]:
    """Return the client scenarios of ``revision`` that are about MCP itself, not about OAuth."""
    printed = _run(["list", "--client", "--spec-version", revision])
    return [name for name in re.findall(r"^  - (\S+)", printed, re.MULTILINE) if not name.startswith("auth/")]


def _run(arguments: Sequence[str]) -> str:
    entry = install.package_folder("conformance", PACKAGE) / "dist" / "index.js"
    command = [str(install.node_binary()), str(entry), *arguments]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    except subprocess.TimeoutExpired as error:
        raise SuiteFailed(f"the suite ran longer than {TIMEOUT} s") from error
    return _COLOUR.sub("", done.stdout + done.stderr)


def _checks(results: Path) -> Counter[tuple[str, str, str]]:
    found: Counter[tuple[str, str, str]] = Counter()
    for file in sorted(results.glob("*/checks.json")):
        scenario = re.sub(r"-\d{4}-\d\d-\d\dT[\d-]+Z$", "", file.parent.name)
        for check in json.loads(file.read_text()):
            found[scenario, check["id"], check["status"]] += 1
    return found


def client_command(through: bool) -> list[str]:
    """Return the command of our client, which starts a sidecar of its own where ``through``."""
    return [sys.executable, "-m", "tests.conformance.client", *(["--through"] if through else [])]
