"""JWT-SVIDs: every malformed one is refused, and for which reason (JWT-SVID specification, 2 to 6)."""

import json
from typing import Any

import pytest

from openmcp.config.model import AgentSelector
from openmcp.identity.agents import Anyone, build
from openmcp.identity.jwt_issuer import Jwts, Terms
from openmcp.identity.jwt_svid import JwtSvids
from openmcp.identity.peer import UNKNOWN
from openmcp.identity.principal import Principal
from openmcp.sidecar.policy.agents import Agents
from tests.fakes import pki
from tests.identity import forging
from tests.identity.asking import NOW, ask, bearer
from tests.identity.issuing import AUDIENCE, ISSUER, Bundles, Keys, good

ID = "spiffe://example.org/ns/support/sa/bot"
KEY = pki.jwt_key("one")
RSA = pki.jwt_key("rsa", "RS256")
PARTNER = pki.jwt_key("two")
TWIN = pki.jwt_key("one")
"""A key of the partner's with the id of one of ours."""
BUNDLES = {"example.org": pki.jwks(KEY, RSA), "partner.example": pki.jwks(PARTNER, TWIN)}
BOTH = ("example.org", "partner.example")


def method(bundles: dict[str, bytes] | None = None, domains: Any = BOTH, now: float = NOW) -> JwtSvids:
    return JwtSvids(Bundles(BUNDLES if bundles is None else bundles), AUDIENCE, domains, clock=lambda: now)


def svid(key: pki.JwtKey = KEY, headers: dict[str, Any] | None = None, **claims: Any) -> str:
    """A JWT-SVID with these deviations."""
    return pki.mint_jwt(key, good(sub=ID) | claims, **(headers or {}))


CALLER = Principal(ID, "jwtSvid", (("aud", AUDIENCE), ("sub", ID)))


@pytest.mark.parametrize(
    "token",
    [
        pytest.param(svid(), id="as SPIRE makes it"),
        pytest.param(svid(RSA), id="RS256"),
        pytest.param(svid(aud=[AUDIENCE]), id="the audience as a list of one"),
        pytest.param(svid(headers={"typ": None}), id="no type"),
        pytest.param(svid(headers={"typ": "JOSE"}), id="type JOSE"),
        pytest.param(svid(iat=None), id="no time of issue"),
        pytest.param(svid(nbf=int(NOW)), id="valid from now"),
        pytest.param(svid(iat=int(NOW) + 20, nbf=int(NOW) + 20), id="of a clock that is ahead"),
        pytest.param(svid(exp=int(NOW) - 20), id="ended a moment ago, by our clock"),
        pytest.param(svid(exp=NOW + 0.5), id="half a second"),
    ],
)
def test_a_good_one(token):
    assert ask(method(), bearer(token)) == CALLER


HUGE = svid(text="x" * 13_000)
EXP = good()["exp"]
PARTS = good(sub=ID)
HEADER = {"alg": "ES256", "kid": "one", "typ": "JWT"}

