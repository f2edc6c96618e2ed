"""Routes of a gateway in front of sidecars: Envoy ends TLS and balances, the sidecar knows callers and decides."""

from typing import Final

from openmcp.config.model import (
    Configuration,
    ForwardedAgents,
    JwtAgents,
    NoneAgents,
    SpiffeTls,
    WebTls,
    WorkloadAgents,
)
from openmcp.config.plan.callers import domains
from openmcp.config.plan.gateway import LISTENER, hostname, hostnames
from openmcp.config.plan.traffic import SAFE
from openmcp.config.plan.values import (
    ENVOY,
    GATEWAY_API,
    NAME_HEADERS,
    CannotPlan,
    Document,
    Notices,
    Service,
    Target,
    document,
    duration,
    object_name,
    reference,
)

_MATCHES: Final = 64
"""Of one rule of a route."""
_RULES: Final = 16
_NO_LIMIT: Final = 2**32 - 1


def behind(configuration: Configuration, sidecar: Service, target: Target, notices: Notices) -> list[Document]:
    """What leads all paths of the configuration to the Service of the sidecars. Raises `CannotPlan`."""
    _warn(configuration, notices)
    paths = [server.path for server in configuration.servers]
    if not paths:
        notices.warn("servers", "there are none: no route leads to the sidecars")
        return []
    if any(isinstance(method, JwtAgents) for method in configuration.identity.agents):
        paths += [f"/.well-known/oauth-protected-resource{path}" for path in paths]
    matches: list[Document] = [{"path": {"type": "Exact", "value": path}} for path in paths]
    matches += _messages(configuration, notices)
    name = object_name(target.name, "sidecar")
    backend = {
        "group": "",
        "kind": "Service",
        "name": sidecar.name,
        "namespace": sidecar.namespace,
        "port": sidecar.port,
    }
    rules = [
        {
            "matches": matches[at : at + _MATCHES],
            "filters": [{"type": "RequestHeaderModifier", "requestHeaderModifier": {"remove": list(NAME_HEADERS)}}],
            "timeouts": {"request": "0s"},
            "backendRefs": [backend],
        }
        for at in range(0, len(matches), _MATCHES)
    ]
    if len(rules) > _RULES:
        raise CannotPlan(f"servers: {len(matches)} paths: a route has {_MATCHES * _RULES} at most")
    route = {
        "parentRefs": [{**reference("Gateway", target.name), "sectionName": LISTENER}],
        **({"hostnames": hosts} if (hosts := hostnames(configuration)) else {}),
        "rules": rules,
    }
    refs = {"targetRefs": [reference("HTTPRoute", name)]}
    return [
        document(GATEWAY_API, "HTTPRoute", name, target.namespace, route),
        # who calls is told by the sidecar alone, which has to know it anyway
        document(
            ENVOY, "SecurityPolicy", name, target.namespace, {**refs, "authorization": {"defaultAction": "Allow"}}
        ),
        document(ENVOY, "BackendTrafficPolicy", name, target.namespace, {**refs, **_traffic()}),
        *_grant(sidecar, target),
        *_tls(configuration, sidecar, notices),
    ]


def _messages(configuration: Configuration, notices: Notices) -> list[Document]:
    """Where the agents of 2024-11-05 send their messages: below the path, to the sidecar that has their stream."""
    made: list[Document] = []
    for server in configuration.servers:
        if server.compat.sse:
            place = f"servers: {server.name}: compat.sse"
            notices.warn(place, "a message goes to any of the sidecars, and only one has the agent's stream: run one")
            made.append({"path": {"type": "PathPrefix", "value": f"{server.path.rstrip('/')}/messages"}})
    return made


def _warn(configuration: Configuration, notices: Notices) -> None:
    if configuration.listen.mcp.host in ("127.0.0.1", "::1", "localhost"):
        notices.warn("listen.mcp", "is this machine alone: the sidecars behind the gateway have to listen for Envoy")
    if not hostnames(configuration):
        notices.warn("listen.url", "says no name of the gateway: the sidecars refuse who calls it by one")
    if configuration.approvals.console is not None:
        notices.need("approvals.console", "a way in of its own: no route leads to it")
    methods = configuration.identity.agents
    if any(isinstance(method, WorkloadAgents) for method in methods):
        notices.warn("identity.agents", "behind a gateway nobody is the workload of the sidecar's pod")
    if domains(configuration) and not any(isinstance(method, ForwardedAgents) for method in methods):
        notices.warn(
            "identity.agents",
            "certificates end at the gateway: sidecars need {type: forwarded, from: [ADDRESSES OF ENVOY'S PODS]}",
        )
    if configuration.sessions.key is None:
        notices.warn(
            "sessions.key", "without it, more than one sidecar behind the gateway refuse each other's sessions"
        )
    if any(isinstance(method, NoneAgents) for method in methods):
        notices.warn("identity.agents", "everybody who reaches the gateway may call, as `anonymous`")


def _traffic() -> Document:
    """Without limits on time and number, which the sidecars have; a session stays with one as long as their number
    does."""
    return {
        "timeout": {
            "tcp": {"connectTimeout": duration(5)},
            "http": {"requestTimeout": "0s", "streamIdleTimeout": "0s"},
        },
        "retry": {"numRetries": 2, "retryOn": {"triggers": list(SAFE)}},
        # Envoy's own 1024 are for all servers together, and streams count: one agent could have all of them
        "circuitBreaker": dict.fromkeys(("maxConnections", "maxPendingRequests", "maxParallelRequests"), _NO_LIMIT),
        "loadBalancer": {
            "type": "ConsistentHash",
            "consistentHash": {"type": "Headers", "headers": [{"name": "Mcp-Session-Id"}]},
        },
    }


def _grant(sidecar: Service, target: Target) -> list[Document]:
    if sidecar.namespace == target.namespace:
        return []
    spec = {
        "from": [{"group": GATEWAY_API, "kind": "HTTPRoute", "namespace": target.namespace}],
        "to": [{"group": "", "kind": "Service", "name": sidecar.name}],
    }
    return [document(GATEWAY_API, "ReferenceGrant", object_name(target.name, "sidecar"), sidecar.namespace, spec)]


def _tls(configuration: Configuration, sidecar: Service, notices: Notices) -> list[Document]:
    """How Envoy checks the sidecars, where they have TLS."""
    tls = configuration.listen.tls
    if tls is None:
        notices.warn("listen.tls", "calls go from Envoy to the sidecars in the clear")
        return []
    bundle = object_name(sidecar.name, "ca")
    validation: dict[str, object] = {
        "hostname": hostname(configuration) or f"{sidecar.name}.{sidecar.namespace}.svc",
        "caCertificateRefs": [reference("ConfigMap", bundle, "")],
    }
    if isinstance(tls, SpiffeTls):
        if configuration.identity.svid.id is None:
            raise CannotPlan("listen.tls: Envoy has to know the ID of the sidecars: say identity.svid.id")
        validation["subjectAltNames"] = [{"type": "URI", "uri": configuration.identity.svid.id}]
    what = "the CA of listen.tls" if isinstance(tls, WebTls) else "the bundle of our trust domain, kept up to date"
    notices.need(f"ConfigMap {sidecar.namespace}/{bundle}", f"under ca.crt: {what}")
    spec = {"targetRefs": [reference("Service", sidecar.name, "")], "validation": validation}
    return [document(GATEWAY_API, "BackendTLSPolicy", sidecar.name, sidecar.namespace, spec)]
