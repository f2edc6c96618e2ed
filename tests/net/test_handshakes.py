"""Handshakes with SVIDs, both ways and on both event loops, against peers of the plain standard library."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import socket
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec import structs

from openmcp.identity import contexts
from openmcp.identity.contexts import Refusals
from openmcp.identity.material import NoIdentity
from openmcp.identity.peer import PeerRefused, certificate_of
from openmcp.identity.tls import SpiffeTls
from openmcp.identity.webtls import FileTls, TlsUnusable
from tests.fakes.pki import Ca, Leaf, ec_key, svid
from tests.identity.malformed import CASES, ID, World
from tests.support.mtls import Moved, bundles_of, careless_client, careless_server, echoing, load, talk

CUT = (ConnectionError, ssl.SSLError)
"""What a client sees of a server that refuses it."""
US = "spiffe://example.org/sidecar"


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture):
    """No handshake, however it ends, is an error in any log, or a traceback."""
    caplog.set_level(logging.DEBUG)
    yield
    noise = [entry for entry in caplog.records if entry.exc_info or entry.levelno >= logging.ERROR]
    assert noise == []


class Told:
    """What was said about refusals."""

    def __init__(self) -> None:
        self.reasons: list[str] = []
        self._more = asyncio.Event()

    def __call__(self, why: str) -> None:
        self.reasons.append(why)
        self._more.set()

    async def one(self) -> str:
        """The first reason, once there is one."""
        async with asyncio.timeout(10):
            await self._more.wait()
        (reason,) = self.reasons
        return reason


def ours(world: World) -> Moved:
    """Our own SVID in this world, under the world's bundles."""
    return Moved(svid(world.ours, US), world.bundles)


# The server is a stranger


@pytest.mark.parametrize("name", CASES)
async def test_a_malformed_server_is_refused(name: str):
    world, told = World.make(), Told()
    leaf, _ = CASES[name].make(world)
    tls = SpiffeTls(ours(world), told)
    async with echoing(careless_server(leaf)) as server:
        with pytest.raises(PeerRefused) as refused:
            await talk(server.port, tls.client_context(("spiffe://*",)))
        assert refused.value.why in CASES[name].reasons
        assert told.reasons == [refused.value.why]
        assert server.made.empty()  # nothing of ours was sent, thus no handshake ended there


async def test_a_server_is_known_by_one_of_its_ids():
    world = World.make()
    tls = SpiffeTls(ours(world))
    async with echoing(careless_server(world.ours.leaf(ID))) as server:
        for good in [(ID,), ("spiffe://example.org/other", ID), ("spiffe://example.org/*",), ("*/serve?",)]:
            found = certificate_of(await talk(server.port, tls.client_context(good)))
            assert found is not None
            assert str(found.spiffe_id) == ID
        for bad in [("spiffe://example.org/",), (ID[:-1],), (f"{ID}?",), ("spiffe://example.org/*/x",), ("*.*x",), ()]:
            with pytest.raises(PeerRefused) as refused:
                await talk(server.port, tls.client_context(bad))
            assert str(refused.value) == f"not one of servers[].auth.serverIds: the server is {ID}"


async def test_a_dot_in_an_id_is_a_dot():
    world = World.make()
    tls = SpiffeTls(ours(world))
    async with echoing(careless_server(world.ours.leaf("spiffe://example.org/aXb"))) as server:
        with pytest.raises(PeerRefused):
            await talk(server.port, tls.client_context(("spiffe://example.org/a.b",)))


async def test_a_pattern_of_many_stars_takes_no_time():
    world = World.make()
    tls = SpiffeTls(ours(world))
    async with echoing(careless_server(world.ours.leaf("spiffe://example.org/" + "a" * 1900))) as server:
        with pytest.raises(PeerRefused):
            await talk(server.port, tls.client_context(("spiffe://" + "*a" * 40 + "*b",)))


async def test_a_federated_server_is_itself():
    world = World.make()
    tls = SpiffeTls(ours(world))
    async with echoing(careless_server(world.theirs.leaf("spiffe://partner.example/mcp"))) as server:
        found = certificate_of(await talk(server.port, tls.client_context(("spiffe://partner.example/mcp",))))
        assert found is not None
        assert str(found.spiffe_id) == "spiffe://partner.example/mcp"


