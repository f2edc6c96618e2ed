"""Servers behind mutual TLS, through a whole sidecar: who is refused, and who is told why."""

import json
from pathlib import Path
from typing import Any

import pytest

from openmcp.identity.peer import certificate_of
from openmcp.identity.tls import SpiffeTls
from tests.app.test_reload import COMPLETED, open_get, open_listen, streaming
from tests.fakes import pki
from tests.fakes.workload_api import GATEWAY, FakeWorkloadApi
from tests.support.gate import call, configuration, gate, initialize, message
from tests.support.hostile import Reply, Request, friendly, hostile
from tests.support.mtls import Moved, bundles_of, careless_client, careless_server
from tests.support.raw import connect

DOMAIN = "example.org"
SERVER = "spiffe://example.org/ns/tools/sa/server"


def settings(url: str, workload_api: FakeWorkloadApi, **server: Any) -> dict[str, Any]:
    made = configuration(url, auth={"type": "spiffe", "serverIds": [SERVER]}, **server)
    made["identity"] = {"workloadApi": workload_api.address, "agents": [{"type": "workload"}]}
    return made


async def test_the_server_sees_who_we_are(workload_api: FakeWorkloadApi, tmp_path: Path) -> None:
    seen: set[str] = set()

    async def look(request: Request, reply: Reply) -> None:
        certificate = certificate_of(reply.writer.get_extra_info("ssl_object"))
        seen.add(str(certificate.spiffe_id if certificate is not None else None))
        await friendly(request, reply)

    context = SpiffeTls(Moved.of(workload_api.ca, SERVER)).server_context(lambda why: None)
    async with hostile(look, tls=context) as server, gate(tmp_path, settings(server.url, workload_api)) as sidecar:
        await sidecar.has_identity(GATEWAY)
        async with connect(sidecar.url) as agent:
            await initialize(agent)
            assert "isError" not in (await agent.ask(call())).json["result"]
    assert seen == {GATEWAY}


def wrong_id(ca: pki.Ca) -> pki.Leaf:
    return ca.leaf("spiffe://example.org/ns/tools/sa/other")


def posing(ca: pki.Ca) -> pki.Leaf:
    return PARTNER.leaf(SERVER)


def nameless(ca: pki.Ca) -> pki.Leaf:
    return ca.leaf([], dns=["localhost"])


def expired(ca: pki.Ca) -> pki.Leaf:
    return ca.leaf(SERVER, begins=-3600, ttl=-60)


PARTNER = pki.Ca("partner.example")
REFUSED = {
    wrong_id: "not one of servers[].auth.serverIds: the server is spiffe://example.org/ns/tools/sa/other",
    posing: f"not signed by a CA of its own trust domain: {SERVER}",
    nameless: "no URI SAN, thus no SPIFFE ID",
    expired: "expired: certificate has expired",
}


