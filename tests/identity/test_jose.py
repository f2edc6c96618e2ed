"""The reader of tokens and key sets: what could be read in two ways is not read at all."""

import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import given
from hypothesis import strategies as st

from openmcp.identity import jose
from openmcp.identity.jose import NotAKeySet, NotAToken, UnknownKey, key_set, read, verify
from openmcp.identity.refusal import Refused
from tests.fakes import pki
from tests.identity.forging import edwards, segment, signed

KEY, RSA = pki.jwt_key("ec"), pki.jwt_key("rsa", "RS256")
HEADER = {"alg": "ES256", "kid": "ec"}
SIG = frozenset(("sig",))
ALL = jose.ALGORITHMS


def test_a_token_is_read_as_it_was_signed():
    token = read(signed(KEY, HEADER, {"sub": "ä", "n": 1}))
    assert (token.header, token.claims) == (HEADER, {"sub": "ä", "n": 1})
    verify(token, key_set(pki.jwks(KEY, use="sig"), SIG), frozenset(("ES256",)))


H, C = segment(b'{"alg":"ES256"}'), segment(b'{"sub":"a"}')


@pytest.mark.parametrize(
    "token",
    [
        b"",
        b"..",
        H + b"." + C,
        H + b"." + C + b".",
        b"." + C + b".AAAA",
        H + b"." + C + b".AAAA.AAAA",
        b".".join((H, b"AAAA", b"AAAA", b"AAAA", b"AAAA")),  # JWE
        H + b"=." + C + b".AAAA",
        H + b"." + C + b".AA==",
        H + b"." + C + b".AB",  # bits that no decoder reads: AA is the same byte
        H + b"." + C + b".A",
        H + b"." + C + b".AA/+",
        H + b"." + C + b".AA AA",
        H + b"." + C + b".AAAA\n",
        H + b".\n" + C + b".AAAA",
        H + b"." + C + b".AAA\xc3\xa9",
        b"{}." + C + b".AAAA",
        H + b"." + segment(b'"' + H + b"." + C + b'.AAAA"') + b".AAAA",  # a JWT in a JWT
        H + b"." + segment(H + b"." + C + b".AAAA") + b".AAAA",
        H + b"." + segment(b"[]") + b".AAAA",
        H + b"." + segment(b"null") + b".AAAA",
        H + b"." + segment(b'{"a":1,"a":1}') + b".AAAA",
        H + b"." + segment(b'{"a":{"b":1,"\\u0062":2}}') + b".AAAA",
        segment(b'{"alg":"ES256","alg":"none"}') + b"." + C + b".AAAA",
        H + b"." + segment(b'{"a":NaN}') + b".AAAA",
        H + b"." + segment(b'{"a":Infinity}') + b".AAAA",
        H + b"." + segment(b'{"a":"\\ud800"}') + b".AAAA",
        H + b"." + segment(b'{"a":"\xff"}') + b".AAAA",
        H + b"." + segment(b'\xef\xbb\xbf{"a":1}') + b".AAAA",
        H + b"." + segment('{"a":1}'.encode("utf-16")) + b".AAAA",
        H + b"." + segment(b'{"a":1} {"a":2}') + b".AAAA",
        H + b"." + segment(b'{"a":1,}') + b".AAAA",
        H + b"." + segment(b'{"a":' * 3000 + b"1" + b"}" * 3000) + b".AAAA",
        H + b"." + segment(b'{"a":' + b"9" * 5000 + b"}") + b".AAAA",
        H + b"." + segment(b'{"a":"' + b"x" * 20_000 + b'"}') + b".AAAA",
    ],
)
def test_what_is_not_one_strict_token_is_none(token):
    with pytest.raises(NotAToken):
        read(token)


@given(st.binary(max_size=60) | st.text(alphabet="eyJhbGciOiJ.-_=/+\n", max_size=60).map(str.encode))
def test_nothing_breaks_the_reader(data):
    try:
        read(data)
    except NotAToken:
        return
    assert data.count(b".") == 2


@given(at=st.integers(min_value=0), to=st.sampled_from(b"ABCXYZabcxyz019-_.=+/ "))
def test_no_other_token_has_the_same_signature(at, to):
    """Any one character changed: no token, or not a good one."""
    given_ = signed(KEY, HEADER, {"sub": "a"})
    changed = bytearray(given_)
    changed[at % len(changed)] = to
    if bytes(changed) == given_:
        return
    with pytest.raises((NotAToken, Refused, UnknownKey)):
        verify(read(bytes(changed)), key_set(pki.jwks(KEY, use="sig"), SIG), ALL)


