"""How one configuration is told from another, and what a process cannot take over from a new one."""

import hashlib
import logging

import msgspec

from openmcp.config.model import Configuration

_log = logging.getLogger("openmcp.app")


def digest(configuration: Configuration) -> str:
    """Tells one configuration from another, the same in every replica."""
    return hashlib.sha256(msgspec.json.encode(configuration)).hexdigest()[:16]


def summary(configuration: Configuration) -> str:
    """How large it is, for the log."""
    return f"{len(configuration.servers)} server(s) under {len(configuration.policies)} policies"


def warn_of_restart(before: Configuration, after: Configuration) -> None:
    """Say what of a new configuration takes no effect while the process lives."""
    if _bound(before) != _bound(after):
        _log.warning("listen.mcp, listen.admin and listen.tls change only with a restart (certificates are read anew)")
    if (before.identity.workload_api, before.identity.svid) != (after.identity.workload_api, after.identity.svid):
        _log.warning("identity.workloadApi and identity.svid change only with a restart")
    if before.state != after.state or before.approvals.console != after.approvals.console:
        _log.warning("state and approvals.console change only with a restart")
    if before.source != after.source:
        _log.warning("source changes only with a restart")
    if before.telemetry != after.telemetry:
        _log.warning("telemetry changes only with a restart")


def _bound(configuration: Configuration) -> tuple[object, ...]:
    return configuration.listen.mcp, configuration.listen.admin, configuration.listen.tls