async def test_a_federated_lookalike_of_our_ca_keeps_nobody_out():
    """A bundle of a partner with a CA that has our CA's name and key identifier, but another key."""
    world = World.make()
    from tests.identity.test_certificates import lookalike

    for one in (lookalike(world.ours), lookalike(world.ours, own_key=True), lookalike(world.ours, identifier=False)):
        world.bundles["partner.example"] = frozenset((world.theirs.der, one))
        tls = SpiffeTls(ours(world))
        async with echoing(careless_server(world.ours.leaf(ID))) as server:
            assert certificate_of(await talk(server.port, tls.client_context((ID,)))) is not None


async def test_a_cross_signed_ca_is_ours():
    """A partner's CA has signed the key of ours too: the server sends that certificate along."""
    world = World.make()
    crossed = Ca("example.org", world.theirs, key=world.ours.key)
    leaf = world.ours.leaf(ID)
    tls = SpiffeTls(ours(world))
    async with echoing(careless_server(Leaf(leaf.certificate, (crossed.certificate,), leaf.key))) as server:
        assert certificate_of(await talk(server.port, tls.client_context((ID,)))) is not None


async def test_a_server_without_tls_1_3_is_refused():
    world = World.make()
    tls = SpiffeTls(ours(world))
    old = careless_server(world.ours.leaf(ID))
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    async with echoing(old) as server:
        with pytest.raises(CUT):
            await talk(server.port, tls.client_context((ID,)))


async def test_a_server_of_plain_tcp_is_refused():
    tls = SpiffeTls(ours(World.make()))
    async with echoing(None) as server:
        with pytest.raises(ssl.SSLError) as failed:
            await talk(server.port, tls.client_context((ID,)))
        assert not isinstance(failed.value, PeerRefused)


# The client is a stranger


@pytest.mark.parametrize("name", CASES)
async def test_a_malformed_client_is_refused(name: str, caplog: pytest.LogCaptureFixture):
    world, told = World.make(), Told()
    leaf, _ = CASES[name].make(world)
    context = SpiffeTls(ours(world)).server_context(told)
    async with echoing(context) as server:
        with pytest.raises(CUT):
            await talk(server.port, careless_client(leaf))
        why = await told.one()
        assert why in CASES[name].reasons
        assert server.made.empty()
    (line,) = [entry.getMessage() for entry in caplog.records if entry.name == "openmcp.identity"]
    assert line.startswith(f"TLS: the handshake of a client is refused: {why}")


async def test_a_client_with_an_svid_is_known():
    world, told = World.make(), Told()
    async with echoing(SpiffeTls(ours(world)).server_context(told)) as server:
        await talk(server.port, careless_client(world.ours.leaf("spiffe://example.org/agent")))
        found = certificate_of((await server.made.get()).tls)
        assert found is not None
        assert str(found.spiffe_id) == "spiffe://example.org/agent"
        assert told.reasons == []


async def test_a_client_without_a_certificate_is_nobody():
    world, told = World.make(), Told()
    async with echoing(SpiffeTls(ours(world)).server_context(told)) as server:
        await talk(server.port, careless_client())
        assert certificate_of((await server.made.get()).tls) is None


async def test_a_client_of_a_trust_domain_that_is_not_accepted_is_refused():
    world, told = World.make(), Told()
    context = SpiffeTls(ours(world)).server_context(told, ("example.org",))
    async with echoing(context) as server:
        await talk(server.port, careless_client(world.ours.leaf("spiffe://example.org/agent")))
        assert certificate_of((await server.made.get()).tls) is not None
        with pytest.raises(CUT):
            await talk(server.port, careless_client(world.theirs.leaf("spiffe://partner.example/agent")))
        assert await told.one() == "of a trust domain that is not in listen.tls.trustDomains"
        assert server.made.empty()