REFUSED: list[tuple[str, str | bytes, str]] = [
    ("alg none", forging.unsigned({"alg": "none", "kid": "one"}, PARTS, b"x"), "algorithm"),
    ("alg None, and a signature", forging.signed(KEY, HEADER | {"alg": "None"}, PARTS), "algorithm"),
    ("HS256 by the public key", forging.by_public_key(KEY, "HS256", PARTS), "algorithm"),
    ("HS512 by the public key", forging.by_public_key(KEY, "HS512", PARTS), "algorithm"),
    ("HS256 by the bundle", forging.by_public_key(KEY, "HS256", PARTS, BUNDLES["example.org"]), "algorithm"),
    ("the algorithm of another key", forging.signed(KEY, HEADER | {"alg": "RS256"}, PARTS), "algorithm"),
    ("no algorithm", forging.signed(KEY, {"kid": "one"}, PARTS), "algorithm"),
    ("wrong audience", svid(aud="zendesk"), "audience"),
    ("two audiences", svid(aud=[AUDIENCE, "zendesk"]), "audience"),
    ("ours twice", svid(aud=[AUDIENCE, AUDIENCE]), "audience"),
    ("no audience", svid(aud=None), "audience"),
    ("empty audience", svid(aud=[]), "audience"),
    ("audience in other letters", svid(aud="OpenMCP"), "audience"),
    ("audience and a space", svid(aud=AUDIENCE + " "), "audience"),
    ("audience as an object", svid(aud={AUDIENCE: 1}), "audience"),
    ("audience and a number", svid(aud=[AUDIENCE, 1]), "audience"),
    ("audience within a list", svid(aud=[[AUDIENCE]]), "audience"),
    ("no exp", svid(exp=None), "malformed_token"),
    ("exp past", svid(exp=int(NOW) - 31), "expired"),
    ("exp at the begin of time", svid(exp=0), "expired"),
    ("exp in milliseconds", svid(exp=EXP * 1000), "malformed_token"),
    ("exp as a text", forging.signed(KEY, HEADER, PARTS | {"exp": str(EXP)}), "malformed_token"),
    ("exp true", forging.signed(KEY, HEADER, PARTS | {"exp": True}), "malformed_token"),
    ("exp null", forging.signed(KEY, HEADER, PARTS | {"exp": None}), "malformed_token"),
    ("exp negative", forging.signed(KEY, HEADER, PARTS | {"exp": -1}), "malformed_token"),
    ("exp of 300 digits", forging.signed(KEY, HEADER, PARTS | {"exp": 10**300}), "malformed_token"),
    ("future nbf", svid(nbf=int(NOW) + 31), "not_yet_valid"),
    ("nbf as a text", forging.signed(KEY, HEADER, PARTS | {"nbf": "0"}), "malformed_token"),
    ("future iat", svid(iat=int(NOW) + 31), "not_yet_valid"),
    ("iat false", forging.signed(KEY, HEADER, PARTS | {"iat": False}), "malformed_token"),
    ("unknown kid", svid(headers={"kid": "three"}), "unknown_key"),
    ("no kid", svid(headers={"kid": None}), "malformed_token"),
    ("empty kid", forging.signed(KEY, HEADER | {"kid": ""}, PARTS), "malformed_token"),
    ("kid as a number", forging.signed(KEY, HEADER | {"kid": 1}, PARTS), "malformed_token"),
    ("kid with a newline", svid(headers={"kid": "one\n"}), "unknown_key"),
    ("other domain's key, by its kid", svid(PARTNER), "unknown_key"),
    ("other domain's key, by our kid", svid(PARTNER, {"kid": "one"}), "signature"),
    ("kid collision across domains", svid(TWIN), "signature"),
    ("another's signature", svid()[:-86] + svid(sub="spiffe://example.org/x")[-86:], "signature"),
    ("a short signature", svid()[:-2], "signature"),
    ("a signature of zeros", forging.unsigned(HEADER, PARTS, b"\0" * 64), "signature"),
    ("sub with trailing newline", svid(sub=ID + "\n"), "subject"),
    ("sub with a query", svid(sub=ID + "?x"), "subject"),
    ("sub with a port", svid(sub="spiffe://example.org:80/x"), "subject"),
    ("sub with a user", svid(sub="spiffe://example.org@evil.example/x"), "subject"),
    ("sub with dots", svid(sub="spiffe://example.org/../x"), "subject"),
    ("sub of a trust domain", svid(sub="spiffe://example.org"), "subject"),
    ("sub in capitals", svid(sub="spiffe://Example.org/x"), "subject"),
    ("sub of nothing", svid(sub="spiffe://"), "subject"),
    ("sub of 2049 bytes", svid(sub="spiffe://example.org/" + "a" * 2028), "subject"),
    ("sub of an unaccepted domain", svid(sub="spiffe://evil.example/x"), "trust_domain"),
    ("sub of a domain that only looks alike", svid(sub="spiffe://example.org.evil.example/x"), "trust_domain"),
    ("typ at+jwt", svid(headers={"typ": "at+jwt"}), "malformed_token"),
    ("typ jwt in small letters", svid(headers={"typ": "jwt"}), "malformed_token"),
    ("typ of a list", forging.signed(KEY, HEADER | {"typ": ["JWT"]}, PARTS), "malformed_token"),
    ("typ null", forging.signed(KEY, HEADER | {"typ": None}, PARTS), "malformed_token"),
    ("crit", forging.signed(KEY, HEADER | {"crit": ["exp"]}, PARTS), "malformed_token"),
    ("crit and b64", forging.signed(KEY, HEADER | {"crit": ["b64"], "b64": False}, PARTS), "malformed_token"),
    ("bound to a key", svid(cnf={"jkt": "x"}), "malformed_token"),
    ("duplicated sub", forging.signed(KEY, HEADER, forging.repeated(PARTS, "sub", "spiffe://x/y")), "unknown_token"),
    ("duplicated aud", forging.signed(KEY, HEADER, forging.repeated(PARTS, "aud", "zendesk")), "unknown_token"),
    ("duplicated alg", forging.signed(KEY, forging.repeated(HEADER, "alg", "none"), PARTS), "unknown_token"),
    ("huge token", HUGE, "unknown_token"),
    ("padded base64", svid() + "==", "unknown_token"),
    ("non-canonical base64", svid()[:-1] + "B", "unknown_token"),
    ("nested JWT", forging.signed(KEY, HEADER | {"cty": "JWT"}, svid().encode()), "unknown_token"),
    ("JWE", svid() + ".AAAA.AAAA", "unknown_token"),
    ("two tokens", svid() + ", " + svid(), "unknown_token"),
    ("no sub", svid(sub=None), "unknown_token"),
    ("sub as a list", forging.signed(KEY, HEADER, PARTS | {"sub": [ID]}), "unknown_token"),
    ("sub of another scheme", svid(sub="alice"), "unknown_token"),
    ("sub with a space before it", svid(sub=" " + ID), "unknown_token"),
    ("sub in another scheme's letters", svid(sub="SPIFFE://example.org/x"), "unknown_token"),
]


