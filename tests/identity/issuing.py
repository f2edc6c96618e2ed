"""Issuers of tokens as the methods see them: bundles of trust domains, keys of an issuer, claims of a good token."""

from collections.abc import Mapping
from typing import Any

from openmcp.identity import jose
from tests.identity.asking import NOW

AUDIENCE = "openmcp"
ISSUER = "https://idp.acme.example/"


def good(**claims: Any) -> dict[str, Any]:
    """The claims of a token that is good at NOW; None leaves one out."""
    return {"aud": AUDIENCE, "iat": int(NOW), "exp": int(NOW) + 300} | claims


class Bundles:
    """The JWT bundles of the Workload API, as they are now."""

    def __init__(self, jwt_bundles: Mapping[str, bytes]) -> None:
        self.jwt_bundles = dict(jwt_bundles)
        self.jwt_generation = 1 if jwt_bundles else 0
        self.wanted = 0

    def want_jwt_bundles(self) -> None:
        self.wanted += 1

    def update(self, jwt_bundles: Mapping[str, bytes]) -> None:
        self.jwt_bundles = dict(jwt_bundles)
        self.jwt_generation += 1


class Keys:
    """The keys of an issuer. `after` are those that a refresh will bring; None: it may not be asked."""

    def __init__(self, document: bytes | None, after: bytes | None = None) -> None:
        self.generation = 0
        self._after = after
        self._keys = self._read(document)

    def _read(self, document: bytes | None) -> jose.KeySet | None:
        return jose.key_set(document, frozenset(("sig",))) if document is not None else None

    def current(self) -> jose.KeySet | None:
        return self._keys

    def may_refresh(self) -> bool:
        return self._after is not None

    async def refresh(self) -> None:
        self.replace(self._after)
        self._after = None

    def replace(self, document: bytes | None) -> None:
        self._keys = self._read(document)
        self.generation += 1