async def test_no_session_is_resumed():
    world = World.make()
    async with echoing(SpiffeTls(ours(world)).server_context(Told())) as server:
        context = careless_client(world.ours.leaf("spiffe://example.org/agent"))
        first = await talk(server.port, context)
        assert first.version() == "TLSv1.3"
        assert first.session is None or not first.session.has_ticket


@pytest.mark.parametrize(
    ("sent", "why"),
    [
        (b"GET / HTTP/1.1\r\nhost: x\r\n\r\n", "plain HTTP instead of TLS"),
        (b"CONNECT x:443 HTTP/1.1\r\n\r\n", "plain HTTP instead of TLS"),
        (b"\x00" * 64, "no TLS"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "no TLS"),
    ],
)
async def test_what_is_no_tls_is_refused(sent: bytes, why: str, caplog: pytest.LogCaptureFixture):
    told = Told()
    async with echoing(SpiffeTls(ours(World.make())).server_context(told)) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(sent)
        assert await told.one() == why
        writer.close()
    (line,) = [entry.getMessage() for entry in caplog.records if entry.name == "openmcp.identity"]
    assert re.fullmatch(rf"TLS: the handshake of a client is refused: {why} \([a-z ]+\)", line)


async def test_an_old_client_is_refused():
    told = Told()
    old = careless_client()
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    async with echoing(SpiffeTls(ours(World.make())).server_context(told)) as server:
        with pytest.raises(CUT):
            await talk(server.port, old)
        assert await told.one() == "no common version of TLS"


async def test_a_client_that_refuses_us_is_counted():
    told = Told()
    strict = ssl.create_default_context()
    async with echoing(SpiffeTls(ours(World.make())).server_context(told)) as server:
        with pytest.raises(ssl.SSLCertVerificationError):
            await asyncio.to_thread(_blocking, server.port, strict)
        assert await told.one() == "refused by the other side"


def _blocking(port: int, context: ssl.SSLContext) -> None:
    """A client that says why it goes: event loops go without an alert."""
    with socket.create_connection(("127.0.0.1", port)) as plain, context.wrap_socket(plain, server_hostname="x"):
        pass


@pytest.mark.parametrize(("offered", "agreed"), [(["http/1.1", "h2"], "h2"), (["http/1.1"], "http/1.1"), (["x"], None)])
async def test_a_client_is_served_in_what_it_speaks(offered: list[str], agreed: str | None):
    world = World.make()
    async with echoing(SpiffeTls(ours(world)).server_context(Told())) as server:
        client = careless_client()
        client.set_alpn_protocols(offered)
        assert (await talk(server.port, client)).selected_alpn_protocol() == agreed


def test_a_reason_is_logged_once_a_minute(caplog: pytest.LogCaptureFixture):
    now, told = [0.0], []
    refusals = Refusals("a client", told.append, lambda: now[0])
    for moment in (0.0, 1.0, 59.9, 60.0, 61.0):
        now[0] = moment
        refusals.add("expired", "expired: x")
    refusals.add("no TLS", "no TLS")
    assert [entry.getMessage() for entry in caplog.records] == [
        "TLS: the handshake of a client is refused: expired: x",
        "TLS: the handshake of a client is refused: expired: x (2 more since this was last said)",
        "TLS: the handshake of a client is refused: no TLS",
    ]
    assert told == ["expired"] * 5 + ["no TLS"]


# What is ours


async def test_without_an_svid_there_are_no_handshakes():
    world, told = World.make(), Told()
    source = ours(world)
    tls = SpiffeTls(source)
    context = tls.server_context(told)
    source.svid = None
    async with echoing(context) as server:
        with pytest.raises(CUT):
            await talk(server.port, careless_client())
        assert await told.one() == "no SVID of our own"
    with pytest.raises(NoIdentity, match="no registration entry"):
        tls.client_context((ID,))


