"""What the Workload API gives, as values: our SVIDs and the bundles of trust domains."""

from collections.abc import Mapping
from typing import Literal

import msgspec

from openmcp.identity.spiffe_id import SpiffeId


class NoIdentity(Exception):
    """We have no SVID that could be used now. The text says why, fit for logs and for callers."""


class Svid(msgspec.Struct, frozen=True):
    """An X.509-SVID of ours. `certificates` are DER, the leaf first; `key` is PKCS#8 DER; `hint` is the operator's word
    for it, or empty; `begins` and `expires` are the validity of the leaf, in Unix seconds.

    Lives in memory alone. Its representation leaves the key out, so that no log can hold it.
    """

    id: SpiffeId
    certificates: tuple[bytes, ...]
    key: bytes
    hint: str
    begins: float
    expires: float

    def __repr__(self) -> str:
        return f"Svid({self.id}, hint={self.hint!r}, expires={self.expires:.0f})"


Bundles = Mapping[str, frozenset[bytes]]
"""The CA certificates (DER) of each trust domain, by its name: our own and the federated ones."""


class X509Material(msgspec.Struct, frozen=True):
    """One update of the Workload API: our SVIDs in its order (the first is the default), and all bundles."""

    svids: tuple[Svid, ...]
    bundles: Bundles


class SvidChoice(msgspec.Struct, frozen=True):
    """Which of several SVIDs is ours: by `hint` or by `id`; neither: the first (Workload API, 4.2)."""

    hint: str | None = None
    id: str | None = None


class X509Update(msgspec.Struct, frozen=True):
    """What one message of FetchX509SVID brought. `bad_bundles` are the federated ones left out of it: by name, why."""

    material: X509Material
    bad_bundles: Mapping[str, str] = {}


class JwtUpdate(msgspec.Struct, frozen=True):
    """What one message of FetchJWTBundles brought: JWKS documents by trust domain, and those left out of it and why."""

    bundles: Mapping[str, bytes]
    bad_bundles: Mapping[str, str] = {}


class JwtSvid(msgspec.Struct, frozen=True):
    """A JWT-SVID of ours for one audience; `expires` in Unix seconds. Its representation leaves the token out."""

    id: SpiffeId
    token: str
    expires: float

    def __repr__(self) -> str:
        return f"JwtSvid({self.id}, expires={self.expires:.0f})"


FailureKind = Literal["denied", "unreachable", "malformed", "refused"]
"""Why a call of the Workload API brought nothing: we have no registration entry; nobody answers; what came is not good;
any other error."""


class CallFailed(Exception):
    """A call of the Workload API, or a stream of it, that broke. `detail` is text of the agent or about it."""

    def __init__(self, kind: FailureKind, detail: str) -> None:
        super().__init__(f"{kind}: {detail}")
        self.kind: FailureKind = kind
        self.detail = detail
