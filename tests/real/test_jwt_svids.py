"""JWT-SVIDs of real SPIRE both ways: those of agents are taken, ours is shown to a server and good for SPIRE itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.real.conftest import ALICE, BOB, GATEWAY, MESH, TICKETS, VISITOR, Mesh
from tests.real.test_source import until
from tests.support.gate import Gate, call, gate
from tests.support.hostile import Hostile, hostile
from tests.support.raw import Answer, connect

pytestmark = pytest.mark.real


def configuration(mesh: Mesh, url: str) -> dict[str, Any]:
    """Agents show JWT-SVIDs for `openmcp`; we show the server one for `tickets`."""
    agents = {"type": "jwtSvid", "audience": "openmcp", "trustDomains": [MESH]}
    rule = {"name": "everything", "action": "allow"}
    return {
        "apiVersion": "openmcp.dev/v1alpha1",
        "listen": {"mcp": "127.0.0.1:0", "admin": "127.0.0.1:0"},
        "identity": {"workloadApi": mesh.gateway.address, "agents": [agents]},
        "servers": [
            {
                "name": "tickets",
                "endpoints": [url],
                "auth": {"type": "jwtSvid", "audience": "tickets", "allowHttp": True},
                "health": {"interval": "1h"},
            }
        ],
        "policies": [{"name": "alice", "servers": ["tickets"], "agents": [ALICE], "requests": [rule]}],
    }


@pytest.fixture
async def server() -> AsyncIterator[Hostile]:
    async with hostile() as running:
        yield running


@pytest.fixture
async def gateway(mesh: Mesh, server: Hostile, tmp_path: Path) -> AsyncIterator[Gate]:
    """A sidecar that has its SVID and the keys of trust domains, which come by a stream of their own."""
    async with gate(tmp_path, configuration(mesh, server.url)) as running:
        await running.has_identity(GATEWAY)
        source = running.app._identities.source
        assert source is not None
        await until(lambda: source.jwt_generation > 0)
        yield running


async def ask(gateway: Gate, token: str) -> Answer:
    async with connect(gateway.url, "/tickets", authorization=f"Bearer {token}") as agent:
        return await agent.ask(call("anything"))


async def token_of(mesh: Mesh, id: str, audience: str = "openmcp") -> str:
    return await asyncio.to_thread(mesh.machines[id].jwt_svid, audience)


async def test_an_agent_is_known_by_its_token_and_the_server_sees_ours(mesh: Mesh, gateway: Gate, server: Hostile):
    token = await token_of(mesh, ALICE)
    answer = await ask(gateway, token)
    assert "result" in answer.json
    line = await gateway.recorded(event="request")
    assert (line["agent"], line["identified_by"], line["decision"]) == (ALICE, "jwtSvid", "allow")
    (request,) = [request for request in server.requests if not request.is_health_check]
    scheme, _, shown = (request.header("authorization") or "").partition(" ")
    assert (scheme, shown != token) == ("Bearer", True)
    assert await asyncio.to_thread(mesh.machines[TICKETS].validated, "tickets", shown) == GATEWAY


async def test_a_policy_tells_agents_apart(mesh: Mesh, gateway: Gate, server: Hostile):
    answer = await ask(gateway, await token_of(mesh, BOB))
    assert "no policy allows this" in answer.json["result"]["content"][0]["text"]
    assert [request for request in server.requests if not request.is_health_check] == []


@pytest.mark.parametrize(
    ("id", "audience", "why"),
    [(ALICE, "tickets", "audience"), (VISITOR, "openmcp", "the trust domain of the token is not accepted")],
)
async def test_a_token_for_others_or_of_others_is_refused(
    mesh: Mesh, gateway: Gate, server: Hostile, id: str, audience: str, why: str
):
    answer = await ask(gateway, await token_of(mesh, id, audience))
    assert answer.status == 401
    assert 'error="invalid_token"' in (answer.header("www-authenticate") or "")
    assert why in answer.json["error"]["message"]
    assert server.requests == []
