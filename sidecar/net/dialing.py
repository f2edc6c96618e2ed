"""Connecting to one endpoint of an MCP server: in the clear, under the web PKI, or by SVIDs; and what came of it."""

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable
from math import inf
from typing import Protocol
from urllib.parse import urlsplit

from openmcp.config import secrets
from openmcp.config.model import Server, SpiffeAuth
from openmcp.identity.material import NoIdentity, Svid
from openmcp.identity.peer import PeerCertificate, PeerRefused, certificate_of
from openmcp.identity.spiffe_id import SpiffeId
from openmcp.sidecar.errors import UpstreamFailed
from openmcp.sidecar.net.lifetimes import bounds
from openmcp.sidecar.net.upstream import UpstreamConnection

_log = logging.getLogger("openmcp.net")


class ClientTls(Protocol):
    """TLS with SVIDs (`identity.tls.SpiffeTls`)."""

    def client_context(self, server_ids: tuple[str, ...]) -> ssl.SSLContext:
        """The context for one connection to a server that has one of these IDs. Raises NoIdentity."""

    def own(self) -> Svid:
        """Our SVID. Raises NoIdentity."""

    def still_mutual(self, certificate: PeerCertificate, shown: SpiffeId) -> bool:
        """Whether both sides of a connection are still who they were when it was made."""


class Dialer:
    """Makes the connections of one endpoint. `distrust` says why it cannot be trusted at present, or we; else empty."""

    def __init__(
        self,
        url: str,
        server: Server,
        web: ssl.SSLContext | None,
        tls: ClientTls | None,
        on_connect: Callable[[str], None],
    ) -> None:
        """`web` is the context under the web PKI for https, `tls` what makes others for `auth: {type: spiffe}`."""
        parts = urlsplit(url)
        self.distrust = ""
        self._name = f"server {server.name}: endpoint {url}"
        self._host = parts.hostname or ""
        self._port = parts.port or (443 if parts.scheme == "https" else 80)
        self._ids = server.auth.server_ids if isinstance(server.auth, SpiffeAuth) else None
        self._web = web
        self._tls = tls
        secured = web is not None or self._ids is not None
        self._server_name = (server.tls.server_name or self._host) if secured else None
        self._patience = server.timeouts.connect
        self._on_connect = on_connect

    async def connect(self, make: Callable[[], UpstreamConnection]) -> UpstreamConnection:
        """One new connection, made by `make`. Raises `UpstreamFailed`, nothing was sent: connect, untrusted (the server
        is not who it should be), identity (we have no SVID)."""
        try:
            async with asyncio.timeout(self._patience):
                transport, connection = await self._dial(make)
        except NoIdentity as error:
            self._on_connect("identity")
            self.distrust = str(error)  # nothing about this server: whoever follows the Workload API has logged it
            raise UpstreamFailed("identity", self.distrust, sent=False) from None
        except PeerRefused as error:
            raise self._distrusted("untrusted", "untrusted", str(error)) from None
        except TimeoutError:
            self._on_connect("timeout")
            raise UpstreamFailed("connect", f"no connection in {self._patience:g} s", sent=False) from None
        except ssl.SSLError as error:
            why = getattr(error, "verify_message", None) or error.reason or "handshake failed"
            raise self._distrusted("tls", "connect", f"TLS: {why}") from None
        except OSError as error:
            self._on_connect("refused")
            raise UpstreamFailed("connect", error.strerror or "cannot connect", sent=False) from None
        self._on_connect("ok")
        if self.distrust:
            self.distrust = ""
            _log.info("%s can be used again", self._name)
        _keep_alive(transport)
        return connection

    async def _dial(self, make: Callable[[], UpstreamConnection]) -> tuple[asyncio.BaseTransport, UpstreamConnection]:
        context = self._web
        own: Svid | None = None
        if self._ids is not None:
            if self._tls is None:
                raise NoIdentity("no Workload API is configured")
            context, own = self._tls.client_context(self._ids), self._tls.own()
        loop = asyncio.get_running_loop()
        transport, connection = await loop.create_connection(
            make, self._host, self._port, ssl=context, server_hostname=self._server_name
        )
        certificate = certificate_of(transport.get_extra_info("ssl_object"))
        connection.certificate, connection.shown = certificate, own.id if own is not None else None
        expires = min(one.expires if one is not None else inf for one in (own, certificate))
        connection.until, connection.ends = bounds(loop.time(), expires)
        if not self.is_mutual(connection):
            connection.abort()
            raise OSError(0, "who we are, or whom we trust, changed during the handshake")
        return transport, connection

    def is_mutual(self, connection: UpstreamConnection) -> bool:
        """Whether both sides of a connection are still who they were when it was made: CAs and our own ID change."""
        certificate, shown = connection.certificate, connection.shown
        if self._tls is None or certificate is None or shown is None:
            return True
        return self._tls.still_mutual(certificate, shown)

    def _distrusted(self, result: str, kind: str, why: str) -> UpstreamFailed:
        """The failure; the first of its kind is also logged, since calls will fail until somebody looks at it."""
        self._on_connect(result)
        if why != self.distrust:
            self.distrust = why
            _log.warning("%s cannot be used: %s", self._name, why)
        return UpstreamFailed(kind, why, sent=False)


def authority(server: Server) -> bytes | None:
    """What `tls.ca` holds now; raises `SecretError` where it cannot be read."""
    return secrets.read_pem(server.tls.ca) if server.tls.ca is not None else None


def web_context(server: Server) -> ssl.SSLContext | None:
    """The web PKI context for https endpoints; raises OSError or ssl.SSLError where `tls.ca` cannot be read."""
    if not any(url.startswith("https:") for url in server.endpoints) or isinstance(server.auth, SpiffeAuth):
        return None
    source = server.tls.ca
    if source is None:
        context = ssl.create_default_context()
    elif source.file is not None:
        context = ssl.create_default_context(cafile=source.file)
    else:
        context = ssl.create_default_context(cadata=secrets.read(source).decode("ascii"))
    context.set_alpn_protocols(["http/1.1"])
    return context


def _keep_alive(transport: asyncio.BaseTransport) -> None:
    """Let the kernel notice a peer that vanished without a word."""
    sock = transport.get_extra_info("socket")
    if sock is None:
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if hasattr(socket, "TCP_KEEPIDLE"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
