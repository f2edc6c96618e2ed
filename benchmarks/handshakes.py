"""What TLS with SVIDs costs: `python -m benchmarks.handshakes` from the repository root.

Handshakes of TLS 1.3 with certificates on both sides, in memory: by contexts of the standard library alone, and by ours
on one side or on both. Then calls over one pooled connection, in the clear and by SVIDs, to a server in this process.
CPU time of both ends; the median of rounds, which take turns.
"""

import argparse
import asyncio
import ssl
import statistics
import time
from collections.abc import Awaitable, Callable
from typing import cast

import uvloop

from openmcp.config.model import Server, SpiffeAuth
from openmcp.identity import certificates
from openmcp.identity.contexts import load_key_pair, pem_of
from openmcp.identity.material import Bundles, Svid
from openmcp.identity.tls import SpiffeTls
from openmcp.sidecar.net.pool import Upstream
from openmcp.sidecar.net.values import Outgoing, Patience
from tests.fakes.pki import Ca, svid

GOAL = 200.0
"""Microseconds that a handshake may cost more (docs/performance)."""
HANDSHAKES = 200
CALLS = 2_000
AGENT, SERVER = "spiffe://example.org/ns/default/sa/agent", "spiffe://example.org/ns/default/sa/server"
_ANSWER = (
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 36\r\n\r\n"
    b'{"jsonrpc":"2.0","id":1,"result":{}}'
)
_CALL = Outgoing(b"POST", b"content-type: application/json\r\n", b'{"jsonrpc":"2.0","id":1,"method":"x"}', 65536, False)


class Fixed:
    """A source of SVIDs that never changes."""

    generation = 1

    def __init__(self, own: Svid, bundles: Bundles) -> None:
        self._own = own
        self.bundles = bundles

    def own(self) -> Svid:
        """The SVID."""
        return self._own


def plain(side: int, own: Svid, ca: Ca) -> ssl.SSLContext:
    """What one would write without us: mutual TLS by one CA."""
    context = ssl.SSLContext(side)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols(["http/1.1"])
    context.load_verify_locations(cadata=ca.der)
    load_key_pair(context, pem_of(own.certificates, own.key))
    if side is ssl.PROTOCOL_TLS_SERVER:
        context.num_tickets = 0
    return context


def handshake(client: ssl.SSLContext, server: ssl.SSLContext) -> None:
    """One handshake, to the end on both sides."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(to_client, to_server, server_hostname="x"),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    while ends:
        for end in tuple(ends):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
            ends.remove(end)


def handshakes(client: Callable[[], ssl.SSLContext], server: ssl.SSLContext) -> float:
    """Microseconds of one of many."""
    before = time.process_time()
    for _ in range(HANDSHAKES):
        handshake(client(), server)
    return (time.process_time() - before) / HANDSHAKES * 1e6


class Answering(asyncio.Protocol):
    """A server that answers whatever comes."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the way back."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """A request, whole."""
        self._transport.write(_ANSWER)


async def calls(url: str, tls: SpiffeTls | None) -> tuple[Upstream, Callable[[], Awaitable[float]]]:
    """A server, and microseconds of one of many calls to it."""
    auth = SpiffeAuth(server_ids=(SERVER,)) if tls is not None else None
    to = Upstream(Server(name="s", path="/s", endpoints=(url,), auth=auth), lambda name, url, result: None, tls)
    patience = Patience(10.0, 10.0, 10.0)

    async def measured() -> float:
        before = time.process_time()
        for _ in range(CALLS):
            response = await to.endpoints[0].send(_CALL, patience)
            assert response.status == 200
        return (time.process_time() - before) / CALLS * 1e6

    return to, measured


async def called(rounds: int, agent: SpiffeTls, server: SpiffeTls) -> list[float]:
    """The medians of calls in the clear and by SVIDs."""
    loop = asyncio.get_running_loop()
    listeners, measures, upstreams = [], [], []
    for context, tls in ((None, None), (server.server_context(lambda why: None), agent)):
        listener = await loop.create_server(Answering, "127.0.0.1", 0, ssl=context)
        scheme = "https" if tls is not None else "http"
        to, measured = await calls(f"{scheme}://127.0.0.1:{listener.sockets[0].getsockname()[1]}/s", tls)
        listeners.append(listener)
        upstreams.append(to)
        measures.append(measured)
    found: list[list[float]] = [[], []]
    for _ in range(rounds + 1):
        for spent, measured in zip(found, measures, strict=True):
            spent.append(await measured())
    for to, listener in zip(upstreams, listeners, strict=True):
        to.close()
        listener.close()
    return [statistics.median(spent[1:]) for spent in found]  # the first round warms up


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    ca, partner = Ca("example.org"), Ca("partner.example")
    bundles = {"example.org": frozenset((ca.der,)), "partner.example": frozenset((partner.der,))}
    agent, server = svid(ca, AGENT), svid(ca, SERVER)
    ours, theirs = SpiffeTls(Fixed(agent, bundles)), SpiffeTls(Fixed(server, bundles))
    plain_client, plain_server = plain(ssl.PROTOCOL_TLS_CLIENT, agent, ca), plain(ssl.PROTOCOL_TLS_SERVER, server, ca)
    our_server = theirs.server_context(lambda why: None)

    def stranger() -> ssl.SSLContext:
        certificates._svid.cache_clear()
        return ours.client_context((SERVER,))

    kinds: dict[str, tuple[Callable[[], ssl.SSLContext], ssl.SSLContext]] = {
        "standard library": (lambda: plain_client, plain_server),
        "ours as the client": (lambda: ours.client_context((SERVER,)), plain_server),
        "ours as the server": (lambda: plain_client, our_server),
        "to one never seen": (stranger, plain_server),
        "ours on both sides": (lambda: ours.client_context((SERVER,)), our_server),
    }
    found: dict[str, list[float]] = {name: [] for name in kinds}
    for _ in range(rounds + 1):
        for name, (client, context) in kinds.items():
            found[name].append(handshakes(client, context))
    medians = {name: statistics.median(spent[1:]) for name, spent in found.items()}
    base = medians["standard library"]
    print(f"handshakes, CPU of both ends, median of {rounds} rounds of {HANDSHAKES} (goal: at most {GOAL:.0f} us more)")
    for name, median in medians.items():
        print(f"  {name:<20} {median:7.0f} us {median - base:+6.0f} us {1e6 / median:7.0f} /s of one core")
    clear, secured = uvloop.run(called(rounds, ours, theirs))
    print(f"calls over a pooled connection, CPU of both ends, median of {rounds} rounds of {CALLS}")
    print(f"  in the clear         {clear:7.1f} us")
    print(f"  by SVIDs             {secured:7.1f} us {secured - clear:+6.1f} us")


if __name__ == "__main__":
    main()
