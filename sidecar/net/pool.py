"""The endpoints of one MCP server: pooled connections, load, health, and the cap on calls under way."""

import asyncio
import hashlib
import logging
import socket
import ssl
from collections.abc import Callable, Coroutine, Iterable
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from openmcp.config import secrets
from openmcp.config.model import Server
from openmcp.sidecar.errors import UpstreamFailed
from openmcp.sidecar.net.credentials import Credential
from openmcp.sidecar.net.upstream import UpstreamConnection, UpstreamResponse
from openmcp.sidecar.net.values import Outgoing, Patience

KEEP_IDLE: Final = 4.0
"""Seconds an unused connection is kept: less than the five after which common servers (uvicorn, Node) close theirs,
so that a request is not sent into a connection that the server is just closing."""
MAX_STREAMS: Final = 4096
"""Long-lived streams (GET, subscriptions/listen) per server; they do not count as calls under way."""
USER_AGENT: Final = b"openmcp"

_log = logging.getLogger("openmcp.net")


class Endpoint:
    """One address of an MCP server with its pool of connections."""

    def __init__(
        self,
        url: str,
        server: Server,
        tls: ssl.SSLContext | None,
        on_connect: Callable[[str], None],
        credential: Credential | None = None,
    ) -> None:
        parts = urlsplit(url)
        self.url = url
        self.key = endpoint_key(url)
        self.healthy = True
        self.failures = 0
        self._connecting = 0
        self._host = parts.hostname or ""
        self._port = parts.port or (443 if parts.scheme == "https" else 80)
        self._tls = tls
        self._server_name = (server.tls.server_name or self._host) if tls is not None else None
        self._connect_timeout = server.timeouts.connect
        self._on_connect = on_connect
        self._credential = credential
        self._idle: list[UpstreamConnection] = []
        self._all: set[UpstreamConnection] = set()
        self._retired = False
        self._now = asyncio.get_running_loop().time
        target = (parts.path or "/").encode()
        self._tail = b" %b HTTP/1.1\r\nhost: %b\r\nuser-agent: %b\r\n" % (target, parts.netloc.encode(), USER_AGENT)

    @property
    def idle(self) -> int:
        """Pooled connections without a request."""
        return len(self._idle)

    @property
    def active(self) -> int:
        """Requests under way; one that is answered by a stream as long as that lasts."""
        return self._connecting + len(self._all) - len(self._idle)

    def send(self, request: Outgoing, patience: Patience) -> Coroutine[None, None, UpstreamResponse]:
        """Send one request with our credential, if there is one. Raises `UpstreamFailed`; `sent` False: nothing was
        sent.

        A stream that comes back has to be closed by the caller.
        """
        credential = self._credential
        if credential is None:
            return self.exchange(request, b"", patience)
        return self._proven(credential, request, patience)

    async def _proven(self, credential: Credential, request: Outgoing, patience: Patience) -> UpstreamResponse:
        """Send it, and once more with a new credential where the server refused the one it got: with 401 it says that
        it did nothing. The server's challenge goes no further, the agent could not answer it."""
        lines = credential.lines() or await credential.fetch()
        response = await self.exchange(request, lines, patience)
        if response.status != 401:
            return response
        response.close()
        if credential.rejected(lines):
            anew = credential.lines() or await credential.fetch()
            if anew != lines:
                response = await self.exchange(request, anew, patience)
                if response.status != 401:
                    return response
                response.close()
        raise UpstreamFailed("credential", "the server refused our credential (HTTP 401)")

    async def exchange(self, request: Outgoing, lines: bytes, patience: Patience) -> UpstreamResponse:
        """Send one request with these header lines besides its own; otherwise as `send`."""
        named = request.headers + lines if lines else request.headers
        head = b"%b%b%bcontent-length: %d\r\n\r\n" % (request.method, self._tail, named, len(request.body))
        pieces = (head + request.body,) if len(request.body) < 65536 else (head, request.body)
        pooled = self._pooled()
        if pooled is not None:
            try:
                return await pooled.request(pieces, request.limit, patience)
            except UpstreamFailed as failure:
                if not (request.repeatable and failure.kind == "closed" and pooled.silent):
                    raise  # else the server closed it just as it was used again: a new one tells more
        return await (await self._connect()).request(pieces, request.limit, patience)

    def retire(self) -> None:
        """Close what is idle now and everything else when its request is done."""
        self._retired = True
        for connection in tuple(self._idle):
            connection.abort()

    def close(self) -> None:
        """Close every connection at once."""
        for connection in tuple(self._all):
            connection.abort()

    def sweep(self, now: float) -> None:
        """Enforce time limits and close connections that were unused for too long."""
        for connection in tuple(self._all):
            connection.sweep(now)
        for connection in tuple(self._idle):
            if now - connection.idle_since >= KEEP_IDLE:
                connection.abort()

    def _pooled(self) -> UpstreamConnection | None:
        now = self._now()
        while self._idle:
            connection = self._idle.pop()
            if not connection.closed and now - connection.idle_since < KEEP_IDLE:
                return connection
            connection.abort()
        return None

    async def _connect(self) -> UpstreamConnection:
        loop = asyncio.get_running_loop()
        self._connecting += 1
        try:
            async with asyncio.timeout(self._connect_timeout):
                transport, connection = await loop.create_connection(
                    lambda: UpstreamConnection(self._returned, self._gone),
                    self._host,
                    self._port,
                    ssl=self._tls,
                    server_hostname=self._server_name,
                )
        except TimeoutError:
            self._on_connect("timeout")
            raise UpstreamFailed("connect", f"no connection in {self._connect_timeout:g} s", sent=False) from None
        except ssl.SSLError as error:
            self._on_connect("tls")
            why = getattr(error, "verify_message", None) or error.reason or "handshake failed"
            raise UpstreamFailed("connect", f"TLS: {why}", sent=False) from None
        except OSError as error:
            self._on_connect("refused")
            raise UpstreamFailed("connect", error.strerror or "cannot connect", sent=False) from None
        finally:
            self._connecting -= 1
        self._on_connect("ok")
        self._all.add(connection)
        _keep_alive(transport)
        return connection

    def _returned(self, connection: UpstreamConnection) -> None:
        if self._retired:
            connection.abort()
        else:
            self._idle.append(connection)

    def _gone(self, connection: UpstreamConnection) -> None:
        self._all.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)


