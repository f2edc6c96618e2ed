"""Reads what the Workload API sends: everything is checked here, once, and refused where it is not exact.

Our own SVIDs and the bundle of our own trust domain are good together or not at all; a federated bundle that is not
good is left out alone (Workload API, 4.4 to 6; X509-SVID, 2 to 5; JWT-SVID, 3).
"""

import base64
import re
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_der_private_key

from openmcp.identity.certificates import check_anchor, leaf_id
from openmcp.identity.material import JwtSvid, JwtUpdate, Svid, X509Material, X509Update
from openmcp.identity.peer import PeerRefused
from openmcp.identity.spiffe_id import NotASpiffeId, SpiffeId, is_trust_domain, parse_workload

EARLY: Final = 300.0
"""Seconds that an SVID may begin in our future: our clock may be behind that of the CA."""
_SCHEME: Final = "spiffe://"
_TOKEN: Final = re.compile(r"[A-Za-z0-9_-]+\.([A-Za-z0-9_-]+)\.[A-Za-z0-9_-]+")
_SEQUENCE: Final = 0x30


class Malformed(Exception):
    """Something in an update is not as it has to be. The text says what, without any of its bytes."""


class RawSvid(msgspec.Struct, frozen=True):
    """One entry of an X509SVIDResponse as it came: `certificates` and `bundle` are DER after DER, `key` PKCS#8 DER."""

    id: str
    certificates: bytes
    key: bytes
    bundle: bytes
    hint: str = ""

    def __repr__(self) -> str:
        return f"RawSvid({self.id!r})"


class _Claims(msgspec.Struct, frozen=True):
    sub: str
    aud: str | list[str]
    exp: float


class _KeySet(msgspec.Struct, frozen=True):
    keys: list[msgspec.Raw]


def x509_update(svids: Sequence[RawSvid], federated: Mapping[str, bytes], now: float) -> X509Update:
    """Check one message of FetchX509SVID, with one SVID at least, at the Unix time `now`. Raises `Malformed`."""
    bundles: dict[str, frozenset[bytes]] = {}
    for raw in svids:
        domain = _workload(raw.id).trust_domain
        bundle = _bundle(raw.bundle, domain)
        if bundles.setdefault(domain, bundle) != bundle:
            raise Malformed(f"two different bundles of {domain}")
    material = tuple(_svid(raw, now) for raw in svids)
    bad: dict[str, str] = {}
    for name, data in federated.items():
        try:
            domain = _domain(name, bundles)
            bundles[domain] = _bundle(data, domain)
        except Malformed as fault:
            bad[name] = str(fault)
    return X509Update(X509Material(material, bundles), bad)


def jwt_update(documents: Mapping[str, bytes]) -> JwtUpdate:
    """Check one message of FetchJWTBundles: trust domains to JWKS documents. Raises `Malformed` if none is good."""
    good: dict[str, bytes] = {}
    bad: dict[str, str] = {}
    for name, document in documents.items():
        try:
            domain = _domain(name, good)
            msgspec.json.decode(document, type=_KeySet)
            good[domain] = document
        except (Malformed, msgspec.DecodeError, UnicodeDecodeError) as fault:
            bad[name] = str(fault) if isinstance(fault, Malformed) else "no JWKS document"
    if not good:
        raise Malformed("no good JWT bundle in it")
    return JwtUpdate(good, bad)


def jwt_svid(token: str, id: SpiffeId, audience: str, now: float) -> JwtSvid:
    """Check a JWT-SVID that was issued to us for `audience`. Raises `Malformed`.

    Its signature is for those to check who get it. It becomes part of a header: nothing else than a token may pass.
    """
    match = _TOKEN.fullmatch(token)
    if match is None:
        raise Malformed("the JWT-SVID is no JWT in compact form")
    payload = match[1]
    try:
        data = base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4))
        claims = msgspec.json.decode(data, type=_Claims)
    except (ValueError, msgspec.DecodeError):
        raise Malformed("the JWT-SVID lacks sub, aud or exp, or they are of another type") from None
    if claims.sub != str(id):
        raise Malformed(f"the JWT-SVID is not that of {id}")
    if audience not in ([claims.aud] if isinstance(claims.aud, str) else claims.aud):
        raise Malformed("the JWT-SVID is for another audience")
    if not claims.exp > now:
        raise Malformed("the JWT-SVID has expired already; compare the clocks")
    return JwtSvid(id, token, claims.exp)


