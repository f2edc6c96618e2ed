"""Compare the official conformance suite's figures, directly over HTTP and with the same server behind stdio.

    python -m tests.conformance.stdio

Exit code 0: nothing is worse but what `NOT_OVER_STDIO` names. 1: something is. 3: a part is missing.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from tests.conformance.run import FIXTURE, LEGACY, MODERN, alone, figures, listen_for_browsers
from tests.conformance.suite import Outcome, server_run
from tests.support.process import ROOT, allow_all, python_server, sidecar

NOT_OVER_STDIO = {
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
            # One request, checked for its status and its code: the server sees no header, and finds none missing.
            "server-http-custom-header-server-validation: sep-2243-server-reject-param-mismatch",
            "server-http-custom-header-server-validation: sep-2243-server-validate-param-match",
        )
    ),
}
"""What the suite looks for and a stdio server does not have, by revision; no required scenario depends on it."""


def behind_stdio() -> dict[str, Any]:
    """Return a configuration with the fixture server as a stdio server."""
    program, *arguments = [str(part) for part in python_server(FIXTURE, "--stdio")]
    config = {**allow_all(fixture="http://unused"), "listen": listen_for_browsers()}
    config["servers"] = [{"name": "fixture", "stdio": {"command": program, "args": arguments, "cwd": str(ROOT)}}]
    return config


def over_stdio(revision: str, direct: Outcome, results: Path) -> list[str]:
    """Run one revision, print the figures and return what is wrong."""
    with sidecar(behind_stdio()) as gateway:
        bridged = server_run(f"{gateway.url}/fixture", revision, results / f"server-{revision}-stdio")
    print(f"{revision} over stdio: {figures(bridged)}", flush=True)
    lost = set(direct.regressions(bridged))
    print("not over stdio:", *sorted(lost & NOT_OVER_STDIO[revision]))
    return sorted(f"{revision}: worse over stdio: {check}" for check in lost - NOT_OVER_STDIO[revision])


if __name__ == "__main__":
    sys.exit(alone(over_stdio))
