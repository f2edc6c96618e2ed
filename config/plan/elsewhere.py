"""Sections of a configuration that Envoy has no use for: who does instead what they say."""

import msgspec

from openmcp.config.model import (
    Approvals,
    Configuration,
    KubernetesOrigin,
    Listen,
    MtlsAgents,
    Server,
    Sessions,
    Telemetry,
)
from openmcp.config.plan.values import Notices

_OF_A_SERVER = {
    "health": "endpoints are not checked",
    "timeouts": "times are not held",
    "limits": "sizes and numbers of requests and responses are not limited",
    "retries": "nothing is sent again",
    "outliers": "endpoints that fail are not left out",
    "rate_limit": "rates are not limited",
    "pin_tools": "a tool that changed is not withheld",
}


def warn_of_sections(configuration: Configuration, notices: Notices) -> None:
    """Say what of the configuration is for the sidecar alone, where there is none behind the gateway."""
    if configuration.approvals != Approvals():
        notices.warn("approvals", "Envoy asks nobody, and no route leads to the console")
    if configuration.sessions != Sessions():
        notices.warn("sessions", "ids of sessions are the servers' own here: not sealed, nor bound to who began them")
    if configuration.telemetry != Telemetry():
        notices.warn("telemetry", "Envoy keeps no record; its own logs and traces are set in EnvoyProxy")
    if not isinstance(configuration.state, type(Configuration().state)):
        notices.warn("state", "Envoy keeps nothing there: neither approvals nor counts")
    if configuration.listen.admin != Listen().admin:
        notices.warn("listen.admin", "health and metrics of Envoy are where EnvoyProxy says")
    identity = configuration.identity
    if identity.workload_api or identity.svid != type(identity.svid)():
        notices.warn("identity.workloadApi", "Envoy Gateway has no identity of ours: certificates are in Secrets")


def need_of_source(configuration: Configuration, notices: Notices) -> None:
    """Say that a plan is of the objects of Kubernetes as they are now."""
    if isinstance(configuration.source, KubernetesOrigin):
        notices.need("source", "servers and policies are planned as they are now: plan again when they change")


def warn_of_ai(configuration: Configuration, server: Server, notices: Notices) -> None:
    """Say what Envoy AI Gateway, which makes the routes of an MCPRoute itself, leaves out."""
    if any(isinstance(method, MtlsAgents) for method in configuration.identity.agents):
        notices.warn("identity.agents", "an MCPRoute knows nobody by a certificate: such callers are not let in")
    plain = Server(name="", path="")
    for field in msgspec.structs.fields(Server):
        if field.name in _OF_A_SERVER and getattr(server, field.name) != getattr(plain, field.name):
            key = _key(field.name)
            notices.warn(f"servers: {server.name}: {key}", f"not with Envoy AI Gateway: {_OF_A_SERVER[field.name]}")


def _key(field: str) -> str:
    first, *others = field.split("_")
    return first + "".join(other.capitalize() for other in others)
