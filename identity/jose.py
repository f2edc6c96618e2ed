"""JSON Web Tokens and key sets, read strictly; the one door to PyJWT, which verifies the signatures.

A token is read by our own reader (RFC 7515, 3.1 and 7.1; RFC 7519, 7.2), so that what is refused does not depend on
the library; keys and signatures are the library's business. What a token says about its algorithm only ever narrows
what key and configuration allow (RFC 8725, 3.1). PyJWT is imported with the first key set.
"""

import base64
import binascii
import functools
import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

import msgspec
import orjson

from openmcp.identity.refusal import Refused

if TYPE_CHECKING:
    from jwt.algorithms import Algorithm

MAX_TOKEN: Final = 16 * 1024
"""Bytes of a token; a longer one is none."""
MAX_KEYS: Final = 100
"""Keys of one key set."""
MAX_KEY_ID: Final = 512
RSA_BITS: Final = (2048, 8192)
"""Sizes of RSA keys: smaller ones are not safe (RFC 7518, 3.3), larger ones cost too much to verify by."""

_SHAPES: Final[Mapping[str, tuple[str, str | None]]] = {
    **{name: ("RSA", None) for name in ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")},
    **{"ES256": ("EC", "P-256"), "ES384": ("EC", "P-384"), "ES512": ("EC", "P-521")},
    "EdDSA": ("OKP", "Ed25519"),
}
"""The type and curve of the keys of each algorithm (RFC 7518, 3.1; RFC 8037, 3.1); there are no others here."""
ALGORITHMS: Final = frozenset(_SHAPES)


class Token(msgspec.Struct, frozen=True):
    """A token as it was read, not verified. `signed` are the bytes that `signature` is about."""

    header: Mapping[str, Any]
    claims: Mapping[str, Any]
    signed: bytes
    signature: bytes


class NotAToken(ValueError):
    """Bytes that are no JWT in compact form, signed and strict."""


class NotAKeySet(ValueError):
    """A document that is no JWK set; the text says why."""


class UnknownKey(Exception):
    """No key of the set has the token's key id."""


class Key(msgspec.Struct, frozen=True):
    """A public key, and the algorithms that it may be used with; `id` is None where it has none."""

    id: str | None
    algorithms: frozenset[str]
    material: Any


class KeySet:
    """The keys of one issuer or trust domain."""

    def __init__(self, keys: Iterable[Key]) -> None:
        self._keys = tuple(keys)

    def __len__(self) -> int:
        return len(self._keys)

    def candidates(self, key_id: str | None, algorithm: str) -> list[Key]:
        """The keys that may have signed a token; raises `UnknownKey`, and `Refused` where the key is for another
        algorithm."""
        named = [key for key in self._keys if key_id is None or key.id == key_id]
        if not named:
            raise UnknownKey
        fitting = [key for key in named if algorithm in key.algorithms]
        if not fitting:
            raise Refused("algorithm", "the algorithm of the token is not one of its key")
        if key_id is None and len(fitting) > 1:
            raise Refused("unknown_key", "the token does not say which of the keys has signed it (kid)")
        return fitting


def read(token: bytes) -> Token:
    """Read a JWT without believing it. Raises `NotAToken`, also for what readers could read in two ways: other than
    canonical base64url, repeated members, other encodings than UTF-8."""
    if len(token) > MAX_TOKEN:
        raise NotAToken(f"longer than {MAX_TOKEN} bytes")
    segments = token.split(b".")
    if len(segments) != 3:
        raise NotAToken("not three segments")
    header, claims, signature = (_decoded(segment) for segment in segments)
    return Token(_object(header), _object(claims), token[: token.rindex(b".")], signature)


def _decoded(segment: bytes) -> bytes:
    """One segment of base64url without padding, of which each value has one form alone (RFC 4648, 3.5)."""
    if not segment:
        raise NotAToken("an empty segment")
    try:
        data = base64.urlsafe_b64decode(segment + b"=" * (-len(segment) % 4))
    except binascii.Error:
        raise NotAToken("a segment that is not base64url") from None
    if base64.urlsafe_b64encode(data).rstrip(b"=") != segment:  # the decoder passes over what does not belong there
        raise NotAToken("a segment that is not canonical base64url")
    return data


def _object(data: bytes) -> dict[str, Any]:
    """A JSON object in UTF-8 in which no member stands twice."""
    try:
        orjson.loads(data)  # strict about encoding, surrogates, numbers and depth, where json is not
        found = json.loads(data.decode(), object_pairs_hook=_unique)
    except (ValueError, RecursionError):
        raise NotAToken("a segment that is not strict JSON") from None
    if type(found) is not dict:
        raise NotAToken("a segment that is not a JSON object")
    return found


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a member stands twice")
    return found


def verify(token: Token, keys: KeySet, algorithms: frozenset[str]) -> None:
    """Check a token's signature by one of the keys and with one of the algorithms. Raises `Refused`, and `UnknownKey`
    where the set has no key of this id."""
    header = token.header
    algorithm = header.get("alg")
    if type(algorithm) is not str or algorithm not in algorithms:
        raise Refused("algorithm", "the algorithm of the token is not accepted")
    if "crit" in header or "b64" in header:
        raise Refused("malformed_token", "the token demands an extension that is not supported (crit)")
    key_id = header.get("kid")
    if key_id is not None and (type(key_id) is not str or not 0 < len(key_id) <= MAX_KEY_ID):
        raise Refused("malformed_token", "the key id of the token is not a text")
    candidates = keys.candidates(key_id, algorithm)
    method = _methods()[algorithm]
    if not any(method.verify(token.signed, key.material, token.signature) for key in candidates):
        raise Refused("signature", "the signature of the token is not good")


def prepare() -> None:
    """Import what verifies signatures, so that it is there with the first token."""
    _methods()


@functools.cache
def _methods() -> "Mapping[str, Algorithm]":
    from jwt.algorithms import get_default_algorithms

    return {name: method for name, method in get_default_algorithms().items() if name in ALGORITHMS}


def key_set(document: bytes, uses: frozenset[str]) -> KeySet:
    """Read a JWK set (RFC 7517, 5). Raises `NotAKeySet`.

    An entry that cannot be used is passed over, as that section says: of an unknown type, symmetric, private, for
    another `use` than these or another operation than verifying, too short, or broken.
    """
    try:
        found = orjson.loads(document)
    except ValueError:
        raise NotAKeySet("not JSON") from None
    entries = found.get("keys") if type(found) is dict else None
    if type(entries) is not list:
        raise NotAKeySet("not a JWK set: a JSON object with a list of keys")
    if len(entries) > MAX_KEYS:
        raise NotAKeySet(f"more than {MAX_KEYS} keys")
    keys = (_key(entry, uses) for entry in entries if type(entry) is dict)
    return KeySet(key for key in keys if key is not None)


def _key(entry: Mapping[str, Any], uses: frozenset[str]) -> Key | None:
    shape = (entry.get("kty"), entry.get("crv"))
    fitting = frozenset(name for name, (kind, curve) in _SHAPES.items() if shape == (kind, curve or shape[1]))
    declared = entry.get("alg")
    if declared is not None:
        fitting = frozenset(name for name in fitting if name == declared)
    key_id = entry.get("kid")
    if not fitting or not _is_for(entry, uses) or not (key_id is None or type(key_id) is str):
        return None
    material = _material(entry, next(iter(fitting)))
    return Key(key_id, fitting, material) if material is not None else None


def _is_for(entry: Mapping[str, Any], uses: frozenset[str]) -> bool:
    """Whether a key is public, and meant for verifying (RFC 7517, 4.2 and 4.3)."""
    if "d" in entry or "k" in entry:
        return False
    use, operations = entry.get("use"), entry.get("key_ops")
    if use is not None and (type(use) is not str or use not in uses):
        return False
    return operations is None or (type(operations) is list and "verify" in operations)


def _material(entry: Mapping[str, Any], algorithm: str) -> Any:
    from cryptography.exceptions import UnsupportedAlgorithm
    from jwt.exceptions import PyJWTError

    try:
        material: Any = _methods()[algorithm].from_jwk(dict(entry))
    except (PyJWTError, UnsupportedAlgorithm, ValueError, TypeError, KeyError, OverflowError):
        return None
    if entry["kty"] == "RSA" and not RSA_BITS[0] <= material.key_size <= RSA_BITS[1]:
        return None
    return material