class Upstream:
    """One MCP server as configured: chooses an endpoint, caps the calls under way."""

    def __init__(
        self, server: Server, on_connect: Callable[[str, str, str], None], credential: Credential | None = None
    ) -> None:
        self.server = server
        self.authority = authority(server)
        self._credential = credential
        tls = _tls_context(server)
        self.endpoints = tuple(
            Endpoint(url, server, tls, lambda result, url=url: on_connect(server.name, url, result), credential)  # type: ignore[misc]  # mypy cannot infer a lambda with a bound default
            for url in server.endpoints
        )
        self._only = self.endpoints[0] if len(self.endpoints) == 1 else None
        self._turn = -1
        self._by_key = {endpoint.key: endpoint for endpoint in self.endpoints}
        self.in_flight = 0
        self.streams = 0
        self.call_patience = Patience(server.timeouts.request, server.timeouts.idle, server.timeouts.stream)
        # A quiet notification stream is healthy; TCP keep-alive finds a peer that is gone.
        self.stream_patience = Patience(server.timeouts.request, server.timeouts.stream, server.timeouts.stream)

    def choose(self, tried: Iterable[Endpoint] = ()) -> Endpoint | None:
        """The least loaded healthy endpoint not tried yet; an unhealthy one where there is no healthy one."""
        if self._only is not None and not tried:
            return self._only
        self._turn = (self._turn + 1) % len(self.endpoints)  # equals take turns
        endpoints = self.endpoints[self._turn :] + self.endpoints[: self._turn]
        candidates = [endpoint for endpoint in endpoints if endpoint not in tried]
        if not candidates:
            return None
        return min(candidates, key=lambda endpoint: (not endpoint.healthy, endpoint.active))

    def by_key(self, key: str) -> Endpoint | None:
        """The endpoint that a session is pinned to, or None where the configuration no longer has it."""
        return self._by_key.get(key)

    def begin(self, *, stream: bool) -> None:
        """Count a call (or a long-lived stream) in; raises `UpstreamFailed` (overloaded) at the cap."""
        if stream:
            if self.streams >= MAX_STREAMS:
                raise UpstreamFailed("overloaded", f"{MAX_STREAMS} streams are open", sent=False)
            self.streams += 1
            return
        if self.in_flight >= self.server.limits.in_flight:
            raise UpstreamFailed("overloaded", f"{self.in_flight} calls are under way", sent=False)
        self.in_flight += 1

    def end(self, *, stream: bool) -> None:
        """Count it out."""
        if stream:
            self.streams -= 1
        else:
            self.in_flight -= 1

    @property
    def in_use(self) -> bool:
        """Whether anything is under way."""
        return self.in_flight + self.streams + sum(endpoint.active for endpoint in self.endpoints) > 0

    def sweep(self, now: float) -> None:
        """See `Endpoint.sweep`."""
        for endpoint in self.endpoints:
            endpoint.sweep(now)

    def retire(self) -> None:
        """The configuration no longer has this server: finish what is under way."""
        for endpoint in self.endpoints:
            endpoint.retire()

    def close(self) -> None:
        """Close every connection at once."""
        if self._credential is not None:
            self._credential.close()
        for endpoint in self.endpoints:
            endpoint.close()


def endpoint_key(url: str) -> str:
    """A short stable name of an endpoint, the same in every replica and after every reload."""
    return hashlib.blake2b(url.encode(), digest_size=6).hexdigest()


def authority(server: Server) -> bytes | None:
    """What `tls.ca` holds now; raises OSError or `SecretError` where it cannot be read."""
    source = server.tls.ca
    if source is None:
        return None
    return Path(source.file).read_bytes() if source.file is not None else secrets.read(source)


def _tls_context(server: Server) -> ssl.SSLContext | None:
    """The web PKI context for https endpoints; raises OSError or ssl.SSLError where `tls.ca` cannot be read."""
    if not server.endpoints[0].startswith("https:"):
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
