"""The endpoints of one MCP server: pooled connections, load, health, and the cap on calls under way."""

import asyncio
import hashlib
import random
from collections.abc import Callable, Coroutine, Iterable
from typing import Final
from urllib.parse import urlsplit

from openmcp.config.model import Server
from openmcp.sidecar.errors import UpstreamFailed
from openmcp.sidecar.net.credentials import Credential
from openmcp.sidecar.net.dialing import ClientTls, Dialer, authority, web_context
from openmcp.sidecar.net.endpoint import Endpoint
from openmcp.sidecar.net.resending import resending, tool_terms
from openmcp.sidecar.net.response import UpstreamResponse
from openmcp.sidecar.net.shares import Shares
from openmcp.sidecar.net.upstream import UpstreamConnection
from openmcp.sidecar.net.values import Outgoing, Patience

KEEP_IDLE: Final = 4.0
"""Seconds an unused connection is kept: less than the five after which common servers (uvicorn, Node) close theirs,
so that a request is not sent into a connection that the server is just closing."""
MAX_STREAMS: Final = 4096
"""Long-lived streams (GET, subscriptions/listen) per server; they do not count as calls under way."""
USER_AGENT: Final = b"openmcp"


class HttpEndpoint:
    """One address of an MCP server with its pool of connections."""

    def __init__(
        self,
        url: str,
        dialer: Dialer,
        credential: Credential | None = None,
    ) -> None:
        parts = urlsplit(url)
        self.url = url
        self.key = endpoint_key(url)
        self.healthy = True
        self.failures = 0
        self.unwell = ""
        self._connecting = 0
        self._dialer = dialer
        self._credential = credential
        self._idle: list[UpstreamConnection] = []
        self._all: set[UpstreamConnection] = set()
        self._retired = False
        self._now = asyncio.get_running_loop().time
        self._authority = parts.netloc.encode()
        self._tail = self._after_method((parts.path or "/").encode())

    @property
    def problem(self) -> str:
        """What is wrong with this endpoint, as the last attempt to connect or the last check has shown; else empty."""
        return self._dialer.distrust or self.unwell

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
        started = self._now()
        lines = credential.lines() or await credential.fetch()
        response = await self.exchange(request, lines, patience)
        if response.status != 401:
            return response
        response.close()
        if credential.rejected(lines):
            anew = credential.lines() or await credential.fetch()
            if anew != lines:
                response = await self.exchange(request, anew, patience.after(self._now() - started))
                if response.status != 401:
                    return response
                response.close()
        raise UpstreamFailed("credential", "the server refused our credential (HTTP 401)")

    async def exchange(self, request: Outgoing, lines: bytes, patience: Patience) -> UpstreamResponse:
        """Send one request with these header lines besides its own; otherwise as `send`."""
        named = request.headers + lines if lines else request.headers
        tail = self._after_method(request.target) if request.target else self._tail
        head = b"%b%b%bcontent-length: %d\r\n\r\n" % (request.method, tail, named, len(request.body))
        pieces = (head + request.body,) if len(request.body) < 65536 else (head, request.body)
        pooled = self._pooled()
        if pooled is not None:
            try:
                return await pooled.request(pieces, request.limit, patience)
            except UpstreamFailed as failure:
                if not (request.repeatable and failure.kind == "closed" and pooled.silent):
                    raise  # else the server closed it just as it was used again: a new one tells more
        return await (await self._connect()).request(pieces, request.limit, patience)

    def review(self) -> None:
        """See `Upstream.review`."""
        for connection in tuple(self._all):
            if not self._dialer.is_mutual(connection):
                connection.end()

    def retire(self) -> None:
        """Close what is idle now and everything else when its request is done."""
        self._retired = True
        for connection in tuple(self._idle):
            connection.abort()

    def close(self) -> None:
        """Close every connection at once."""
        for connection in tuple(self._all):
            connection.abort()

    async def closed(self) -> None:
        """Nothing outlives `close`."""

    def sweep(self, now: float) -> None:
        """Enforce time limits and close connections that were unused for too long."""
        for connection in tuple(self._all):
            connection.sweep(now)
            if now >= connection.ends:
                connection.end()
        for connection in tuple(self._idle):
            if now - connection.idle_since >= KEEP_IDLE:
                connection.abort()

    def _after_method(self, target: bytes) -> bytes:
        return b" %b HTTP/1.1\r\nhost: %b\r\nuser-agent: %b\r\n" % (target, self._authority, USER_AGENT)

    def _pooled(self) -> UpstreamConnection | None:
        now = self._now()
        while self._idle:
            connection = self._idle.pop()
            if not connection.closed and now - connection.idle_since < KEEP_IDLE and now < connection.until:
                return connection
            connection.abort()
        return None

    async def _connect(self) -> UpstreamConnection:
        self._connecting += 1
        try:
            connection: UpstreamConnection = await self._dialer.connect(self._made)
        finally:
            self._connecting -= 1
        self._all.add(connection)
        return connection

    def _made(self) -> UpstreamConnection:
        return UpstreamConnection(self._returned, self._gone)

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
        self,
        server: Server,
        on_connect: Callable[[str, str, str], None],
        tls: ClientTls | None = None,
        credential: Credential | None = None,
        adapters: tuple[Endpoint, ...] = (),
    ) -> None:
        """`on_connect` is told of each attempt to connect: server, URL, and ok, refused, timeout, tls, untrusted or
        identity. `tls` is for `auth: {type: spiffe}`. `adapters` are the endpoints of a server that is not reached over
        HTTP. Raises OSError, ssl.SSLError or `SecretError` for `tls.ca`."""
        self.server = server
        self.authority = authority(server)
        self._credential = credential
        self.endpoints = adapters or over_http(server, on_connect, tls, credential)
        self._only = self.endpoints[0] if len(self.endpoints) == 1 else None
        self._turn = -1
        self._by_key = {endpoint.key: endpoint for endpoint in self.endpoints}
        self.calls = Shares(server.limits.in_flight, "calls are under way")
        self.long_lived = Shares(MAX_STREAMS, "streams are open")
        self.call_patience = Patience(server.timeouts.request, server.timeouts.idle, server.timeouts.stream)
        keys = [endpoint.key for endpoint in self.endpoints]
        clock = asyncio.get_running_loop().time
        self.resending = resending(server, keys, clock, random.random)
        self.tool_terms = tool_terms(server, self.call_patience)
        # A quiet notification stream is healthy; TCP keep-alive finds a peer that is gone.
        self.stream_patience = Patience(
            server.timeouts.request, server.timeouts.stream, server.timeouts.stream, endless=True
        )

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

    def ejected(self, endpoint: Endpoint) -> bool:
        """Whether an endpoint is left out as it failed calls."""
        outliers = self.resending.outliers if self.resending is not None else None
        return outliers is not None and outliers.ejected(endpoint.key)

    def by_key(self, key: str) -> Endpoint | None:
        """The endpoint that a session is pinned to, or None where the configuration no longer has it."""
        return self._by_key.get(key)

    @property
    def in_flight(self) -> int:
        """Calls under way."""
        return self.calls.taken

    @property
    def streams(self) -> int:
        """Long-lived streams that are open."""
        return self.long_lived.taken

    @property
    def in_use(self) -> bool:
        """Whether anything is under way."""
        return self.calls.taken + self.long_lived.taken + sum(endpoint.active for endpoint in self.endpoints) > 0

    def sweep(self, now: float) -> None:
        """See `Endpoint.sweep`."""
        for endpoint in self.endpoints:
            endpoint.sweep(now)

    def review(self) -> None:
        """Give up the connections to servers whose CA is no longer trusted, and those that were made under another ID
        of ours: calls under way end by themselves, streams that would not are ended."""
        for endpoint in self.endpoints:
            endpoint.review()

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

    async def closed(self) -> None:
        """Wait, after `close`, until nothing of the server is left."""
        for endpoint in self.endpoints:
            await endpoint.closed()


def over_http(
    server: Server,
    on_connect: Callable[[str, str, str], None],
    tls: ClientTls | None,
    credential: Credential | None,
) -> tuple[HttpEndpoint, ...]:
    """The endpoints of a server as its configuration names them. Raises as `Upstream` does."""
    web = web_context(server)
    return tuple(
        HttpEndpoint(
            url,
            Dialer(url, server, web, tls, lambda result, url=url: on_connect(server.name, url, result)),  # type: ignore[misc]  # mypy cannot infer a lambda with a bound default
            credential,
        )
        for url in server.endpoints
    )


def endpoint_key(url: str) -> str:
    """A short stable name of an endpoint, the same in every replica and after every reload."""
    return hashlib.blake2b(url.encode(), digest_size=6).hexdigest()
