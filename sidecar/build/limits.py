"""The limits of servers, which outlive snapshots, and the way to those that are shared."""

import asyncio
from collections.abc import Iterable
from typing import TYPE_CHECKING

from openmcp.config.model import Configuration, RateLimit, RedisState, Server
from openmcp.sidecar.build.errors import BuildError
from openmcp.sidecar.stages.snapshot import Route
from openmcp.sidecar.telemetry.metrics import Scrape

if TYPE_CHECKING:
    from openmcp.sidecar.stages.limits import Limits, Sharing
    from openmcp.sidecar.state.counters import Counters


class Limiting:
    """The limits of one process: those of a server stay as full as they are until its `rateLimit` changes."""

    def __init__(self) -> None:
        self._made: dict[str, tuple[tuple[RateLimit, ...], Limits]] = {}
        self._counters: Counters | None = None
        self._sharing: Sharing | None = None

    def prepare(self, configuration: Configuration) -> None:
        """Open what shared limits need, where it is not there yet. Raises `BuildError`."""
        shared = any(limit.shared for server in configuration.servers for limit in server.rate_limit)
        state = configuration.state
        if self._sharing is not None or not shared or not isinstance(state, RedisState):
            return
        # Imported here, and below: who limits nobody has none of it in memory.
        from openmcp.sidecar.stages.limits import Sharing
        from openmcp.sidecar.state.opening import CannotOpen, open_counters

        try:
            self._counters = open_counters(state)
        except CannotOpen as error:
            raise BuildError(str(error)) from error
        self._sharing = Sharing(self._counters, asyncio.get_running_loop().time)

    def of(self, server: Server) -> "Limits | None":
        """The limits of a server; None where it has none."""
        if not server.rate_limit:
            return None
        from openmcp.sidecar.stages.limits import Limits

        known = self._made.get(server.name)
        if known is not None and known[0] == server.rate_limit:
            return known[1]
        sharing = self._sharing if any(limit.shared for limit in server.rate_limit) else None
        return Limits(server.name, server.rate_limit, asyncio.get_running_loop().time, sharing)

    def follow(self, routes: Iterable[Route]) -> None:
        """Go by these from now on, and forget the others."""
        self._made = {
            route.server.name: (route.server.rate_limit, route.limits) for route in routes if route.limits is not None
        }

    def sweep(self, now: float) -> None:
        """Let go of buckets that are full; `now` is the loop's time."""
        for _, limits in self._made.values():
            limits.sweep(now)

    def report(self, scrape: Scrape) -> None:
        """How many buckets there are, and whether those that are shared are."""
        for name, (_, limits) in self._made.items():
            scrape.rate_limit(name, len(limits))
        if self._sharing is not None:
            scrape.rate_limit_unshared(failing=self._sharing.failing)

    async def close(self) -> None:
        """Close the connections to what is shared."""
        if self._counters is not None:
            await self._counters.close()


def report_endpoints(scrape: Scrape, route: Route) -> None:
    """How often calls of a server were tried again, and which of its endpoints are left out."""
    resending = route.upstream.resending
    if resending is None:
        return
    scrape.retries(route.server.name, resending.count)
    outliers = resending.outliers
    for endpoint in route.upstream.endpoints if outliers is not None else ():
        assert outliers is not None
        count = outliers.ejections(endpoint.key)
        scrape.ejections(route.server.name, endpoint.url, count, ejected=outliers.ejected(endpoint.key))
