"""Compare the official conformance suite's figures, directly over HTTP and with the same server behind stdio.

It is run as well on a server of the TypeScript SDK, which speaks stdio alone and has all that 2025-11-25 requires.

    python -m tests.conformance.stdio

Exit code 0: nothing is worse but what `NOT_OVER_STDIO` names. 1: something is. 3: a part is missing.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.conformance.run import FIXTURE, LEGACY, MODERN, alone, figures, listen_for_browsers
from tests.conformance.suite import Outcome, server_run
from tests.real_parts import install
from tests.support.parts import sdk_environment
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


NODE = ROOT / "tests" / "fixtures" / "node" / "conformance-v1.mjs"


def behind_stdio(command: Sequence[str | Path], **env: str) -> dict[str, Any]:
    """Return a configuration with a program as its server."""
    program, *arguments = map(str, command)
    stdio = {"command": program, "args": arguments, "cwd": str(ROOT), **({"env": env} if env else {})}
    config = {**allow_all(fixture="http://unused"), "listen": listen_for_browsers()}
    config["servers"] = [{"name": "fixture", "stdio": stdio}]
    return config


def over_stdio(revision: str, direct: Outcome, results: Path) -> list[str]:
    """Run one revision, print the figures and return what is wrong."""
    with sidecar(behind_stdio(python_server(FIXTURE, "--stdio"))) as gateway:
        bridged = server_run(f"{gateway.url}/fixture", revision, results / f"server-{revision}-stdio")
    print(f"{revision} over stdio: {figures(bridged)}", flush=True)
    lost = set(direct.regressions(bridged))
    print("not over stdio:", *sorted(lost & NOT_OVER_STDIO[revision]))
    wrong = sorted(f"{revision}: worse over stdio: {check}" for check in lost - NOT_OVER_STDIO[revision])
    return wrong + (node(results) if revision == LEGACY else [])


def node(results: Path) -> list[str]:
    """Run the suite on the server of Node.js, print the figures and return what is wrong."""
    if not install.is_installed("sdk"):
        return ["the server of Node.js was not run: the part sdk is missing"]
    with sidecar(behind_stdio([install.node_binary(), NODE], **sdk_environment())) as gateway:
        outcome = server_run(f"{gateway.url}/fixture", LEGACY, results / "server-node-stdio")
    print(f"{LEGACY} Node.js over stdio: {figures(outcome)}", flush=True)
    return sorted(f"{LEGACY}: Node.js over stdio: {name}" for name in outcome.failing & outcome.required)


if __name__ == "__main__":
    sys.exit(alone(over_stdio))
