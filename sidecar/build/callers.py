"""From `identity.agents` to the methods by which callers are identified, and the keys of issuers behind them."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from openmcp.config import secrets
from openmcp.config.model import (
    AgentIdentification,
    ApiKeyAgents,
    ForwardedAgents,
    Identity,
    Jwks,
    JwtAgents,
    JwtSvidAgents,
    MtlsAgents,
    Secret,
    WorkloadAgents,
)
from openmcp.identity.agents import Anyone, ApiKeys, Identifier, Method, build
from openmcp.identity.connection import Mtls, Workload
from openmcp.identity.forwarded import Forwarded
from openmcp.identity.jwks import FileKeys, KeysUnusable, UrlKeys
from openmcp.identity.jwt_issuer import Jwts, Terms
from openmcp.identity.jwt_svid import JwtSvids
from openmcp.sidecar.build.errors import BuildError
from openmcp.sidecar.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from openmcp.identity.source import SvidSource


class Callers:
    """Makes the identification of one configuration after the other; an issuer that stays keeps its keys."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._keys: dict[tuple[str, Jwks], FileKeys | UrlKeys] = {}
        self._followed: tuple[tuple[str, Jwks], ...] = ()

    def identifier(self, identity: Identity, source: "SvidSource | None") -> Identifier:
        """The methods of a configuration; `source` is there where one of them needs it. Raises `BuildError`."""
        return build([self._method(entry, index, source) for index, entry in enumerate(identity.agents)])

    def follow(self, identity: Identity) -> None:
        """Ask the issuers of this configuration for keys, so that the first who calls need not wait, and let go of all
        others. Needs a running loop."""
        kept = {(entry.issuer, entry.jwks) for entry in identity.agents if isinstance(entry, JwtAgents)}
        for key in self._keys.keys() - kept:
            keys = self._keys.pop(key)
            if isinstance(keys, UrlKeys):
                keys.close()
        self._followed = tuple(self._keys)
        for keys in self._keys.values():
            keys.current()

    def report(self) -> dict[str, object]:
        """The issuers for /readyz: how many keys each has, and what is wrong with asking for them."""
        found: dict[str, object] = {}
        for key in self._followed:  # others are of a configuration that was refused
            keys = self._keys[key]
            known = keys.current()
            found[key[0]] = {"keys": len(known) if known is not None else 0, "problem": keys.failing or None}
        return found

    def close(self) -> None:
        """Ask nobody for keys any more."""
        self.follow(Identity())

    def _method(self, entry: AgentIdentification, index: int, source: "SvidSource | None") -> Method:
        if isinstance(entry, ApiKeyAgents):
            return ApiKeys((key.name, key.sha256) for key in entry.keys)
        if isinstance(entry, MtlsAgents):
            return Mtls(entry.trust_domains)
        if isinstance(entry, ForwardedAgents):
            return Forwarded(entry.networks, entry.trust_domains)
        if isinstance(entry, JwtAgents):
            return self._jwts(entry, index)
        if isinstance(entry, JwtSvidAgents | WorkloadAgents):
            assert source is not None  # made for this configuration, which says that it needs it
            return Workload(source) if isinstance(entry, WorkloadAgents) else _jwt_svids(entry, source)
        return Anyone()

    def _jwts(self, entry: JwtAgents, index: int) -> Method:
        known = self._keys.get((entry.issuer, entry.jwks))
        if known is None:
            try:
                known = self._keys_of(entry)
            except KeysUnusable as error:
                raise BuildError(f"identity.agents[{index}].jwks: file {entry.jwks.file}: {error}") from error
            self._keys[entry.issuer, entry.jwks] = known
        terms = Terms(entry.issuer, entry.audience, entry.principal_claim, entry.algorithms, entry.clock_skew)
        return Jwts(terms, known)

    def _keys_of(self, entry: JwtAgents) -> FileKeys | UrlKeys:
        if entry.jwks.file is not None:
            return FileKeys(entry.jwks.file)
        assert entry.jwks.url is not None  # exactly one of them is given
        return UrlKeys(
            entry.jwks.url, _ca(entry.jwks.ca), lambda result: self._metrics.keys_fetched(entry.issuer, result)
        )


def _jwt_svids(entry: JwtSvidAgents, source: "SvidSource") -> Method:
    return JwtSvids(source, entry.audience, entry.trust_domains)


def _ca(secret: Secret | None) -> Callable[[], bytes | None]:
    return lambda: secrets.read_pem(secret) if secret is not None else None
