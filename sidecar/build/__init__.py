"""From a configuration to the snapshot that exchanges run under."""

import ssl
from collections.abc import Callable, Mapping

from openmcp.config.model import ApiKeyAgents, Configuration, Identity, Listen, Server
from openmcp.config.secrets import SecretError
from openmcp.identity.agents import Anyone, ApiKeys, Identifier, build
from openmcp.sidecar.build.errors import BuildError
from openmcp.sidecar.inspection.inspectors import Inspectors
from openmcp.sidecar.net.pool import Upstream, authority
from openmcp.sidecar.policy.engine import PolicySet
from openmcp.sidecar.stages.snapshot import Route, Snapshot

__all__ = ["BuildError", "hosts", "identifier", "snapshot", "upstreams"]

LOOPBACK = frozenset(("127.0.0.1", "localhost", "::1"))


def snapshot(
    configuration: Configuration, known: Mapping[Server, Upstream], on_connect: Callable[[str, str, str], None]
) -> Snapshot:
    """Compile a configuration; servers that did not change keep their `known` connections. Raises `BuildError`."""
    routes = {
        server.path: Route(server, _upstream(server, known.get(server), on_connect)) for server in configuration.servers
    }
    inspectors = Inspectors(configuration.policies)
    inspectors.prepare(server.name for server in configuration.servers)
    return Snapshot(
        configuration,
        routes,
        PolicySet(configuration.policies),
        inspectors,
        identifier(configuration.identity),
        hosts(configuration.listen),
        frozenset(origin.lower() for origin in configuration.listen.allowed_origins),
    )


def upstreams(made: Snapshot) -> dict[Server, Upstream]:
    """The upstreams of a snapshot by what they were made from."""
    return {route.server: route.upstream for route in made.routes.values()}


def identifier(identity: Identity) -> Identifier:
    """The identification of callers."""
    return build(
        [
            ApiKeys((key.name, key.sha256) for key in entry.keys) if isinstance(entry, ApiKeyAgents) else Anyone()
            for entry in identity.agents
        ]
    )


def hosts(listen: Listen) -> frozenset[str]:
    """The names under which the listener may be called: its own, and those that were added."""
    own = {listen.mcp.host.lower()} if listen.mcp.host not in ("0.0.0.0", "::", "") else set()  # noqa: S104  # compared, not bound
    return frozenset(own | LOOPBACK | {host.lower() for host in listen.allowed_hosts})


def _upstream(server: Server, known: Upstream | None, on_connect: Callable[[str, str, str], None]) -> Upstream:
    try:
        if known is not None and known.authority == authority(server):
            return known
        return Upstream(server, on_connect)
    except (SecretError, ssl.SSLError, OSError, UnicodeDecodeError) as error:
        raise BuildError(f"servers: {server.name}: tls.ca cannot be used: {error}") from error