@pytest.mark.parametrize("broken", ["a bundle", "another bundle", "the key", "the key of another", "the certificate"])
async def test_what_cannot_be_used_makes_no_connections(broken: str):
    world, told = World.make(), Told()
    own = svid(world.ours, US)
    bundles = dict(world.bundles)
    if broken == "a bundle":
        bundles["example.org"] = frozenset((b"x",))
    elif broken == "another bundle":
        bundles["partner.example"] = frozenset((b"\x30\x03\x02\x01\x00",))
    elif broken == "the key":
        own = structs.replace(own, key=b"x")
    elif broken == "the key of another":
        own = structs.replace(own, key=svid(world.ours, US).key)
    else:
        own = structs.replace(own, certificates=(b"x",))
    tls = SpiffeTls(Moved(own, bundles))
    with pytest.raises(NoIdentity, match="our SVID or a bundle cannot be used: "):
        tls.client_context((ID,))
    async with echoing(tls.server_context(told)) as server:
        with pytest.raises(CUT):
            await talk(server.port, careless_client())
        assert await told.one() == "no SVID of our own"


async def test_an_svid_that_ended_makes_no_more_connections():
    """The context of this SVID is there already: it is the source that says no."""
    source = ours(World.make())
    tls = SpiffeTls(source)
    tls.client_context((ID,))
    source.svid, source.why = None, "expired"
    with pytest.raises(NoIdentity, match="expired"):
        tls.client_context((ID,))


async def test_each_handshake_has_the_present_svid_and_bundles():
    world = World.make()
    source, told = ours(world), Told()
    agent = world.ours.leaf("spiffe://example.org/agent")
    context = SpiffeTls(source).server_context(told)
    async with echoing(context) as server:
        before = await talk(server.port, careless_client(agent))
        source.rotate(svid(world.ours, US))
        after = await talk(server.port, careless_client(agent))
        assert before.getpeercert(binary_form=True) != after.getpeercert(binary_form=True)
        source.rotate(bundles=bundles_of(Ca("example.org")))
        with pytest.raises(CUT):
            await talk(server.port, careless_client(agent))
        assert await told.one() == "not signed by a CA of its own trust domain"


async def test_a_context_serves_until_the_next_update():
    source = ours(World.make())
    tls = SpiffeTls(source)
    first = tls.client_context((ID,))
    assert tls.client_context((ID,)) is first
    assert tls.client_context((US,)) is not first
    source.rotate()
    assert tls.client_context((ID,)) is not first


async def test_trust_ends_with_the_bundle():
    world = World.make()
    source = ours(world)
    tls = SpiffeTls(source)
    async with echoing(careless_server(world.ours.leaf(ID))) as server:
        found = certificate_of(await talk(server.port, tls.client_context((ID,))))
    assert found is not None
    assert tls.still_trusted(found)
    source.rotate(bundles=bundles_of(world.ours, Ca("example.org")))
    assert tls.still_trusted(found)
    source.rotate(bundles=bundles_of(Ca("example.org"), world.theirs))
    assert not tls.still_trusted(found)


async def test_a_ca_that_another_domain_has_is_not_ours():
    """The CA moved from our bundle to the partner's: it vouches for nobody of ours any more."""
    world = World.make()
    source = ours(world)
    tls = SpiffeTls(source)
    async with echoing(careless_server(world.ours.leaf(ID))) as server:
        found = certificate_of(await talk(server.port, tls.client_context((ID,))))
    assert found is not None
    moved = {"example.org": frozenset((Ca("example.org").der,)), "partner.example": frozenset((world.ours.der,))}
    source.rotate(bundles=moved)
    assert not tls.still_trusted(found)


# Keys


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="keys go through a temporary file where there is no memfd")
def test_no_key_touches_a_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    paths: list[str] = []
    original = ssl.SSLContext.load_cert_chain

    def watched(self: ssl.SSLContext, certfile: str, password: Callable[[], bytes]) -> None:
        paths.append(os.readlink(certfile))
        original(self, certfile, password=password)

    monkeypatch.setattr(ssl.SSLContext, "load_cert_chain", watched)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "none"))
    SpiffeTls(ours(World.make())).client_context((ID,))
    assert paths == ["/memfd:key (deleted)"]
    assert not [number for number in os.listdir("/proc/self/fd") if "memfd:key" in _target(number)]


def _target(number: str) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{number}")
    except OSError:  # the descriptor of the listing itself
        return ""


