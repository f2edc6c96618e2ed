"""The other end of a connection: its address, and what it proved in the TLS handshake."""

import msgspec

from openmcp.identity.spiffe_id import SpiffeId


class PeerCertificate(msgspec.Struct, frozen=True):
    """A verified certificate of a peer.

    `spiffe_id` is None where it is no SVID (a client certificate of the web PKI); `anchor` is the SHA-256 of the CA
    certificate that its chain ends in; `expires` is the end of the certificate, in Unix seconds.
    """

    spiffe_id: SpiffeId | None
    anchor: bytes
    expires: float


class Peer(msgspec.Struct, frozen=True):
    """Whoever is at the other end: `address` is its IP address without a port ("" where there is none, as on a Unix
    socket), `certificate` what it presented and we verified."""

    address: str = ""
    certificate: PeerCertificate | None = None


UNKNOWN = Peer()
