"""Callers known by their connection: by its SVID, or since they are in this pod."""

import pytest

from openmcp.identity.connection import Mtls, Workload
from openmcp.identity.material import NoIdentity, Svid
from openmcp.identity.peer import Peer, PeerCertificate
from openmcp.identity.principal import Principal
from openmcp.identity.spiffe_id import SpiffeId
from tests.identity.asking import NOW, ask

BOT = SpiffeId("example.org", "/bot")


def peer(caller: SpiffeId | None, expires: float = NOW + 60) -> Peer:
    return Peer("10.0.0.9", PeerCertificate(caller, b"anchor", expires))


@pytest.mark.parametrize(
    ("caller", "found"),
    [
        (peer(BOT), Principal("spiffe://example.org/bot", "mtls")),
        (peer(SpiffeId("partner.example", "/x")), Principal("spiffe://partner.example/x", "mtls")),
        (peer(SpiffeId("evil.example", "/bot")), "trust_domain"),
        (peer(SpiffeId("example.org", "")), "trust_domain"),
        (peer(BOT, NOW), "expired"),
        (peer(BOT, NOW - 1), "expired"),
        (peer(None), None),
        (Peer("127.0.0.1"), None),
    ],
)
def test_the_svid_of_the_connection(caller, found):
    it = Mtls(["example.org", "partner.example"], clock=lambda: NOW)
    assert [ask(it, {}, caller) for _ in range(2)] == [found, found]


def test_it_ends_with_its_certificate():
    now = NOW
    it = Mtls(["example.org"], clock=lambda: now)
    assert it.until({}, peer(BOT)) == NOW + 60
    assert isinstance(ask(it, {}, peer(BOT)), Principal)
    now = NOW + 60
    assert ask(it, {}, peer(BOT)) == "expired"
    assert it.until({}, Peer()) == 0.0


class Source:
    """Our SVID as it is now."""

    def __init__(self) -> None:
        self.id: SpiffeId | None = BOT

    def own(self) -> Svid:
        if self.id is None:
            raise NoIdentity("no registration entry")
        return Svid(self.id, (), b"", "", 0, 0)


POD = Principal("spiffe://example.org/bot", "workload")


@pytest.mark.parametrize(
    ("address", "found"),
    [
        ("127.0.0.1", POD),
        ("127.8.0.1", POD),
        ("::1", POD),
        ("::ffff:127.0.0.1", POD),
        ("::ffff:7f00:1", POD),
        ("10.0.0.1", None),
        ("::ffff:10.0.0.1", None),
        ("::127.0.0.1", None),
        ("::1%lo", None),
        ("0.0.0.0", None),
        ("::", None),
        ("128.0.0.1", None),
        ("localhost", None),
        ("127.1", None),
        ("", None),
    ],
)
def test_who_calls_over_loopback_is_this_pods_agent(address, found):
    assert ask(Workload(Source()), {}, Peer(address)) == found


@pytest.mark.parametrize("header", [b"x-forwarded-client-cert", b"x-forwarded-for", b"forwarded"])
def test_what_came_through_a_proxy_is_not_of_this_pod(header):
    assert ask(Workload(Source()), {header: b""}, Peer("127.0.0.1")) is None


def test_without_an_svid_nobody_knows_who_this_pod_is():
    source = Source()
    it = Workload(source)
    source.id = None
    assert ask(it, {}, Peer("127.0.0.1")) == "unavailable: no_identity"
    assert ask(it, {}, Peer("10.0.0.1")) is None
    source.id = BOT
    assert ask(it, {}, Peer("127.0.0.1")) == POD
    source.id = SpiffeId("example.org", "/other")
    assert ask(it, {}, Peer("127.0.0.1")) == Principal("spiffe://example.org/other", "workload")
    assert it.until({}, Peer("127.0.0.1")) == float("inf")
