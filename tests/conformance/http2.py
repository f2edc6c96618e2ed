"""The official conformance suite's server scenarios through the sidecar by HTTP/2, against the figures without it.

    python -m tests.conformance.http2

The suite speaks HTTP/1.1, so a proxy stands between it and the sidecar. Exit code 0: nothing is worse than directly.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tests.conformance.run import FIXTURE, alone, figures, worse
from tests.conformance.suite import Outcome, server_run
from tests.support.http2front import http2_front
from tests.support.process import allow_all, free_ports, mcp_server, python_server, sidecar


def by_http2(revision: str, direct: Outcome, results: Path) -> list[str]:
    """Run the scenarios of one revision; what is worse than directly, in words."""
    ours, front = free_ports(2)
    listen = {
        "mcp": f"127.0.0.1:{ours}",
        "url": f"http://127.0.0.1:{front}",
        "allowedOrigins": [f"http://127.0.0.1:{front}"],
    }
    with (
        mcp_server("fixture server", python_server(FIXTURE)) as url,
        sidecar({**allow_all(fixture=url), "listen": listen}) as gateway,
        http2_front(gateway.url, front) as front_url,
    ):
        through = server_run(f"{front_url}/fixture", revision, results / f"server-{revision}-http2")
    print(f"{revision} by HTTP/2: {figures(through)}", flush=True)
    return worse(f"server {revision} by HTTP/2", direct, through)


if __name__ == "__main__":
    sys.exit(alone(by_http2))
