"""The Gateway itself: where clients connect, what they may send, and that nobody gets in whom no route lets in."""

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

LISTENER = "https"


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
    return host if host and not host.replace(".", "").isdigit() and ":" not in host and "." in host else None


def _gateway(configuration: Configuration, target: Target, notices: Notices) -> Document:
    secret = object_name(target.name, "tls")
    tls = configuration.listen.tls
    where = (
        f"the PEM of listen.tls ({tls.certificate.file or tls.certificate.env})" if isinstance(tls, WebTls) else "PEM"
    )
    notices.need(f"Secret {target.namespace}/{secret}", f"tls.crt and tls.key of the gateway: {where}")
    if isinstance(tls, SpiffeTls):
        notices.warn("listen.tls", "the gateway has a certificate from a Secret: Envoy Gateway takes no SVIDs")
    name = hostname(configuration)
    return {
        "gatewayClassName": target.name,
        "listeners": [
            {
                "name": LISTENER,
                "protocol": "HTTPS",
                "port": 443,
                **({} if name is None else {"hostname": name}),
                "tls": {"mode": "Terminate", "certificateRefs": [{"name": secret}]},
                "allowedRoutes": {"namespaces": {"from": "Same"}},
            }
        ],
    }


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
