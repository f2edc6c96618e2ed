"""Active health checks that every plain MCP server answers without an effect.

The check is a GET that asks for no stream, under a session id that no server has (without one, the Python SDK makes
a session just to refuse it): a modern server answers 405, a legacy one 400, 404, 405 or 406, and none of them makes a
session, runs a method or opens a stream for it. Any answer below 500 is a sign of life, so the check shows no
credential and asks no token endpoint for one. (A `ping` would not do: it is no method of 2026-07-28, and would have to
look like an agent's request in either era.)
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from openmcp.sidecar.errors import UpstreamFailed
from openmcp.sidecar.net.endpoint import Endpoint
from openmcp.sidecar.net.pool import Upstream
from openmcp.sidecar.net.values import Outgoing, Patience

_HEADERS: Final = b"accept: application/json\r\nmcp-session-id: openmcp-health-check\r\n"
_CHECK: Final = Outgoing(b"GET", _HEADERS, b"", 64 * 1024, repeatable=True)
_log = logging.getLogger("openmcp.net")


OURS: Final = ""
"""The outcome of a check that could not be made since we have no SVID: it says nothing of the endpoint."""


async def check(endpoint: Endpoint, patience: float) -> str | None:
    """Ask one endpoint for a sign of life within `patience` seconds; None, what is wrong, or `OURS`."""
    try:
        async with asyncio.timeout(patience):
            response = await endpoint.exchange(_CHECK, b"", Patience(patience, patience, patience))
    except TimeoutError:
        return f"no answer in {patience:g} s"
    except UpstreamFailed as failure:
        return OURS if failure.kind == "identity" else str(failure)
    response.close()
    return f"HTTP {response.status}" if response.status >= 500 else None


async def watch(upstream: Upstream, sleep: Callable[[float], "asyncio.Future[None]"] | None = None) -> None:
    """Check all endpoints of a server for as long as the task lives; the first check is at once."""
    health = upstream.server.health
    while True:
        problems = await asyncio.gather(*(check(endpoint, health.timeout) for endpoint in upstream.endpoints))
        for endpoint, problem in zip(upstream.endpoints, problems, strict=True):
            note(upstream, endpoint, problem)
        await (sleep or asyncio.sleep)(health.interval)


def note(upstream: Upstream, endpoint: Endpoint, problem: str | None) -> None:
    """Count the outcome of one check; the state changes at the configured number of failures, or one success."""
    name = upstream.server.name
    if problem == OURS:
        return
    endpoint.unwell = problem or ""
    if problem is None:
        if not endpoint.healthy:
            _log.info("server %s: endpoint %s is healthy again", name, endpoint.url)
        endpoint.healthy, endpoint.failures = True, 0
        return
    endpoint.failures += 1
    if endpoint.healthy and endpoint.failures >= upstream.server.health.unhealthy_after:
        endpoint.healthy = False
        _log.warning("server %s: endpoint %s is unhealthy: %s", name, endpoint.url, problem)
