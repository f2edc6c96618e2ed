"""What the Workload API gives, as values: our SVIDs and the bundles of trust domains."""

from collections.abc import Mapping

import msgspec

from openmcp.identity.spiffe_id import SpiffeId


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
