"""Who is calling: from the headers of a request to a principal.

Methods are asked in the order of the configuration; the first that applies decides. A method applies where its
credential was presented, right or wrong: a wrong key is refused and never becomes `anonymous` behind it.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from openmcp.identity.principal import ANONYMOUS, Principal

Headers = Mapping[bytes, bytes]
"""Names in lower case, each once: a request that repeats a credential is refused before this."""


class Refused(Exception):
    """A credential was presented and is not good. The text says why, never what was presented."""


class Method(Protocol):
    """One way of identifying a caller."""

    def principal(self, headers: Headers) -> Principal | None:
        """The caller; None where this method does not apply. Raises Refused for a credential that is not good."""


class Anyone:
    """`type: none`: every caller is `anonymous`."""

    def principal(self, headers: Headers) -> Principal:
        """Applies to every request."""
        return ANONYMOUS


class ApiKeys:
    """`type: apiKey`: a key in `X-API-Key` or `Authorization: Bearer`, known by its SHA-256."""

    def __init__(self, keys: Iterable[tuple[str, str]]) -> None:
        """`keys` are pairs of name and lower-case hex digest; the caller becomes `key:<name>`."""
        self._by_digest = {bytes.fromhex(digest): Principal(f"key:{name}", "apiKey") for name, digest in keys}

    def principal(self, headers: Headers) -> Principal | None:
        """The owner of the key that was presented. Raises Refused for an unknown key and for two different ones."""
        presented = _presented(headers)
        if not presented:
            return None
        if len(presented) > 1:
            raise Refused("X-API-Key and Authorization carry different keys")
        # A lookup among digests takes the same time for one key and for thousands. What its comparison could betray
        # are leading bytes of a known digest, and these are of no use: they lead to no key, only to be tried against
        # guesses that the guesser would have to make anyway.
        owner = self._by_digest.get(hashlib.sha256(presented.pop()).digest())
        if owner is None:
            raise Refused("unknown API key")
        return owner


def _presented(headers: Headers) -> set[bytes]:
    """The keys that a request presents; another scheme than Bearer is not for us."""
    keys = set()
    if (value := headers.get(b"x-api-key")) is not None:
        keys.add(value.strip())
    scheme, _, token = headers.get(b"authorization", b"").strip().partition(b" ")
    if scheme.lower() == b"bearer":
        keys.add(token.strip())
    return keys


class Identifier:
    """The methods of a configuration in their order."""

    def __init__(self, methods: Sequence[Method]) -> None:
        self._methods = tuple(methods)

    def identify(self, headers: Headers) -> Principal | None:
        """The caller, or None: nobody this gateway knows (401). Pure and quick, called for each request."""
        try:
            for method in self._methods:
                found = method.principal(headers)
                if found is not None:
                    return found
        except Refused:
            return None
        return None


def build(methods: Sequence[Method]) -> Identifier:
    """The identifier for `identity.agents`, one method for each entry; of none, nobody is identified."""
    return Identifier(methods)
