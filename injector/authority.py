"""Pure: CAs that sign one certificate each, and forget how.

The key of a CA is thrown away as soon as the certificate of the webhook is signed: whoever reads what is kept can pose
as the webhook until that certificate ends, and cannot make another one. A new certificate is a new CA therefore.
"""

import functools
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from typing import Final

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

SKEW: Final = 3600.0
"""Seconds that the clock of an API server may be behind; less where a certificate lives shorter."""


class Generation(msgspec.Struct, frozen=True):
    """A CA, the certificate it signed, and the key of that certificate, as PEM. Its representation hides the key."""

    ca: bytes
    certificate: bytes
    key: bytes

    def __repr__(self) -> str:
        return f"Generation({len(self.certificate)} bytes)"


class Facts(msgspec.Struct, frozen=True):
    """What a certificate says: its time in Unix seconds and the names it is good for."""

    begins: float
    ends: float
    names: frozenset[str]


def issue(names: Iterable[str], now: float, lifetime: float) -> Generation:
    """A new CA with a certificate for these DNS names and IP addresses, both of which end `lifetime` seconds from
    `now` (Unix)."""
    begins = datetime.fromtimestamp(int(now - min(SKEW, lifetime)), UTC)
    ends = datetime.fromtimestamp(int(now), UTC) + timedelta(seconds=lifetime)
    ca_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    serial = x509.random_serial_number()
    issuer = _name(f"openmcp-injector-ca-{serial:x}"[:64])  # CAs of one bundle are told apart by name and by key
    ca = (
        _builder(issuer, issuer, begins, ends)
        .public_key(ca_key.public_key())
        .serial_number(serial)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage("key_cert_sign"), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(ca_key.public_key()), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    leaf = (
        _builder(_name("openmcp-injector"), issuer, begins, ends)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .add_extension(x509.SubjectAlternativeName([_general(name) for name in sorted(names)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage("digital_signature"), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return Generation(ca.public_bytes(Encoding.PEM), leaf.public_bytes(Encoding.PEM), pem)


@functools.lru_cache(maxsize=64)
def facts(pem: bytes) -> Facts | None:
    """What the first certificate of a PEM says; None where there is none that can be read."""
    try:
        found = x509.load_pem_x509_certificate(pem)
        try:
            names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        except x509.ExtensionNotFound:
            return Facts(_unix(found.not_valid_before_utc), _unix(found.not_valid_after_utc), frozenset())
        said = {*names.get_values_for_type(x509.DNSName), *map(str, names.get_values_for_type(x509.IPAddress))}
    except ValueError:
        return None
    return Facts(_unix(found.not_valid_before_utc), _unix(found.not_valid_after_utc), frozenset(said))


def serves(generation: Generation, names: Iterable[str], now: float) -> bool:
    """Whether its parts belong together, and a client that trusts its CA will take it for all `names` at `now`."""
    found = facts(generation.certificate)
    if found is None or not found.begins <= now < found.ends or not found.names.issuperset(names):
        return False
    try:
        ca, leaf = map(x509.load_pem_x509_certificate, (generation.ca, generation.certificate))
        leaf.verify_directly_issued_by(ca)
        public = load_pem_private_key(generation.key, None).public_key()
    except (ValueError, TypeError, InvalidSignature):
        return False
    return _spki(public) == _spki(leaf.public_key()) and now < _unix(ca.not_valid_after_utc)


def _spki(key: object) -> bytes:
    assert hasattr(key, "public_bytes")
    encoded: bytes = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return encoded


def _builder(subject: x509.Name, issuer: x509.Name, begins: datetime, ends: datetime) -> x509.CertificateBuilder:
    named = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer)
    return named.not_valid_before(begins).not_valid_after(ends)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _usage(name: str) -> x509.KeyUsage:
    every = (
        *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement"),
        *("key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
    )
    return x509.KeyUsage(**{one: one == name for one in every})


def _unix(moment: datetime) -> float:
    return moment.timestamp()
