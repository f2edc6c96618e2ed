"""Callers known by their connection: the SVID it was made with, or that it comes from this pod."""

import functools
import time
from collections.abc import Callable, Iterable
from typing import Final, Protocol

from openmcp.identity.addresses import is_loopback
from openmcp.identity.bearer import Headers
from openmcp.identity.forwarded import HEADER as XFCC
from openmcp.identity.material import NoIdentity, Svid
from openmcp.identity.peer import Peer
from openmcp.identity.principal import Principal
from openmcp.identity.refusal import Refused, Unavailable
from openmcp.identity.spiffe_id import SpiffeId

_OF_PROXIES: Final = (XFCC, b"forwarded", b"x-forwarded-for")


class Mtls:
    """`type: mtls`: the SVID of the connection, which the handshake has verified, of one of these trust domains.

    A certificate without a SPIFFE ID (a client of the web PKI) says nothing here.
    """

    def __init__(self, trust_domains: Iterable[str], *, clock: Callable[[], float] = time.time) -> None:
        self._trust_domains = frozenset(trust_domains)
        self._clock = clock
        self._remembered = functools.lru_cache(maxsize=1024)(self._judge)

    def principal(self, headers: Headers, peer: Peer) -> Principal | None:
        """The owner of the SVID. Raises `Refused` for one that has expired or is of another trust domain."""
        certificate = peer.certificate
        if certificate is None or certificate.spiffe_id is None:
            return None
        if certificate.expires <= self._clock():
            raise Refused("expired", "the certificate of the connection has expired")
        return self._remembered(certificate.spiffe_id)

    def until(self, headers: Headers, peer: Peer) -> float:
        """When the certificate ends, in Unix seconds."""
        return peer.certificate.expires if peer.certificate is not None else 0.0

    def _judge(self, caller: SpiffeId) -> Principal:
        if caller.trust_domain not in self._trust_domains or not caller.path:
            raise Refused("trust_domain", "the certificate of the connection is not of a workload that is accepted")
        return Principal(str(caller), "mtls")


class OwnSvid(Protocol):
    """Who we are; raises `NoIdentity` as long as nobody knows."""

    def own(self) -> Svid: ...


class Workload:
    """`type: workload`, where the sidecar stands beside one agent: whoever calls over loopback is in this pod and is
    known by our SVID.

    A request that came through a proxy is somebody else's, also where the proxy itself is in this pod.
    """

    def __init__(self, source: OwnSvid) -> None:
        self._source = source
        self._name: SpiffeId | None = None
        self._principal = Principal("", "workload")

    def principal(self, headers: Headers, peer: Peer) -> Principal | None:
        """The workload that we stand for; None where the caller is not here. Raises `Unavailable` without an SVID."""
        if not is_loopback(peer.address) or any(name in headers for name in _OF_PROXIES):
            return None
        try:
            own = self._source.own().id
        except NoIdentity as error:
            raise Unavailable("no_identity", f"the SVID of this workload is not known: {error}") from None
        if own != self._name:
            self._name, self._principal = own, Principal(str(own), "workload")
        return self._principal

    def until(self, headers: Headers, peer: Peer) -> float:
        """It holds as long as the pod does."""
        return float("inf")
