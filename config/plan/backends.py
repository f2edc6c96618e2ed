"""The MCP servers as Envoy reaches them: Backends with their endpoints, and how their TLS is checked."""

from ipaddress import ip_address
from typing import Final
from urllib.parse import SplitResult, urlsplit

import msgspec

from openmcp.config.globs import is_literal
from openmcp.config.model import Server, SpiffeAuth
from openmcp.config.plan.gateway import is_hostname
from openmcp.config.plan.values import (
    ENVOY,
    GATEWAY_API,
    CannotPlan,
    Document,
    Notices,
    Target,
    document,
    object_name,
    part_name,
    reference,
)

_MOST_BACKENDS: Final = 16
"""That a rule of a route may lead to."""
_MAX_NAMES: Final = 5
"""Subject names that a BackendTLSPolicy may list."""


class Upstream(msgspec.Struct, frozen=True):
    """A server: the `documents` that stand for it, the names of its `backends`, its `path`, and the names of its
    hosts (none: it has addresses alone)."""

    documents: tuple[Document, ...]
    backends: tuple[str, ...]
    path: str
    hosts: tuple[str, ...]


def upstream(server: Server, target: Target, notices: Notices) -> Upstream | None:
    """How Envoy reaches a server; None where it cannot. Raises `CannotPlan`."""
    if not server.endpoints:
        notices.warn(f"servers: {server.name}", "has no endpoint over HTTP: only a sidecar can serve it (--sidecar)")
        return None
    urls = [urlsplit(endpoint) for endpoint in server.endpoints]
    place = f"servers: {server.name}: endpoints"
    if len({url.path for url in urls}) > 1:
        raise CannotPlan(f"{place}: a route has one path for all of them")
    _check_hosts(urls, place, notices)
    groups: dict[tuple[bool, str | None], list[SplitResult]] = {}
    for url in urls:
        groups.setdefault((_address(url), _tls_name(server, url, urls[0])), []).append(url)
    if len(groups) > _MOST_BACKENDS:
        raise CannotPlan(f"{place}: a route takes {_MOST_BACKENDS} TLS names: say servers[].tls.serverName")
    documents: list[Document] = []
    backends: list[str] = []
    for index, ((_, name), members) in enumerate(groups.items()):
        backend = object_name(server.name) if len(groups) == 1 else part_name(server.name, str(index))
        backends.append(backend)
        spec = {"type": "Endpoints", "endpoints": [_endpoint(url) for url in members]}
        documents.append(document(ENVOY, "Backend", backend, target.namespace, spec))
        if name is not None:
            documents.append(_tls(server, backend, name, (target, notices)))
    return Upstream(tuple(documents), tuple(backends), urls[0].path or "/", _hosts(urls))


def _check_hosts(urls: list[SplitResult], place: str, notices: Notices) -> None:
    for url in urls:
        if url.hostname == "localhost" or _address(url) and ip_address(url.hostname or "").is_loopback:
            notices.warn(place, f"{url.netloc} is the pod of Envoy itself, which Envoy Gateway refuses: name a Service")
        if not _address(url) and not is_hostname(url.hostname):
            raise CannotPlan(f"{place}: {url.netloc}: Kubernetes takes lower-case letters, digits and - in names alone")


def _hosts(urls: list[SplitResult]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(url.hostname or "" for url in urls if not _address(url)))


def _address(url: SplitResult) -> bool:
    try:
        ip_address(url.hostname or "")
    except ValueError:
        return False
    return True


def _endpoint(url: SplitResult) -> Document:
    port = url.port or (443 if url.scheme == "https" else 80)
    if _address(url):
        return {"ip": {"address": url.hostname, "port": port}}
    return {"fqdn": {"hostname": url.hostname, "port": port}}


def _tls_name(server: Server, url: SplitResult, first: SplitResult) -> str | None:
    """The name that the certificate of an endpoint has to have; None without TLS."""
    if url.scheme != "https":
        return None
    if isinstance(server.auth, SpiffeAuth):  # the ID is checked: the name is asked for, and no more
        return f"{object_name(server.name)}.invalid" if _address(first) else first.hostname
    if server.tls.server_name is None and _address(url):
        place = f"servers: {server.name}: endpoints"
        raise CannotPlan(f"{place}: {url.netloc}: Envoy Gateway checks names alone: say servers[].tls.serverName")
    name = (server.tls.server_name or url.hostname or "").lower()
    if not is_hostname(name):
        raise CannotPlan(f"servers: {server.name}: tls.serverName: {name}: Gateway API takes the name of a host alone")
    return name


def _tls(server: Server, backend: str, name: str, context: tuple[Target, Notices]) -> Document:
    target, notices = context
    validation: dict[str, object] = {"hostname": name}
    if isinstance(server.auth, SpiffeAuth):
        validation["subjectAltNames"] = [{"type": "URI", "uri": one} for one in _ids(server, notices)]
    if server.tls.ca is None and not isinstance(server.auth, SpiffeAuth):
        validation["wellKnownCACertificates"] = "System"
    else:
        bundle = part_name(server.name, "ca")
        what = "the CA of the server" if server.tls.ca else "the bundle of its trust domain, kept up to date"
        notices.need(f"ConfigMap {target.namespace}/{bundle}", f"under ca.crt: {what}")
        validation["caCertificateRefs"] = [reference("ConfigMap", bundle, "")]
    spec = {"targetRefs": [reference("Backend", backend, ENVOY)], "validation": validation}
    return document(GATEWAY_API, "BackendTLSPolicy", backend, target.namespace, spec)


def _ids(server: Server, notices: Notices) -> tuple[str, ...]:
    assert isinstance(server.auth, SpiffeAuth)
    exact = tuple(one for one in server.auth.server_ids if is_literal(one))[:_MAX_NAMES]
    place = f"servers: {server.name}: auth.serverIds"
    if not exact:
        raise CannotPlan(f"{place}: Envoy Gateway compares whole IDs: a glob alone cannot be planned")
    if len(exact) < len(server.auth.server_ids):
        notices.warn(place, "Envoy Gateway compares at most five whole IDs: globs and further ones are not trusted")
    if len({urlsplit(one).netloc for one in exact}) > 1:
        notices.warn(
            place, "Envoy does not tie a CA to its trust domain: each of these can make certificates of the others"
        )
    return exact
