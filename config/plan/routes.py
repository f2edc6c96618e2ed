"""Routes of a gateway that leads to the servers themselves."""

from typing import Final

from openmcp.config.model import Configuration, HeaderAuth, Server
from openmcp.config.plan.access import unseen_rules
from openmcp.config.plan.backends import Upstream
from openmcp.config.plan.callers import Door
from openmcp.config.plan.gateway import LISTENER, hostnames
from openmcp.config.plan.values import (
    ENVOY,
    GATEWAY_API,
    NAME_HEADERS,
    Document,
    Notices,
    Target,
    document,
    object_name,
    part_name,
    reference,
)

_PROOFS = ("Authorization", "X-API-Key", "X-Forwarded-Client-Cert")
"""What callers prove themselves by; no server sees it."""
_ENTICING: Final = ("Location", "Set-Cookie", "WWW-Authenticate", "Alt-Svc")
"""By which a server would have callers go elsewhere with their proofs, or come back with others; none is passed on."""

_LONGEST_NOTE: Final = 64 * 1024
"""Characters of an annotation; Kubernetes takes 256 KiB of all of them."""


def named(server: Server, found: list[Door]) -> dict[str, Door]:
    """The names of the routes of a server, and the way in that each is; the one without a header of its own first."""
    doors = sorted(found, key=lambda door: door.header is not None)
    return {
        (object_name(server.name) if door.header is None else part_name(server.name, door.kind)): door for door in doors
    }


def routes(
    configuration: Configuration, server: Server, up: Upstream, found: dict[str, Door], context: tuple[Target, Notices]
) -> list[Document]:
    """The HTTPRoutes of a server with their SecurityPolicies, and the filter that they need."""
    target, notices = context
    made: list[Document] = []
    filters = _filters(server, up, target, notices)
    if filters is not None:
        made.append(filters)
    for name, door in found.items():
        spec = {
            "parentRefs": [{**reference("Gateway", target.name), "sectionName": LISTENER}],
            **({"hostnames": hosts} if (hosts := hostnames(configuration)) else {}),
            "rules": [_rule(server, up, door, filters)],
        }
        route = document(GATEWAY_API, "HTTPRoute", name, target.namespace, spec)
        made.append(_annotated(route, unseen_rules(configuration, server)))
        policy = {"targetRefs": [reference("HTTPRoute", name)], **door.policy}
        made.append(document(ENVOY, "SecurityPolicy", name, target.namespace, policy))
    return made


def _annotated(route: Document, lost: list[str]) -> Document:
    """The route that says itself, for who looks at the cluster, which rules do not hold on it."""
    if not lost:
        return route
    metadata = route["metadata"]
    assert isinstance(metadata, dict)
    text = ", ".join(lost)
    if len(text) > _LONGEST_NOTE:
        text = f"{text[:_LONGEST_NOTE].rpartition(', ')[0]} and more: {len(lost)} in all"
    return {**route, "metadata": {**metadata, "annotations": {"openmcp.dev/not-enforced": text}}}


def _rule(server: Server, up: Upstream, door: Door, filters: Document | None) -> Document:
    match: dict[str, object] = {"path": {"type": "Exact", "value": server.path}}
    if door.header is not None:
        match["headers"] = [{"type": "RegularExpression", "name": door.header, "value": ".+"}]
    rewrite: dict[str, object] = {"path": {"type": "ReplaceFullPath", "replaceFullPath": up.path}}
    if len(up.hosts) == 1:
        rewrite["hostname"] = up.hosts[0]
    applied: list[Document] = [
        {"type": "URLRewrite", "urlRewrite": rewrite},
        {"type": "RequestHeaderModifier", "requestHeaderModifier": {"remove": _removed(server)}},
        {"type": "ResponseHeaderModifier", "responseHeaderModifier": {"remove": list(_ENTICING)}},
    ]
    if filters is not None:
        applied.append({"type": "ExtensionRef", "extensionRef": reference("HTTPRouteFilter", _own(server), ENVOY)})
    return {
        "matches": [match],
        "filters": applied,
        "timeouts": {"request": "0s"},
        "backendRefs": [reference("Backend", backend, ENVOY) for backend in up.backends],
    }


def _removed(server: Server) -> list[str]:
    """Taken off after a caller was known by it; what is our own proof to the server stays."""
    own = server.auth.name.lower() if isinstance(server.auth, HeaderAuth) else ""
    return [header for header in (*_PROOFS, *NAME_HEADERS) if header.lower() != own]


def _own(server: Server) -> str:
    return object_name(server.name)


def _filters(server: Server, up: Upstream, target: Target, notices: Notices) -> Document | None:
    """What Gateway API has no filter for: the secret that a server knows us by, and the host of each backend."""
    spec: dict[str, object] = {}
    if isinstance(server.auth, HeaderAuth):
        secret = part_name(server.name, "credential")
        prefix = f", {server.auth.prefix!r} before it" if server.auth.prefix else ""
        notices.need(
            f"Secret {target.namespace}/{secret}",
            f"under `credential`: the secret of servers: {server.name}: auth{prefix}",
        )
        spec["credentialInjection"] = {
            "header": server.auth.name,
            "overwrite": True,
            "credential": {"valueRef": {"name": secret}},
        }
    if len(up.hosts) > 1:
        spec["urlRewrite"] = {"hostname": {"type": "Backend"}}
    return document(ENVOY, "HTTPRouteFilter", _own(server), target.namespace, spec) if spec else None
