"""TLS with SVIDs: contexts that use, in each handshake, the SVID and the bundles that we have at that moment.

CA certificates cannot be taken out of a context, so each update of the Workload API has contexts of its own. A listener
holds one that hands every handshake to the present one; connections that were made before stay as they are.
"""

import hashlib
import ssl
import time
from collections.abc import Callable, Container
from typing import Protocol

from openmcp.identity import certificates
from openmcp.identity.contexts import Check, Checked, OnRefused, Refusals, delegating, load_key_pair, pem_of
from openmcp.identity.globs import matches
from openmcp.identity.material import Bundles, NoIdentity, Svid
from openmcp.identity.peer import PeerCertificate, PeerRefused
from openmcp.identity.spiffe_id import SpiffeId


class Source(Protocol):
    """Where our SVIDs come from (`identity.source.SvidSource`)."""

    @property
    def generation(self) -> int:
        """Another number after each update."""

    @property
    def bundles(self) -> Bundles:
        """The CA certificates of all trust domains."""

    def own(self) -> Svid:
        """Our SVID, which has not expired. Raises NoIdentity."""


def _nobody(why: str) -> None:
    """Nobody counts refusals."""


class SpiffeTls:
    """Contexts for listeners and for connections to servers; `on_server_refused` is told why a server was."""

    def __init__(
        self,
        source: Source,
        on_server_refused: Callable[[str], None] = _nobody,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._source = source
        self._on_server_refused = on_server_refused
        self._clock = clock
        self._generation: int | None = None
        self._anchors: dict[str, frozenset[bytes]] = {}
        self._server: Checked | None = None
        self._clients: dict[tuple[str, ...], Checked] = {}

    def server_context(
        self, on_refused: Callable[[str], None], trust_domains: Container[str] | None = None
    ) -> ssl.SSLContext:
        """The context of a listener, for as long as it lives.

        A client that presents a certificate has to present a good one, of one of these trust domains (None: of any);
        whether it has to present any is decided where a request can be answered. `on_refused` is told why a handshake
        failed.
        """
        refusals = Refusals("a client", on_refused)

        def current() -> ssl.SSLContext:
            own = self._own()
            if self._server is None:
                self._server = self._made(
                    ssl.PROTOCOL_TLS_SERVER, own, lambda chain: self._accepted(chain, trust_domains), refusals.add
                )
                self._server.verify_mode = ssl.CERT_OPTIONAL
                self._server.num_tickets = 0  # a session that is resumed has no verified chain
            return self._server

        return delegating(current, refusals.add)

    def client_context(self, server_ids: tuple[str, ...]) -> ssl.SSLContext:
        """The context for one connection to a server that has one of these IDs (globs). Raises NoIdentity.

        A server that is refused raises `PeerRefused` out of the handshake, before anything of ours was sent to it.
        """
        own = self._own()
        context = self._clients.get(server_ids)
        if context is None:
            context = self._made(
                ssl.PROTOCOL_TLS_CLIENT,
                own,
                lambda chain: self._expected(chain, server_ids),
                lambda why, message: self._on_server_refused(why),
            )
            self._clients[server_ids] = context
        return context

    def still_trusted(self, certificate: PeerCertificate) -> bool:
        """Whether the CA of a connection that was made before is still in the bundle of the peer's trust domain."""
        self._renew()
        spiffe_id = certificate.spiffe_id
        return spiffe_id is not None and certificate.anchor in self._anchors.get(spiffe_id.trust_domain, ())

    def still_mutual(self, certificate: PeerCertificate, shown: SpiffeId) -> bool:
        """The same for a connection to a server, and whether we are still the one whose SVID we have shown it."""
        try:
            return self._source.own().id == shown and self.still_trusted(certificate)
        except NoIdentity:
            return False

    def own(self) -> Svid:
        """The SVID that connections are made with now. Raises NoIdentity."""
        return self._source.own()

    def _own(self) -> Svid:
        self._renew()
        return self._source.own()

    def _renew(self) -> None:
        if self._source.generation == self._generation:
            return
        self._generation = self._source.generation
        self._anchors = {
            domain: frozenset(hashlib.sha256(der).digest() for der in bundle)
            for domain, bundle in self._source.bundles.items()
        }
        self._server = None
        self._clients = {}

    def _made(self, protocol: int, own: Svid, check: Check, on_refused: OnRefused) -> Checked:
        context = Checked(protocol)
        context.check, context.on_refused = check, on_refused
        context.check_hostname = False
        context.verify_mode = ssl.CERT_REQUIRED
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # what a bundle has need not be self-signed
        context.set_alpn_protocols(["h2", "http/1.1"] if protocol == ssl.PROTOCOL_TLS_SERVER else ["http/1.1"])
        try:
            anchors = certificates.anchors(self._source.bundles, own)
            if anchors:
                context.load_verify_locations(cadata=b"".join(anchors))
            load_key_pair(context, pem_of(own.certificates, own.key))
        except Exception as error:  # of the library and of the parser, whose errors are not one family
            raise NoIdentity(f"our SVID or a bundle cannot be used: {error}") from error
        return context

    def _verified(self, chain: list[bytes]) -> PeerCertificate:
        return certificates.verify_peer(chain, self._source.bundles, self._clock())

    def _accepted(self, chain: list[bytes], trust_domains: Container[str] | None) -> PeerCertificate:
        certificate = self._verified(chain)
        spiffe_id = certificate.spiffe_id
        assert spiffe_id is not None  # an SVID has one
        if trust_domains is not None and spiffe_id.trust_domain not in trust_domains:
            raise PeerRefused("of a trust domain that is not in listen.tls.trustDomains", certificates.shown(spiffe_id))
        return certificate

    def _expected(self, chain: list[bytes], server_ids: tuple[str, ...]) -> PeerCertificate:
        certificate = self._verified(chain)
        spiffe_id = certificate.spiffe_id
        assert spiffe_id is not None  # an SVID has one
        if not any(matches(glob, str(spiffe_id)) for glob in server_ids):
            raise PeerRefused("not one of servers[].auth.serverIds", f"the server is {certificates.shown(spiffe_id)}")
        return certificate