def jwk(key: pki.JwtKey = KEY, **members: Any) -> dict[str, Any]:
    """An entry of a key set with other members; None leaves one out."""
    return {name: value for name, value in (key.jwk("sig") | members).items() if value is not None}


ED, OKP = edwards("ed")
PRIVATE = segment(KEY.key.private_numbers().private_value.to_bytes(32, "big")).decode()
SMALL = pki.JwtKey("small", rsa.generate_private_key(65537, 1024), "RS256")


@pytest.mark.parametrize(
    "entry",
    [
        pytest.param({"kty": "oct", "kid": "ec", "k": "c2VjcmV0"}, id="symmetric"),
        pytest.param(jwk(k="c2VjcmV0"), id="with a secret"),
        pytest.param(jwk(d=PRIVATE), id="private"),
        pytest.param(jwk(d="AAAA"), id="private and broken"),
        pytest.param(jwk(use="enc"), id="for encrypting"),
        pytest.param(jwk(use="x509-svid"), id="for certificates"),
        pytest.param(jwk(use="SIG"), id="use in other letters"),
        pytest.param(jwk(use=["sig"]), id="use as a list"),
        pytest.param(jwk(key_ops=["sign", "wrapKey"]), id="for signing"),
        pytest.param(jwk(key_ops="verify"), id="operations as a text"),
        pytest.param(jwk(alg="ES384"), id="algorithm of another curve"),
        pytest.param(jwk(alg="HS256"), id="symmetric algorithm"),
        pytest.param(jwk(alg="none"), id="no algorithm"),
        pytest.param(jwk(alg=["ES256"]), id="algorithms as a list"),
        pytest.param(jwk(crv="P-384"), id="point of another curve"),
        pytest.param(jwk(crv="secp256k1"), id="a curve we do not take"),
        pytest.param(jwk(crv=None), id="no curve"),
        pytest.param(jwk(crv=["P-256"]), id="curve as a list"),
        pytest.param(jwk(kty="RSA"), id="another type"),
        pytest.param(jwk(kty=None), id="no type"),
        pytest.param(jwk(kty={}), id="type as an object"),
        pytest.param(jwk(x=None), id="half a point"),
        pytest.param(jwk(x="AAAA"), id="no point of the curve"),
        pytest.param(jwk(x=5), id="number for a point"),
        pytest.param(jwk(y=jwk()["x"]), id="off the curve"),
        pytest.param(jwk(kid=7), id="key id as a number"),
        pytest.param(SMALL.jwk("sig"), id="RSA of 1024 bits"),
        pytest.param(jwk(RSA, n="AQAB"), id="RSA of nothing"),
        pytest.param(jwk(RSA, e=None), id="RSA without exponent"),
        pytest.param(jwk(RSA, n=jwk(RSA)["n"] * 5), id="RSA of 10240 bits"),
        pytest.param(OKP | {"crv": "X25519"}, id="for agreeing on keys"),
        pytest.param(OKP | {"crv": "Ed448"}, id="a curve that no algorithm here has"),
        pytest.param(OKP | {"x": "AAAA"}, id="short"),
        pytest.param({}, id="empty"),
        pytest.param("text", id="a text"),
        pytest.param(None, id="null"),
    ],
)
def test_an_entry_that_cannot_be_used_costs_no_other(entry):
    other = pki.jwt_key("other")
    keys = key_set(json.dumps({"keys": [entry, other.jwk("sig")]}).encode(), SIG)
    assert len(keys) == 1
    assert [key.id for key in keys.candidates("other", "ES256")] == ["other"]


@pytest.mark.parametrize(
    ("key", "fitting"),
    [
        (jwk(), {"ES256"}),
        (jwk(use=None), {"ES256"}),
        (jwk(alg="ES256", key_ops=["verify"]), {"ES256"}),
        (pki.jwt_key("k", "ES512").jwk("sig"), {"ES512"}),
        (jwk(RSA), {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}),
        (jwk(RSA, alg="PS256"), {"PS256"}),
        (OKP, {"EdDSA"}),
    ],
)
def test_a_key_is_for_the_algorithms_of_its_type_or_the_one_it_names(key, fitting):
    keys = key_set(json.dumps({"keys": [key]}).encode(), SIG)
    (found,) = keys.candidates(key["kid"], min(fitting))
    assert found.algorithms == fitting


