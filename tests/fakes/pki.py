"""Certificate authorities, SVIDs and JWTs, good ones as SPIRE makes them and every malformed kind.

Nothing here checks anything: what is asked for is signed.
"""

import base64
import datetime
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jwt
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from openmcp.identity.material import Svid
from openmcp.identity.spiffe_id import SpiffeId

DER, PEM = serialization.Encoding.DER, serialization.Encoding.PEM
PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey

SVID_USAGE = ("digital_signature", "key_encipherment", "key_agreement")
CA_USAGE = ("key_cert_sign", "crl_sign")
BOTH_SIDES = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)
_USAGES = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
    "encipher_only",
    "decipher_only",
)
_UNKNOWN_EXTENSION = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.55555.1"), b"\x05\x00")


def ec_key() -> ec.EllipticCurvePrivateKey:
    """A fresh key on P-256."""
    return ec.generate_private_key(ec.SECP256R1())


def rsa_key(bits: int = 2048) -> rsa.RSAPrivateKey:
    """A fresh RSA key."""
    return rsa.generate_private_key(65537, bits)


def key_der(key: PrivateKey) -> bytes:
    """PKCS#8 without a password, as the Workload API hands it out."""
    return key.private_bytes(DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def key_usage(*names: str) -> x509.KeyUsage:
    """An extension with exactly these usages."""
    return x509.KeyUsage(**{name: name in names for name in _USAGES})


@dataclass(frozen=True)
class Leaf:
    """A certificate with its intermediates and key. `chain_der` has the leaf first and leaves the root out."""

    certificate: x509.Certificate
    intermediates: tuple[x509.Certificate, ...]
    key: PrivateKey

    @property
    def chain_der(self) -> tuple[bytes, ...]:
        return tuple(one.public_bytes(DER) for one in (self.certificate, *self.intermediates))

    @property
    def key_der(self) -> bytes:
        return key_der(self.key)

    def chain_pem(self) -> bytes:
        """The chain alone, leaf first."""
        return b"".join(one.public_bytes(PEM) for one in (self.certificate, *self.intermediates))

    def key_pem(self) -> bytes:
        """The key alone."""
        return self.key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())

    def pem(self) -> bytes:
        """Chain and key in one text, as `load_cert_chain` takes it."""
        return self.chain_pem() + self.key_pem()


class Ca:
    """A CA like SPIRE's: the subject C=US, O=SPIFFE, with the trust domain as URI SAN.

    `parent` makes it an intermediate. Times are offsets in seconds from now. Deviations: `uris` other SANs (none at
    all where empty), `usage` other key usages (no extension where None), `is_ca` a CA that is none, `path_length`,
    `constraints` name constraints, `key` a given key (the same CA renewed), `unknown_critical` an extension that must
    be understood and is not.
    """

    def __init__(
        self,
        trust_domain: str,
        parent: "Ca | None" = None,
        *,
        uris: Sequence[str] | None = None,
        begins: float = -60,
        ttl: float = 24 * 3600,
        usage: Sequence[str] | None = CA_USAGE,
        is_ca: bool = True,
        path_length: int | None = None,
        constraints: x509.NameConstraints | None = None,
        key: PrivateKey | None = None,
        name: str = "SPIFFE",
        unknown_critical: bool = False,
    ) -> None:
        self.trust_domain = trust_domain
        self.parent = parent
        self.key = key or ec_key()
        serial = x509.random_serial_number()
        subject = _name(name, str(serial))
        builder = _builder(subject, self.key, parent.certificate.subject if parent else subject, begins, ttl)
        builder = builder.add_extension(x509.BasicConstraints(is_ca, path_length), critical=True)
        if usage is not None:
            builder = builder.add_extension(key_usage(*usage), critical=True)
        names = (f"spiffe://{trust_domain}",) if uris is None else uris
        if names:
            builder = builder.add_extension(_alternative_name(names, ()), critical=False)
        if parent:
            issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(parent.key.public_key())
            builder = builder.add_extension(issuer, critical=False)
        if constraints:
            builder = builder.add_extension(constraints, critical=True)
        if unknown_critical:
            builder = builder.add_extension(_UNKNOWN_EXTENSION, critical=True)
        self.certificate = builder.sign((parent or self).key, hashes.SHA256())

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(DER)

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(PEM)

    def intermediates(self) -> tuple[x509.Certificate, ...]:
        """From this CA upwards, without the root."""
        return (self.certificate, *self.parent.intermediates()) if self.parent else ()

    def leaf(
        self,
        uris: str | Sequence[str],
        *,
        ttl: float = 3600,
        begins: float = -10,
        is_ca: bool = False,
        constraints: bool = True,
        usage: Sequence[str] | None = SVID_USAGE,
        extended: Sequence[x509.ObjectIdentifier] | None = BOTH_SIDES,
        dns: Sequence[str] = (),
        san: bool = True,
        subject: bool = True,
        unknown_critical: bool = False,
        key: PrivateKey | None = None,
    ) -> Leaf:
        """Sign a leaf; without deviations it is an X.509-SVID.

        Deviations: several `uris` or none, `dns` names beside them, no `san` extension, an `is_ca` that signs others,
        no basic `constraints`, other `usage` and `extended` (no extension where None), no `subject` (the SAN is
        critical then), `unknown_critical` an extension that must be understood and is not, a given `key`. Times are
        offsets in seconds from now.
        """
        own_key = key or ec_key()
        name = _name("SPIRE", None) if subject else x509.Name([])
        builder = _builder(name, own_key, self.certificate.subject, begins, ttl)
        if constraints:
            builder = builder.add_extension(x509.BasicConstraints(is_ca, None), critical=True)
        if usage is not None:
            builder = builder.add_extension(key_usage(*usage), critical=True)
        if extended:
            builder = builder.add_extension(x509.ExtendedKeyUsage(list(extended)), critical=False)
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key())
        builder = builder.add_extension(issuer, critical=False)
        if san:
            names = _alternative_name([uris] if isinstance(uris, str) else uris, dns)
            builder = builder.add_extension(names, critical=not subject)
        if unknown_critical:
            builder = builder.add_extension(_UNKNOWN_EXTENSION, critical=True)
        return Leaf(builder.sign(self.key, hashes.SHA256()), self.intermediates(), own_key)


