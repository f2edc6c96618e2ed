"""Where the sidecar listens: `listen`."""

import msgspec

from openmcp.config.model.basics import Address, Secret


class WebTls(msgspec.Struct, frozen=True, kw_only=True, tag="web", tag_field="type"):
    """TLS on the listener under the web PKI, from PEM files that are read anew when they change. With `client_ca`
    clients may present certificates of that CA; a SPIFFE ID in one counts for `type: mtls`."""

    certificate: Secret
    key: Secret
    client_ca: Secret | None = None


class SpiffeTls(msgspec.Struct, frozen=True, kw_only=True, tag="spiffe", tag_field="type"):
    """TLS on the listener with our SVID; agents may present theirs, of these trust domains."""

    trust_domains: tuple[str, ...]


class Listen(msgspec.Struct, frozen=True, kw_only=True):
    """Where agents (`mcp`) and operators (`admin`) connect, and which browsers and names are accepted.

    `url` is how clients reach the listener where that is not what they say in `Host` (behind a proxy that ends TLS):
    `https://gateway.example`, without a path.
    """

    mcp: Address = Address(host="127.0.0.1", port=15001)
    admin: Address = Address(host="127.0.0.1", port=15020)
    tls: WebTls | SpiffeTls | None = None
    url: str | None = None
    allowed_origins: tuple[str, ...] = ()
    allowed_hosts: tuple[str, ...] = ()