@pytest.mark.parametrize(("token", "reason"), [pytest.param(*case[1:], id=case[0]) for case in REFUSED])
def test_a_malformed_one(token, reason):
    it = build([method(), Anyone()])
    assert [ask(it, bearer(token)) for _ in range(2)] == [reason, reason]
    assert ask(it, bearer(svid())) == CALLER, "and it costs no other one anything"


def test_an_algorithm_that_the_specification_leaves_out_also_by_a_key_of_the_bundle():
    key, public = forging.edwards("ed")
    it = method({"example.org": json.dumps({"keys": [public]}).encode()})
    assert ask(it, bearer(forging.signed(key, {"alg": "EdDSA", "kid": "ed"}, PARTS))) == "algorithm"


def test_a_token_of_a_federated_domain_by_its_own_keys():
    partner = svid(TWIN, sub="spiffe://partner.example/x")
    found = ask(method(), bearer(partner))
    assert isinstance(found, Principal)
    assert found.name == "spiffe://partner.example/x"
    assert ask(method(domains=["example.org"]), bearer(partner)) == "trust_domain", "known, and not accepted"


def test_before_the_keys_are_there_nothing_can_be_said():
    source = Bundles({})
    it = JwtSvids(source, AUDIENCE, BOTH, clock=lambda: NOW)
    assert source.wanted == 1
    assert ask(it, bearer(svid())) == "unavailable: no_keys"
    source.update(BUNDLES)
    assert ask(it, bearer(svid())) == CALLER


@pytest.mark.parametrize("bundle", [b"", b"{}", b'{"keys":[]}', b"\xff", pki.jwks(KEY, use="x509-svid")])
def test_a_bundle_that_cannot_be_used_costs_its_own_domain_alone(bundle):
    it = method(BUNDLES | {"example.org": bundle})
    assert ask(it, bearer(svid())) == "unknown_key"
    assert isinstance(ask(it, bearer(svid(TWIN, sub="spiffe://partner.example/x"))), Principal)


