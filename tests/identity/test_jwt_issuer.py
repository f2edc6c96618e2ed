"""JWTs of an issuer: what is refused, who the caller is, and what happens when keys change."""

import json
from typing import Any

import pytest

from openmcp.identity.agents import Anyone, build
from openmcp.identity.jwt_issuer import Jwts, Terms
from openmcp.identity.peer import UNKNOWN
from openmcp.identity.principal import Principal
from openmcp.identity.refusal import KeysNeeded
from tests.fakes import pki
from tests.identity import forging
from tests.identity.asking import NOW, ask, bearer
from tests.identity.issuing import AUDIENCE, ISSUER, Keys, good

KEY, RSA, NEXT = pki.jwt_key("k1"), pki.jwt_key("k2", "RS256"), pki.jwt_key("k3")
DOCUMENT = pki.jwks(KEY, RSA, use="sig")


def method(keys: Keys | None = None, now: float = NOW, **terms: Any) -> Jwts:
    known = {"issuer": ISSUER, "audiences": (AUDIENCE, "https://gateway.example"), "skew": 10.0}
    return Jwts(Terms(**(known | terms)), keys or Keys(DOCUMENT), clock=lambda: now)


def token(key: pki.JwtKey = KEY, headers: dict[str, Any] | None = None, **claims: Any) -> str:
    """A token of the issuer with these deviations."""
    return pki.mint_jwt(key, good(iss=ISSUER, sub="alice") | claims, **(headers or {}))


def name(found: object) -> str:
    assert isinstance(found, Principal), found
    return found.name


ALICE = f"jwt:{ISSUER}#alice"


@pytest.mark.parametrize(
    "good_one",
    [
        pytest.param(token(), id="ES256"),
        pytest.param(token(RSA), id="RS256"),
        pytest.param(token(pki.JwtKey("k2", RSA.key, "PS256")), id="PS256 by the same key"),
        pytest.param(token(aud=["other", AUDIENCE]), id="one of its audiences is ours"),
        pytest.param(token(aud="https://gateway.example"), id="the other one of ours"),
        pytest.param(token(headers={"typ": "at+jwt"}), id="an access token (RFC 9068)"),
        pytest.param(token(headers={"typ": "application/AT+JWT"}), id="the same in full"),
        pytest.param(token(headers={"typ": None}), id="no type"),
        pytest.param(token(exp=int(NOW) - 9), id="ended a moment ago, by our clock"),
        pytest.param(token(headers={"kid": None}), id="no key named, and one that fits"),
        pytest.param(token(nbf=int(NOW) + 9), id="begins in a moment"),
    ],
)
def test_a_good_one(good_one):
    assert ask(method(), bearer(good_one)) == Principal(ALICE, "jwt", _claims(good_one))


def _claims(good_one: str) -> tuple[tuple[str, str], ...]:
    audience = json.loads(forging.base64.urlsafe_b64decode(good_one.split(".")[1] + "=="))["aud"]
    given = [audience] if isinstance(audience, str) else audience
    return (*(("aud", one) for one in sorted(given)), ("iss", ISSUER), ("sub", "alice"))


PARTS = good(iss=ISSUER, sub="alice")
HEADER = {"alg": "ES256", "kid": "k1", "typ": "JWT"}

