"""Connections to servers by SVIDs: whom we trust, what is said of whom we do not, and rotation."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from openmcp.config.model import Server, ServerTls, SpiffeAuth, Timeouts
from openmcp.identity.peer import PeerCertificate, certificate_of
from openmcp.identity.tls import SpiffeTls
from openmcp.sidecar.errors import UpstreamFailed
from openmcp.sidecar.net import dialing, health, lifetimes
from openmcp.sidecar.net.dialing import ClientTls
from openmcp.sidecar.net.exchange import HttpExchange
from openmcp.sidecar.net.listener import Listener
from openmcp.sidecar.net.pool import Upstream
from openmcp.sidecar.net.sweep import Sweeper
from openmcp.sidecar.net.values import Outgoing, Patience
from tests.fakes.pki import Ca, svid
from tests.support.hostile import Hostile, Reply, Request, hostile
from tests.support.mtls import Moved, bundles_of, careless_server, load

US = "spiffe://example.org/sidecar"
ID = "spiffe://example.org/server"
PATIENCE = Patience(5.0, 5.0, 5.0)
ENDLESS = Patience(5.0, 60.0, 60.0, endless=True)


@pytest.fixture
def ca() -> Ca:
    return Ca("example.org")


class Connects(list[str]):
    """How attempts to connect ended."""

    def __call__(self, server: str, url: str, result: str) -> None:
        self.append(result)


def upstream(url: str, tls: ClientTls | None, *ids: str, told: Connects | None = None, **more: Any) -> Upstream:
    """A server at this URL that has to have one of these IDs."""
    server = Server(name="server", path="/server", endpoints=(url,), auth=SpiffeAuth(server_ids=ids or (ID,)), **more)
    return Upstream(server, told if told is not None else Connects(), tls)


async def ask(server: Upstream, method: bytes = b"POST", patience: Patience = PATIENCE) -> Any:
    """Send one request."""
    request = Outgoing(method, b"content-type: application/json\r\n", b'{"id":1,"method":"ping"}', 65536, False)
    return await server.endpoints[0].send(request, patience)


async def refused(server: Upstream) -> UpstreamFailed:
    """Send one request, which is not sent."""
    with pytest.raises(UpstreamFailed) as failed:
        await ask(server)
    assert not failed.value.sent
    return failed.value


@asynccontextmanager
async def demanding(ca: Ca, spiffe_id: str = ID) -> AsyncIterator[tuple[Hostile, Moved]]:
    """Run a server that requires SVIDs of its clients, and its source of SVIDs."""
    source = Moved.of(ca, spiffe_id)
    context = SpiffeTls(source).server_context(lambda why: None)

    async with hostile(tls=context) as server:
        yield server, source


async def test_both_sides_are_known(ca: Ca):
    seen: list[str] = []

    async def look(request: Request, reply: Reply) -> None:
        certificate = certificate_of(reply.writer.get_extra_info("ssl_object"))
        seen.append(str(certificate.spiffe_id if certificate is not None else None))
        await reply.result()

    told = Connects()
    async with demanding(ca) as (server, _):
        server.handler = look
        to = upstream(server.url, SpiffeTls(Moved.of(ca, US)), told=told)
        for _ in range(3):
            assert (await ask(to)).status == 200
        assert server.connections == 1
        to.close()
    assert seen == [US] * 3
    assert told == ["ok"]
    assert to.endpoints[0].problem == ""


async def test_a_server_that_is_not_the_one_is_told_of_once(ca: Ca, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO)
    told, reasons = Connects(), []
    source = Moved.of(ca, US)
    async with demanding(ca, "spiffe://example.org/other") as (server, its):
        to = upstream(server.url, SpiffeTls(source, reasons.append), told=told)
        why = "not one of servers[].auth.serverIds: the server is spiffe://example.org/other"
        for _ in range(3):
            failed = await refused(to)
            assert (failed.kind, failed.detail) == ("untrusted", why)
        assert to.endpoints[0].problem == why
        assert told == ["untrusted"] * 3
        assert reasons == ["not one of servers[].auth.serverIds"] * 3
        its.rotate(svid(ca, ID))
        assert (await ask(to)).status == 200
        assert to.endpoints[0].problem == ""
        to.close()
    assert [entry.getMessage() for entry in caplog.records if entry.name == "openmcp.net"] == [
        f"server server: endpoint {server.url} cannot be used: {why}",
        f"server server: endpoint {server.url} can be used again",
    ]


async def test_a_partner_that_poses_as_ours_is_refused(ca: Ca):
    partner = Ca("partner.example")
    async with hostile(tls=careless_server(partner.leaf(ID))) as server:
        failed = await refused(upstream(server.url, SpiffeTls(Moved.of(ca, US, partner))))
        assert failed.kind == "untrusted"
        assert failed.detail == f"not signed by a CA of its own trust domain: {ID}"
        assert server.requests == []


async def test_without_an_svid_nothing_is_sent(ca: Ca):
    source, told = Moved.of(ca, US), Connects()
    async with demanding(ca) as (server, _):
        to = upstream(server.url, SpiffeTls(source), told=told)
        source.svid = None
        failed = await refused(to)
        assert (failed.kind, failed.detail) == ("identity", "no registration entry")
        assert told == ["identity"]
        assert to.endpoints[0].problem == "no registration entry"
        assert server.connections == 0


async def test_without_a_workload_api_there_is_no_identity():
    failed = await refused(upstream("https://127.0.0.1:1/mcp", None))
    assert (failed.kind, failed.detail) == ("identity", "no Workload API is configured")


async def test_spiffe_secures_the_connection_whatever_the_url_says(ca: Ca):
    """`http://` with `auth: {type: spiffe}` is no way around TLS."""
    async with demanding(ca) as (server, _):
        to = upstream(server.url.replace("https:", "http:"), SpiffeTls(Moved.of(ca, US)))
        assert (await ask(to)).status == 200
        to.close()
    async with hostile() as plain:
        timeouts = Timeouts(connect=0.3)  # a plain server waits for more
        failed = await refused(upstream(plain.url, SpiffeTls(Moved.of(ca, US)), timeouts=timeouts))
        assert failed.kind == "connect"
        assert plain.requests == []


async def test_a_health_check_sees_what_calls_see(ca: Ca):
    async with demanding(ca, "spiffe://example.org/other") as (server, its):
        to = upstream(server.url, SpiffeTls(Moved.of(ca, US)))
        (endpoint,) = to.endpoints
        problem = await health.check(endpoint, 5.0)
        health.note(to, endpoint, problem)
        assert endpoint.healthy
        assert endpoint.problem.endswith("the server is spiffe://example.org/other")
        its.rotate(svid(ca, ID))
        health.note(to, endpoint, await health.check(endpoint, 5.0))
        assert endpoint.problem == ""
        to.close()


async def test_a_mistake_under_the_web_pki_is_seen_at_the_first_check(caplog: pytest.LogCaptureFixture):
    other = Ca("other.example")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    load(context, other.leaf([], dns=["localhost"]))
    async with hostile(tls=context) as server:
        settings = Server(name="server", path="/server", endpoints=(server.url,), tls=ServerTls())
        to = Upstream(settings, Connects())
        (endpoint,) = to.endpoints
        for _ in range(2):
            health.note(to, endpoint, await health.check(endpoint, 5.0))
        assert endpoint.healthy
        assert endpoint.problem == "TLS: unable to get local issuer certificate"
    (line,) = [entry.getMessage() for entry in caplog.records if entry.name == "openmcp.net"]
    assert line == f"server server: endpoint {server.url} cannot be used: {endpoint.problem}"


async def test_a_server_that_refuses_our_svid_says_so(ca: Ca):
    """After its handshake, as TLS 1.3 has it."""
    strict = careless_server(ca.leaf(ID))
    strict.verify_mode = ssl.CERT_REQUIRED
    strict.load_verify_locations(cadata=Ca("example.org").der)
    async with hostile(tls=strict) as server:
        to = upstream(server.url, SpiffeTls(Moved.of(ca, US)))
        with pytest.raises(UpstreamFailed) as failed:
            await ask(to)
        assert failed.value.kind == "closed"
        assert server.requests == []


# The end of connections


def bounded(monkeypatch: pytest.MonkeyPatch, until: float, ends: float) -> None:
    monkeypatch.setattr(dialing, "bounds", lambda now, expires: (now + until, now + ends))


async def test_a_connection_past_its_time_takes_no_more_requests(ca: Ca, monkeypatch: pytest.MonkeyPatch):
    bounded(monkeypatch, 0.0, 60.0)
    async with demanding(ca) as (server, _):
        to = upstream(server.url, SpiffeTls(Moved.of(ca, US)))
        for _ in range(3):
            assert (await ask(to)).status == 200
        assert server.connections == 3
        to.close()


async def test_the_first_certificate_to_end_bounds_a_connection(ca: Ca, monkeypatch: pytest.MonkeyPatch):
    found: list[float] = []

    def keep(now: float, expires: float) -> tuple[float, float]:
        found.append(expires)
        return now + 60, now + 60

    monkeypatch.setattr(dialing, "bounds", keep)
    for ours, theirs in ((100, 3600), (3600, 200)):
        source, its = Moved.of(ca, US, ttl=ours), Moved.of(ca, ID, ttl=theirs)
        async with hostile(tls=SpiffeTls(its).server_context(lambda why: None)) as server:
            to = upstream(server.url, SpiffeTls(source))
            await ask(to)
            to.close()
        assert source.svid is not None
        assert its.svid is not None
        assert found.pop() == min(source.svid.expires, its.svid.expires)


async def streaming(request: Request, reply: Reply) -> None:
    """Answer a GET by a stream that goes on until the client leaves, anything else at once."""
    if request.method == "GET":
        await reply.stream()
        await reply.chunk(b": here\n\n")
        await reply.left()
    else:
        await reply.result()


async def test_a_stream_without_an_end_is_ended_with_its_connection(ca: Ca, monkeypatch: pytest.MonkeyPatch):
    bounded(monkeypatch, 60.0, 80.0)
    async with demanding(ca) as (server, _):
        server.handler = streaming
        to = upstream(server.url, SpiffeTls(Moved.of(ca, US)))
        with sweeping(to):
            response = await ask(to, b"GET", ENDLESS)
            assert await response.chunk() == b": here\n\n"
            (connection,) = to.endpoints[0]._all
            assert connection.ends - connection.until == pytest.approx(20.0)
            connection.ends = asyncio.get_running_loop().time()
            assert await response.chunk() == b""
            assert response.stopped
            response.close()
        to.close()


async def test_a_call_goes_on_beyond_the_end_of_its_connection(ca: Ca, monkeypatch: pytest.MonkeyPatch):
    bounded(monkeypatch, 0.0, 0.0)
    going = asyncio.Event()

    async def slow(request: Request, reply: Reply) -> None:
        await going.wait()
        await reply.result()

    async with demanding(ca) as (server, _):
        server.handler = slow
        to = upstream(server.url, SpiffeTls(Moved.of(ca, US)))
        with sweeping(to):
            call = asyncio.create_task(ask(to))
            await server.received(1)
            (connection,) = to.endpoints[0]._all
            async with asyncio.timeout(10):
                while connection.until:  # noqa: ASYNC110 - `end` tells nobody
                    await asyncio.sleep(0.01)
            going.set()
            assert (await call).status == 200
        to.close()


class sweeping:
    """Sweep a server's connections."""

    def __init__(self, to: Upstream) -> None:
        self._to = to
        self._sweeper = Sweeper()

    def __enter__(self) -> None:
        self._sweeper.add(self._to.sweep)
        self._sweeper.start()

    def __exit__(self, *raised: object) -> None:
        self._sweeper.stop()


