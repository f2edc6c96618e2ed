"""The official conformance suite's server scenarios through the sidecar by HTTP/2, against the figures without it.

    python -m tests.conformance.http2

The suite speaks HTTP/1.1, so a proxy stands between it and the sidecar. Exit code 0: nothing is worse than directly.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tests.conformance.run import FIXTURE, LEGACY, MODERN, judge_server
from tests.conformance.suite import server_run
from tests.support.http2front import http2_front
from tests.support.process import allow_all, free_ports, mcp_server, python_server, sidecar


def compare(revision: str, results: Path) -> list[str]:
    """Run the scenarios of one revision; what is worse, in words."""
    ours, front = free_ports(2)
    listen = {
        "mcp": f"127.0.0.1:{ours}",
        "url": f"http://127.0.0.1:{front}",
        "allowedOrigins": [f"http://127.0.0.1:{front}"],
    }
    with (
        mcp_server("fixture server", python_server(FIXTURE)) as url,
        sidecar({**allow_all(fixture=url), "listen": listen}) as gateway,
        http2_front(gateway.url, front) as by_http2,
    ):
        direct = server_run(url, revision, results / f"{revision}-direct")
        through = server_run(f"{by_http2}/fixture", revision, results / f"{revision}-http2")
        return judge_server(revision, (direct, through))


def main() -> int:
    """Run both revisions and print what was found."""
    with tempfile.TemporaryDirectory(prefix="openmcp-conformance-") as scratch:
        wrong = [line for revision in (LEGACY, MODERN) for line in compare(revision, Path(scratch))]
    print("\n".join(wrong) or "the same figures")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
