"""Which certificate chains stand for a peer: the rules of X.509-SVIDs beyond those of every certificate. Pure.

A chain comes as the TLS library verified it: leaf first, each certificate signed by the next one, within their times
and constraints, the last one among all CA certificates that were loaded. That is not enough: whose CA it is, and what
the leaf says, is decided here. Source: X509-SVID specification, sections 2 to 5; RFC 5280, 4.2.
"""

import functools
import hashlib
import ssl
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from openmcp.identity.material import Bundles, Svid
from openmcp.identity.peer import PeerCertificate, PeerRefused
from openmcp.identity.spiffe_id import NotASpiffeId, SpiffeId, parse_workload

MIN_RSA_BITS: Final = 2048
MALFORMED: Final = "a malformed certificate"
FOREIGN_ANCHOR: Final = "not signed by a CA of its own trust domain"
NO_CA: Final = "signed by a certificate that is no CA"
NAME_CONSTRAINTS: Final = "against the name constraints of its CA"
TOO_WEAK: Final = "a key or signature that is too weak"
UNKNOWN_CRITICAL: Final = "an unknown critical extension"
PURPOSE: Final = "key usages that are not for its side of TLS"
EXTENDED_USAGE: Final = "an extended key usage without serverAuth and clientAuth"
_BOTH_SIDES: Final = frozenset((ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH))
_WEAK_HASHES: Final = frozenset(("md5", "sha1"))
_CURVES: Final = (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)
_SHOWN: Final = 200
"""Characters of an ID that a message repeats: the peer chose it."""


class _Facts(msgspec.Struct, frozen=True):
    """What a good certificate says: its validity in Unix seconds and, of a leaf, whose it is."""

    begins: float
    ends: float
    spiffe_id: SpiffeId | None = None


def verify_peer(chain: Sequence[bytes], bundles: Bundles, now: float) -> PeerCertificate:
    """The peer that a verified chain of DER certificates stands for; `now` is in Unix seconds.

    Raises `PeerRefused` for what is no X.509-SVID, and for one whose anchor is not in the bundle of its own trust
    domain: a federated CA may vouch for its own workloads, never for ours.
    """
    found = _verified(chain, now, _svid)
    spiffe_id = found.spiffe_id
    assert spiffe_id is not None  # `_svid` has read it
    bundle = bundles.get(spiffe_id.trust_domain)
    if bundle is None:
        raise PeerRefused("of a trust domain that we have no bundle of", shown(spiffe_id))
    if chain[-1] not in bundle:
        raise PeerRefused(FOREIGN_ANCHOR, shown(spiffe_id))
    return found


def verify_client(chain: Sequence[bytes], now: float) -> PeerCertificate:
    """The same for a client under the web PKI, where one set of CAs vouches for all: a certificate without a SPIFFE ID
    is one of nobody in particular, one with such an ID has to be an X.509-SVID."""
    return _verified(chain, now, _web_client)


def anchors(bundles: Bundles, own: Svid) -> list[bytes]:
    """The CA certificates (DER) that chains may end in, each once.

    A federated one that could be taken for a CA of our own domain (its name, and its key identifier or none) is left
    out: the library would try it in the place of ours, and none of our own peers would be let in.
    """
    domain = own.id.trust_domain
    ours = bundles.get(domain, frozenset())
    names = {_name(der) for der in (*ours, *own.certificates[1:])}
    subjects = {subject for subject, _ in names}
    found = sorted(ours)
    for der in sorted(frozenset[bytes]().union(*bundles.values()) - ours):
        subject, identifier = _name(der)
        unnamed = identifier is None and subject in subjects
        if not unnamed and not names & {(subject, identifier), (subject, None)}:
            found.append(der)
    return found


@functools.lru_cache(maxsize=512)
def check_anchor(der: bytes) -> None:
    """Whether contexts can be made with this CA, which is one of all that each of them holds. Raises `PeerRefused`."""
    try:
        _name(der)
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=der)
    except PeerRefused:
        raise
    except Exception as error:  # as in `_verified`
        raise PeerRefused("it cannot be read") from error


def leaf_id(leaf: x509.Certificate) -> SpiffeId:
    """The ID of a leaf that is fit for an X.509-SVID by itself. Raises `PeerRefused`, and what the parser raises."""
    extensions = _extensions(leaf)
    _is_leaf(extensions)
    return _spiffe_id(_uris(extensions))


def shown(spiffe_id: SpiffeId) -> str:
    """An ID in a message."""
    return str(spiffe_id)[:_SHOWN]


