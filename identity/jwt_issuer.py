"""Callers known by a JWT of an issuer that is no trust domain: an OpenID provider, an authorization server."""

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, Protocol

import msgspec

from openmcp.identity import jose
from openmcp.identity.bearer import TokenMethod, audiences, check_times, for_policy, is_unverified
from openmcp.identity.principal import Principal
from openmcp.identity.refusal import KeysNeeded, Refused, Unavailable
from openmcp.identity.visible import is_visible

MAX_SUBJECT: Final = 256
"""Characters of the claim that names the caller."""
_TYPES: Final = ("jwt", "at+jwt", "application/at+jwt")
"""Tokens for other purposes say so in `typ` (RFC 8725, 3.11): an answer to a logout is no proof of who calls."""


class IssuerKeys(Protocol):
    """The keys of an issuer. `generation` is another one once they have changed."""

    @property
    def generation(self) -> int: ...

    def current(self) -> jose.KeySet | None:
        """The keys; None where there are none, or none that may still be trusted."""

    def may_refresh(self) -> bool:
        """Whether `refresh` would ask now."""

    async def refresh(self) -> None:
        """Ask for the keys, bounded in time and rate; never raises."""


class Terms(msgspec.Struct, frozen=True):
    """What a token has to say: `issuer` exactly so, one of `audiences`, in `principal_claim` who calls; an algorithm
    among `algorithms`. `skew` are seconds by which clocks may differ."""

    issuer: str
    audiences: tuple[str, ...]
    principal_claim: str = "sub"
    algorithms: tuple[str, ...] = ("RS256", "PS256", "ES256", "ES384", "EdDSA")
    skew: float = 30.0


class Jwts(TokenMethod):
    """`type: jwt`: a JWT of one issuer; the caller becomes `jwt:<issuer>#<principal>`."""

    def __init__(self, terms: Terms, keys: IssuerKeys, *, clock: Callable[[], float] = time.time) -> None:
        super().__init__(clock)
        self._terms = terms
        self._algorithms = frozenset(terms.algorithms) & jose.ALGORITHMS
        self._keys = keys

    def generation(self) -> int:
        """See `TokenMethod`."""
        self._keys.current()  # keys that are due are asked for, also where all tokens are remembered ones
        return self._keys.generation

    def takes(self, issuer: str, subject: str) -> bool:
        """Whether it claims to be of this issuer, to the letter (RFC 7519, 4.1.1)."""
        return issuer == self._terms.issuer

    def verify(self, token: jose.Token, now: float) -> tuple[Principal, float]:
        """See `TokenMethod`."""
        if not _shares(audiences(token.claims), self._terms.audiences):
            raise Refused("audience", "the token is for another audience")
        until = check_times(token.claims, now, self._terms.skew)
        _check_kind(token)
        name = _named(token.claims, self._terms.principal_claim)
        self._check_signature(token)
        return Principal(f"jwt:{self._terms.issuer}#{name}", "jwt", for_policy(token.claims)), until

    def _check_signature(self, token: jose.Token) -> None:
        keys = self._keys.current()
        if keys is None:
            if self._keys.may_refresh():
                raise KeysNeeded(self._keys)
            raise Unavailable("no_keys", "the keys of the token's issuer cannot be had")
        try:
            jose.verify(token, keys, self._algorithms)
        except jose.UnknownKey:
            if self._keys.may_refresh():
                raise KeysNeeded(self._keys) from None
            raise Refused("unknown_key", "no key of its issuer has signed the token (kid)") from None


def _shares(given: Iterable[str], accepted: Iterable[str]) -> bool:
    return not frozenset(given).isdisjoint(accepted)


def _check_kind(token: jose.Token) -> None:
    kind = token.header.get("typ", "JWT")
    if type(kind) is not str or kind.lower() not in _TYPES:
        raise Refused("malformed_token", "the token is not one for access (typ)")


def _named(claims: Mapping[str, Any], claim: str) -> str:
    """The caller's name within its issuer. It stands in logs and in the patterns of policies, behind `#`: what would be
    cut, hidden or read in two ways there is refused."""
    value = claims.get(claim)
    if type(value) is not str or not value:
        raise Refused("subject", "the token does not say who calls")
    if len(value) > MAX_SUBJECT or not all(map(is_visible, value)) or value != value.strip() or "#" in value:
        raise Refused("subject", "what the token says of who calls cannot be used as a name")
    if is_unverified(claims, claim):
        raise Refused("subject", "the address that names the caller is not verified (email_verified)")
    return value
