"""Which chains stand for a peer: every malformed one is refused with its reason, every form of a good one is taken."""

import hashlib
import time

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import ExtendedKeyUsageOID

from openmcp.identity import certificates
from openmcp.identity.peer import PeerCertificate, PeerRefused
from openmcp.identity.spiffe_id import SpiffeId
from tests.fakes import pki
from tests.identity.malformed import CASES, FOREIGN, ID, World, built, verified_chain

PURE = {name: case for name, case in CASES.items() if not case.by_library}


@pytest.mark.parametrize("name", PURE)
def test_a_malformed_certificate_is_refused(name: str):
    world = World.make()
    leaf, root = PURE[name].make(world)
    chain = verified_chain(leaf, root, world)
    with pytest.raises(PeerRefused) as refused:
        certificates.verify_peer(chain, world.bundles, time.time())
    assert refused.value.why == PURE[name].why


GOOD = {
    "as SPIRE makes it": lambda ca: ca.leaf(ID),
    "without extended key usage": lambda ca: ca.leaf(ID, extended=None),
    "with further usages": lambda ca: ca.leaf(
        ID, extended=[*pki.BOTH_SIDES, ExtendedKeyUsageOID.CODE_SIGNING], usage=("digital_signature", "key_agreement")
    ),
    "without basic constraints": lambda ca: ca.leaf(ID, constraints=False),
    "with names beside the ID": lambda ca: ca.leaf(ID, dns=["server.example.org", "localhost"]),
    "without a subject": lambda ca: ca.leaf(ID, subject=False),
    "of an RSA key": lambda ca: ca.leaf(ID, key=pki.rsa_key()),
    "below an intermediate": lambda ca: pki.Ca("example.org", ca).leaf(ID),
    "below two": lambda ca: pki.Ca("example.org", pki.Ca("example.org", ca)).leaf(ID),
    "below one without an ID": lambda ca: pki.Ca("example.org", ca, uris=()).leaf(ID),
}


@pytest.mark.parametrize("name", GOOD)
def test_every_form_of_an_svid_is_taken(name: str):
    world = World.make()
    leaf = GOOD[name](world.ours)
    found = certificates.verify_peer(verified_chain(leaf, world.ours, world), world.bundles, time.time())
    expires = leaf.certificate.not_valid_after_utc.timestamp()
    anchor = hashlib.sha256(world.ours.der).digest()
    assert found == PeerCertificate(SpiffeId("example.org", "/server"), anchor, expires)


def test_a_federated_workload_is_known_by_its_own_ca():
    world = World.make()
    leaf = world.theirs.leaf("spiffe://partner.example/agent")
    found = certificates.verify_peer([*leaf.chain_der, world.theirs.der], world.bundles, time.time())
    assert str(found.spiffe_id) == "spiffe://partner.example/agent"


def test_an_intermediate_in_the_bundle_is_an_anchor():
    world = World.make()
    between = pki.Ca("example.org", world.ours)
    bundles = {"example.org": frozenset((between.der,))}
    found = certificates.verify_peer([between.leaf(ID).chain_der[0], between.der], bundles, time.time())
    assert found.anchor == hashlib.sha256(between.der).digest()


def test_a_ca_that_was_renewed_with_its_key_is_another_anchor():
    world = World.make()
    renewed = pki.Ca("example.org", key=world.ours.key)
    with pytest.raises(PeerRefused) as refused:
        certificates.verify_peer([*world.ours.leaf(ID).chain_der, renewed.der], world.bundles, time.time())
    assert refused.value.why == FOREIGN


def test_the_first_certificate_to_end_is_the_end_of_all():
    world = World.make()
    between = pki.Ca("example.org", world.ours, ttl=100)
    chain = [*between.leaf(ID, ttl=3600).chain_der, world.ours.der]
    found = certificates.verify_peer(chain, world.bundles, time.time())
    assert found.expires == between.certificate.not_valid_after_utc.timestamp()


def test_the_clock_is_the_callers():
    world = World.make()
    leaf = world.ours.leaf(ID, ttl=3600)
    end = leaf.certificate.not_valid_after_utc.timestamp()
    chain = [*leaf.chain_der, world.ours.der]
    assert certificates.verify_peer(chain, world.bundles, end - 1).expires == end
    with pytest.raises(PeerRefused, match="^expired$"):
        certificates.verify_peer(chain, world.bundles, end)


@pytest.mark.parametrize("chain", [[], [b""], [b"", b""], [b"\x30\x00", b"\x30\x00"], [b"x" * 100, b"y" * 100]])
def test_what_is_no_certificate_is_refused(chain: list[bytes]):
    with pytest.raises(PeerRefused):
        certificates.verify_peer(chain, {}, time.time())


def test_every_truncated_and_flipped_certificate_is_refused_or_means_the_same():
    world = World.make()
    good = world.ours.leaf(ID).chain_der[0]
    expected = certificates.verify_peer([good, world.ours.der], world.bundles, time.time())
    for place in range(len(good)):
        for broken in (good[:place], good[:place] + bytes((good[place] ^ 0x20,)) + good[place + 1 :]):
            try:  # a signature is the library's business: what parses may differ in what does not count
                found = certificates.verify_peer([broken, world.ours.der], world.bundles, time.time())
            except PeerRefused:
                continue
            assert found.anchor == expected.anchor


