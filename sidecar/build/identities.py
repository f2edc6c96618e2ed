"""Who we are, for as long as the process lives: our SVIDs, the certificate of the listener, what we show to servers."""

import os
import ssl
from collections.abc import Callable
from typing import TYPE_CHECKING

from openmcp.config import secrets
from openmcp.config.model import (
    Configuration,
    HeaderAuth,
    Identity,
    JwtSvidAgents,
    JwtSvidAuth,
    OAuthAuth,
    Secret,
    Server,
    SpiffeTls,
    WebTls,
)
from openmcp.config.secrets import SecretError
from openmcp.config.uses import workload_api_uses
from openmcp.identity import endpoint
from openmcp.identity.material import SvidChoice
from openmcp.identity.peer import PeerCertificate
from openmcp.sidecar.build.errors import BuildError
from openmcp.sidecar.net.credentials import Credential, HeaderSecret, JwtSvidToken
from openmcp.sidecar.telemetry.metrics import Metrics, Scrape

if TYPE_CHECKING:
    from openmcp.identity.source import SvidSource
    from openmcp.identity.tls import SpiffeTls as Contexts
    from openmcp.identity.webtls import FileTls


class Identities:
    """`source` and `contexts` are None as long as no configuration needed the Workload API; `needed`: the one in force
    does.

    TLS and gRPC are imported where they are needed: a sidecar without them is 20 MiB smaller.
    """

    def __init__(self, metrics: Metrics) -> None:
        self.source: SvidSource | None = None
        self.contexts: Contexts | None = None
        self.needed = False
        self._metrics = metrics
        self._running = False
        self._files: FileTls | None = None

    def prepare(self, configuration: Configuration) -> None:
        """Make what a configuration needs; nobody is asked yet. Raises `BuildError` where it cannot be had."""
        uses = workload_api_uses(configuration)
        if uses and not self._running:  # one that is there already is of a configuration that was refused
            from openmcp.identity.source import SvidSource
            from openmcp.identity.tls import SpiffeTls as Contexts

            chosen = configuration.identity.svid
            self.source = SvidSource(
                address_of(configuration.identity, str(uses[0])), SvidChoice(chosen.hint, chosen.id)
            )
            self.contexts = Contexts(self.source, lambda why: self._metrics.tls_refused("server", why))
        if self.source is not None and any(isinstance(one, JwtSvidAgents) for one in configuration.identity.agents):
            self.source.want_jwt_bundles()

    def start(self, configuration: Configuration, on_update: Callable[[], None]) -> None:
        """This configuration is in force, which was prepared: begin to follow the Workload API, if that is needed and
        not done yet; `on_update` hears of each change."""
        self.needed = bool(workload_api_uses(configuration))
        if self.needed and self.source is not None and not self._running:
            self._running = True
            self.source.subscribe(on_update)
            self.source.start()

    async def stop(self) -> None:
        """Follow it no more."""
        if self.source is not None and self._running:
            self._running = False
            await self.source.stop()

    @property
    def ready(self) -> bool:
        """Whether we have the SVID that is needed."""
        return not self.needed or (self.source is not None and self.source.state == "ok")

    def report(self) -> dict[str, object]:
        """Our identity for /readyz."""
        return self.source.report() if self.source is not None and self._running else {"state": "none"}

    def report_metrics(self, scrape: Scrape) -> None:
        """Our identity for /metrics."""
        if self.source is not None and self._running:
            stats = self.source.stats
            scrape.svid(self.source.expires, stats.rotations, stats.failures.items())

    def describe(self) -> str:
        """One line about what we are."""
        if self.source is None:
            return "without SPIFFE: nothing in the configuration needs an SVID"
        return f"SVIDs of the Workload API at {self.source.address}"

    def listening(self, tls: WebTls | SpiffeTls | None) -> ssl.SSLContext | None:
        """The context of the listener; None for plain HTTP. Raises `BuildError`."""
        if tls is None:
            return None
        if isinstance(tls, SpiffeTls):
            assert self.contexts is not None  # `prepare` has made it
            return self.contexts.server_context(self._client_refused, tls.trust_domains)
        from openmcp.identity.webtls import FileTls, TlsUnusable

        try:
            self._files = FileTls(*_files(tls), http2=True)
        except TlsUnusable as error:
            raise BuildError(f"listen.tls: {error}") from error
        return self._files.server_context(self._client_refused)

    def renew_listening(self, tls: WebTls | SpiffeTls | None) -> bool:
        """Take certificate and key of the listener anew, whether they are others now. Raises `BuildError`, and then
        nothing has changed."""
        if self._files is None or not isinstance(tls, WebTls):
            return False
        from openmcp.identity.webtls import TlsUnusable

        try:
            return self._files.reload(*_files(tls))
        except TlsUnusable as error:
            raise BuildError(f"listen.tls: {error}") from error

    def still_trusted(self, certificate: PeerCertificate) -> bool:
        """Whether the CA that vouched for a client when it connected still does."""
        vouching = self._files or self.contexts
        return vouching is not None and vouching.still_trusted(certificate)

    def credential(self, server: Server) -> Credential | None:
        """What is sent to a server so that it knows us, besides TLS. Raises `BuildError`."""
        auth, name = server.auth, server.name
        try:
            if isinstance(auth, HeaderAuth):
                return HeaderSecret(name, auth)
            if isinstance(auth, OAuthAuth):
                from openmcp.sidecar.net.oauth import OAuthToken

                return OAuthToken(
                    name, auth, self.source, lambda result: self._metrics.credential_fetched(name, result)
                )
        except SecretError as error:
            raise BuildError(f"servers: {name}: auth: {error}") from error
        if isinstance(auth, JwtSvidAuth):
            assert self.source is not None  # `prepare` has made it
            return JwtSvidToken(self.source, auth.audience)
        return None

    def _client_refused(self, why: str) -> None:
        self._metrics.tls_refused("client", why)


def address_of(identity: Identity, use: str) -> str:
    """The address of the Workload API; raises `BuildError` where nothing says it, for `use` needs it."""
    address = identity.workload_api
    if address is None:
        address = os.environ.get(endpoint.VARIABLE, "")
        if address and (fault := endpoint.fault(address)):
            raise BuildError(f"{endpoint.VARIABLE} in the environment is no address of a Workload API: {fault}")
    if not address:
        raise BuildError(
            f"{use} needs the Workload API and nothing says where it is: write identity.workloadApi or set "
            f"{endpoint.VARIABLE} ({endpoint.EXAMPLES})"
        )
    return address


def _files(tls: WebTls) -> tuple[bytes, bytes, bytes | None]:
    certificate, key = _pem("certificate", tls.certificate), _pem("key", tls.key)
    return certificate, key, _pem("clientCa", tls.client_ca) if tls.client_ca is not None else None


def _pem(key: str, source: Secret) -> bytes:
    try:
        return secrets.read_pem(source)
    except SecretError as error:
        raise BuildError(f"listen.tls.{key}: {error}") from error
