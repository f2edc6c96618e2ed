"""From the tree of a source to the `listen` of the model: addresses, TLS, and who may name us."""

from openmcp.config import model
from openmcp.config.addresses import address
from openmcp.config.cursor import At, Reading, Shape, list_of, tagged
from openmcp.config.spiffevalues import trust_domains
from openmcp.config.values import host, origin, secret
from openmcp.config.yamlsource import Mapping

_web: Reading[model.WebTls] = Shape(
    model.WebTls,
    {"certificate": secret, "key": secret, "clientCa": secret},
    required=("certificate", "key"),
    ignored=("type",),
)
_typed: Reading[model.WebTls | model.SpiffeTls] = tagged(
    {
        "web": _web,
        "spiffe": Shape(
            model.SpiffeTls, {"trustDomains": trust_domains}, required=("trustDomains",), ignored=("type",)
        ),
    }
)


def _tls(at: At) -> model.WebTls | model.SpiffeTls | None:
    """Without a type it is that of the web."""
    if not isinstance(at.node, Mapping):
        at.expected("a mapping", "write {certificate: {file: PATH}, key: {file: PATH}}, or {type: spiffe, ...}")
        return None
    if at.key("type") is not None:
        return _typed(at)
    if at.key("trustDomains") is not None:
        at.error("`trustDomains` belongs to `type: spiffe`", "write {type: spiffe, trustDomains: [...]}")
        return None
    return _web(at)


listen: Reading[model.Listen] = Shape(
    model.Listen,
    {
        "mcp": address,
        "admin": address,
        "tls": _tls,
        "url": origin,
        "allowedOrigins": list_of(origin),
        "allowedHosts": list_of(host),
    },
)
