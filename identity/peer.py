"""The other end of a connection: its address, and what it proved in the TLS handshake."""

import ssl
from typing import Any

import msgspec

from openmcp.identity.spiffe_id import SpiffeId


class PeerCertificate(msgspec.Struct, frozen=True):
    """A verified certificate of a peer.

    `spiffe_id` is None where it is no SVID (a client certificate of the web PKI); `anchor` is the SHA-256 of the CA
    certificate that its chain ends in; `expires` is the end of the certificate, or that of a certificate above it where
    that comes first, in Unix seconds.
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


class PeerRefused(ssl.SSLCertVerificationError):
    """A certificate that a peer presented is not good, which ends the handshake.

    `why` is one of a few fixed texts (for metrics), the message adds what is particular to this peer. An SSLError:
    event loops take these for what happens in a handshake, and all else for a fault of the program.
    """

    def __init__(self, why: str, particular: str = "") -> None:
        super().__init__(1, f"{why}: {particular}" if particular else why)
        self.why = why


def certificate_of(ssl_object: Any) -> PeerCertificate | None:
    """What the peer of a TLS connection presented and we verified; None without TLS, or where it presented nothing."""
    return getattr(ssl_object, "peer_certificate", None)