def test_a_key_that_was_withdrawn_takes_its_tokens_with_it():
    source = Bundles(BUNDLES)
    it = JwtSvids(source, AUDIENCE, BOTH, clock=lambda: NOW)
    first, second = svid(), svid(RSA)
    assert ask(it, bearer(first)) == ask(it, bearer(second)) == CALLER
    source.update({"example.org": pki.jwks(RSA)})
    assert ask(it, bearer(first)) == "unknown_key"
    assert ask(it, bearer(second)) == CALLER
    source.update({})
    assert ask(it, bearer(second)) == "trust_domain"


def test_a_remembered_token_ends_when_it_ends():
    now = NOW
    it = JwtSvids(Bundles(BUNDLES), AUDIENCE, BOTH, clock=lambda: now)
    headers = bearer(svid())
    assert ask(it, headers) == CALLER
    assert it.until(headers, UNKNOWN) == NOW + 330
    now = NOW + 329
    assert ask(it, headers) == CALLER
    now = NOW + 330
    assert ask(it, headers) == "expired"
    assert it.until(headers, UNKNOWN) == 0.0


def test_what_is_remembered_is_bounded(monkeypatch):
    monkeypatch.setattr("openmcp.identity.bearer.MAX_REMEMBERED", 3)
    it = method()
    tokens = [bearer(svid(jti=str(number))) for number in range(5)]
    assert [ask(it, one) for one in tokens] == [CALLER] * 5
    assert [it.until(one, UNKNOWN) > 0 for one in tokens] == [False, False, True, True, True]
    assert [ask(it, one) for one in tokens] == [CALLER] * 5


def test_what_is_remembered_of_large_tokens_is_bounded(monkeypatch):
    """A token with all groups of a caller takes three times its size once it is taken apart."""
    bundles, size = Bundles(BUNDLES), len(svid(jti="0"))
    it = JwtSvids(bundles, AUDIENCE, BOTH, clock=lambda: NOW)
    monkeypatch.setattr("openmcp.identity.bearer.MAX_BYTES", 2 * size + size // 2)
    tokens = [bearer(svid(jti=str(number))) for number in range(4)]
    assert [ask(it, one) for one in tokens] == [CALLER] * 4
    assert [it.until(one, UNKNOWN) > 0 for one in tokens] == [False, False, True, True]
    for _ in range(3):  # verified again, what is there is not counted twice
        bundles.update(BUNDLES)
        assert [ask(it, one) for one in tokens[2:]] == [CALLER] * 2
        assert [it.until(one, UNKNOWN) > 0 for one in tokens] == [False, False, True, True]


def test_what_policy_may_ask_of_a_caller():
    token = svid(
        groups=["b", "a", "b", 7, None, {"x": 1}], admin=True, level=3, rate=0.5, text="x", nothing=None, deep={"a": 1},
        jti="1", nonce="n", auth_time=1, at_hash="h", nbf=int(NOW),
    )  # fmt: skip
    found = ask(method(), bearer(token))
    assert isinstance(found, Principal)
    assert found.claims == (
        *(("admin", "true"), ("aud", AUDIENCE), ("groups", "7"), ("groups", "a"), ("groups", "b")),
        *(("level", "3"), ("rate", "0.5"), ("sub", ID), ("text", "x")),
    )


def test_an_svid_cannot_say_that_its_claims_are_of_another_issuer():
    """A policy names the issuer of the claims that it means by `iss`; nothing vouches for that of a JWT-SVID."""
    policy = Agents([AgentSelector(claims=(("iss", ISSUER), ("groups", "admins")))])
    claims = {"iss": ISSUER, "groups": ["admins"]}
    issuer = Jwts(Terms(ISSUER, (AUDIENCE,)), Keys(pki.jwks(KEY, use="sig")), clock=lambda: NOW)
    theirs = ask(issuer, bearer(pki.mint_jwt(KEY, good(sub="alice") | claims)))
    forged = ask(method(), bearer(svid(TWIN, sub="spiffe://partner.example/x", **claims)))
    assert isinstance(theirs, Principal)
    assert isinstance(forged, Principal)
    assert [policy.match(theirs), policy.match(forged)] == [True, False]
    assert ("groups", "admins") in forged.claims
