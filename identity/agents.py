"""Who is calling: from a request and its connection to a principal.

Methods are asked in the order of the configuration; the first that applies decides. A method applies where its
credential was presented, right or wrong: a wrong one is refused and never becomes somebody else behind it.
"""

import hashlib
from collections.abc import Iterable, Sequence
from typing import Protocol

from openmcp.identity.bearer import Headers, TokenMethod, claims_of, presented
from openmcp.identity.connection import Workload
from openmcp.identity.forwarded import Forwarded
from openmcp.identity.peer import Peer
from openmcp.identity.principal import ANONYMOUS, Principal
from openmcp.identity.refusal import KeysNeeded, Refused, Unavailable


class Method(Protocol):
    """One way of identifying a caller."""

    def principal(self, headers: Headers, peer: Peer) -> Principal | None:
        """The caller; None where this method does not apply. Raises `Refused` for a credential that is not good,
        `Unavailable` for one that cannot be judged now, `KeysNeeded` where keys have to be asked for first."""

    def until(self, headers: Headers, peer: Peer) -> float:
        """When what `principal` has just accepted ends, in Unix seconds; infinite where that is not known."""


class Anyone:
    """`type: none`: every caller is `anonymous`."""

    def principal(self, headers: Headers, peer: Peer) -> Principal:
        """Applies to every request."""
        return ANONYMOUS

    def until(self, headers: Headers, peer: Peer) -> float:
        """It does not end."""
        return float("inf")


class ApiKeys:
    """`type: apiKey`: a key in `X-API-Key` or `Authorization: Bearer`, known by its SHA-256."""

    def __init__(self, keys: Iterable[tuple[str, str]]) -> None:
        """`keys` are pairs of name and lower-case hex digest; the caller becomes `key:<name>`."""
        self._by_digest = {bytes.fromhex(digest): Principal(f"key:{name}", "apiKey") for name, digest in keys}

    def principal(self, headers: Headers, peer: Peer) -> Principal | None:
        """The owner of the key that was presented; None for a JWT, which is for other methods. Raises `Refused` for an
        unknown key and for two different ones."""
        bearer = presented(headers)
        key = headers.get(b"x-api-key", bearer)
        if key is None:
            return None
        key = key.strip()
        if bearer is not None and bearer != key:
            raise Refused("two_credentials", "X-API-Key and Authorization carry different keys")
        # A lookup among digests takes the same time for one key and for thousands. What its comparison could betray
        # are leading bytes of a known digest, and these are of no use: they lead to no key, only to be tried against
        # guesses that the guesser would have to make anyway.
        owner = self._by_digest.get(hashlib.sha256(key).digest())
        if owner is None and b"x-api-key" not in headers and claims_of(key) is not None:
            return None
        if owner is None:
            raise Refused("unknown_api_key", "unknown API key")
        return owner

    def until(self, headers: Headers, peer: Peer) -> float:
        """A key holds until the configuration no longer names it."""
        return float("inf")


class Identifier:
    """The methods of a configuration in their order.

    `workload` and `none`, which prove nothing about a request itself, take none that presents a credential which
    another method of the configuration could have judged, and `workload` none of a proxy that speaks for others.
    """

    def __init__(self, methods: Sequence[Method]) -> None:
        self._methods = tuple((method, isinstance(method, Workload | Anyone)) for method in methods)
        self._tokens = any(isinstance(method, TokenMethod) for method in methods)
        self._keys = any(isinstance(method, ApiKeys) for method in methods)
        self._proxies = tuple(method for method in methods if isinstance(method, Forwarded))

    def identify(self, headers: Headers, peer: Peer) -> Principal | None:
        """The caller; None where nothing was presented that a method is for. Pure and quick, called for each request.

        Raises `Refused`, `Unavailable`, `KeysNeeded` as the methods do.
        """
        for method, fallback in self._methods:
            if fallback and self._passes_over(method, headers, peer):
                continue
            found = method.principal(headers, peer)
            if found is not None:
                if self._tokens and self._keys and isinstance(method, TokenMethod) and b"x-api-key" in headers:
                    raise Refused("two_credentials", "X-API-Key and Authorization carry different credentials")
                return found
        if self._presents(headers):
            raise Refused("unknown_token", "no method of identity.agents takes this bearer token")
        return None

    def until(self, caller: Principal, headers: Headers, peer: Peer) -> float:
        """When what has identified this caller ends, in Unix seconds: infinite where that is not known, 0 where it no
        longer does."""
        try:
            for method, fallback in self._methods:
                if fallback and self._passes_over(method, headers, peer):
                    continue
                found = method.principal(headers, peer)
                if found is not None:
                    return method.until(headers, peer) if found == caller else 0.0
        except (Refused, Unavailable, KeysNeeded):
            return 0.0
        return float("inf") if caller == ANONYMOUS else 0.0

    def _presents(self, headers: Headers) -> bool:
        """Whether a request presents a credential that one of the methods is for; right or wrong."""
        if self._keys and b"x-api-key" in headers:
            return True
        return (self._keys or self._tokens) and presented(headers) is not None

    def _passes_over(self, method: Method, headers: Headers, peer: Peer) -> bool:
        if self._presents(headers):
            return True
        return isinstance(method, Workload) and any(proxy.speaks(peer) for proxy in self._proxies)


def build(methods: Sequence[Method]) -> Identifier:
    """The identifier for `identity.agents`, one method for each entry; of none, nobody is identified."""
    return Identifier(methods)