@pytest.mark.parametrize("make", REFUSED)
async def test_a_server_that_is_not_trusted_is_told_of_everywhere(
    make: Any, workload_api: FakeWorkloadApi, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    why = REFUSED[make]
    workload_api.federate("partner.example", PARTNER)
    async with hostile(tls=careless_server(make(workload_api.ca))) as server:
        async with gate(tmp_path, settings(server.url, workload_api)) as sidecar, connect(sidecar.url) as agent:
            await sidecar.has_identity(GATEWAY)
            for number in (1, 2):
                answer = await agent.ask(call(identifier=number))
                said = f"the MCP server is not trusted: {why}"
                assert (answer.status, answer.json["error"]) == (200, {"code": -32603, "message": said})
            answer = await agent.ask(message("notifications/initialized", None))
            assert answer.status == 502
            line = await sidecar.recorded(id=1, ends=True)
            assert (line["outcome"], line["reason"]) == ("untrusted", why)
            ready = json.loads((await sidecar.page("/readyz")).partition("\r\n\r\n")[2])
            assert ready["servers"]["server"]["endpoints"][0]["problem"] == why
            metrics = await sidecar.page("/metrics")
            assert f'openmcp_tls_refused_total{{reason="{why.partition(":")[0]}",side="server"}}' in metrics
        assert server.requests == []
    assert len([text for text in caplog.messages if why in text and "cannot be used" in text]) == 1


async def test_without_an_svid_the_caller_hears_what_we_lack(workload_api: FakeWorkloadApi, tmp_path: Path) -> None:
    workload_api.deny()
    context = SpiffeTls(Moved.of(workload_api.ca, SERVER)).server_context(lambda why: None)
    async with hostile(tls=context) as server:
        made = settings(server.url, workload_api)
        made["identity"]["agents"] = [{"type": "none"}]
        made["policies"] = [made["policies"][0] | {"agents": ["*"]}]
        async with gate(tmp_path, made) as sidecar, connect(sidecar.url) as agent:
            answer = await agent.ask(call())
            assert answer.status == 200
            said = answer.json["error"]["message"]
            assert said.startswith("the gateway has no identity to show the MCP server: ")
            assert (await agent.ask(message("notifications/initialized", None))).status == 503
            line = await sidecar.recorded(id=1, ends=True)
            assert line["outcome"] == "identity"
            assert said.endswith(line["reason"])
            workload_api.allow()
            await sidecar.has_identity(GATEWAY)
            assert "isError" not in (await agent.ask(call(identifier=3))).json["result"]


async def test_streams_end_properly_when_the_server_is_no_longer_trusted(
    workload_api: FakeWorkloadApi, tmp_path: Path
) -> None:
    """The bundle loses the CA of the server: its streams end, calls are refused, until it has an SVID of the new CA."""
    source = Moved.of(workload_api.ca, SERVER)
    context = SpiffeTls(source).server_context(lambda why: None)
    async with hostile(streaming, tls=context) as server, gate(tmp_path, settings(server.url, workload_api)) as sidecar:
        await sidecar.has_identity(GATEWAY)
        async with connect(sidecar.url) as agent, connect(sidecar.url) as getter, connect(sidecar.url) as listener:
            await initialize(agent)
            getter.headers |= agent.headers
            await open_get(getter)
            await open_listen(listener)
            workload_api.rotate_ca(keep_old=False)
            assert (await getter.event(), await listener.event()) == (None, COMPLETED)
            assert await listener.event() is None
            answer = await agent.ask(call(identifier=7))
            assert answer.json["error"]["message"].startswith("the MCP server is not trusted: ")
            source.rotate(pki.svid(workload_api.ca, SERVER), bundles_of(workload_api.ca))
            assert "isError" not in (await agent.ask(call(identifier=8))).json["result"]


async def test_streams_end_properly_when_the_agent_is_no_longer_trusted(
    workload_api: FakeWorkloadApi, tmp_path: Path
) -> None:
    """The bundle loses the CA of an agent: its streams and connections end; with an SVID of the new CA it is back."""
    id = "spiffe://example.org/ns/support/sa/a"
    async with hostile(streaming) as server:
        made = configuration(server.url)
        made["identity"] = {"workloadApi": workload_api.address, "agents": [{"type": "mtls", "trustDomains": [DOMAIN]}]}
        made["listen"]["tls"] = {"type": "spiffe", "trustDomains": [DOMAIN]}
        async with gate(tmp_path, made) as sidecar:
            await sidecar.has_identity(GATEWAY)
            tls = careless_client(workload_api.ca.leaf(id))
            async with (
                connect(sidecar.url, tls=tls) as agent,
                connect(sidecar.url, tls=tls) as getter,
                connect(sidecar.url, tls=tls) as listener,
            ):
                await initialize(agent)
                getter.headers |= agent.headers
                await open_get(getter)
                await open_listen(listener)
                workload_api.rotate_ca(keep_old=False)
                assert (await getter.event(), await listener.event()) == (None, COMPLETED)
                assert await agent.closed() == b""
            async with connect(sidecar.url, tls=careless_client(workload_api.ca.leaf(id))) as agent:
                assert "isError" not in (await agent.ask(call(identifier=8))).json["result"]
