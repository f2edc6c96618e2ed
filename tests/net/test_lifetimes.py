"""Connections of clients over TLS: whose they are, and when they end."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from math import inf

import pytest

from openmcp.identity.peer import Peer
from openmcp.identity.tls import SpiffeTls
from openmcp.sidecar.net import lifetimes, listener
from openmcp.sidecar.net.exchange import HttpExchange
from openmcp.sidecar.net.listener import Listener
from openmcp.sidecar.net.sweep import Sweeper
from tests.fakes.pki import Ca
from tests.support.mtls import Moved, bundles_of, careless_client
from tests.support.raw import PATIENCE, Connection, NoAnswer

AGENT = "spiffe://example.org/agent"
US = "spiffe://example.org/sidecar"
Handler = Callable[[HttpExchange], Awaitable[None]]


@pytest.fixture
def ca() -> Ca:
    return Ca("example.org")


async def at_once(exchange: HttpExchange) -> None:
    """Answer with the SPIFFE ID of whoever asks."""
    certificate = exchange.request.peer.certificate
    exchange.respond(200, b"", str(certificate.spiffe_id if certificate else None).encode())


@asynccontextmanager
async def listening(
    tls: ssl.SSLContext | None, handler: Handler = at_once, host: str = "127.0.0.1"
) -> AsyncIterator[tuple[Listener, int]]:
    """Run a listener."""
    sweeper = Sweeper()
    sweeper.start()
    running = Listener(handler, lambda path: 65536, lambda status: None, sweeper)
    _, port = await running.start(host, 0, tls)
    try:
        yield running, port
    finally:
        if running.accepting:
            await running.drain(0.0, lambda: None)
        sweeper.stop()


@asynccontextmanager
async def connected(port: int, context: ssl.SSLContext | None, host: str = "127.0.0.1") -> AsyncIterator[Connection]:
    """Connect to it."""
    name = "x" if context is not None else None
    reader, writer = await asyncio.open_connection(host, port, ssl=context, server_hostname=name)
    connection = Connection(reader, writer, "127.0.0.1", "/")
    try:
        yield connection
    finally:
        await connection.close()


def tls_of(ca: Ca) -> tuple[SpiffeTls, ssl.SSLContext]:
    """TLS of a sidecar, with a listener's context."""
    tls = SpiffeTls(Moved.of(ca, US))
    return tls, tls.server_context(lambda why: None)


def ending(monkeypatch: pytest.MonkeyPatch, until: float, ends: float) -> None:
    """Let connections take requests for `until` seconds and end after `ends`."""
    monkeypatch.setattr(lifetimes, "bounds", lambda now, expires: (now + until, now + ends))


def over(running: Listener) -> None:
    """Let the time of all connections be over that there are."""
    for connection in running._connections:
        connection._until = connection._ends = running.clock


async def test_requests_carry_the_peer_of_their_connection(ca: Ca):
    _, context = tls_of(ca)
    async with listening(context) as (_, port), connected(port, careless_client(ca.leaf(AGENT))) as agent:
        for _ in range(3):
            assert (await agent.ask()).body == AGENT.encode()
    async with listening(context) as (_, port), connected(port, careless_client()) as agent:
        assert (await agent.ask()).body == b"None"


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_a_peer_in_the_clear_is_its_address(host: str):
    peers: list[Peer] = []

    async def keep(exchange: HttpExchange) -> None:
        peers.append(exchange.request.peer)
        exchange.respond(200, b"", b"")

    try:
        async with listening(None, keep, host) as (_, port), connected(port, None, host) as agent:
            await agent.ask()
    except OSError as error:
        pytest.skip(f"no IPv6 here: {error}")
    assert peers == [Peer(host)]


class Transport(asyncio.BaseTransport):
    """A transport with this to say about itself."""

    def __init__(self, peername: object) -> None:
        super().__init__({"peername": peername})


@pytest.mark.parametrize(
    ("peername", "address"),
    [
        (("192.0.2.1", 1), "192.0.2.1"),
        (("::ffff:192.0.2.1", 1, 0, 0), "192.0.2.1"),
        (("fe80::1%eth0", 1, 0, 2), "fe80::1"),
        (("2001:db8::1", 1, 0, 0), "2001:db8::1"),
        ("", ""),
        (None, ""),
    ],
)
def test_addresses_are_canonical(peername: object, address: str):
    assert lifetimes.peer_of(Transport(peername)) == Peer(address)


@pytest.mark.parametrize(
    ("left", "until"),
    [(inf, None), (86400.0, None), (3000.0, 2970.0), (600.0, 570.0), (60.0, 45.0), (4.0, 3.0), (0.0, 0.0)],
)
def test_a_connection_is_given_up_before_its_certificate_ends(left: float, until: float | None):
    found, ends = lifetimes.bounds(100.0, time.time() + left)
    if until is None:
        assert 0.9 * lifetimes.MAX_AGE <= found - 100 <= 1.1 * lifetimes.MAX_AGE
    else:
        assert found - 100 == pytest.approx(until, abs=0.1)
    assert ends - 100 == pytest.approx(left, abs=0.1)


