"""What the Workload API sends is taken where it is exact, and refused where it is not."""

import base64
import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openmcp.identity import updates
from openmcp.identity.material import JwtSvid, JwtUpdate
from openmcp.identity.spiffe_id import parse
from openmcp.identity.updates import Malformed, RawSvid, jwt_svid, jwt_update, x509_update
from tests.fakes import pki

ID = "spiffe://example.org/gateway"
CA = pki.Ca("example.org")
LEAF = CA.leaf(ID)


def raw(leaf: pki.Leaf = LEAF, **changes: object) -> RawSvid:
    fields = {"id": ID, "certificates": b"".join(leaf.chain_der), "key": leaf.key_der, "bundle": CA.der, **changes}
    return RawSvid(**fields)  # type: ignore[arg-type]  # a test changes what it likes


def read(*svids: RawSvid, federated: dict[str, bytes] | None = None, now: float | None = None) -> updates.X509Update:
    return x509_update(svids, federated or {}, time.time() if now is None else now)


def test_an_svid_with_an_intermediate_and_the_bundles_of_two_domains():
    between = pki.Ca("example.org", CA)
    leaf = between.leaf(ID, ttl=60)
    other, renewed = pki.Ca("other.example"), pki.Ca("other.example")
    found = read(raw(leaf, hint="internal"), federated={"spiffe://other.example": other.der + renewed.der})
    (svid,) = found.material.svids
    assert (str(svid.id), svid.certificates, svid.key, svid.hint) == (ID, leaf.chain_der, leaf.key_der, "internal")
    assert (svid.begins, svid.expires) == (
        leaf.certificate.not_valid_before_utc.timestamp(),
        leaf.certificate.not_valid_after_utc.timestamp(),
    )
    assert found.material.bundles == {
        "example.org": frozenset({CA.der}),
        "other.example": frozenset({other.der, renewed.der}),
    }
    assert found.bad_bundles == {}


def misnamed(ca: pki.Ca) -> bytes:
    """A CA whose subject is no text: found out only by whoever reads it."""
    return ca.der.replace(b"SPIFFE", b"\xff" * 6)


UNUSABLE = {
    "an unknown critical extension": pki.Ca("other.example", unknown_critical=True).der,
    "it cannot be read": misnamed(pki.Ca("other.example")),
}


@pytest.mark.parametrize("why", UNUSABLE)
def test_a_ca_of_a_partner_that_no_context_can_be_made_with_costs_its_bundle(why):
    """It would cost us all connections: all CAs are in one context."""
    good = pki.Ca("other.example").der
    found = read(raw(), federated={"spiffe://other.example": good + UNUSABLE[why]})
    assert found.bad_bundles == {
        "spiffe://other.example": f"the bundle of other.example holds a CA that cannot be used: {why}"
    }
    assert set(found.material.bundles) == {"example.org"}
    with pytest.raises(Malformed, match=f"^the bundle of example.org holds a CA that cannot be used: {why}$"):
        read(raw(bundle=CA.der + UNUSABLE[why]))


def test_an_intermediate_of_ours_that_no_context_can_be_made_with_is_refused():
    leaf = pki.Ca("example.org", CA, unknown_critical=True).leaf(ID)
    with pytest.raises(Malformed, match="holds a CA that cannot be used: an unknown critical extension"):
        read(raw(leaf))


def test_svids_of_two_trust_domains_bring_a_bundle_each():
    other = pki.Ca("other.example")
    leaf = other.leaf("spiffe://other.example/gateway")
    found = read(raw(), raw(leaf, id="spiffe://other.example/gateway", bundle=other.der))
    assert [str(svid.id) for svid in found.material.svids] == [ID, "spiffe://other.example/gateway"]
    assert found.material.bundles == {"example.org": frozenset({CA.der}), "other.example": frozenset({other.der})}


def test_no_representation_shows_the_key():
    update = read(raw())
    assert "key" not in f"{update!r}{raw()!r}"
    assert repr(update.material.svids[0].key)[2:20] not in repr(update)


def leaf(**deviations: object) -> RawSvid:
    return raw(CA.leaf(**{"uris": ID, **deviations}))