def _name(organization: str, serial: str | None) -> x509.Name:
    parts = [
        x509.NameAttribute(NameOID.COUNTRY_NAME, "US"),
        x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization),
    ]
    if serial is not None:
        parts.append(x509.NameAttribute(NameOID.SERIAL_NUMBER, serial))
    return x509.Name(parts)


def _builder(
    subject: x509.Name, key: PrivateKey, issuer: x509.Name, begins: float, ttl: float
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + datetime.timedelta(seconds=begins))
        .not_valid_after(now + datetime.timedelta(seconds=ttl))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _alternative_name(uris: Sequence[str], dns: Sequence[str]) -> x509.SubjectAlternativeName:
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(uri) for uri in uris]
    return x509.SubjectAlternativeName([*names, *(x509.DNSName(name) for name in dns)])


def svid(ca: Ca, id: SpiffeId | str, *, hint: str = "", ttl: float = 3600, begins: float = -10) -> Svid:
    """An X.509-SVID as `SvidSource.own` gives it."""
    leaf = ca.leaf(str(id), ttl=ttl, begins=begins)
    domain, slash, path = str(id).removeprefix("spiffe://").partition("/")
    return Svid(
        SpiffeId(domain, slash + path),
        leaf.chain_der,
        leaf.key_der,
        hint,
        leaf.certificate.not_valid_before_utc.timestamp(),
        leaf.certificate.not_valid_after_utc.timestamp(),
    )


@dataclass(frozen=True)
class JwtKey:
    """A key that signs JWTs: `algorithm` as in the header."""

    kid: str
    key: PrivateKey
    algorithm: str

    def jwk(self, use: str | None = None) -> dict[str, str]:
        """The public half (RFC 7517)."""
        numbers = self.key.public_key().public_numbers()
        if isinstance(numbers, ec.EllipticCurvePublicNumbers):
            size = (self.key.key_size + 7) // 8
            curve = f"P-{self.key.key_size}"
            shape = {"kty": "EC", "crv": curve, "x": _base64(numbers.x, size), "y": _base64(numbers.y, size)}
        else:
            shape = {"kty": "RSA", "n": _base64(numbers.n), "e": _base64(numbers.e)}
        return {**shape, "kid": self.kid, **({"use": use} if use else {})}


def jwt_key(kid: str = "k1", algorithm: str = "ES256") -> JwtKey:
    """A fresh key for `algorithm`: ES256, ES384, ES512, or RSA for the others."""
    curves: Mapping[str, ec.EllipticCurve] = {"ES256": ec.SECP256R1(), "ES384": ec.SECP384R1(), "ES512": ec.SECP521R1()}
    curve = curves.get(algorithm)
    return JwtKey(kid, ec.generate_private_key(curve) if curve else rsa_key(), algorithm)


def jwks(*keys: JwtKey, use: str | None = "jwt-svid") -> bytes:
    """The JWKS document of `keys`: a SPIFFE JWT bundle as it is; with `use="sig"` that of an OpenID provider."""
    return json.dumps({"keys": [key.jwk(use) for key in keys]}).encode()


def mint_jwt(key: JwtKey, claims: Mapping[str, Any], *, ttl: float = 3600, **headers: Any) -> str:
    """Sign `claims`; `exp` and `iat` are added where they are not given, and a claim of None is left out.

    `headers` add to and replace those of the key; one of None is left out.
    """
    now = int(time.time())
    full = {"iat": now, "exp": int(now + ttl), **claims}
    heads = {"kid": key.kid, **headers}
    return jwt.encode(
        {name: value for name, value in full.items() if value is not None},
        key.key,
        algorithm=key.algorithm,
        headers={name: value for name, value in heads.items() if value is not None},
    )


def _base64(number: int, size: int | None = None) -> str:
    data = number.to_bytes(size or (number.bit_length() + 7) // 8, "big")
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def payload(token: str) -> str:
    """The claims of a JWT, as they stand in it."""
    part = token.split(".")[1]
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)).decode()
