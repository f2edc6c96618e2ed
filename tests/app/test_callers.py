"""Callers known by their connection, through a whole sidecar: the agent of this pod, and agents with SVIDs."""

import ssl
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest

from tests.fakes import pki
from tests.fakes.workload_api import GATEWAY, FakeWorkloadApi
from tests.support.gate import Gate, call, configuration, gate, initialize, message
from tests.support.hostile import Hostile
from tests.support.raw import Connection, connect

A, B = "spiffe://example.org/ns/support/sa/a", "spiffe://example.org/ns/support/sa/b"


def settings(server: Hostile, workload_api: FakeWorkloadApi, *agents: dict[str, Any]) -> dict[str, Any]:
    made = configuration(server.url)
    made["identity"] = {"workloadApi": workload_api.address, "agents": list(agents)}
    return made


async def test_the_agent_of_this_pod_is_known_by_our_svid(
    server: Hostile, workload_api: FakeWorkloadApi, tmp_path: Path
) -> None:
    workload_api.deny()
    async with gate(tmp_path, settings(server, workload_api, {"type": "workload"})) as sidecar:
        async with connect(sidecar.url) as agent:
            answer = await agent.ask(call())
            assert (answer.status, server.requests) == (503, []), "we do not know yet who that is"
            assert "the SVID of this workload is not known" in answer.json["error"]["message"]
            assert answer.header("www-authenticate") is None
            workload_api.allow()
            await sidecar.has_identity(GATEWAY)
            assert (await agent.ask(call())).status == 200
            assert (await agent.ask(call(), x_forwarded_for="10.0.0.1")).status == 401
        line = await sidecar.recorded(event="request")
        assert (line["agent"], line["identified_by"]) == (GATEWAY, "workload")
        assert 'openmcp_identification_refused_total{reason="no_identity"} 1.0' in await sidecar.page("/metrics")


@pytest.fixture
async def sidecar(server: Hostile, workload_api: FakeWorkloadApi, tmp_path: Path) -> AsyncIterator[Gate]:
    """A sidecar that knows agents by their SVIDs, and lets A alone use the server."""
    workload_api.federate("partner.example", PARTNER)
    made = settings(server, workload_api, {"type": "mtls", "trustDomains": ["example.org"]})
    made["listen"]["tls"] = {"type": "spiffe", "trustDomains": ["example.org", "partner.example"]}
    made["policies"] = [made["policies"][0] | {"agents": [A]}]
    async with gate(tmp_path, made) as running:
        await running.has_identity(GATEWAY)
        yield running


PARTNER = pki.Ca("partner.example")


def by(sidecar: Gate, folder: Path, ca: pki.Ca, leaf: pki.Leaf | None) -> AbstractAsyncContextManager[Connection]:
    """A connection with this SVID, or with none."""
    context = ssl.create_default_context(cadata=ca.pem.decode())
    context.check_hostname = False
    if leaf is not None:
        (folder / "svid.pem").write_bytes(leaf.pem())
        context.load_cert_chain(folder / "svid.pem")
    return connect(sidecar.url, tls=context)


async def test_agents_are_known_by_their_svids(
    sidecar: Gate, server: Hostile, workload_api: FakeWorkloadApi, tmp_path: Path
) -> None:
    """A may use a server that B may not; whoever shows nothing, or is of another domain, hears why."""
    ca = workload_api.ca
    async with by(sidecar, tmp_path, ca, ca.leaf(A)) as agent:
        await initialize(agent)
        assert "isError" not in (await agent.ask(call())).json["result"]
        session = agent.headers["mcp-session-id"]
    seen = len(server.requests)
    async with by(sidecar, tmp_path, ca, ca.leaf(B)) as agent:
        assert (await agent.ask(call())).json["result"]["isError"] is True
        assert (await agent.ask(message("ping"), mcp_session_id=session)).status == 404
    async with by(sidecar, tmp_path, ca, None) as agent:
        answer = await agent.ask(call())
        assert (answer.status, answer.header("www-authenticate")) == (401, 'Bearer realm="openmcp"')
    async with by(sidecar, tmp_path, ca, PARTNER.leaf("spiffe://partner.example/x")) as agent:
        answer = await agent.ask(call())
        assert answer.status == 401
        assert "not of a workload that is accepted" in answer.json["error"]["message"]
    assert len(server.requests) == seen
    lines = [line for line in await sidecar.records() if line["event"] == "request"]
    assert {(line["agent"], line["identified_by"], line["decision"]) for line in lines} == {
        (A, "mtls", "allow"),
        (B, "mtls", "deny"),
    }


async def test_a_session_goes_on_with_the_next_svid_of_the_same_agent(
    sidecar: Gate, workload_api: FakeWorkloadApi, tmp_path: Path
) -> None:
    ca = workload_api.ca
    async with by(sidecar, tmp_path, ca, ca.leaf(A)) as agent:
        session = await initialize(agent)
    async with by(sidecar, tmp_path, ca, ca.leaf(A)) as agent:
        answer = await agent.ask(call(), mcp_session_id=session, mcp_protocol_version="2025-11-25")
        assert answer.status == 200