def test_ages_are_spread():
    assert len({lifetimes.bounds(0.0, inf)[0] for _ in range(20)}) > 15


async def test_an_old_connection_is_told_so_and_closed_after_an_answer(monkeypatch: pytest.MonkeyPatch):
    ending(monkeypatch, 0.0, inf)
    async with listening(None) as (running, port), connected(port, None) as agent:
        await until(lambda: any(connection._leaving for connection in running._connections))
        assert (await agent.ask()).header("connection") == "close"
        assert await agent.closed() == b""


async def test_an_idle_connection_ends_with_its_certificate(ca: Ca, monkeypatch: pytest.MonkeyPatch):
    ending(monkeypatch, 60.0, 80.0)
    _, context = tls_of(ca)
    async with listening(context) as (running, port), connected(port, careless_client(ca.leaf(AGENT))) as agent:
        assert (await agent.ask()).status == 200
        (connection,) = running._connections
        assert connection._ends - connection._until == pytest.approx(20.0)
        over(running)
        assert await agent.closed() == b""


async def test_a_request_that_comes_too_late_is_not_served(ca: Ca):
    """It began in time, and its body came after the end."""
    served: list[str] = []

    async def keep(exchange: HttpExchange) -> None:
        served.append(exchange.request.path)

    _, context = tls_of(ca)
    async with listening(context, keep) as (running, port), connected(port, careless_client(ca.leaf(AGENT))) as agent:
        await agent.send(b"POST / HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 10\r\n\r\nhalf")
        await until(lambda: any(connection._body_bytes for connection in running._connections))
        over(running)
        answer = await agent.answer()
        assert (answer.status, answer.header("connection")) == (408, "close")
        assert await agent.closed() == b""
    assert served == []


async def test_a_call_under_way_ends_by_itself_and_nothing_follows(ca: Ca, monkeypatch: pytest.MonkeyPatch):
    going, paths = asyncio.Event(), []

    async def slow(exchange: HttpExchange) -> None:
        paths.append(exchange.request.path)
        await going.wait()
        exchange.respond(200, b"", b"done")

    ending(monkeypatch, 0.0, 0.1)
    _, context = tls_of(ca)
    async with listening(context, slow) as (running, port), connected(port, careless_client(ca.leaf(AGENT))) as agent:
        await agent.send(agent.request() + agent.request())
        await until(lambda: any(not connection._keep for connection in running._connections))
        going.set()
        answer = await agent.answer()
        assert (answer.body, answer.header("connection")) == (b"done", "close")
        assert await agent.closed() == b""
    assert paths == ["/"]


async def test_an_end_that_comes_between_an_answer_and_the_next_request_counts(ca: Ca):
    served = 0

    async def last(exchange: HttpExchange) -> None:
        nonlocal served
        served += 1
        exchange.respond(200, b"", b"")
        for connection in running._connections:
            connection.end()

    _, context = tls_of(ca)
    async with listening(context, last) as (running, port), connected(port, careless_client(ca.leaf(AGENT))) as agent:
        await agent.send(agent.request() + agent.request())
        assert (await agent.answer()).status == 200
        assert await agent.closed() == b""
    assert served == 1


async def test_connections_of_a_ca_that_is_gone_are_closed(ca: Ca):
    other = Ca("example.org")
    source = Moved.of(ca, US, other)
    tls = SpiffeTls(source)
    async with (
        listening(tls.server_context(lambda why: None)) as (running, port),
        connected(port, careless_client(ca.leaf(AGENT))) as gone,
        connected(port, careless_client(other.leaf(AGENT))) as stays,
        connected(port, careless_client()) as nobody,
    ):
        for agent in (gone, stays, nobody):
            assert (await agent.ask()).status == 200
        running.review(tls.still_trusted)
        assert running.connections == 3
        source.rotate(bundles=bundles_of(other))
        running.review(tls.still_trusted)
        assert await gone.closed() == b""
        for agent in (stays, nobody):
            assert (await agent.ask()).status == 200


async def test_a_handshake_that_does_not_end_is_cut(ca: Ca, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(listener, "HANDSHAKE_TIMEOUT", 0.2)
    _, context = tls_of(ca)
    async with listening(context) as (running, port):
        for begun in (b"", b"\x16\x03\x01\x02\x00"):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(begun)
            async with asyncio.timeout(PATIENCE):
                assert await reader.read() == b""
            assert running.connections == 0
            writer.close()
        for last in (False, False, False, False, True):  # a busy machine may need longer for one than is allowed here
            try:
                async with connected(port, careless_client()) as agent:
                    assert (await agent.ask()).status == 200
                break
            except (OSError, NoAnswer):
                if last:
                    raise


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what the loop will do."""
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0.01)
