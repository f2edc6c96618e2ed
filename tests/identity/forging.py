"""Tokens written by hand, segment by segment: what a library would refuse to make."""

import base64
import hashlib
import hmac
import json
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ed25519

from tests.fakes.pki import PEM, JwtKey, serialization


def segment(data: bytes) -> bytes:
    """Base64url without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def signed(key: JwtKey, header: bytes | dict[str, Any], claims: bytes | dict[str, Any]) -> bytes:
    """A token whose signature is good, whatever header and claims are; bytes go in as they are."""
    head, body = (part if isinstance(part, bytes) else json.dumps(part).encode() for part in (header, claims))
    data = segment(head) + b"." + segment(body)
    method = jwt.get_algorithm_by_name(key.algorithm)
    return data + b"." + segment(method.sign(data, key.key))


def edwards(kid: str) -> tuple[JwtKey, dict[str, str]]:
    """A key for EdDSA, and its public half (RFC 8037, 2)."""
    key = ed25519.Ed25519PrivateKey.generate()
    public = segment(key.public_key().public_bytes_raw()).decode()
    made = JwtKey(kid, key, "EdDSA")  # type: ignore[arg-type]  # it signs as the others do
    return made, {"kty": "OKP", "crv": "Ed25519", "kid": kid, "x": public}


def unsigned(header: dict[str, Any], claims: dict[str, Any], signature: bytes = b"") -> bytes:
    """A token without a signature, or with these bytes for one."""
    parts = (json.dumps(header).encode(), json.dumps(claims).encode(), signature)
    return b".".join(map(segment, parts))


def by_public_key(key: JwtKey, algorithm: str, claims: dict[str, Any], encoded: bytes | None = None) -> bytes:
    """An HMAC whose secret is the public key, as PEM or as given: what a verifier that trusts `alg` falls for."""
    secret = encoded or key.key.public_key().public_bytes(PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    header = {"alg": algorithm, "kid": key.kid, "typ": "JWT"}
    data = segment(json.dumps(header).encode()) + b"." + segment(json.dumps(claims).encode())
    digest = {"HS256": hashlib.sha256, "HS384": hashlib.sha384, "HS512": hashlib.sha512}[algorithm]
    return data + b"." + segment(hmac.new(secret, data, digest).digest())


def repeated(claims: dict[str, Any], name: str, other: Any) -> bytes:
    """Claims in which one member stands twice; the last one is the given one's."""
    return f'{{"{name}": {json.dumps(other)}, {json.dumps(claims)[1:]}'.encode()
