"""Access that is taken away while the sidecar runs: connections and streams that had it end, nobody gets it anew."""

import asyncio
import copy
import ssl
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, suppress
from pathlib import Path
from typing import Any

import pytest

from openmcp.sidecar.build import BuildError
from tests.app.test_reload import open_get, streaming
from tests.fakes import pki
from tests.fakes.workload_api import GATEWAY, FakeWorkloadApi
from tests.support.approver import approver, guarded
from tests.support.gate import Gate, call, configuration, gate, initialize
from tests.support.hostile import Hostile, Reply, Request, hostile
from tests.support.mtls import careless_client
from tests.support.raw import Closed, Connection, connect

AGENT = "spiffe://example.org/agent"
CUT = (Closed, ConnectionError, ssl.SSLError)
BY_SVID = {"type": "mtls", "trustDomains": ["example.org"]}


@pytest.fixture
async def server() -> AsyncIterator[Hostile]:
    async with hostile(streaming) as running:
        yield running


class Files:
    """The files of `listen.tls`, as an operator replaces them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.certificate(pki.Ca("web.example").leaf([], dns=["localhost"]))

    def certificate(self, leaf: pki.Leaf, key: pki.Leaf | None = None) -> None:
        (self._folder / "tls.crt").write_bytes(leaf.chain_pem())
        (self._folder / "tls.key").write_bytes((key or leaf).key_pem())

    def clients(self, *cas: pki.Ca) -> None:
        (self._folder / "clients.pem").write_bytes(b"".join(ca.pem for ca in cas))

    @property
    def tls(self) -> dict[str, Any]:
        names = {"certificate": "tls.crt", "key": "tls.key", "clientCa": "clients.pem"}
        return {key: {"file": str(self._folder / name)} for key, name in names.items()}


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def by(sidecar: Gate, leaf: pki.Leaf) -> AbstractAsyncContextManager[Connection]:
    """A connection with this certificate."""
    return connect(sidecar.url, tls=careless_client(leaf))


async def shown(sidecar: Gate) -> bytes | None:
    """The certificate that the listener shows."""
    _, writer = await asyncio.open_connection(*sidecar.app.mcp_address, ssl=careless_client(), server_hostname="x")
    try:
        found: bytes | None = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        return found
    finally:
        writer.close()


async def ended(stream: Connection) -> None:
    """The stream ends in order, with its connection."""
    async with asyncio.timeout(10):
        assert await stream.event() is None


async def closed(agent: Connection) -> None:
    """No further call is answered on this connection."""
    with pytest.raises(CUT):
        await agent.ask(call())


def web(server: Hostile, files: Files) -> dict[str, Any]:
    made = configuration(server.url) | {"identity": {"workloadApi": "none", "agents": [BY_SVID]}}
    made["listen"]["tls"] = files.tls
    return made


async def test_clients_of_a_ca_whose_file_is_replaced(server: Hostile, files: Files, tmp_path: Path) -> None:
    old, new = pki.Ca("example.org"), pki.Ca("example.org")
    files.clients(old)
    made = web(server, files)
    async with gate(tmp_path, made) as sidecar, by(sidecar, old.leaf(AGENT)) as agent:
        await initialize(agent)
        async with connect(sidecar.url, tls=careless_client(old.leaf(AGENT))) as stream:
            stream.headers |= agent.headers
            await open_get(stream)
            sidecar.reload(made)
            assert (await agent.ask(call())).status == 200, "nothing has changed"
            files.clients(old, new)
            sidecar.reload(made)
            assert (await agent.ask(call())).status == 200
            files.clients(new)
            sidecar.reload(made)
            await ended(stream)
        await closed(agent)
        with pytest.raises(CUT):
            async with by(sidecar, old.leaf(AGENT)) as again:
                await again.ask(call())
        async with by(sidecar, new.leaf(AGENT)) as other:
            assert (await other.ask(call())).status == 200


async def test_a_certificate_that_is_replaced_and_one_that_cannot_be_used(
    server: Hostile, files: Files, tmp_path: Path
) -> None:
    ca = pki.Ca("example.org")
    files.clients(ca)
    made = web(server, files)
    next_one = pki.Ca("web.example").leaf([], dns=["localhost"])
    async with gate(tmp_path, made) as sidecar, by(sidecar, ca.leaf(AGENT)) as agent:
        assert (await agent.ask(call())).status == 200
        files.certificate(next_one)
        sidecar.reload(made)
        assert await shown(sidecar) == next_one.chain_der[0]
        files.certificate(next_one, key=ca.leaf(AGENT))
        with pytest.raises(
            BuildError, match=r"^listen\.tls: certificate and key cannot be used: the key does not belong"
        ):
            sidecar.reload(made)
        (tmp_path / "tls.key").unlink()
        with pytest.raises(BuildError, match=r"^listen\.tls\.key: file .*tls\.key cannot be read: No such file"):
            sidecar.reload(made)
        assert await shown(sidecar) == next_one.chain_der[0]
        assert (await agent.ask(call())).status == 200, "connections are not touched"


async def test_a_trust_domain_that_is_no_longer_accepted(server: Hostile, tmp_path: Path) -> None:
    """`mtls` no longer takes it: `listen.tls`, which changes with a restart, still does."""
    partner = pki.Ca("partner.example")
    async with FakeWorkloadApi(f"unix://{tmp_path}/api.sock") as workload_api:
        workload_api.federate("partner.example", partner)
        domains = ["example.org", "partner.example"]
        made = configuration(server.url)
        made["listen"]["tls"] = {"type": "spiffe", "trustDomains": domains}
        made["identity"] = {"workloadApi": workload_api.address, "agents": [BY_SVID | {"trustDomains": domains}]}
        fewer = copy.deepcopy(made)
        fewer["listen"]["tls"]["trustDomains"] = fewer["identity"]["agents"][0]["trustDomains"] = ["example.org"]
        leaf = partner.leaf("spiffe://partner.example/agent")
        async with gate(tmp_path, made) as sidecar:
            await sidecar.has_identity(GATEWAY)
            async with by(sidecar, leaf) as agent, by(sidecar, leaf) as stream:
                await initialize(agent)
                stream.headers |= agent.headers
                await open_get(stream)
                sidecar.reload(fewer)
                await ended(stream)
                assert (await agent.ask(call())).status == 401


class Slow:
    """A server that answers a GET by a stream, but not before it may."""

    def __init__(self) -> None:
        self.asked, self.go_on = asyncio.Event(), asyncio.Event()

    async def __call__(self, request: Request, reply: Reply) -> None:
        if request.method == "GET" and not request.is_health_check:
            self.asked.set()
            await self.go_on.wait()
        await streaming(request, reply)


async def test_a_stream_that_opens_after_its_agent_was_removed(tmp_path: Path) -> None:
    """The server took its time: what was asked for before the reload comes after it."""
    slow = Slow()
    async with hostile(slow) as server:
        made = configuration(server.url)
        fewer = copy.deepcopy(made)
        fewer["identity"]["agents"][0]["keys"] = fewer["identity"]["agents"][0]["keys"][1:]
        async with gate(tmp_path, made) as sidecar, sidecar.connect() as agent:
            await initialize(agent)
            await agent.send(agent.request(method="GET", accept="text/event-stream"))
            await slow.asked.wait()
            sidecar.reload(fewer)
            slow.go_on.set()
            assert (await agent.answer_head())[0] == 200
            async with asyncio.timeout(10):
                while await agent.event() is not None:
                    pass


async def test_a_stream_that_opens_after_its_agents_ca_was_removed(files: Files, tmp_path: Path) -> None:
    slow, ca = Slow(), pki.Ca("example.org")
    files.clients(ca)
    async with hostile(slow) as server:
        made = web(server, files)
        async with gate(tmp_path, made) as sidecar, by(sidecar, ca.leaf(AGENT)) as agent:
            await initialize(agent)
            await agent.send(agent.request(method="GET", accept="text/event-stream"))
            await slow.asked.wait()
            files.clients(pki.Ca("example.org"))
            sidecar.reload(made)
            slow.go_on.set()
            assert (await agent.answer_head())[0] == 200
            async with asyncio.timeout(10):
                while await agent.event() is not None:
                    pass


class Halting:
    """A client that does all of a TLS handshake but for its last flight, which it holds back."""

    def __init__(self, leaf: pki.Leaf) -> None:
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = careless_client(leaf).wrap_bio(self._in, self._out, server_hostname="localhost")

    async def begin(self, sidecar: Gate) -> None:
        self._reader, self._writer = await asyncio.open_connection(*sidecar.app.mcp_address)
        while True:
            try:
                self._tls.do_handshake()
                return
            except ssl.SSLWantReadError:
                self._writer.write(self._out.read())
                self._in.write(await self._reader.read(65536))

    async def ask(self, data: bytes) -> bytes:
        """Send the last flight with this request; the first bytes of the answer, none where the connection is cut."""
        self._tls.write(data)
        self._writer.write(self._out.read())
        while received := await self._reader.read(65536):
            self._in.write(received)
            with suppress(ssl.SSLWantReadError):
                return self._tls.read()
        return b""

    def close(self) -> None:
        self._writer.close()


async def test_a_handshake_that_was_begun_under_a_ca_is_over_with_it(
    server: Hostile, files: Files, tmp_path: Path
) -> None:
    """Who holds one open while the CA is taken away would be let in afterwards, for as long as a connection lasts."""
    old, new = pki.Ca("example.org"), pki.Ca("example.org")
    files.clients(old)
    made = web(server, files)
    async with gate(tmp_path, made) as sidecar, by(sidecar, old.leaf(AGENT)) as agent:
        await initialize(agent)
        request = agent.request(call())
        for cas, let_in in [((old, new), True), ((new,), False)]:
            late = Halting(old.leaf(AGENT))
            await late.begin(sidecar)
            files.clients(*cas)
            sidecar.reload(made)
            try:
                async with asyncio.timeout(10):
                    assert (await late.ask(request)).startswith(b"HTTP/1.1 200 ") is let_in
            except CUT:
                assert not let_in
            finally:
                late.close()
        assert 'openmcp_tls_refused_total{reason="not signed by listen.tls.clientCa",side="client"} 1' in (
            await sidecar.page("/metrics")
        )


@pytest.mark.parametrize("kept", [True, False])
async def test_a_held_call_is_made_for_an_agent_whose_ca_is_still_there(
    kept: bool, server: Hostile, files: Files, tmp_path: Path
) -> None:
    ca, another = pki.Ca("example.org"), pki.Ca("example.org")
    files.clients(ca)
    made = guarded(server.url, approvals={"hold": "60s"}, identity={"workloadApi": "none", "agents": [BY_SVID]})
    made["listen"]["tls"] = files.tls
    async with gate(tmp_path, made) as sidecar, by(sidecar, ca.leaf(AGENT)) as agent:
        waiting = asyncio.create_task(agent.ask(call("guarded", ticket=7)))
        record = await approver(sidecar).asked()
        files.clients(another, *[ca] * kept)
        sidecar.reload(made)
        await approver(sidecar).approve(record)
        answer = await waiting
        made_there = [one for one in server.requests if one.method == "POST"]
        assert (answer.status, len(made_there)) == ((200, 1) if kept else (401, 0))
