"""Who is calling: the first method that applies decides, and a wrong credential never becomes somebody else."""

from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openmcp.identity.agents import Anyone, ApiKeys, Identifier, build
from openmcp.identity.connection import Mtls, Workload
from openmcp.identity.forwarded import Forwarded
from openmcp.identity.jwt_issuer import Jwts, Terms
from openmcp.identity.jwt_svid import JwtSvids
from openmcp.identity.material import NoIdentity, Svid
from openmcp.identity.peer import UNKNOWN, Peer, PeerCertificate
from openmcp.identity.principal import ANONYMOUS, Principal
from openmcp.identity.spiffe_id import SpiffeId
from tests.fakes import pki
from tests.identity.asking import NOW, ask, bearer
from tests.identity.issuing import AUDIENCE, ISSUER, Bundles, Keys, good


def digest(key: bytes) -> str:
    return sha256(key).hexdigest()


KEYS = ApiKeys([("ci-bot", digest(b"k-1")), ("helpdesk", digest(b"k-2"))])
CI_BOT = Principal("key:ci-bot", "apiKey")
HELPDESK = Principal("key:helpdesk", "apiKey")

SVID_KEY, ISSUER_KEY = pki.jwt_key("svid-1"), pki.jwt_key("idp-1")
SVIDS = JwtSvids(Bundles({"example.org": pki.jwks(SVID_KEY)}), AUDIENCE, ["example.org"], clock=lambda: NOW)
TOKENS = Jwts(Terms(ISSUER, (AUDIENCE,)), Keys(pki.jwks(ISSUER_KEY, use="sig")), clock=lambda: NOW)
SVID = pki.mint_jwt(SVID_KEY, good(sub="spiffe://example.org/agent"))
TOKEN = pki.mint_jwt(ISSUER_KEY, good(sub="alice", iss=ISSUER))
FOREIGN = pki.mint_jwt(ISSUER_KEY, good(sub="alice", iss="https://other.example"))
LOCAL = Peer("127.0.0.1")
WITH_SVID = Peer("10.0.0.9", PeerCertificate(SpiffeId("example.org", "/caller"), b"", NOW + 60))


class Own:
    """Our SVID, or none yet."""

    def __init__(self, name: str | None) -> None:
        self.name = name

    def own(self) -> Svid:
        if self.name is None:
            raise NoIdentity("no registration entry")
        return Svid(SpiffeId("example.org", self.name), (), b"", "", 0, 0)


WORKLOAD = Workload(Own("/pod"))
POD = Principal("spiffe://example.org/pod", "workload")


@pytest.mark.parametrize(
    ("headers", "found"),
    [
        pytest.param({}, None, id="nothing"),
        pytest.param({b"x-api-key": b"k-1"}, CI_BOT, id="own header"),
        pytest.param({b"authorization": b"Bearer k-2"}, HELPDESK, id="bearer"),
        pytest.param({b"authorization": b"bEARER   k-2 "}, HELPDESK, id="bearer, written oddly"),
        pytest.param({b"x-api-key": b"k-1", b"authorization": b"Bearer k-1"}, CI_BOT, id="the same twice"),
        pytest.param({b"x-api-key": b"k-1", b"authorization": b"Bearer k-2"}, "two_credentials", id="two keys"),
        pytest.param({b"x-api-key": b"k-1", b"authorization": b"Bearer x"}, "two_credentials", id="one good, one bad"),
        pytest.param({b"x-api-key": b"k-1", b"authorization": b"Basic azE6"}, CI_BOT, id="another scheme beside"),
        pytest.param({b"authorization": b"Basic k-1"}, None, id="another scheme"),
        pytest.param({b"authorization": b"k-1"}, None, id="no scheme"),
        pytest.param({b"authorization": b"Bearer"}, "unknown_api_key", id="scheme alone"),
        pytest.param({b"authorization": b"Bearer k-1, Bearer k-1"}, "unknown_api_key", id="a joined header"),
        pytest.param({b"x-api-key": b""}, "unknown_api_key", id="empty"),
        pytest.param({b"x-api-key": b"K-1"}, "unknown_api_key", id="case counts"),
        pytest.param({b"x-api-key": digest(b"k-1").encode()}, "unknown_api_key", id="the digest is not the key"),
        pytest.param({b"x-api-key": TOKEN.encode()}, "unknown_api_key", id="a JWT is no API key"),
        pytest.param(bearer(TOKEN), "unknown_token", id="a JWT, and nobody who takes it"),
        pytest.param({b"X-API-KEY": b"k-1"}, None, id="names come in lower case"),
    ],
)
def test_api_keys(headers, found):
    assert ask(build([KEYS]), headers) == found


@pytest.mark.parametrize("headers", [{}, {b"authorization": b"Basic azE6"}])
def test_none_behind_keys_takes_those_who_present_no_key(headers):
    assert ask(build([KEYS, Anyone()]), headers) is ANONYMOUS


@given(key=st.binary(max_size=20))
def test_no_other_key_is_good(key):
    expected = {b"k-1": CI_BOT, b"k-2": HELPDESK}.get(key.strip(), "unknown_api_key")
    assert ask(build([KEYS, Anyone()]), {b"x-api-key": key}) == expected


def test_without_a_method_nobody_is_identified():
    assert ask(build([]), {b"x-api-key": b"k-1"} | bearer(SVID)) is None