REFUSED: list[tuple[str, str | bytes, str]] = [
    ("alg none", forging.unsigned({"alg": "none", "kid": "k1"}, PARTS, b"x"), "algorithm"),
    ("HS256 by the public key", forging.by_public_key(KEY, "HS256", PARTS), "algorithm"),
    ("HS256 by the RSA key", forging.by_public_key(RSA, "HS256", PARTS), "algorithm"),
    ("HS256 by the key set", forging.by_public_key(KEY, "HS256", PARTS, DOCUMENT), "algorithm"),
    ("RS256 by a key of a curve", forging.signed(RSA, HEADER | {"alg": "RS256"}, PARTS), "algorithm"),
    ("ES256 by an RSA key", forging.signed(KEY, HEADER | {"kid": "k2"}, PARTS), "algorithm"),
    ("RS512, which is not on the list", forging.signed(RSA, {"alg": "RS512", "kid": "k2"}, PARTS), "algorithm"),
    ("issuer without the slash", token(iss=ISSUER.rstrip("/")), "unknown_token"),
    ("issuer in other letters", token(iss=ISSUER.upper()), "unknown_token"),
    ("issuer and a space", token(iss=ISSUER + " "), "unknown_token"),
    ("issuer as a list", forging.signed(KEY, HEADER, PARTS | {"iss": [ISSUER]}), "unknown_token"),
    ("no issuer", token(iss=None), "unknown_token"),
    ("another issuer", token(iss="https://idp.evil.example/"), "unknown_token"),
    ("another audience", token(aud="other"), "audience"),
    ("no audience", token(aud=None), "audience"),
    ("audience null", forging.signed(KEY, HEADER, PARTS | {"aud": None}), "audience"),
    ("audience and a number", token(aud=[AUDIENCE, 1]), "audience"),
    ("audience that contains ours", token(aud=f"{AUDIENCE} other"), "audience"),
    ("no exp", token(exp=None), "malformed_token"),
    ("exp past", token(exp=int(NOW) - 11), "expired"),
    ("nbf future", token(nbf=int(NOW) + 11), "not_yet_valid"),
    ("iat future", token(iat=int(NOW) + 11), "not_yet_valid"),
    ("of another's key", token(NEXT, {"kid": "k1"}), "signature"),
    ("unknown kid", token(NEXT), "unknown_key"),
    ("an answer to a logout", token(headers={"typ": "logout+jwt"}), "malformed_token"),
    ("a proof of possession", token(headers={"typ": "dpop+jwt"}), "malformed_token"),
    ("an event", token(headers={"typ": "secevent+jwt"}), "malformed_token"),
    ("typ of a number", forging.signed(KEY, HEADER | {"typ": 1}, PARTS), "malformed_token"),
    ("bound to a key", token(cnf={"jkt": "x"}), "malformed_token"),
    ("crit", forging.signed(KEY, HEADER | {"crit": ["x"]}, PARTS), "malformed_token"),
    ("duplicated aud", forging.signed(KEY, HEADER, forging.repeated(PARTS, "aud", "other")), "unknown_token"),
    ("nested", forging.signed(KEY, HEADER | {"cty": "JWT"}, token().encode()), "unknown_token"),
    ("padded", token() + "==", "unknown_token"),
    ("sub missing", token(sub=None), "subject"),
    ("sub empty", token(sub=""), "subject"),
    ("sub a number", forging.signed(KEY, HEADER, PARTS | {"sub": 7}), "subject"),
    ("sub a list", forging.signed(KEY, HEADER, PARTS | {"sub": ["alice"]}), "subject"),
    ("sub with a newline", token(sub="alice\n"), "subject"),
    ("sub with NUL", token(sub="alice\0"), "subject"),
    ("sub with an escape sequence", token(sub="\x1b[2Jalice"), "subject"),
    ("sub that is written backwards", token(sub="ali\u202ece"), "subject"),
    ("sub with nothing to be seen", token(sub="ali\u200bce"), "subject"),
    ("sub that ends in a blank letter", token(sub="alice\u3164"), "subject"),
    ("sub with a variation selector", token(sub="ali\ufe0fce"), "subject"),
    ("sub with an empty cell of Braille", token(sub="alice\u2800"), "subject"),
    ("sub with a tab", token(sub="a\tb"), "subject"),
    ("sub with a line separator", token(sub="a\u2028b"), "subject"),
    ("sub with #", token(sub="alice#admin"), "subject"),
    ("sub with a space behind", token(sub="alice "), "subject"),
    ("sub of 257 characters", token(sub="a" * 257), "subject"),
]


@pytest.mark.parametrize(("refused", "reason"), [pytest.param(*case[1:], id=case[0]) for case in REFUSED])
def test_a_malformed_one(refused, reason):
    it = build([method(), Anyone()])
    assert [ask(it, bearer(refused)) for _ in range(2)] == [reason, reason]
    assert name(ask(it, bearer(token()))) == ALICE, "and it costs no other one anything"


