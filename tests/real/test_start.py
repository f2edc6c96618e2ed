"""A sidecar that starts before there is an identity for it: it waits, says so, and serves as soon as it has one."""

from __future__ import annotations

import asyncio
import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.real.conftest import ALICE, MESH, TICKETS, Mesh, agent_at
from tests.real.test_mtls import allow, tls_server
from tests.support.parts import require
from tests.support.process import OPENMCP, free_ports, running
from tests.support.spire import wait_until

pytestmark = pytest.mark.real

SOON = 10.0


def configuration(address: str, url: str, folder: Path) -> dict[str, Any]:
    mcp, admin = (f"127.0.0.1:{port}" for port in free_ports(2))
    return {
        "apiVersion": "openmcp.dev/v1alpha1",
        "listen": {"mcp": mcp, "admin": admin, "tls": {"type": "spiffe", "trustDomains": [MESH]}},
        "identity": {"workloadApi": address, "agents": [{"type": "mtls", "trustDomains": [MESH]}]},
        "servers": [
            {
                "name": "tickets",
                "endpoints": [url],
                "auth": {"type": "spiffe", "serverIds": [TICKETS]},
                "health": {"interval": "1s", "unhealthyAfter": 1},
            }
        ],
        "policies": [allow("alice", ["tickets"], ALICE)],
        "telemetry": {"audit": {"output": {"file": str(folder / "audit.jsonl")}}},
    }


def readiness(config: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """Status and body of /readyz; 0 while nobody listens there."""
    try:
        with urllib.request.urlopen(f"http://{config['listen']['admin']}/readyz", timeout=5) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as answer:
        return answer.code, json.load(answer)
    except OSError:
        return 0, {}


async def test_an_entry_that_comes_later_makes_it_ready(mesh: Mesh, tmp_path: Path):
    require("node", "sdk")
    machine = await asyncio.to_thread(mesh.domain.agent, "late")
    with tls_server("tickets", mesh.certificates[TICKETS]) as url:
        config = configuration(machine.address, url, tmp_path)
        (tmp_path / "gateway.yaml").write_text(json.dumps(config))
        with running("openmcp run", [OPENMCP, "run", "-c", tmp_path / "gateway.yaml"], cwd=tmp_path) as sidecar:
            await asyncio.to_thread(wait_until, lambda: without_entry(config), "the sidecar to miss its entry")
            assert "no registration entry fits this process" in sidecar.printed()
            entry = await asyncio.to_thread(mesh.domain.register, machine, "/openmcp/late")
            took = await asyncio.to_thread(wait_until, lambda: readiness(config)[0] == 200, "the sidecar to be ready")
            assert took < SOON
            alice = mesh.certificates[ALICE].client_context()
            async with agent_at(f"https://{config['listen']['mcp']}/tickets", alice) as client:
                result = await client.call_tool("whoami", {})
            assert [content.text for content in result.content] == [f"URI:{mesh.domain.id('/openmcp/late')}"]
        mesh.domain.unregister(entry)


def without_entry(config: dict[str, Any]) -> bool:
    status, body = readiness(config)
    (endpoint,) = body.get("servers", {}).get("tickets", {"endpoints": [{}]})["endpoints"]
    known = body.get("identity", {}).get("state") == "no registration entry"
    return known and status == 503 and endpoint.get("problem") is not None and endpoint["healthy"] is True