def _verified(chain: Sequence[bytes], now: float, read: Callable[[bytes], _Facts]) -> PeerCertificate:
    if len(chain) < 2:  # a leaf that is in a bundle vouches for itself (X509-SVID, 5.2: bundles have CAs alone)
        raise PeerRefused("not signed by a CA")
    try:
        leaf, *above = [read(chain[0]), *map(_authority, chain[1:])]
    except PeerRefused:
        raise
    except Exception as error:  # what the parser raises for hostile bytes is not one family
        raise PeerRefused(MALFORMED) from error
    expires = min(facts.ends for facts in (leaf, *above))
    if now >= expires:
        raise PeerRefused("expired")
    if now < max(facts.begins for facts in (leaf, *above)):
        raise PeerRefused("not yet valid")
    return PeerCertificate(leaf.spiffe_id, hashlib.sha256(chain[-1]).digest(), expires)


# Peers come again with the same certificate, and all have the same CAs: what these say is read once.


@functools.lru_cache(maxsize=512)
def _svid(der: bytes) -> _Facts:
    leaf = x509.load_der_x509_certificate(der)
    return _facts(leaf, leaf_id(leaf))


@functools.lru_cache(maxsize=512)
def _web_client(der: bytes) -> _Facts:
    leaf = x509.load_der_x509_certificate(der)
    uris = _uris(_extensions(leaf))
    if not any(uri.lower().startswith("spiffe:") for uri in uris):
        return _facts(leaf)
    return _svid(der)


@functools.lru_cache(maxsize=128)
def _authority(der: bytes) -> _Facts:
    """Sections 4.1 and 4.3: a CA says that it is one."""
    certificate = x509.load_der_x509_certificate(der)
    extensions = _extensions(certificate)
    constraints, usage = extensions.get(x509.BasicConstraints), extensions.get(x509.KeyUsage)
    if constraints is None or not constraints.ca or usage is None or not usage.key_cert_sign:
        raise PeerRefused(NO_CA)
    return _facts(certificate)


def _facts(certificate: x509.Certificate, spiffe_id: SpiffeId | None = None) -> _Facts:
    _strong(certificate)
    begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return _Facts(begins.timestamp(), ends.timestamp(), spiffe_id)


def _extensions(certificate: x509.Certificate) -> dict[type, Any]:
    """The extensions by their types. What is critical and unknown must not be passed over (RFC 5280, 4.2)."""
    found = {}
    for extension in certificate.extensions:
        if extension.critical and isinstance(extension.value, x509.UnrecognizedExtension):
            raise PeerRefused(UNKNOWN_CRITICAL)
        found[type(extension.value)] = extension.value
    return found


def _uris(extensions: dict[type, Any]) -> list[str]:
    names: x509.SubjectAlternativeName | None = extensions.get(x509.SubjectAlternativeName)
    return names.get_values_for_type(x509.UniformResourceIdentifier) if names is not None else []


def _spiffe_id(uris: list[str]) -> SpiffeId:
    """Exactly one URI, which is the ID of a workload (section 2); names of other types do not matter."""
    if not uris:
        raise PeerRefused("no URI SAN, thus no SPIFFE ID")
    if len(uris) > 1:
        raise PeerRefused("more than one URI SAN")
    try:
        return parse_workload(uris[0])
    except NotASpiffeId as error:
        raise PeerRefused("a URI SAN that is no SPIFFE ID of a workload", str(error)) from None


def _is_leaf(extensions: dict[type, Any]) -> None:
    """Sections 4.1, 4.3, 4.4 and 5.2: it may authenticate, and may sign nothing."""
    constraints = extensions.get(x509.BasicConstraints)
    if constraints is not None and constraints.ca:
        raise PeerRefused("a CA certificate, which must not authenticate")
    usage = extensions.get(x509.KeyUsage)
    if usage is None or not usage.digital_signature:
        raise PeerRefused("no key usage digitalSignature")
    if usage.key_cert_sign or usage.crl_sign:
        raise PeerRefused("a key usage of CAs (keyCertSign or cRLSign)")
    extended = extensions.get(x509.ExtendedKeyUsage)
    if extended is not None and not _BOTH_SIDES.issubset(extended):
        raise PeerRefused(EXTENDED_USAGE)


def _strong(certificate: x509.Certificate) -> None:
    key = certificate.public_key()
    if isinstance(key, rsa.RSAPublicKey):
        strong = key.key_size >= MIN_RSA_BITS
    elif isinstance(key, ec.EllipticCurvePublicKey):
        strong = isinstance(key.curve, _CURVES)
    else:
        strong = isinstance(key, ed25519.Ed25519PublicKey | ed448.Ed448PublicKey)
    digest = certificate.signature_hash_algorithm
    if not strong or (digest is not None and digest.name in _WEAK_HASHES):
        raise PeerRefused(TOO_WEAK)


def _name(der: bytes) -> tuple[str, bytes | None]:
    """What a CA is found by: its subject (case and spaces do not count), and the identifier of its key or none."""
    certificate = x509.load_der_x509_certificate(der)
    identifier = _extensions(certificate).get(x509.SubjectKeyIdentifier)
    subject = " ".join(certificate.subject.rfc4514_string().casefold().split())
    return subject, identifier.digest if identifier is not None else None
