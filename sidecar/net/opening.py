"""Which protocol a client speaks: HTTP/2 by ALPN (RFC 9113, 3.2) or, in the clear, by its first bytes (3.3).

HTTP/2 is imported with the first client that speaks it.
"""

import asyncio
from typing import TYPE_CHECKING, Final, cast

from openmcp.sidecar.net.http1 import Connection

if TYPE_CHECKING:
    from openmcp.sidecar.net.listener import Listener

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


class Opening(asyncio.Protocol):
    """The begin of a connection; as long as nothing is known of it, it is one of HTTP/1.1, with its time limits."""

    def __init__(self, listener: "Listener") -> None:
        self._listener = listener
        self._first = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        tls = transport.get_extra_info("ssl_object")
        if tls is not None and tls.selected_alpn_protocol() == "h2":
            self._http2()
            return
        self._plain = Connection(self._listener)
        self._plain.connection_made(transport)
        if tls is not None:
            self._transport.set_protocol(self._plain)

    def data_received(self, data: bytes) -> None:
        self._first += data
        if not self._first.startswith(PREFACE[: len(self._first)]):
            self._transport.set_protocol(self._plain)
            self._plain.data_received(self._first)
        elif len(self._first) >= len(PREFACE):
            self._plain.connection_lost(None)
            self._http2()

    def connection_lost(self, exc: Exception | None) -> None:
        self._plain.connection_lost(exc)

    def _http2(self) -> None:
        from openmcp.sidecar.net.http2 import Http2Connection

        connection = Http2Connection(self._listener)
        self._transport.set_protocol(connection)
        connection.connection_made(self._transport)
        if self._first:
            connection.data_received(self._first)