@pytest.mark.parametrize("curve", [ec.SECP224R1(), ec.SECP256K1(), ec.BrainpoolP256R1()])
def test_other_curves_are_too_weak_or_unusual(curve: ec.EllipticCurve):
    world = World.make()
    leaf = built(world, ec.generate_private_key(curve), hashes.SHA256())
    with pytest.raises(PeerRefused, match="too weak"):
        certificates.verify_peer([*leaf.chain_der, world.ours.der], world.bundles, time.time())


def test_ed25519_is_taken():
    world = World.make()
    leaf = built(world, ed25519.Ed25519PrivateKey.generate(), hashes.SHA256())
    found = certificates.verify_peer([*leaf.chain_der, world.ours.der], world.bundles, time.time())
    assert str(found.spiffe_id) == ID


def test_a_message_shows_who_it_was_and_no_more_than_that():
    world = World.make()
    leaf = world.theirs.leaf("spiffe://example.org/" + "a" * 1000)
    with pytest.raises(PeerRefused) as refused:
        certificates.verify_peer([*leaf.chain_der, world.theirs.der], world.bundles, time.time())
    assert str(refused.value) == f"{FOREIGN}: spiffe://example.org/{'a' * 179}"


# Clients under the web PKI


def web(leaf: pki.Leaf, ca: pki.Ca) -> PeerCertificate:
    return certificates.verify_client([*leaf.chain_der, ca.der], time.time())


def test_a_web_client_needs_no_id():
    ca = pki.Ca("example.org")
    leaf = ca.leaf("https://example.org/me", extended=[ExtendedKeyUsageOID.CLIENT_AUTH])
    assert web(leaf, ca).spiffe_id is None
    assert web(ca.leaf([], dns=["client.example.org"]), ca).spiffe_id is None


def test_a_web_client_with_an_id_is_an_svid():
    ca = pki.Ca("example.org")
    assert web(ca.leaf(ID), ca).spiffe_id == SpiffeId("example.org", "/server")


@pytest.mark.parametrize(
    "name",
    ["two IDs", "an ID and another URI", "trailing newline", "upper-case scheme", "CA as leaf", "keyCertSign"]
    + ["no key usage", "serverAuth alone", "expired", "RSA 1024", "unknown critical", "ID of the trust domain"],
)
def test_a_web_client_with_a_malformed_id_is_refused(name: str):
    world = World.make()
    leaf, _ = CASES[name].make(world)
    with pytest.raises(PeerRefused) as refused:
        web(leaf, world.ours)
    assert refused.value.why == CASES[name].why


# What is loaded


def test_all_bundles_are_anchors():
    world = World.make()
    own = pki.svid(world.ours, ID)
    assert set(certificates.anchors(world.bundles, own)) == {world.ours.der, world.theirs.der}


def lookalike(ca: pki.Ca, *, name: x509.Name | None = None, identifier: bool = True, own_key: bool = False) -> bytes:
    """A CA certificate with the name of another one, as a federated trust domain may put into its bundle."""
    key = ca.key if own_key else pki.ec_key()
    builder = x509.CertificateBuilder().subject_name(name or ca.certificate.subject)
    builder = builder.issuer_name(ca.certificate.subject).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(ca.certificate.not_valid_before_utc)
    builder = builder.not_valid_after(ca.certificate.not_valid_after_utc)
    if identifier:
        builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(ca.key.public_key()), critical=False)
    return (
        builder.add_extension(x509.BasicConstraints(True, None), critical=True)
        .sign(key, hashes.SHA256())
        .public_bytes(pki.DER)
    )


def test_what_could_be_taken_for_our_ca_is_left_out():
    world = World.make()
    own = pki.svid(world.ours, ID)
    subject = world.ours.certificate.subject
    louder = x509.Name([x509.NameAttribute(part.oid, str(part.value).upper()) for part in subject])
    for one in (
        lookalike(world.ours),
        lookalike(world.ours, own_key=True),
        lookalike(world.ours, identifier=False),
        lookalike(world.ours, name=louder),
    ):
        bundles = {**world.bundles, "partner.example": frozenset((world.theirs.der, one))}
        assert set(certificates.anchors(bundles, own)) == {world.ours.der, world.theirs.der}


def test_what_could_be_taken_for_our_intermediate_is_left_out():
    world = World.make()
    between = pki.Ca("example.org", world.ours)
    bundles = {**world.bundles, "partner.example": frozenset((lookalike(between),))}
    assert certificates.anchors(bundles, pki.svid(between, ID)) == [world.ours.der]


def test_cas_of_one_name_with_other_keys_are_told_apart():
    """Older SPIRE servers all have the same name; the identifiers of their keys differ."""
    world = World.make()
    other = pki.ec_key()
    builder = x509.CertificateBuilder().subject_name(world.ours.certificate.subject)
    builder = builder.issuer_name(world.ours.certificate.subject).public_key(other.public_key()).serial_number(1)
    builder = builder.not_valid_before(world.ours.certificate.not_valid_before_utc)
    builder = builder.not_valid_after(world.ours.certificate.not_valid_after_utc)
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(other.public_key()), critical=False)
    theirs = builder.sign(other, hashes.SHA256()).public_bytes(pki.DER)
    bundles = {**world.bundles, "partner.example": frozenset((theirs,))}
    assert set(certificates.anchors(bundles, pki.svid(world.ours, ID))) == {world.ours.der, theirs}