EVERYTHING = [
    Mtls(["example.org"], clock=lambda: NOW),
    SVIDS,
    TOKENS,
    KEYS,
    Forwarded(["10.1.0.0/16"]),
    WORKLOAD,
    Anyone(),
]


@pytest.mark.parametrize("order", [EVERYTHING, EVERYTHING[::-1]], ids=["as written", "backwards"])
@pytest.mark.parametrize(
    ("headers", "name"),
    [
        (bearer(SVID), "spiffe://example.org/agent"),
        (bearer(TOKEN), f"jwt:{ISSUER}#alice"),
        (bearer(b"k-1"), "key:ci-bot"),
        ({b"x-api-key": b"k-1"}, "key:ci-bot"),
    ],
)
def test_a_token_finds_the_method_it_is_for_in_any_order(order, headers, name):
    """`workload` and `none` leave those to the others who present something, also where they come first."""
    found = ask(build(order), headers, LOCAL)
    assert isinstance(found, Principal)
    assert found.name == name


@pytest.mark.parametrize("fallback", [WORKLOAD, Anyone()], ids=["workload", "none"])
@pytest.mark.parametrize("methods", [[SVIDS, TOKENS, KEYS], [SVIDS], [TOKENS], [KEYS]])
@pytest.mark.parametrize(
    "headers",
    [
        bearer(SVID[:-4] + "AAAA"),
        bearer(FOREIGN),
        bearer(b"wrong"),
        bearer(b""),
        bearer(b"a.b.c"),
        bearer(b"."),
        bearer(b"x" * 30_000),
        bearer(b"\xff\x00"),
        bearer(SVID + ", Bearer " + SVID),
        bearer(SVID + "."),
    ],
)
def test_a_bad_token_never_becomes_somebody_else(fallback, methods, headers):
    for order in ([*methods, fallback], [fallback, *methods]):
        assert isinstance(ask(build(order), headers, LOCAL), str)


@pytest.mark.parametrize("key", [b"wrong", b"", TOKEN.encode()])
def test_a_bad_api_key_never_becomes_somebody_else(key):
    for order in ([KEYS, WORKLOAD, Anyone()], [Anyone(), WORKLOAD, KEYS]):
        assert ask(build(order), {b"x-api-key": key}, LOCAL) == "unknown_api_key"


def test_a_header_that_no_method_is_for_says_nothing():
    """`X-API-Key` may be meant for a gateway before us, `Authorization` as well."""
    assert ask(build([SVIDS]), bearer(SVID) | {b"x-api-key": b"of a gateway"}) == SVIDS.principal(bearer(SVID), UNKNOWN)
    assert ask(build([WORKLOAD]), bearer(b"of a gateway") | {b"x-api-key": b"x"}, LOCAL) == POD


@pytest.mark.parametrize("order", [[SVIDS, TOKENS, KEYS], [KEYS, TOKENS, SVIDS]])
@pytest.mark.parametrize("token", [SVID, TOKEN])
@pytest.mark.parametrize("key", [b"k-1", b"wrong", b""])
def test_two_credentials_at_once_are_none(order, token, key):
    assert ask(build(order), bearer(token) | {b"x-api-key": key}) == "two_credentials"


def test_the_first_that_applies_decides():
    caller = Principal("spiffe://example.org/caller", "mtls")
    mtls = Mtls(["example.org"], clock=lambda: NOW)
    assert ask(build([mtls, KEYS]), {b"x-api-key": b"wrong"}, WITH_SVID) == caller
    assert ask(build([KEYS, mtls]), {b"x-api-key": b"k-1"}, WITH_SVID) == CI_BOT
    assert ask(build([KEYS, mtls]), {b"x-api-key": b"wrong"}, WITH_SVID) == "unknown_api_key"
    assert ask(build([KEYS, mtls]), {}, WITH_SVID) == caller


def test_a_proxy_that_speaks_for_others_is_not_the_workload():
    """A client of the mesh without a certificate, through the proxy of this pod."""
    proxied = build([Forwarded(["127.0.0.1/32"]), WORKLOAD])
    assert ask(proxied, {}, LOCAL) is None
    assert ask(proxied, {}, Peer("127.0.0.2")) == POD


def test_until_when_what_identifies_a_caller_holds():
    it = Identifier(EVERYTHING)

    def until(headers, peer, found=None):
        return it.until(found or it.identify(headers, peer), headers, peer)

    assert until({}, WITH_SVID) == NOW + 60
    assert until(bearer(SVID), LOCAL) == NOW + 300 + 30
    assert until(bearer(TOKEN), LOCAL) == NOW + 300 + 30
    assert until(bearer(b"k-1"), LOCAL) == float("inf")
    assert until({}, LOCAL) == float("inf")
    assert until(bearer(b"wrong"), LOCAL, CI_BOT) == 0.0
    assert until({b"x-api-key": b"k-1"}, LOCAL, HELPDESK) == 0.0, "another one's now"
    assert until({}, LOCAL, ANONYMOUS) == 0.0, "no longer anonymous"
    it = build([])
    assert until({}, LOCAL, ANONYMOUS) == float("inf")
    assert until({}, LOCAL, POD) == 0.0
    it = Identifier(EVERYTHING[::-1])
    assert until(bearer(SVID), LOCAL) == NOW + 330, "and not what holds for `none`"
