"""Chains that must not pass for an SVID of example.org, each with the reason that has to be given.

`ours` is the CA of example.org, `theirs` that of a federated trust domain; both are in the bundles of whoever checks.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tests.fakes.pki import CA_USAGE, DER, Ca, Leaf, rsa_key

ID = "spiffe://example.org/server"
NO_WORKLOAD = "a URI SAN that is no SPIFFE ID of a workload"
FOREIGN = "not signed by a CA of its own trust domain"
CA_LEAF = "a CA certificate, which must not authenticate"
CA_USAGES = "a key usage of CAs (keyCertSign or cRLSign)"
EXTENDED = "an extended key usage without serverAuth and clientAuth"
NO_SIGNATURE = "no key usage digitalSignature"
NO_CA = "signed by a certificate that is no CA"


@dataclass
class World:
    """Two trust domains; `bundles` may be changed by a case."""

    ours: Ca
    theirs: Ca
    bundles: dict[str, frozenset[bytes]]

    @classmethod
    def make(cls) -> World:
        """Fresh CAs."""
        ours, theirs = Ca("example.org"), Ca("partner.example")
        return cls(ours, theirs, {"example.org": frozenset((ours.der,)), "partner.example": frozenset((theirs.der,))})


@dataclass(frozen=True)
class Case:
    """`leaf` is presented, `root` is what its chain ends in. `why` is the reason; `by_library`: OpenSSL finds it, the
    pure check cannot. What OpenSSL looks at too may be told in its words: `reasons` are both."""

    make: Callable[[World], tuple[Leaf, Ca]]
    why: str
    by_library: bool = False

    @property
    def reasons(self) -> tuple[str, ...]:
        """The reasons that a handshake may give."""
        usage = self.why in (NO_SIGNATURE, EXTENDED)
        return (self.why, "key usages that are not for its side of TLS") if usage else (self.why,)


def _ours(make: Callable[[Ca], Leaf]) -> Callable[[World], tuple[Leaf, Ca]]:
    return lambda world: (make(world.ours), world.ours)


def _own_anchor(world: World) -> tuple[Leaf, Ca]:
    """A self-signed leaf that somebody has put into the bundle: a partial chain of one."""
    alone = Ca("example.org", uris=[ID], usage=("digital_signature",), is_ca=False)
    world.bundles["example.org"] |= {alone.der}
    return Leaf(alone.certificate, (), alone.key), alone


def _leaf_in_bundle(world: World) -> tuple[Leaf, Ca]:
    leaf = world.ours.leaf(ID)
    world.bundles["example.org"] = frozenset((leaf.chain_der[0],))
    return leaf, world.ours


def _self_signed(world: World) -> tuple[Leaf, Ca]:
    alone = Ca("example.org", uris=[ID], usage=("digital_signature",), is_ca=False)
    return Leaf(alone.certificate, (), alone.key), alone


def _foreign(world: World) -> tuple[Leaf, Ca]:
    return world.theirs.leaf(ID), world.theirs


def _foreign_below(world: World) -> tuple[Leaf, Ca]:
    return Ca("example.org", world.theirs).leaf(ID), world.theirs


def _unknown(world: World) -> tuple[Leaf, Ca]:
    stranger = Ca("example.org")
    return stranger.leaf(ID), stranger


def _no_bundle(world: World) -> tuple[Leaf, Ca]:
    return world.ours.leaf("spiffe://nobody.example/server"), world.ours


def _below_a_leaf(world: World) -> tuple[Leaf, Ca]:
    """A workload signs another one with the key of its SVID."""
    return Ca("example.org", world.ours, usage=("digital_signature",), is_ca=False).leaf(ID), world.ours


def _below_a_ca_without_usage(world: World) -> tuple[Leaf, Ca]:
    return Ca("example.org", world.ours, usage=None).leaf(ID), world.ours


def _expired_above(world: World) -> tuple[Leaf, Ca]:
    return Ca("example.org", world.ours, begins=-7200, ttl=-3600).leaf(ID), world.ours


def _path_length(world: World) -> tuple[Leaf, Ca]:
    short = Ca("example.org", path_length=0)
    world.bundles["example.org"] = frozenset((short.der,))
    return Ca("example.org", short).leaf(ID), short


def _constrained(world: World) -> tuple[Leaf, Ca]:
    subtree = [x509.UniformResourceIdentifier("other.example")]
    other = Ca("example.org", world.ours, constraints=x509.NameConstraints(subtree, None))
    return other.leaf(ID), world.ours


def _wrong_signature(world: World) -> tuple[Leaf, Ca]:
    """The last byte of the signature is another one."""
    good = world.ours.leaf(ID)
    der = bytearray(good.chain_der[0])
    der[-1] ^= 1
    return Leaf(x509.load_der_x509_certificate(bytes(der)), (), good.key), world.ours


def _two_names(*uris: str) -> Callable[[World], tuple[Leaf, Ca]]:
    return _ours(lambda ca: ca.leaf(uris))


def built(world: World, key: ec.EllipticCurvePrivateKey, digest: hashes.HashAlgorithm) -> Leaf:
    """An SVID by hand, for what `Ca.leaf` cannot vary."""
    now = datetime.datetime.now(datetime.UTC)
    usage = dict.fromkeys(
        ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "key_cert_sign", "crl_sign")
        + ("encipher_only", "decipher_only"),
        False,
    )
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "x")]))
        .issuer_name(world.ours.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(ID)]), critical=False)
        .add_extension(x509.KeyUsage(digital_signature=True, **usage), critical=True)
        .sign(world.ours.key, digest)
    )
    return Leaf(certificate, (), key)


CASES: dict[str, Case] = {
    "no SAN": Case(_ours(lambda ca: ca.leaf(ID, san=False)), "no URI SAN, thus no SPIFFE ID"),
    "DNS SAN alone": Case(_ours(lambda ca: ca.leaf([], dns=["example.org"])), "no URI SAN, thus no SPIFFE ID"),
    "two IDs": Case(_two_names(ID, "spiffe://example.org/other"), "more than one URI SAN"),
    "the ID twice": Case(_two_names(ID, ID), "more than one URI SAN"),
    "an ID and another URI": Case(_two_names(ID, "https://example.org/"), "more than one URI SAN"),
    "https URI": Case(_two_names("https://example.org/server"), NO_WORKLOAD),
    "ID of the trust domain": Case(_two_names("spiffe://example.org"), NO_WORKLOAD),
    "trailing slash": Case(_two_names(f"{ID}/"), NO_WORKLOAD),
    "trailing newline": Case(_two_names(f"{ID}\n"), NO_WORKLOAD),
    "NUL in the ID": Case(_two_names(f"{ID}\0.evil"), NO_WORKLOAD),
    "upper-case trust domain": Case(_two_names("spiffe://Example.org/server"), NO_WORKLOAD),
    "upper-case scheme": Case(_two_names("SPIFFE://example.org/server"), NO_WORKLOAD),
    "port": Case(_two_names("spiffe://example.org:443/server"), NO_WORKLOAD),
    "user": Case(_two_names("spiffe://user@example.org/server"), NO_WORKLOAD),
    "query": Case(_two_names(f"{ID}?x=1"), NO_WORKLOAD),
    "fragment": Case(_two_names(f"{ID}#x"), NO_WORKLOAD),
    "dot segment": Case(_two_names("spiffe://example.org/../server"), NO_WORKLOAD),
    "percent": Case(_two_names("spiffe://example.org/%73erver"), NO_WORKLOAD),
    "too long": Case(_two_names("spiffe://example.org/" + "a" * 2048), NO_WORKLOAD),
    "CA as leaf": Case(_ours(lambda ca: ca.leaf(ID, is_ca=True)), CA_LEAF),
    "keyCertSign": Case(_ours(lambda ca: ca.leaf(ID, usage=("digital_signature", "key_cert_sign"))), CA_USAGES),
    "cRLSign": Case(_ours(lambda ca: ca.leaf(ID, usage=("digital_signature", "crl_sign"))), CA_USAGES),
    "no digitalSignature": Case(_ours(lambda ca: ca.leaf(ID, usage=("key_encipherment",))), NO_SIGNATURE),
    "no key usage": Case(_ours(lambda ca: ca.leaf(ID, usage=None)), NO_SIGNATURE),
    "serverAuth alone": Case(_ours(lambda ca: ca.leaf(ID, extended=[ExtendedKeyUsageOID.SERVER_AUTH])), EXTENDED),
    "clientAuth alone": Case(_ours(lambda ca: ca.leaf(ID, extended=[ExtendedKeyUsageOID.CLIENT_AUTH])), EXTENDED),
    "codeSigning alone": Case(_ours(lambda ca: ca.leaf(ID, extended=[ExtendedKeyUsageOID.CODE_SIGNING])), EXTENDED),
    "expired": Case(_ours(lambda ca: ca.leaf(ID, begins=-3600, ttl=-1)), "expired"),
    "not yet valid": Case(_ours(lambda ca: ca.leaf(ID, begins=3600, ttl=7200)), "not yet valid"),
    "unknown critical": Case(_ours(lambda ca: ca.leaf(ID, unknown_critical=True)), "an unknown critical extension"),
    "RSA 1024": Case(_ours(lambda ca: ca.leaf(ID, key=rsa_key(1024))), "a key or signature that is too weak"),
    "federated CA mints our ID": Case(_foreign, FOREIGN),
    "below a federated CA, an intermediate of our name": Case(_foreign_below, FOREIGN),
    "unknown CA of our name": Case(_unknown, FOREIGN),
    "self-signed": Case(_self_signed, FOREIGN, by_library=True),
    "self-signed, in the bundle": Case(_own_anchor, "not signed by a CA"),
    "in the bundle in the place of its CA": Case(_leaf_in_bundle, "not signed by a CA"),
    "trust domain without a bundle": Case(_no_bundle, "of a trust domain that we have no bundle of"),
    "signed by a workload": Case(_below_a_leaf, NO_CA),
    "signed by a CA without key usage": Case(_below_a_ca_without_usage, NO_CA),
    "an expired CA between": Case(_expired_above, "expired"),
    "longer than the CA allows": Case(_path_length, "a longer chain than its CA allows", by_library=True),
    "against name constraints": Case(_constrained, "against the name constraints of its CA", by_library=True),
    "wrong signature": Case(_wrong_signature, "a wrong signature", by_library=True),
}


def verified_chain(leaf: Leaf, root: Ca, world: World) -> list[bytes]:
    """The chain as OpenSSL would hand it over: up to the first certificate that is in some bundle."""
    known = frozenset[bytes]().union(*world.bundles.values())
    chain = []
    for der in (*leaf.chain_der, root.certificate.public_bytes(DER)):
        if der not in chain:
            chain.append(der)
        if der in known:
            break
    return chain


__all__ = ["CASES", "CA_USAGE", "ID", "Case", "World", "built", "verified_chain"]