def test_without_memfd_there_is_a_file_for_a_moment(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delattr(os, "memfd_create")
    leaf = Ca("example.org").leaf(ID)
    with contexts._file_of(leaf.pem()) as path:
        assert Path(path).stat().st_mode & 0o777 == 0o600
        assert Path(path).read_bytes() == leaf.pem()
    assert not Path(path).exists()


# Web PKI


def files(leaf: Leaf) -> tuple[bytes, bytes]:
    return leaf.chain_pem(), leaf.key_pem()


def web_client(ca: Ca, leaf: Leaf | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cadata=ca.der)
    if leaf is not None:
        load(context, leaf)
    return context


def web_leaf(ca: Ca) -> Leaf:
    return ca.leaf([], dns=["x"])


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_files_serve_the_web_pki(version: ssl.TLSVersion):
    ca, told = Ca("example.org"), Told()
    async with echoing(FileTls(*files(web_leaf(ca))).server_context(told)) as server:
        client = web_client(ca)
        client.maximum_version = client.minimum_version = version
        await talk(server.port, client)
        made = await server.made.get()
        assert certificate_of(made.tls) is None


@pytest.mark.parametrize(("http2", "agreed"), [(True, "h2"), (False, "http/1.1")])
async def test_files_offer_http2_where_it_is_spoken(http2: bool, agreed: str):
    ca = Ca("example.org")
    async with echoing(FileTls(*files(web_leaf(ca)), http2=http2).server_context(Told())) as server:
        client = web_client(ca)
        client.set_alpn_protocols(["h2", "http/1.1"])
        assert (await talk(server.port, client)).selected_alpn_protocol() == agreed


async def test_files_that_change_are_used_at_once():
    ca, told = Ca("example.org"), Told()
    tls = FileTls(*files(web_leaf(ca)))
    other = Ca("example.org")
    async with echoing(tls.server_context(told)) as server:
        await talk(server.port, web_client(ca))
        assert tls.reload(*files(web_leaf(other)))
        await talk(server.port, web_client(other))
        for bad in [(b"", b""), (b"x", b"y"), (web_leaf(ca).chain_pem(), web_leaf(ca).key_pem())]:
            with pytest.raises(TlsUnusable):
                tls.reload(*bad)
        await talk(server.port, web_client(other))


def test_files_that_are_the_same_change_nothing():
    pair = files(web_leaf(Ca("example.org")))
    assert not FileTls(*pair).reload(*pair)


def test_files_that_cannot_be_used_are_named():
    one, two = web_leaf(Ca("example.org")), web_leaf(Ca("example.org"))
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    locked = one.key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"secret"),
    )
    other = Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    for pair, why in [
        ((one.chain_pem(), two.key_pem()), "the key does not belong to the certificate"),
        ((one.chain_pem(), other), "the key does not belong to the certificate"),
        ((b"nothing", one.key_pem()), "they are no PEM, or the key is encrypted"),
        ((one.chain_pem(), b"nothing"), "they are no PEM, or the key is encrypted"),
        ((one.chain_pem(), locked), "they are no PEM, or the key is encrypted"),
    ]:
        with pytest.raises(TlsUnusable) as unusable:
            FileTls(*pair)
        assert str(unusable.value) == f"certificate and key cannot be used: {why}"
    with pytest.raises(TlsUnusable, match=r"^clientCa has no certificates in PEM that can be read$"):
        FileTls(*files(one), b"nothing")


async def test_clients_of_a_ca_are_known():
    server_ca, client_ca = Ca("example.org"), Ca("clients.example")
    tls = FileTls(*files(web_leaf(server_ca)), client_ca.pem)
    async with echoing(tls.server_context(Told())) as server:
        for leaf, spiffe_id in [
            (client_ca.leaf([], dns=["client.example"]), None),
            (client_ca.leaf("spiffe://clients.example/agent"), "spiffe://clients.example/agent"),
            (Ca("clients.example", client_ca).leaf("spiffe://clients.example/b"), "spiffe://clients.example/b"),
        ]:
            await talk(server.port, web_client(server_ca, leaf))
            found = certificate_of((await server.made.get()).tls)
            assert found is not None
            assert (str(found.spiffe_id) if found.spiffe_id else None) == spiffe_id
            assert tls.still_trusted(found)
        await talk(server.port, web_client(server_ca))
        assert certificate_of((await server.made.get()).tls) is None


