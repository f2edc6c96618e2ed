"""From a configuration to the snapshot that exchanges run under."""

import ssl
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from openmcp.config.model import Configuration, Listen, Server
from openmcp.config.secrets import SecretError
from openmcp.sidecar.build.approvals import Approving
from openmcp.sidecar.build.callers import Callers
from openmcp.sidecar.build.errors import BuildError
from openmcp.sidecar.build.identities import Identities
from openmcp.sidecar.build.limits import Limiting
from openmcp.sidecar.inspection.inspectors import Inspectors
from openmcp.sidecar.net.credentials import Credential
from openmcp.sidecar.net.dialing import authority
from openmcp.sidecar.net.endpoint import Endpoint
from openmcp.sidecar.net.pool import Upstream, over_http
from openmcp.sidecar.policy.engine import PolicySet
from openmcp.sidecar.stages.snapshot import Route, Snapshot
from openmcp.sidecar.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from openmcp.sidecar.approvals.values import Event
    from openmcp.sidecar.stages.translation.translator import Translator

__all__ = ["BuildError", "Builder", "hosts", "upstreams"]

LOOPBACK = frozenset(("127.0.0.1", "localhost", "::1"))


class Builder:
    """Makes one snapshot after the other, and keeps what outlives them: who we are, and the keys of issuers."""

    def __init__(self, metrics: Metrics, on_approval: "Callable[[Event], None]" = lambda event: None) -> None:
        self.identities = Identities(metrics)
        self.approving = Approving(self.identities, metrics, on_approval)
        self.callers = Callers(metrics)
        self.limiting = Limiting()
        self._metrics = metrics
        self._translator: Translator | None = None

    def snapshot(
        self,
        configuration: Configuration,
        known: Mapping[Server, Upstream],
        closed: str = "",
        policies: PolicySet | None = None,
    ) -> Snapshot:
        """Compile a configuration; servers that did not change keep their `known` connections. Where it is `closed`,
        which says why, nothing passes. `policies` are those of the configuration, where they are compiled already.
        Raises `BuildError`."""
        self.identities.prepare(configuration)
        self.approving.prepare(configuration)
        self.limiting.prepare(configuration)
        routes = {
            server.path: Route(
                server, self._upstream(server, known.get(server)), self.limiting.of(server), self._translating(server)
            )
            for server in configuration.servers
        }
        inspectors = Inspectors(configuration.policies)
        inspectors.prepare(server.name for server in configuration.servers)
        return Snapshot(
            configuration,
            routes,
            PolicySet(()) if closed else policies or PolicySet(configuration.policies),
            inspectors,
            self.callers.identifier(configuration.identity, self.identities.source),
            hosts(configuration.listen),
            frozenset(origin.lower() for origin in configuration.listen.allowed_origins),
            closed,
        )

    def _translating(self, server: Server) -> "Translator | None":
        """One for all: what it has learnt of servers and sessions outlives a configuration."""
        if server.translate and self._translator is None:
            from openmcp.sidecar.stages.translation.translator import Translator  # here: most have no use for it

            self._translator = Translator()
        return self._translator if server.translate else None

    def _upstream(self, server: Server, known: Upstream | None) -> Upstream:
        try:
            if known is not None and known.authority == authority(server):
                return known
            credential = self.identities.credential(server)
            adapters = self._adapters(server, credential)
            return Upstream(server, self._metrics.connect, self.identities.contexts, credential, adapters)
        except (SecretError, ssl.SSLError, OSError, UnicodeDecodeError) as error:
            raise BuildError(f"servers: {server.name}: tls.ca cannot be used: {error}") from error

    def _adapters(self, server: Server, credential: Credential | None) -> tuple[Endpoint, ...]:
        if server.transport == "sse":
            from openmcp.sidecar.bridge.httpsse import SseEndpoint  # here: most configurations have none

            places = over_http(server, self._metrics.connect, self.identities.contexts, credential)
            return tuple(SseEndpoint(server, place) for place in places)
        if server.stdio is None:
            return ()
        from openmcp.sidecar.bridge.stdio import StdioEndpoint  # here: most configurations have none

        return (StdioEndpoint(server, server.stdio, self._metrics),)


def upstreams(made: Snapshot) -> dict[Server, Upstream]:
    """The upstreams of a snapshot by what they were made from."""
    return {route.server: route.upstream for route in made.routes.values()}


def hosts(listen: Listen) -> frozenset[str]:
    """The names under which the listener may be called: its own, that of its URL, and those that were added."""
    own = {listen.mcp.host.lower()} if listen.mcp.host not in ("0.0.0.0", "::", "") else set()  # noqa: S104  # compared, not bound
    if listen.url is not None:
        own.add(urlsplit(listen.url).netloc.lower())
    return frozenset(own | LOOPBACK | {host.lower() for host in listen.allowed_hosts})