async def test_connections_to_servers_of_a_ca_that_is_gone_are_closed(ca: Ca):
    source = Moved.of(ca, US)
    tls = SpiffeTls(source)
    other = Ca("example.org")
    async with demanding(ca) as (server, its):
        server.handler = streaming
        to = upstream(server.url, tls)
        stream = await ask(to, b"GET", ENDLESS)
        assert (await ask(to)).status == 200
        assert await stream.chunk() == b": here\n\n"
        to.review()
        assert (to.endpoints[0].idle, to.endpoints[0].active) == (1, 1)
        source.rotate(bundles=bundles_of(other))
        to.review()
        assert to.endpoints[0].idle == 0
        assert await stream.chunk() == b""
        stream.close()
        assert (await refused(to)).kind == "untrusted"
        source.rotate(bundles=bundles_of(ca, other))
        assert (await ask(to)).status == 200
        to.close()


# Rotation


@asynccontextmanager
async def relaying(tls: SpiffeTls, to: Upstream) -> AsyncIterator[tuple[Listener, int]]:
    """Run a listener that sends each request on to a server, both by SVIDs."""

    async def relay(exchange: HttpExchange) -> None:
        certificate = exchange.request.peer.certificate
        assert certificate is not None
        assert str(certificate.spiffe_id) == "spiffe://example.org/agent"
        response = await ask(to)
        exchange.respond(response.status, b"", response.body)

    sweeper = Sweeper()
    sweeper.add(to.sweep)
    sweeper.start()
    listener = Listener(relay, lambda path: 65536, lambda status: None, sweeper)
    _, port = await listener.start("127.0.0.1", 0, tls.server_context(lambda why: None))
    try:
        yield listener, port
    finally:
        await listener.drain(0.0, lambda: None)
        sweeper.stop()
        to.close()


