"""The key of the record: it signs checkpoints (Ed25519) and keys the hashes of what was removed from messages.

`cryptography` is imported when there is a key: a sidecar without one does not pay for it.
"""

import base64
import binascii
import hashlib
import hmac
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

_REMOVED: Final = b"openmcp record removed v1"
HOW: Final = "make one with: openmcp audit keygen audit.pem"
HOW_PUBLIC: Final = "make it from the private one with: openssl pkey -in audit.pem -pubout -out audit.pub"


class KeyUnusable(ValueError):
    """A key is not what it has to be; the text says how to make one, and nothing of the key."""


class Signer:
    """Signs checkpoints with a private key (Ed25519, PEM, PKCS#8, not encrypted). Raises `KeyUnusable`."""

    def __init__(self, pem: bytes) -> None:
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        try:
            key = load_pem_private_key(pem, None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise KeyUnusable(f"is not a private key in PEM without a password ({HOW})") from error
        if not isinstance(key, Ed25519PrivateKey):
            raise KeyUnusable(f"is not an Ed25519 key ({HOW})")
        self._key = key
        self.key_id = fingerprint(key.public_key())

    def sign(self, statement: bytes) -> str:
        """The signature, base64 of 64 bytes."""
        return base64.b64encode(self._key.sign(statement)).decode()

    def removal_key(self) -> bytes:
        """The key (32 bytes) of the hashes of what was removed: HKDF-SHA256 (RFC 5869) of the private key."""
        extracted = hmac.digest(bytes(32), self._key.private_bytes_raw(), "sha256")
        return hmac.digest(extracted, _REMOVED + b"\x01", "sha256")


def generate() -> tuple[bytes, bytes]:
    """A new private key and its public key, each in PEM."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.generate()
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return private, key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)


class Verifier:
    """Checks signatures by public keys (PEM, SubjectPublicKeyInfo). Raises `KeyUnusable`."""

    def __init__(self, pems: list[bytes]) -> None:
        self._keys = {fingerprint(key): key for key in map(_public, pems)}

    @property
    def keys(self) -> list[str]:
        """The fingerprints of the keys."""
        return list(self._keys)

    def knows(self, key_id: str) -> bool:
        """Whether this key was given."""
        return key_id in self._keys

    def good(self, key_id: str, signature: str, statement: bytes) -> bool:
        """Whether the signature is one of the known key over the statement."""
        from cryptography.exceptions import InvalidSignature

        try:
            self._keys[key_id].verify(base64.b64decode(signature, validate=True), statement)
        except (InvalidSignature, binascii.Error, ValueError, KeyError):
            return False
        return True


def _public(pem: bytes) -> "Ed25519PublicKey":
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise KeyUnusable(f"is not a public key in PEM ({HOW_PUBLIC})") from error
    if not isinstance(key, Ed25519PublicKey):
        raise KeyUnusable(f"is not an Ed25519 key ({HOW_PUBLIC})")
    return key


def fingerprint(key: "Ed25519PublicKey") -> str:
    """SHA-256 of the public key (DER, SubjectPublicKeyInfo), in hexadecimal."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()
