"""Compare the official conformance suite's figures, directly and through a translation between the eras.

    python -m tests.conformance.translation

Each revision runs against a server that has the other era alone, behind a sidecar with ``translate: true``; and against
the server with both eras behind the same, which has to change nothing.

Exit code 0: nothing is worse but what `NOT_TRANSLATED` names. 1: something is. 3: a part is missing.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.conformance.run import FIXTURE, LEGACY, MODERN, alone, figures, listen_for_browsers
from tests.conformance.suite import Outcome, server_run
from tests.support.process import allow_all, mcp_server, python_server, sidecar

ONE_ERA = "tests.fixtures.one_era_server"
OTHER = {LEGACY: "modern", MODERN: "legacy"}

NOT_TRANSLATED = {
    LEGACY: frozenset(
        (
            # Told as information, not as a failure: answers are JSON, and streams cannot be resumed.
            "server-server-sse-multiple-streams: server-sse-streams-functional",
            "server-server-sse-polling: server-sse-disconnect-resume",
            "server-server-sse-polling: server-sse-priming-event",
            "server-server-sse-polling: server-sse-retry-field",
        )
    ),
    MODERN: frozenset(
        (
            # A legacy server's questions have no keys: all come under one of ours.
            "server-input-required-result-basic-elicitation: sep-2322-elicitation-complete",
            "server-input-required-result-basic-elicitation: sep-2322-elicitation-incomplete",
            "server-input-required-result-ignore-extra-params: sep-2322-ignore-unexpected-params",
            # Questions come one after the other, as the server waits for each answer.
            "server-input-required-result-multiple-input-requests: sep-2322-multiple-inputs-complete",
            "server-input-required-result-multiple-input-requests: sep-2322-multiple-inputs-incomplete",
        )
    ),
}
"""What the suite looks for and translation cannot give, by revision."""


def translating(url: str) -> dict[str, Any]:
    """Return a configuration that serves both eras."""
    config = {**allow_all(fixture=url), "listen": listen_for_browsers()}
    config["servers"][0]["translate"] = True
    return config


def translated(revision: str, direct: Outcome, results: Path) -> list[str]:
    """Run one revision both ways, print the figures and return what is wrong."""
    native = _through(revision, python_server(FIXTURE), results / f"server-{revision}-native")
    other = python_server(ONE_ERA, "--era", OTHER[revision])
    changed = _through(revision, other, results / f"server-{revision}-translated")
    for name, outcome in (("both eras", native), (f"{OTHER[revision]} server", changed)):
        print(f"{revision} translating, {name}: {figures(outcome)}", flush=True)
    lost = set(direct.regressions(changed))
    print("not translated:", *sorted(lost & NOT_TRANSLATED[revision]))
    wrong = [f"{revision}: worse where nothing is to be translated: {check}" for check in direct.regressions(native)]
    return wrong + sorted(
        f"{revision}: worse through translation: {check}" for check in lost - NOT_TRANSLATED[revision]
    )


def _through(revision: str, server: Sequence[str], results: Path) -> Outcome:
    with mcp_server("fixture server", server) as url, sidecar(translating(url)) as gateway:
        return server_run(f"{gateway.url}/fixture", revision, results)


if __name__ == "__main__":
    sys.exit(alone(translated))
