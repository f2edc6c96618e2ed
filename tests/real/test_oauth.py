"""A server behind OAuth, an agent and a gateway without any secret: SPIRE's JWT-SVID opens it."""

from __future__ import annotations

from pathlib import Path

import pytest
from mcp.client.client import Client

from tests.real.conftest import GATEWAY, Mesh
from tests.support.gate import gate
from tests.support.guarded import by_oauth, tools
from tests.support.oauth import issuer

pytestmark = pytest.mark.real


@pytest.mark.parametrize("kind", ["jwtSvid", "jwtSvidSpiffe"])
async def test_spires_jwt_svid_is_a_clients_assertion(mesh: Mesh, tmp_path: Path, kind: str) -> None:
    async with issuer(mesh.domain.spiffe_bundle(), GATEWAY) as authorization, tools() as server:
        config = by_oauth(tmp_path, mesh.gateway.address, authorization, server, kind)
        async with gate(tmp_path, config) as sidecar:
            await sidecar.has_identity(GATEWAY)
            async with Client(f"{sidecar.url}/server", mode="legacy") as agent:
                for _ in range(3):
                    (content,) = (await agent.call_tool("allowed", {})).content
                    assert content.text == "for openmcp"
        assert [(claims["sub"], claims["aud"]) for claims in authorization.assertions] == [
            (GATEWAY, [authorization.url])
        ]