@pytest.mark.parametrize(
    "document",
    [b"", b"{}", b"[]", b"null", b"\xff", b'{"keys":{}}', b'{"keys":"x"}', b'{"keys":[' + b"{}," * 100 + b"{}]}"],
)
def test_what_is_no_key_set(document):
    with pytest.raises(NotAKeySet):
        key_set(document, SIG)


def judged(header: dict[str, Any], *keys: dict[str, Any], signer: pki.JwtKey = KEY, algorithms: Any = ALL) -> str:
    """What becomes of a token of `signer` under these keys."""
    token = read(signed(signer, header, {"sub": "a"}))
    try:
        verify(token, key_set(json.dumps({"keys": keys}).encode(), SIG), algorithms)
    except Refused as refused:
        return refused.reason
    except UnknownKey:
        return "unknown key"
    return "good"


@pytest.mark.parametrize(
    ("header", "keys", "said"),
    [
        (HEADER, [jwk()], "good"),
        ({"alg": "ES256"}, [jwk()], "good"),
        ({"alg": "ES256"}, [jwk(), jwk(RSA)], "good"),
        ({"alg": "ES256"}, [jwk(), jwk(kid="two")], "unknown_key"),
        ({"alg": "ES256"}, [], "unknown key"),
        (HEADER, [jwk(kid="two")], "unknown key"),
        (HEADER, [jwk(kid=None)], "unknown key"),
        (HEADER, [jwk(pki.jwt_key("ec")), jwk()], "good"),
        (HEADER, [jwk(pki.jwt_key("ec"))], "signature"),
        (HEADER, [jwk(RSA, kid="ec")], "algorithm"),
        (HEADER | {"kid": ""}, [jwk()], "malformed_token"),
        (HEADER | {"kid": 1}, [jwk()], "malformed_token"),
        (HEADER | {"kid": ["ec"]}, [jwk()], "malformed_token"),
        (HEADER | {"kid": "e" * 600}, [jwk()], "malformed_token"),
        (HEADER | {"kid": None}, [jwk()], "good"),
        (HEADER | {"crit": []}, [jwk()], "malformed_token"),
        (HEADER | {"crit": ["exp"]}, [jwk()], "malformed_token"),
        (HEADER | {"crit": None}, [jwk()], "malformed_token"),
        (HEADER | {"b64": False}, [jwk()], "malformed_token"),
        (HEADER | {"alg": "none"}, [jwk()], "algorithm"),
        (HEADER | {"alg": "None"}, [jwk()], "algorithm"),
        (HEADER | {"alg": "es256"}, [jwk()], "algorithm"),
        (HEADER | {"alg": "HS256"}, [jwk()], "algorithm"),
        (HEADER | {"alg": "ES256K"}, [jwk()], "algorithm"),
        (HEADER | {"alg": "ES384"}, [jwk()], "algorithm"),
        (HEADER | {"alg": ["ES256"]}, [jwk()], "algorithm"),
        (HEADER | {"alg": None}, [jwk()], "algorithm"),
        ({"kid": "ec"}, [jwk()], "algorithm"),
        (HEADER | {"jwk": jwk(), "kid": "own"}, [jwk(kid="two")], "unknown key"),
        (HEADER | {"jku": "https://evil.example/jwks", "kid": "own"}, [jwk()], "unknown key"),
    ],
)
def test_the_key_is_the_issuers_and_the_algorithm_the_keys(header, keys, said):
    assert judged(header, *keys) == said


@pytest.mark.parametrize("algorithm", ["RS256", "PS256", "ES256", "ES384", "ES512"])
def test_an_algorithm_that_is_not_accepted_here(algorithm):
    key = pki.jwt_key("k", algorithm)
    header = {"alg": algorithm, "kid": "k"}
    assert judged(header, key.jwk("sig"), signer=key) == "good"
    assert judged(header, key.jwk("sig"), signer=key, algorithms=ALL - {algorithm}) == "algorithm"


def test_eddsa():
    assert judged({"alg": "EdDSA", "kid": "ed"}, OKP, signer=ED) == "good"
    assert judged({"alg": "EdDSA", "kid": "ec"}, jwk(), signer=ED) == "algorithm"