OTHER_ID = "spiffe://example.org/other"
MALFORMED = {
    "no ID": (raw(id=""), "the ID of an SVID: does not begin with spiffe://"),
    "an ID with a line end": (raw(id=ID + "\n"), "the ID of an SVID: path segments"),
    "an ID in capitals": (raw(id="spiffe://EXAMPLE.org/gateway"), "the ID of an SVID: the trust domain"),
    "the ID of a trust domain": (raw(id="spiffe://example.org"), "the ID of an SVID: the ID of a trust domain"),
    "another ID": (raw(id=OTHER_ID), "has a certificate with another ID"),
    "no certificate": (raw(certificates=b""), "has no certificate"),
    "no DER": (raw(certificates=b"-----BEGIN CERTIFICATE-----"), "is not DER"),
    "a cut certificate": (raw(certificates=LEAF.chain_der[0][:-1]), "is not DER"),
    "a byte behind the certificate": (raw(certificates=LEAF.chain_der[0] + b"\0"), "is not DER"),
    "a sequence that is no certificate": (raw(certificates=b"\x30\x00"), "holds a certificate that cannot be read"),
    "the CA before the leaf": (raw(certificates=CA.der + LEAF.chain_der[0]), "a CA certificate"),
    "two leaves": (raw(certificates=LEAF.chain_der[0] * 2), "has an intermediate certificate that is no CA"),
    "no URI": (leaf(san=False), "no URI SAN"),
    "a DNS name alone": (leaf(uris=(), dns=("example.org",)), "no URI SAN"),
    "two URIs": (leaf(uris=(ID, "https://example.org/")), "more than one URI SAN"),
    "the same URI twice": (leaf(uris=(ID, ID)), "more than one URI SAN"),
    "a URI with a line end": (leaf(uris=ID + "\n"), "no SPIFFE ID of a workload"),
    "a name of no known kind": (
        raw(certificates=LEAF.chain_der[0].replace(b"\x86\x1c" + ID.encode(), b"\x8f\x1c" + ID.encode())),
        "has extensions that cannot be read (ValueError)",
    ),
    "the leaf of another": (leaf(uris=OTHER_ID), "has a certificate with another ID"),
    "a CA": (leaf(is_ca=True), "a CA certificate"),
    "no key usage": (leaf(usage=None), "no key usage digitalSignature"),
    "no digitalSignature": (leaf(usage=("key_agreement",)), "no key usage digitalSignature"),
    "keyCertSign": (leaf(usage=("digital_signature", "key_cert_sign")), "a key usage of CAs"),
    "cRLSign": (leaf(usage=("digital_signature", "crl_sign")), "a key usage of CAs"),
    "an expired one": (leaf(begins=-60, ttl=-1), "has expired already; compare the clocks"),
    "one of next year": (leaf(begins=86400 * 365, ttl=86400 * 366), "begins in the future; compare the clocks"),
    "no key": (raw(key=b""), "the key of the SVID spiffe://example.org/gateway cannot be read"),
    "a key in PEM": (raw(key=LEAF.key_pem()), "cannot be read"),
    "the key of another": (raw(key=pki.key_der(pki.ec_key())), "is not that of its certificate"),
    "a key of another kind": (raw(key=pki.key_der(pki.rsa_key())), "is not that of its certificate"),
    "no bundle": (raw(bundle=b""), "the bundle of example.org is empty"),
    "no DER in the bundle": (raw(bundle=b"x"), "the bundle of example.org is not DER"),
    "a leaf in the bundle": (raw(bundle=LEAF.chain_der[0]), "holds a certificate that is no CA"),
    "half a bundle": (raw(bundle=CA.der + CA.der[:40]), "the bundle of example.org is not DER"),
}


@pytest.mark.parametrize(("svid", "reason"), MALFORMED.values(), ids=MALFORMED)
def test_what_is_refused(svid, reason):
    with pytest.raises(Malformed) as refused:
        read(svid)
    assert reason in str(refused.value)


def test_one_bad_svid_costs_the_whole_update():
    with pytest.raises(Malformed, match="is not that of its certificate"):
        read(raw(), raw(key=pki.key_der(pki.ec_key())))


def test_two_bundles_of_one_domain_are_refused():
    with pytest.raises(Malformed, match=r"two different bundles of example\.org"):
        read(raw(), raw(bundle=pki.Ca("example.org").der))


def test_a_ca_whose_clock_is_a_little_ahead():
    assert read(raw(CA.leaf(ID, begins=240))).material.svids[0].begins > time.time()


GOOD = pki.Ca("good.example")
BAD_BUNDLES = {
    "empty": ("spiffe://bad.example", b"", "the bundle of bad.example is empty"),
    "no DER": ("spiffe://bad.example", b"\x30\x82\xff\xff", "the bundle of bad.example is not DER"),
    "no certificate": (
        "spiffe://bad.example",
        b"\x30\x00",
        "the bundle of bad.example holds a certificate that cannot be read",
    ),
    "a leaf": (
        "spiffe://bad.example",
        LEAF.chain_der[0],
        "the bundle of bad.example holds a certificate that is no CA",
    ),
    "a name in capitals": ("spiffe://BAD.example", GOOD.der, "not the name of a trust domain"),
    "a workload": ("spiffe://bad.example/x", GOOD.der, "not the name of a trust domain"),
    "our own": ("spiffe://example.org", GOOD.der, "a second bundle of this trust domain"),
    "our own, bare": ("example.org", GOOD.der, "a second bundle of this trust domain"),
}