NAMES = ("agent", "sidecar", "server")


class World:
    """An agent, a sidecar and a server, whose SVIDs and CA change."""

    def __init__(self) -> None:
        self.cas = [Ca("example.org")]
        self.sources = {name: Moved.of(self.cas[0], f"spiffe://example.org/{name}") for name in NAMES}
        self.tls = {name: SpiffeTls(source) for name, source in self.sources.items()}

    def prepare(self) -> None:
        """There is one more CA, which everybody trusts."""
        self.cas.append(Ca("example.org"))
        for source in self.sources.values():
            source.rotate(bundles=bundles_of(*self.cas))

    def activate(self) -> None:
        """Everybody has an SVID of the newest CA."""
        for name, source in self.sources.items():
            source.rotate(svid(self.cas[-1], f"spiffe://example.org/{name}"))

    def retire(self) -> None:
        """The oldest CA is trusted no more."""
        del self.cas[0]
        for source in self.sources.values():
            source.rotate(bundles=bundles_of(*self.cas))


class Load:
    """Calls that are made one after the other, by several callers at once, until one fails or all is over."""

    def __init__(self, port: int, tls: SpiffeTls) -> None:
        self.calls = 0
        self._over = False
        self._tasks = [asyncio.create_task(self._call(port, tls)) for _ in range(8)]

    async def _call(self, port: int, tls: SpiffeTls) -> None:
        agent = upstream(f"https://127.0.0.1:{port}/x", tls, US)
        while not self._over:
            assert (await ask(agent)).status == 200
            self.calls += 1
        agent.close()

    async def go_on(self, condition: Callable[[], bool] = lambda: True) -> None:
        """Wait for twenty more calls, and for a condition."""
        before = self.calls
        async with asyncio.timeout(10):
            while self.calls < before + 20 or not condition():
                assert not any(task.done() for task in self._tasks)
                await asyncio.sleep(0.01)

    async def end(self) -> None:
        """No more; all have succeeded."""
        self._over = True
        await asyncio.gather(*self._tasks)


