"""Bearer tokens that are JWTs: which method one is for, what all of them have to say, and remembering the good ones."""

import functools
import hashlib
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import msgspec

from openmcp.identity import jose
from openmcp.identity.peer import Peer
from openmcp.identity.principal import Principal
from openmcp.identity.refusal import Refused

Headers = Mapping[bytes, bytes]
"""Names in lower case, each once: a request that repeats a credential is refused before this."""

MAX_REMEMBERED: Final = 4096
"""Verified tokens that are remembered; beyond that the oldest is verified anew."""
MAX_BYTES: Final = 4 * 1024 * 1024
"""Bytes of these tokens in all; each takes some three times as much once it is taken apart."""
_ROUTED: Final = 8192
"""Bytes of a token up to which it is remembered whose it is to judge."""
_LATEST: Final = 1e11
"""A time beyond any that is meant, in Unix seconds: what is later was not given in seconds."""
OF_ONE_TOKEN: Final = frozenset(("exp", "iat", "nbf", "jti", "nonce", "at_hash", "auth_time"))
"""Claims that say something of the token and not of the caller."""


class Verified(msgspec.Struct, frozen=True):
    """A caller, until when its token holds (Unix seconds), under which keys it was verified, and how long it is."""

    principal: Principal
    until: float
    generation: int
    size: int


class TokenMethod(ABC):
    """A method that verifies bearer tokens. One that was verified costs a hash and a lookup from then on, until it
    expires or the keys change."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._known: dict[bytes, Verified] = {}
        self._bytes = 0

    def principal(self, headers: Headers, peer: Peer) -> Principal | None:
        """The caller; None where there is no token, or one for another method. Raises `Refused`, `Unavailable`,
        `KeysNeeded`."""
        token = presented(headers)
        claimed = claims_of(token) if token is not None else None
        if token is None or claimed is None or not self.takes(*claimed):
            return None
        digest = hashlib.sha256(token).digest()
        known = self._known.get(digest)
        if known is not None and known.until > self._clock() and known.generation == self.generation():
            return known.principal
        return self._verified(token, digest)

    def until(self, headers: Headers, peer: Peer) -> float:
        """When the token that `principal` has just accepted ends, in Unix seconds."""
        known = self._known.get(hashlib.sha256(presented(headers) or b"").digest())
        return known.until if known is not None else 0.0

    @abstractmethod
    def generation(self) -> int:
        """A number that is another one once the keys have changed."""

    @abstractmethod
    def takes(self, issuer: str, subject: str) -> bool:
        """Whether tokens that claim these are for this method."""

    @abstractmethod
    def verify(self, token: jose.Token, now: float) -> tuple[Principal, float]:
        """The caller and when the token ends. Raises `Refused`, `Unavailable`, `KeysNeeded`."""

    def _verified(self, token: bytes, digest: bytes) -> Principal:
        self._forget(digest)
        generation, size = self.generation(), len(token)
        read = jose.read(token)
        if "cnf" in read.claims:  # RFC 7800: whoever only has the token is not the one it was given to
            raise Refused("malformed_token", "the token is bound to a key (cnf), which is not supported")
        principal, until = self.verify(read, self._clock())
        while self._known and (len(self._known) >= MAX_REMEMBERED or self._bytes + size > MAX_BYTES):
            self._forget(next(iter(self._known)))
        self._known[digest] = Verified(principal, until, generation, size)
        self._bytes += size
        return principal

    def _forget(self, digest: bytes) -> None:
        known = self._known.pop(digest, None)
        if known is not None:
            self._bytes -= known.size


def presented(headers: Headers) -> bytes | None:
    """What stands in `Authorization: Bearer`, None where it stands not; another scheme than Bearer is not for us."""
    value = headers.get(b"authorization")
    if value is None:
        return None
    scheme, _, token = value.strip().partition(b" ")
    return token.strip() if scheme.lower() == b"bearer" else None


def claims_of(token: bytes) -> tuple[str, str] | None:
    """The issuer and subject that a JWT claims, which decide whose it is to judge, and nothing else ("" where one is
    absent); None for everything that is no JWT."""
    if token.count(b".") != 2:
        return None
    return _claims_of(token) if len(token) <= _ROUTED else _claims_of.__wrapped__(token)


@functools.lru_cache(maxsize=512)
def _claims_of(token: bytes) -> tuple[str, str] | None:
    try:
        claims = jose.read(token).claims
    except jose.NotAToken:
        return None
    issuer, subject = claims.get("iss"), claims.get("sub")
    return issuer if type(issuer) is str else "", subject if type(subject) is str else ""


def check_times(claims: Mapping[str, Any], now: float, skew: float) -> float:
    """The end of a token in Unix seconds, `skew` seconds of which are added; raises `Refused` unless it holds now.

    `exp` is required, `nbf` and `iat` may not lie in the future (RFC 7519, 4.1.4 to 4.1.6).
    """
    expires = _time(claims, "exp")
    if expires is None:
        raise Refused("malformed_token", "the token has no expiry (exp)")
    if expires + skew <= now:
        raise Refused("expired", "the token has expired")
    for name in ("nbf", "iat"):
        begins = _time(claims, name)
        if begins is not None and begins > now + skew:
            raise Refused("not_yet_valid", f"the token is not valid yet ({name})")
    return expires + skew


def _time(claims: Mapping[str, Any], name: str) -> float | None:
    if name not in claims:
        return None
    value: Any = claims[name]
    if type(value) not in (int, float) or not math.isfinite(value) or not 0 <= value < _LATEST:
        raise Refused("malformed_token", f"{name} is not a time in seconds")
    return float(value)


def audiences(claims: Mapping[str, Any]) -> list[str]:
    """Whom a token is for (RFC 7519, 4.1.3): one text, or a list of them. Raises `Refused` for anything else."""
    value = claims.get("aud")
    given = [value] if type(value) is str else value
    if type(given) is not list or not given or any(type(one) is not str for one in given):
        raise Refused("audience", "the token has no audience (aud)")
    return given


def is_unverified(claims: Mapping[str, Any], claim: str) -> bool:
    """Whether the issuer itself says that it has not checked who owns the address that this claim is (OpenID Connect
    Core 1.0, 5.1): anybody may have written it. Some write the word as a text."""
    return claim == "email" and claims.get("email_verified", True) not in (True, "true")


def for_policy(claims: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """What policies may ask of a caller: scalar claims and the elements of lists, as pairs of name and text, sorted."""
    return tuple(sorted(set(_pairs(claims))))


def _pairs(claims: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in claims.items():
        if name in OF_ONE_TOKEN:
            continue
        for one in value if type(value) is list else (value,):
            if type(one) is bool:
                yield name, "true" if one else "false"
            elif type(one) in (str, int, float):
                yield name, str(one)
