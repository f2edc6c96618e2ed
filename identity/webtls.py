"""TLS under the web PKI for listeners: a certificate and its key as PEM, which may be replaced while in use."""

import hashlib
import ssl
import time
from collections.abc import Callable
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from openmcp.identity import certificates
from openmcp.identity.contexts import Checked, Refusals, delegating, load_key_pair
from openmcp.identity.peer import PeerCertificate, PeerRefused

_UNKNOWN_CA: Final = "not signed by listen.tls.clientCa"


class TlsUnusable(Exception):
    """Certificate, key and CA that cannot be used (together); the text says which."""


class FileTls:
    """The context of a listener. Raises `TlsUnusable`.

    With `client_ca` a client may present a certificate, which has to be good then. Such connections are TLS 1.3: what a
    client presented is not known of a session that is resumed, and only there resumption can be switched off.
    With `http2` it is offered to clients: where the listener speaks it.
    """

    def __init__(self, certificate: bytes, key: bytes, client_ca: bytes | None = None, *, http2: bool = False) -> None:
        self._protocols = ["h2", "http/1.1"] if http2 else ["http/1.1"]
        self._on_refused: Callable[[str, str], None] = lambda why, message: None
        self._files: tuple[bytes, bytes, bytes | None] = (certificate, key, client_ca)
        self._anchors: frozenset[bytes] = frozenset()
        self._context = self._made(certificate, key, client_ca)

    def reload(self, certificate: bytes, key: bytes, client_ca: bytes | None = None) -> bool:
        """Use these from now on; whether they are others. Raises `TlsUnusable`, and then nothing has changed."""
        if (certificate, key, client_ca) == self._files:
            return False
        self._context = self._made(certificate, key, client_ca)
        self._files = (certificate, key, client_ca)
        return True

    def server_context(self, on_refused: Callable[[str], None]) -> ssl.SSLContext:
        """The context of the listener, for as long as it lives; `on_refused` is told why a handshake failed."""
        self._on_refused = Refusals("a client", on_refused).add
        return delegating(lambda: self._context, self._on_refused)

    def still_trusted(self, certificate: PeerCertificate) -> bool:
        """Whether the CA of a connection that was made before is still one of those for clients."""
        return certificate.anchor in self._anchors

    def _client(self, chain: list[bytes]) -> PeerCertificate:
        found = certificates.verify_client(chain, time.time())
        if not self.still_trusted(found):  # the handshake was begun with a context that knew other CAs
            raise PeerRefused(_UNKNOWN_CA)
        return found

    def _made(self, certificate: bytes, key: bytes, client_ca: bytes | None) -> Checked:
        context = Checked(ssl.PROTOCOL_TLS_SERVER)
        context.check = self._client
        context.on_refused = lambda why, message: self._on_refused(why, message)
        context.stranger = _UNKNOWN_CA
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_TICKET
        context.num_tickets = 0
        context.set_alpn_protocols(self._protocols)
        try:
            load_key_pair(context, certificate + b"\n" + key)
        except (ssl.SSLError, ValueError) as error:
            raise TlsUnusable(f"certificate and key cannot be used: {_words(error)}") from None
        anchors: frozenset[bytes] = frozenset()
        if client_ca is not None:
            anchors = _load_authorities(context, client_ca)
        self._anchors = anchors
        return context


def _load_authorities(context: ssl.SSLContext, pem: bytes) -> frozenset[bytes]:
    """Have clients checked by these CAs; the SHA-256 of each."""
    try:
        found = [certificate.public_bytes(Encoding.DER) for certificate in x509.load_pem_x509_certificates(pem)]
        context.load_verify_locations(cadata=b"".join(found))
    except (ssl.SSLError, ValueError):
        raise TlsUnusable("clientCa has no certificates in PEM that can be read") from None
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_OPTIONAL
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return frozenset(hashlib.sha256(der).digest() for der in found)


def _words(error: Exception) -> str:
    reason = getattr(error, "reason", None)
    if reason in ("KEY_VALUES_MISMATCH", "NO_CERTIFICATE_ASSIGNED"):  # the second: not even of its kind
        return "the key does not belong to the certificate"
    return reason.lower().replace("_", " ") if reason else "they are no PEM, or the key is encrypted"