@pytest.mark.parametrize(
    ("said", "counts"),
    [
        ({}, True),
        *[({"email_verified": word}, word in (True, "true")) for word in (True, "true", False, "false", None)],
    ],
)
def test_an_address_that_nobody_has_checked_names_no_caller(said, counts):
    """At many providers anybody can write any address into an account."""
    whole = forging.signed(KEY, HEADER, PARTS | {"email": "ann@acme.example"} | said)
    found = ask(method(principal_claim="email"), bearer(whole))
    assert (name(found) if counts else found) == (f"jwt:{ISSUER}#ann@acme.example" if counts else "subject")
    assert name(ask(method(), bearer(whole))) == ALICE, "where it does not name the caller, it does not matter"


def test_without_a_kid_the_only_key_that_fits_is_meant():
    two = Keys(pki.jwks(KEY, NEXT, use="sig"))
    assert ask(method(two), bearer(token(headers={"kid": None}))) == "unknown_key"


@pytest.mark.parametrize(
    "said", ["alice", "alice@acme.example", "Ünal Ödön", "a*?[x]", "spiffe://x/y", "key:ci", "x" * 256]
)
def test_the_name_says_whose_it_is(said):
    """Nothing an issuer says looks like a name of another method."""
    assert name(ask(method(), bearer(token(sub=said)))) == f"jwt:{ISSUER}#{said}"


def test_another_claim_may_name_the_caller():
    it = method(principal_claim="email")
    assert name(ask(it, bearer(token(email="a@acme.example")))) == f"jwt:{ISSUER}#a@acme.example"
    assert ask(it, bearer(token())) == "subject"
    assert ask(it, bearer(token(email=["a@acme.example"]))) == "subject"
    assert ask(it, bearer(token(email=True))) == "subject"


def test_the_algorithms_are_those_of_the_configuration_and_never_symmetric():
    assert ask(method(algorithms=("RS256",)), bearer(token())) == "algorithm"
    assert name(ask(method(algorithms=("RS256",)), bearer(token(RSA)))) == ALICE
    careless = method(algorithms=("HS256", "none", "ES256"))
    assert ask(careless, bearer(forging.by_public_key(KEY, "HS256", PARTS))) == "algorithm"
    assert ask(careless, bearer(forging.unsigned({"alg": "none", "kid": "k1"}, PARTS, b"x"))) == "algorithm"


async def test_a_key_that_is_not_known_yet_is_asked_for_once():
    keys = Keys(DOCUMENT, after=pki.jwks(NEXT, use="sig"))
    it, headers = method(keys), bearer(token(NEXT))
    with pytest.raises(KeysNeeded) as needed:
        it.principal(headers, UNKNOWN)
    await needed.value.source.refresh()
    assert name(ask(it, headers)) == ALICE
    assert ask(it, bearer(token())) == "unknown_key", "the old one is gone, and nobody is asked"


@pytest.mark.parametrize("bad", [token(NEXT, exp=int(NOW) - 11), token(NEXT, aud="other"), token(NEXT, sub="")])
def test_nobody_is_asked_for_the_key_of_a_token_that_is_not_good_anyway(bad):
    assert ask(method(Keys(DOCUMENT, after=DOCUMENT)), bearer(bad)) in ("expired", "audience", "subject")


async def test_no_keys_at_all():
    keys = Keys(None, after=None)
    assert ask(method(keys), bearer(token())) == "unavailable: no_keys"
    first = Keys(None, after=DOCUMENT)
    it = method(first)
    assert ask(it, bearer(token())) == "keys needed"
    await first.refresh()
    assert name(ask(it, bearer(token()))) == ALICE


def test_a_rotated_key_takes_its_tokens_with_it():
    keys = Keys(DOCUMENT)
    it, by_first, by_second = method(keys), bearer(token()), bearer(token(RSA))
    assert name(ask(it, by_first)) == name(ask(it, by_second)) == ALICE
    keys.replace(pki.jwks(RSA, NEXT, use="sig"))
    assert ask(it, by_first) == "unknown_key"
    assert name(ask(it, by_second)) == ALICE


def test_two_issuers_beside_each_other():
    other = "https://other.example"
    it = build([method(), method(Keys(pki.jwks(NEXT, use="sig")), issuer=other)])
    assert name(ask(it, bearer(token()))) == ALICE
    assert name(ask(it, bearer(token(NEXT, iss=other)))) == f"jwt:{other}#alice"
    assert ask(it, bearer(token(NEXT))) == "unknown_key", "a key is good for its own issuer alone"
    assert ask(it, bearer(token(iss=other))) == "unknown_key"