async def test_clients_of_another_ca_are_refused():
    server_ca, client_ca, told = Ca("example.org"), Ca("clients.example"), Told()
    tls = FileTls(*files(web_leaf(server_ca)), client_ca.pem)
    async with echoing(tls.server_context(told)) as server:
        with pytest.raises(CUT):
            await talk(server.port, web_client(server_ca, Ca("clients.example").leaf(ID)))
        assert await told.one() == "not signed by listen.tls.clientCa"


async def test_clients_of_a_ca_that_is_gone_are_not_trusted():
    server_ca, client_ca = Ca("example.org"), Ca("clients.example")
    pair = files(web_leaf(server_ca))
    tls = FileTls(*pair, client_ca.pem)
    async with echoing(tls.server_context(Told())) as server:
        await talk(server.port, web_client(server_ca, client_ca.leaf(ID)))
        found = certificate_of((await server.made.get()).tls)
    assert found is not None
    assert tls.reload(*pair, Ca("clients.example").pem)
    assert not tls.still_trusted(found)


async def test_a_client_ca_needs_tls_1_3():
    """Resumption, which loses what a client presented, can be switched off there alone."""
    server_ca, client_ca, told = Ca("example.org"), Ca("clients.example"), Told()
    async with echoing(FileTls(*files(web_leaf(server_ca)), client_ca.pem).server_context(told)) as server:
        client = web_client(server_ca, client_ca.leaf(ID))
        client.maximum_version = ssl.TLSVersion.TLSv1_2
        with pytest.raises(CUT):
            await talk(server.port, client)
        assert await told.one() == "no common version of TLS"


def test_the_key_of_an_svid_may_be_of_any_kind():
    from tests.fakes.pki import rsa_key

    ca = Ca("example.org")
    for key in (ec_key(), rsa_key()):
        leaf = ca.leaf(US, key=key)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        contexts.load_key_pair(context, contexts.pem_of(leaf.chain_der, leaf.key_der))


async def test_a_client_ca_may_be_an_intermediate():
    server_ca, root = Ca("example.org"), Ca("clients.example")
    between = Ca("clients.example", root)
    leaf = between.leaf(ID)
    async with echoing(FileTls(*files(web_leaf(server_ca)), between.pem).server_context(Told())) as server:
        await talk(server.port, web_client(server_ca, Leaf(leaf.certificate, (), leaf.key)))
        assert certificate_of((await server.made.get()).tls) is not None


async def test_no_tickets_in_tls_1_2():
    ca = Ca("example.org")
    async with echoing(FileTls(*files(web_leaf(ca))).server_context(Told())) as server:
        client = web_client(ca)
        client.maximum_version = ssl.TLSVersion.TLSv1_2
        found = await talk(server.port, client)
        assert found.session is not None
        assert not found.session.has_ticket


class Resumed(ssl.SSLObject):
    """A connection that was verified at another time, as of a session that is resumed."""

    peer: bytes | None

    def __new__(cls) -> Resumed:
        return object.__new__(cls)

    def __init__(self) -> None:
        self._sslobj = self

    def get_verified_chain(self) -> list[bytes]:
        """Nothing was verified."""
        return []

    def getpeercert(self, binary_form: bool = False) -> bytes | None:  # type: ignore[override]  # DER alone is asked for
        """What is known all the same."""
        return self.peer


@pytest.mark.parametrize(
    ("mode", "peer"), [(ssl.CERT_REQUIRED, None), (ssl.CERT_REQUIRED, b"x"), (ssl.CERT_OPTIONAL, b"x")]
)
def test_what_was_not_verified_now_does_not_count(mode: ssl.VerifyMode, peer: bytes | None):
    context = contexts.Checked(ssl.PROTOCOL_TLS_SERVER)
    context.verify_mode = mode
    connection = Resumed()
    connection.peer = peer
    with pytest.raises(PeerRefused, match="^no verified chain$"):
        context.peer(connection)
