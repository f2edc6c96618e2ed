"""A listening socket with its connections: start, limits, graceful drain."""

import asyncio
import logging
import ssl
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Final

from openmcp.identity.peer import PeerCertificate
from openmcp.sidecar.net.http1 import Connection
from openmcp.sidecar.net.opening import Opening
from openmcp.sidecar.net.sweep import Sweeper
from openmcp.sidecar.net.tail import STALL_TIMEOUT
from openmcp.sidecar.net.unread import Unread
from openmcp.sidecar.net.values import Client
from openmcp.sidecar.ports import Exchange

MAX_CONNECTIONS: Final = 10_000
AT_ONCE: Final = 64
"""Connections that make room for a new one together: looking for them takes time."""
MOST_KEPT: Final = 128 * 1024 * 1024
"""Bytes of bodies that are not complete yet, on all connections; above it those that keep most are cut."""
LOOK: Final = 16 * 1024 * 1024
"""Bytes that come before it is looked at how many are kept, if that is not done for the time that has passed."""
SILENCE: Final = 60.0
"""Seconds between two lines in the log about that."""
BACKLOG: Final = 1024
HANDSHAKE_TIMEOUT: Final = 10.0
"""Seconds for a TLS handshake; until it is over there is no connection."""
_DATE: Final = "%a, %d %b %Y %H:%M:%S GMT"
"""RFC 9110, 5.6.7: English names, as they are while nobody calls `setlocale` for LC_TIME."""

_log = logging.getLogger("openmcp.net")


class Listener:
    """Accepts connections of HTTP/1.1, and of HTTP/2 where that is wanted, and hands each request to `handler`.

    `body_limit` gives the bytes allowed for a request's body by path; `on_refused` is told the HTTP status of each
    request that could not be read.
    """

    def __init__(
        self,
        handler: Callable[[Exchange], Awaitable[None]],
        body_limit: Callable[[str], int],
        on_refused: Callable[[int], None],
        sweeper: Sweeper,
        *,
        http2: bool = True,
    ) -> None:
        self.handler = handler
        self.body_limit = body_limit
        self.refused = on_refused
        self.accepting = True
        self._http2 = http2
        self.loop = asyncio.get_running_loop()
        self._connections: set[Client] = set()
        self._server: asyncio.Server | None = None
        self.unread = Unread(lambda: on_refused(429))
        self._sweeper = sweeper
        self._empty = asyncio.Event()
        self._empty.set()
        self._silent_until = 0.0
        self.most_kept = MOST_KEPT
        self.most_connections = MAX_CONNECTIONS
        self._came = 0
        self._date_second = 0
        self.date = b""
        self.date_and_close = b""
        self.clock = self.loop.time()
        self._renew_date(self.clock)

    @property
    def connections(self) -> int:
        """Open connections."""
        return len(self._connections)

    async def start(self, host: str, port: int, tls: ssl.SSLContext | None = None) -> tuple[str, int]:
        """Listen, with TLS where a context is given; the address bound. Raises OSError where it cannot be had."""
        self._server = await self.loop.create_server(
            lambda: Opening(self) if self._http2 else Connection(self),
            host,
            port,
            backlog=BACKLOG,
            ssl=tls,
            ssl_handshake_timeout=HANDSHAKE_TIMEOUT if tls is not None else None,
            ssl_shutdown_timeout=STALL_TIMEOUT if tls is not None else None,  # `Tail.linger` sees more
        )
        self._sweeper.add(self._sweep)
        bound = self._server.sockets[0].getsockname()
        return bound[0], bound[1]

    async def drain(self, patience: float, before_end: Callable[[], None]) -> None:
        """Stop accepting, let requests under way finish for `patience` seconds, then cut what is left.

        `before_end` ends the streams that would never end by themselves.
        """
        self.accepting = False
        if self._server is not None:
            self._server.close()
        for connection in tuple(self._connections):
            connection.close_when_idle()
        before_end()
        await self._wait_empty(patience)
        for connection in tuple(self._connections):
            connection.abort()
        await self._wait_empty(1.0)
        self._sweeper.remove(self._sweep)

    def review(self, still_trusted: Callable[[PeerCertificate], bool]) -> None:
        """Close the connections of clients whose CA is no longer trusted; a request under way ends by itself."""
        for connection in tuple(self._connections):
            certificate = connection.peer.certificate
            if certificate is not None and not still_trusted(certificate):
                connection.end()

    def joined(self, connection: Client) -> None:
        """A connection was made (called by the connection)."""
        self._connections.add(connection)
        self._empty.clear()
        if len(self._connections) > self.most_connections:
            self._make_room(connection)

    def came(self, size: int) -> None:
        """So many bytes came of requests that are not complete yet."""
        self._came += size
        if self._came >= LOOK:
            self._came = 0
            self._bound_bodies(self.clock)

    def left(self, connection: Client) -> None:
        """A connection is gone (called by the connection)."""
        self._connections.discard(connection)
        if not self._connections:
            self._empty.set()

    def _make_room(self, newest: Client) -> None:
        """Cut connections on which nothing is being served, of the address that has most of them; the new one, if there
        are none: who opens many and says little on them shuts nobody out."""
        waiting = [one for one in self._connections if one.waiting and one is not newest]
        counts = Counter(one.peer.address for one in waiting)
        most = max(counts, key=lambda address: counts[address], default="")
        gone = [one for one in waiting if one.peer.address == most][:AT_ONCE] or [newest]
        if self.clock >= self._silent_until:
            self._silent_until = self.clock + SILENCE
            which = f"some of {most or 'a socket'} that wait" if waiting else "new ones"
            _log.warning("more than %d connections: %s are cut", self.most_connections, which)
        for one in gone:
            self._connections.discard(one)  # now: others may join before they have gone
            one.abort()

    async def _wait_empty(self, patience: float) -> None:
        try:
            async with asyncio.timeout(patience):
                await self._empty.wait()
        except TimeoutError:
            pass

    def _sweep(self, now: float) -> None:
        self.clock = now
        self._renew_date(now)
        self._bound_bodies(now)

    def _bound_bodies(self, now: float) -> None:
        """Sweep all connections, and cut those that keep most where all of them keep too much."""
        kept: dict[Client, int] = {}
        for connection in tuple(self._connections):
            size = connection.sweep(now)
            if size:
                kept[connection] = size
        total = sum(kept.values())
        if total <= self.most_kept:
            return
        for connection in sorted(kept, key=lambda one: kept[one], reverse=True):
            self.refused(429)
            connection.abort()
            total -= kept[connection]
            if total <= self.most_kept:
                return

    def _renew_date(self, now: float) -> None:
        if int(now) != self._date_second or not self.date:
            self._date_second = int(now)
            self.date = b"date: %b\r\n" % time.strftime(_DATE, time.gmtime()).encode()
            self.date_and_close = self.date + b"connection: close\r\n"