@pytest.mark.parametrize(("name", "data", "reason"), BAD_BUNDLES.values(), ids=BAD_BUNDLES)
def test_a_bad_federated_bundle_is_left_out_alone(name, data, reason):
    found = read(raw(), federated={name: data, "spiffe://good.example": GOOD.der})
    assert found.bad_bundles == {name: reason}
    assert found.material.bundles == {"example.org": frozenset({CA.der}), "good.example": frozenset({GOOD.der})}


@given(st.binary(max_size=64), st.binary(max_size=64), st.binary(max_size=64))
def test_any_bytes_are_refused_in_words(certificates, key, bundle):
    with pytest.raises(Malformed):
        read(raw(certificates=certificates, key=key, bundle=bundle))


@settings(max_examples=300)
@given(st.integers(0, len(CA.der) - 1), st.integers(1, 255))
def test_a_changed_byte_breaks_or_stays_a_certificate(at, change):
    changed = bytearray(CA.der)
    changed[at] ^= change
    try:
        found = read(raw(bundle=bytes(changed))).material.bundles["example.org"]
    except Malformed:
        return
    assert found == frozenset({bytes(changed)})


KEYS = pki.jwks(pki.jwt_key())


def test_jwt_bundles_by_their_trust_domain():
    found = jwt_update({"spiffe://example.org": KEYS, "other.example": b'{"keys":[]}'})
    assert found == JwtUpdate({"example.org": KEYS, "other.example": b'{"keys":[]}'})


@pytest.mark.parametrize("document", [b"", b"[]", b"{}", b'{"keys":{}}', b'{"keys":[]', b"\xff"])
def test_a_bad_jwt_bundle_is_left_out_alone(document):
    found = jwt_update({"spiffe://example.org": KEYS, "spiffe://bad.example": document, "spiffe://x/y": KEYS})
    reasons = {"spiffe://bad.example": "no JWKS document", "spiffe://x/y": "not the name of a trust domain"}
    assert found == JwtUpdate({"example.org": KEYS}, reasons)


@pytest.mark.parametrize("bundles", [{}, {"spiffe://example.org": b"x"}])
def test_jwt_bundles_of_which_none_is_good_are_refused(bundles):
    with pytest.raises(Malformed, match="no good JWT bundle"):
        jwt_update(bundles)


NOW = 1_800_000_000.0
SIGNER = pki.jwt_key()


def token(**claims: object) -> str:
    return pki.mint_jwt(SIGNER, {"sub": ID, "aud": ["tools"], "exp": NOW + 300, **claims})


def test_a_jwt_svid():
    text = token()
    found = jwt_svid(text, parse(ID), "tools", NOW)
    assert found == JwtSvid(parse(ID), text, NOW + 300)
    assert text not in repr(found)
    assert jwt_svid(token(aud="tools"), parse(ID), "tools", NOW).expires == NOW + 300


def unsigned(payload: bytes) -> str:
    return f"e30.{base64.urlsafe_b64encode(payload).rstrip(b'=').decode()}.x"


BAD_TOKENS = {
    "empty": ("", "no JWT"),
    "two parts": ("e30.e30", "no JWT"),
    "a line end": (token() + "\n", "no JWT"),
    "a header behind it": (token() + "\r\nx-admin: yes", "no JWT"),
    "no JSON": (unsigned(b"x"), "lacks sub, aud or exp"),
    "no object": (unsigned(b"[]"), "lacks sub, aud or exp"),
    "no base64": ("e30.x.x", "lacks sub, aud or exp"),
    "no subject": (token(sub=None), "lacks sub, aud or exp"),
    "no expiry": (token(exp=None), "lacks sub, aud or exp"),
    "an expiry in words": (unsigned(json.dumps({"sub": ID, "aud": "tools", "exp": "1"}).encode()), "of another type"),
    "another's": (token(sub=OTHER_ID), f"is not that of {ID}"),
    "another audience": (token(aud=["other"]), "for another audience"),
    "part of the audience": (token(aud="all-tools"), "for another audience"),
    "no audience": (token(aud=[]), "for another audience"),
    "expired": (token(exp=NOW), "has expired already"),
}


@pytest.mark.parametrize(("text", "reason"), BAD_TOKENS.values(), ids=BAD_TOKENS)
def test_a_jwt_svid_that_is_refused(text, reason):
    with pytest.raises(Malformed) as refused:
        jwt_svid(text, parse(ID), "tools", NOW)
    assert reason in str(refused.value)
    assert not text or text not in str(refused.value)