def anchors(listener: Listener, to: Upstream) -> set[bytes]:
    """What the connections of both sides hang on."""
    found = [one.peer.certificate for one in listener._connections]
    found += [one.certificate for one in to.endpoints[0]._all]
    return {one.anchor for one in found if one is not None}


async def test_rotation_is_never_noticed(monkeypatch: pytest.MonkeyPatch):
    """SVIDs and CAs change under load. As in earnest, a CA is known before it signs, and goes when what it
    signed has ended (here after a tenth of a second): no call fails."""
    bounded(monkeypatch, 0.1, 60.0)
    monkeypatch.setattr(lifetimes, "bounds", dialing.bounds)
    world = World()
    tls = world.tls["sidecar"]
    async with hostile(tls=world.tls["server"].server_context(lambda why: None)) as server:
        to = upstream(server.url, tls)
        async with relaying(tls, to) as (listener, port):
            calls = Load(port, world.tls["agent"])
            for _ in range(6):
                world.prepare()
                await calls.go_on()
                world.activate()
                newest = hashlib.sha256(world.cas[-1].der).digest()
                await calls.go_on(lambda newest=newest: anchors(listener, to) == {newest})  # type: ignore[misc]  # a bound default
                world.retire()
                listener.review(tls.still_trusted)
                to.review()
            await calls.end()
    assert calls.calls >= 240
    assert server.connections > 6


async def test_pooled_connections_survive_a_new_svid(ca: Ca):
    source = Moved.of(ca, US)
    async with demanding(ca) as (server, its):
        to = upstream(server.url, SpiffeTls(source))
        for _ in range(5):
            assert (await ask(to)).status == 200
            source.rotate(svid(ca, US))
            its.rotate(svid(ca, ID))
        assert server.connections == 1
        to.close()


async def test_a_connection_under_way_while_identities_change_is_not_used(ca: Ca, monkeypatch: pytest.MonkeyPatch):
    """The update comes between the end of the handshake and the first request: nobody has reviewed this connection."""
    source = Moved.of(ca, US)
    tls = SpiffeTls(source)
    verify = tls._verified

    def moved(chain: list[bytes]) -> PeerCertificate:
        found = verify(chain)
        source.rotate(svid(ca, "spiffe://example.org/other"))
        return found

    async with demanding(ca) as (server, _):
        to = upstream(server.url, tls)
        with monkeypatch.context() as patch:
            patch.setattr(tls, "_verified", moved)
            failure = await refused(to)
        assert (failure.kind, to.endpoints[0].active) == ("connect", 0)
        assert failure.detail == "who we are, or whom we trust, changed during the handshake"
        assert (await ask(to)).status == 200
        assert len(server.requests) == 1
        to.close()
