"""From a configuration to the snapshot that exchanges run under."""

import logging
import os
import ssl
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from openmcp.config.model import ApiKeyAgents, Audit, Configuration, Identity, Listen, Otlp, Server
from openmcp.config.secrets import SecretError, read
from openmcp.config.secrets import name as secret_name
from openmcp.identity.agents import Anyone, ApiKeys, Identifier, build
from openmcp.sidecar.inspection.inspectors import Inspectors
from openmcp.sidecar.net.pool import Upstream, authority
from openmcp.sidecar.policy.engine import PolicySet
from openmcp.sidecar.stages.payloads import Payloads
from openmcp.sidecar.stages.snapshot import Route, Snapshot
from openmcp.sidecar.telemetry.audit import AuditLog
from openmcp.sidecar.telemetry.metrics import Metrics
from openmcp.sidecar.telemetry.signing import KeyUnusable, Signer

if TYPE_CHECKING:
    from openmcp.sidecar.telemetry.otlp import Exporter

LOOPBACK = frozenset(("127.0.0.1", "localhost", "::1"))
_log = logging.getLogger("openmcp.app")


class BuildError(Exception):
    """A configuration that is well written and cannot be used here: a file it names cannot be read."""


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


def record(settings: Audit, on_change: Callable[[OSError | None], None]) -> tuple[AuditLog, Payloads | None]:
    """The record, which is begun, and what writes messages into it, if they are kept. Raises `BuildError`.

    Without a signing key, the hashes of removed texts have a key of this process.
    """
    signer = _signer(settings)
    log = AuditLog(
        Path(settings.file) if settings.file is not None else None,
        deny_on_failure=settings.on_failure == "deny",
        on_change=on_change,
        rotation=settings.rotate,
        signer=signer,
    )
    if settings.payloads == "none":
        return log, None
    return log, Payloads(signer.removal_key() if signer is not None else os.urandom(32))


def _signer(settings: Audit) -> Signer | None:
    if settings.signing_key is None:
        return None
    try:
        return Signer(read(settings.signing_key))
    except SecretError as error:
        raise BuildError(f"telemetry.audit.signingKey: {error}") from error
    except KeyUnusable as error:
        raise BuildError(f"telemetry.audit.signingKey: {secret_name(settings.signing_key)} {error}") from error


def exporter(settings: Otlp | None, version: str, metrics: Metrics) -> "Exporter | None":
    """What exports to a collector, where one is configured. Raises `BuildError`."""
    if settings is None:
        return None
    try:
        from openmcp.sidecar.telemetry.otlp import Exporter
    except ImportError as error:
        raise BuildError(f"telemetry.otlp needs the extra: pip install 'openmcp[otlp]' ({error})") from error
    try:
        return Exporter(settings, version, metrics)
    except (SecretError, ValueError) as error:
        raise BuildError(f"telemetry.otlp: {error}") from error


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