def _domain(name: str, taken: Mapping[str, object]) -> str:
    """The trust domain that a bundle is sent for: by its ID, or by its bare name."""
    domain = name.removeprefix(_SCHEME)
    if not is_trust_domain(domain):
        raise Malformed("not the name of a trust domain")
    if domain in taken:
        raise Malformed("a second bundle of this trust domain")
    return domain


def _workload(text: str) -> SpiffeId:
    try:
        return parse_workload(text)
    except NotASpiffeId as fault:
        raise Malformed(f"the ID of an SVID: {fault}") from None


def _bundle(data: bytes, domain: str) -> frozenset[bytes]:
    """The CA certificates of a bundle. One that is no CA is not taken: it would vouch for itself as a peer."""
    found = _split(data, f"the bundle of {domain}")
    if not found:
        raise Malformed(f"the bundle of {domain} is empty")
    for der in found:
        if not _is_ca(_load(der, f"the bundle of {domain}")):
            raise Malformed(f"the bundle of {domain} holds a certificate that is no CA")
        _check_usable(der, f"the bundle of {domain}")
    return frozenset(found)


def _svid(raw: RawSvid, now: float) -> Svid:
    id = _workload(raw.id)
    what = f"the SVID {id}"
    ders = _split(raw.certificates, what)
    if not ders:
        raise Malformed(f"{what} has no certificate")
    leaf, *between = (_load(der, what) for der in ders)
    _check_leaf(leaf, id, what)
    if not all(_is_ca(one) for one in between):
        raise Malformed(f"{what} has an intermediate certificate that is no CA")
    for der in ders[1:]:
        _check_usable(der, what)
    begins, expires = _times(leaf, what, now)
    try:
        fits = load_der_private_key(raw.key, None).public_key() == leaf.public_key()
    except Exception:  # as in `_load`
        raise Malformed(f"the key of {what} cannot be read") from None
    if not fits:
        raise Malformed(f"the key of {what} is not that of its certificate")
    return Svid(id, ders, raw.key, raw.hint, begins, expires)


def _check_leaf(leaf: x509.Certificate, id: SpiffeId, what: str) -> None:
    """What we refuse in the leaf of a peer is nothing to present; and its ID is the one that it was sent with."""
    try:
        found = leaf_id(leaf)
    except PeerRefused as refused:
        raise Malformed(f"the certificate of {what} is not good: {refused}") from None
    except Exception as error:  # as in `_load`
        raise Malformed(f"{what} has extensions that cannot be read ({type(error).__name__})") from None
    if found != id:
        raise Malformed(f"{what} has a certificate with another ID")


def _times(leaf: x509.Certificate, what: str, now: float) -> tuple[float, float]:
    begins, expires = leaf.not_valid_before_utc.timestamp(), leaf.not_valid_after_utc.timestamp()
    if expires <= now:
        raise Malformed(f"{what} has expired already; compare the clocks")
    if begins > now + EARLY:
        raise Malformed(f"{what} begins in the future; compare the clocks")
    return begins, expires


def _check_usable(ca: bytes, what: str) -> None:
    """One CA that no context can be made with would end all connections, whoever it is of."""
    try:
        check_anchor(ca)
    except PeerRefused as refused:
        raise Malformed(f"{what} holds a CA that cannot be used: {refused}") from None


def _is_ca(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except Exception:  # it says nothing of the kind, or nothing that can be read
        return False


def _load(der: bytes, what: str) -> x509.Certificate:
    try:
        return x509.load_der_x509_certificate(der)
    except Exception:  # what the parser raises for bytes that are no certificate is not one family
        raise Malformed(f"{what} holds a certificate that cannot be read") from None


def _split(data: bytes, what: str) -> tuple[bytes, ...]:
    """DER values that follow each other without anything between them (Workload API, 5.1)."""
    found, at = [], 0
    while at < len(data):
        end = at + _length(data, at)
        if data[at] != _SEQUENCE or not at < end <= len(data):
            raise Malformed(f"{what} is not DER")
        found.append(data[at:end])
        at = end
    return tuple(found)


def _length(data: bytes, at: int) -> int:
    """The bytes of the DER value at `at`, with its tag and length (X.690, 8.1.3); 0 where there is none."""
    head = data[at + 1 : at + 2]
    if not head:
        return 0
    if head[0] < 0x80:
        return 2 + head[0]
    octets = head[0] & 0x7F
    return 2 + octets + int.from_bytes(data[at + 2 : at + 2 + octets], "big")
