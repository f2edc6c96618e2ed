"""The Gateway itself: where clients connect, what they may send, and that nobody gets in whom no route lets in."""

import re
from typing import Final
from urllib.parse import urlsplit

from openmcp.config.model import (
    Configuration,
    JwtSvidAuth,
    MtlsAgents,
    OAuthAuth,
    Server,
    SpiffeAuth,
    SpiffeTls,
    WebTls,
)
from openmcp.config.plan.callers import domains
from openmcp.config.plan.values import (
    CONTROLLER,
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

LISTENER: Final = "https"
_MOST_HOSTS: Final = 16
"""Of a route."""
_HOSTNAME: Final = re.compile(r"[a-z0-9](?:[-a-z0-9]*[a-z0-9])?(?:\.[a-z0-9](?:[-a-z0-9]*[a-z0-9])?)*")


def gateway(configuration: Configuration, target: Target, notices: Notices) -> list[Document]:
    """GatewayClass, Gateway, ClientTrafficPolicy and the SecurityPolicy that lets nobody in."""
    made = [
        document(GATEWAY_API, "GatewayClass", target.name, None, {"controllerName": CONTROLLER}),
        document(GATEWAY_API, "Gateway", target.name, target.namespace, _gateway(configuration, target, notices)),
        document(ENVOY, "ClientTrafficPolicy", target.name, target.namespace, _traffic(configuration, target, notices)),
    ]
    if not target.ai_gateway:  # routes that Envoy AI Gateway makes for itself would fall under it, too
        deny = {"targetRefs": [reference("Gateway", target.name)], "authorization": {"defaultAction": "Deny"}}
        made.append(document(ENVOY, "SecurityPolicy", part_name(target.name, "deny"), target.namespace, deny))
    return made


def hostname(configuration: Configuration) -> str | None:
    """The name that clients call the gateway by, where `listen.url` says it; an address is none."""
    host = urlsplit(configuration.listen.url or "").hostname
    return host if is_hostname(host) else None


def hostnames(configuration: Configuration) -> list[str]:
    """The names that a request may be for; none: Gateway API has no word for those of the configuration."""
    return _names(configuration)[:_MOST_HOSTS]


def _names(configuration: Configuration) -> list[str]:
    found = [urlsplit(configuration.listen.url or "").hostname]
    found += [urlsplit(f"//{host}").hostname for host in configuration.listen.allowed_hosts]
    return [host for host in dict.fromkeys(found) if host is not None and is_hostname(host)]


def is_hostname(host: str | None) -> bool:
    """Whether Gateway API takes it for the name of a host."""
    if host is None or len(host) > 253 or host.replace(".", "").isdigit():
        return False
    return _HOSTNAME.fullmatch(host) is not None


def warn_of_hosts(configuration: Configuration, target: Target, notices: Notices) -> None:
    """Say which names the gateway does not hold requests against, and that it takes any where there are none."""
    names = hostnames(configuration)
    if target.ai_gateway and len(names) > 1:
        notices.warn("listen.allowedHosts", "an MCPRoute has no hostnames: a request for any Host is let in")
    if not names:
        notices.warn("listen.url", "says no name of the gateway: a request for any Host is let in; write https://NAME")
    for host in configuration.listen.allowed_hosts:
        if not is_hostname(urlsplit(f"//{host}").hostname):
            notices.warn("listen.allowedHosts", f"{host} cannot be the hostname of a route: it is not let in")
    if any(":" in host for host in configuration.listen.allowed_hosts):
        notices.warn("listen.allowedHosts", "Envoy does not look at the port of a Host")


def _gateway(configuration: Configuration, target: Target, notices: Notices) -> Document:
    secret = object_name(target.name, "tls")
    tls = configuration.listen.tls
    where = (
        f"the PEM of listen.tls ({tls.certificate.file or tls.certificate.env})" if isinstance(tls, WebTls) else "PEM"
    )
    notices.need(f"Secret {target.namespace}/{secret}", f"tls.crt and tls.key of the gateway: {where}")
    if isinstance(tls, SpiffeTls):
        notices.warn("listen.tls", "the gateway has a certificate from a Secret: Envoy Gateway takes no SVIDs")
    names = hostnames(configuration)
    if len(_names(configuration)) > len(names) and not target.ai_gateway:
        notices.warn("listen.allowedHosts", f"a route takes {_MOST_HOSTS} hostnames: the others are not let in")
    return {
        "gatewayClassName": target.name,
        "listeners": [
            {
                "name": LISTENER,
                "protocol": "HTTPS",
                "port": _port(configuration),
                **({"hostname": names[0]} if len(names) == 1 else {}),  # routes have them all
                "tls": {"mode": "Terminate", "certificateRefs": [{"name": secret}]},
                "allowedRoutes": {"namespaces": {"from": "Same"}},
            }
        ],
    }


def _port(configuration: Configuration) -> int:
    url = urlsplit(configuration.listen.url or "")
    return url.port or 443 if url.scheme == "https" else 443


def _traffic(configuration: Configuration, target: Target, notices: Notices) -> Document:
    certificates = _client_certificates(configuration, target, notices)
    forward = {"mode": "SanitizeSet", "certDetailsToAdd": ["URI"]} if certificates and target.sidecar else None
    return {
        "targetRefs": [reference("Gateway", target.name)],
        "tls": {"minVersion": "1.2", "alpnProtocols": ["h2", "http/1.1"], **certificates},
        "path": {"escapedSlashesAction": "RejectRequest"},
        "headers": {
            "xForwardedClientCert": forward or {"mode": "Sanitize"},
            "withUnderscoresAction": "RejectRequest",
            "earlyRequestHeaders": {"remove": list(NAME_HEADERS)},
        },
        "timeout": {"http": {"requestReceivedTimeout": "60s", "streamIdleTimeout": "0s"}},
        "http2": {"maxConcurrentStreams": 100},
    }


def _client_certificates(configuration: Configuration, target: Target, notices: Notices) -> Document:
    trusted = domains(configuration)
    tls = configuration.listen.tls
    if not trusted:
        return {}
    bundle = object_name(target.name, "clients")
    source = "listen.tls.clientCa, the CA" if isinstance(tls, WebTls) and tls.client_ca else "the CAs"
    notices.need(
        f"ConfigMap {target.namespace}/{bundle}", f"under ca.crt: {source} of {', '.join(trusted)}, kept up to date"
    )
    for index, method in enumerate(configuration.identity.agents):
        if isinstance(method, MtlsAgents) and len(trusted) > 1:
            notices.warn(
                f"identity.agents[{index}].trustDomains",
                "Envoy does not tie a CA to its trust domain: each of these can make certificates of the others",
            )
    return {
        "clientValidation": {  # no subjectAltNames: with them, Envoy refuses whoever comes without a certificate
            "mode": "VerifyIfGiven",
            "caCertificateRefs": [{"group": "", "kind": "ConfigMap", "name": bundle}],
        }
    }


def warn_of_server(server: Server, notices: Notices) -> None:
    """Say what Envoy cannot do towards a server: prove who we are, speak another era."""
    kinds = {JwtSvidAuth: "a JWT-SVID", OAuthAuth: "an access token by client credentials", SpiffeAuth: "our SVID"}
    for kind, what in kinds.items():
        if isinstance(server.auth, kind):
            place = f"servers: {server.name}: auth"
            notices.warn(place, f"Envoy Gateway cannot present {what}: the server will refuse")
    if server.compat.sse:
        why = "Envoy passes Streamable HTTP on as it is: agents of 2024-11-05 get nowhere"
        notices.warn(f"servers: {server.name}: compat.sse", why)
    if server.transport == "sse":
        why = "Envoy routes the path alone: the addresses that a server of HTTP+SSE names get nowhere"
        notices.warn(f"servers: {server.name}: transport", why)
    if server.translate:
        notices.warn(
            f"servers: {server.name}: translate", "Envoy does not translate: clients of another era get nowhere"
        )
