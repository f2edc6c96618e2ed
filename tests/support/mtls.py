"""Both ends of TLS connections: a source of SVIDs that a test moves, and peers of the plain standard library."""

from __future__ import annotations

import asyncio
import ssl
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import cast

from openmcp.identity.material import Bundles, NoIdentity, Svid
from tests.fakes.pki import Ca, Leaf, svid

PATIENCE = 10.0


@dataclass
class Moved:
    """What `SvidSource` is to others: `svid` and `bundles` change by `rotate`, as if the Workload API had said so."""

    svid: Svid | None
    bundles: Bundles
    generation: int = 1
    why: str = "no registration entry"

    @classmethod
    def of(cls, ca: Ca, spiffe_id: str, *others: Ca, ttl: float = 3600) -> Moved:
        """One SVID of `ca`, and the bundles of all these CAs."""
        return cls(svid(ca, spiffe_id, ttl=ttl), bundles_of(ca, *others))

    def own(self) -> Svid:
        """The SVID, or NoIdentity."""
        if self.svid is None:
            raise NoIdentity(self.why)
        return self.svid

    def rotate(self, own: Svid | None = None, bundles: Bundles | None = None) -> None:
        """One more update."""
        self.svid = own or self.svid
        self.bundles = bundles or self.bundles
        self.generation += 1


def bundles_of(*cas: Ca) -> dict[str, frozenset[bytes]]:
    """The bundles that these CAs are."""
    found: dict[str, frozenset[bytes]] = {}
    for ca in cas:
        found[ca.trust_domain] = found.get(ca.trust_domain, frozenset()) | {ca.der}
    return found


def load(context: ssl.SSLContext, leaf: Leaf) -> None:
    """Present this certificate."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(leaf.pem())
        file.flush()
        context.load_cert_chain(file.name)


def careless_server(leaf: Leaf) -> ssl.SSLContext:
    """A server that shows any certificate and asks for none."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    load(context, leaf)
    return context


def careless_client(leaf: Leaf | None = None) -> ssl.SSLContext:
    """A client that takes any server and shows any certificate, or none."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    if leaf is not None:
        load(context, leaf)
    return context


class Echo(asyncio.Protocol):
    """A server's end of a connection: gives back what it gets, and keeps what there is to know about it."""

    def __init__(self, made: asyncio.Queue[Echo]) -> None:
        self._made = made
        self.data = b""
        self.lost: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The handshake is over."""
        self.transport = cast(asyncio.Transport, transport)
        self.tls = transport.get_extra_info("ssl_object")
        self._made.put_nowait(self)

    def data_received(self, data: bytes) -> None:
        """Give it back."""
        self.data += data
        self.transport.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """It is over."""
        self.lost.set_result(exc)


@dataclass
class Echoing:
    """A running server, and the connections that were made to it."""

    port: int
    made: asyncio.Queue[Echo]


@asynccontextmanager
async def echoing(context: ssl.SSLContext | None) -> AsyncIterator[Echoing]:
    """Run a server with this context."""
    made: asyncio.Queue[Echo] = asyncio.Queue()
    server = await asyncio.get_running_loop().create_server(lambda: Echo(made), "127.0.0.1", 0, ssl=context)
    try:
        yield Echoing(server.sockets[0].getsockname()[1], made)
    finally:
        server.close()


async def talk(port: int, context: ssl.SSLContext) -> ssl.SSLObject:
    """Connect, say something and hear it again; our end of the connection, which is closed."""
    async with asyncio.timeout(PATIENCE):
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="x")
        try:
            writer.write(b"hello")
            if await reader.read(5) != b"hello":
                raise ConnectionResetError("closed without an answer")
            found: ssl.SSLObject = writer.get_extra_info("ssl_object")
            return found
        finally:
            writer.close()
