"""What `openmcp init --profile vm` writes runs once it is filled in: on real SPIRE, with the server of its example."""

from __future__ import annotations

import asyncio
import base64
import os
import re
import socket
import sys
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path

import httpx2
import pytest
from mcp.client.client import Client
from mcp.client.streamable_http import streamable_http_client

from openmcp.config import load, scaffold
from tests.real.conftest import ALICE, GATEWAY, MESH, TICKETS, Mesh
from tests.support.process import OPENMCP, ROOT, free_ports, running

pytestmark = pytest.mark.real

CHANGES = {
    r"127\.0\.0\.1:15001 ": "127.0.0.1:{mcp} ",
    r"127\.0\.0\.1:15020 ": "127.0.0.1:{admin} ",
    r"https://tickets\.change-me\.example:8443/mcp": "https://127.0.0.1:{server}/mcp",
    r"spiffe://change-me\.example/tools/tickets": TICKETS,
    r"spiffe://change-me\.example/agents/support-bot": ALICE,
    r"\[change-me\.example\]": f"[{MESH}]",
    r"/run/credentials/openmcp\.service/": "{folder}/",
    r"/var/lib/openmcp/": "{folder}/",
}
"""What the reader fills in, and the places that systemd makes."""
PATIENCE = 60.0
"""Seconds for an answer; nothing here takes so long by itself."""


def filled_in(folder: Path) -> tuple[Path, dict[str, int]]:
    """Return the configuration of the profile for this machine, and its ports."""
    file = scaffold.write(folder, "vm")[0]
    ports = dict(zip(("mcp", "admin", "server"), free_ports(3), strict=True))
    text = file.read_text()
    for pattern, value in CHANGES.items():
        place = value.format(folder=folder, **ports)
        text, count = re.subn(rf"(?m)^([^#\n]*?){pattern}", lambda found, new=place: found[1] + new, text)
        assert count > 0, pattern
    file.write_text(text)
    (folder / "session.key").write_bytes(base64.b64encode(os.urandom(32)))
    return file, ports


async def asked(url: str, token: str, tool: str) -> str:
    """Return what an agent with this JWT-SVID is told by a tool."""
    headers = {"Authorization": f"Bearer {token}"}
    async with (
        httpx2.AsyncClient(headers=headers, timeout=PATIENCE) as http,
        Client(streamable_http_client(url, http_client=http)) as client,
    ):
        (content,) = (await client.call_tool(tool, {"ticket_id": "101"})).content
        assert content.type == "text"
        return content.text


def ready(port: int) -> str | None:
    with suppress(OSError, urllib.error.HTTPError):
        return urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=1).read().decode()
    return None


async def test_the_profile_for_a_vm_runs(mesh: Mesh, tmp_path: Path):
    file, ports = filled_in(tmp_path)
    assert load(file).warnings == ()
    program = [sys.executable, ROOT / "examples" / "vm-spire" / "server.py", str(ports["server"]), GATEWAY]
    servers = running("server", program, {"SPIFFE_ENDPOINT_SOCKET": mesh.machines[TICKETS].address})
    gateways = running("openmcp", [OPENMCP, "run", "-c", file], {"SPIFFE_ENDPOINT_SOCKET": mesh.gateway.address})
    with servers as server, gateways as gateway:
        server.wait_for(lambda: "serving as" if f"serving as {TICKETS}" in server.printed() else None)
        socket.create_connection(("127.0.0.1", ports["server"])).close()  # what it says is so
        gateway.wait_for(lambda: ready(ports["admin"]))
        token = await asyncio.to_thread(mesh.machines[ALICE].jwt_svid, "openmcp")
        url = f"http://127.0.0.1:{ports['mcp']}/tickets"
        assert await asked(url, token, "get_ticket_status") == "open"
        assert "deleting is left to people" in await asked(url, token, "delete_ticket")
    record = tmp_path / "audit.jsonl"
    assert record.read_text().count('"decision":"deny"') == 1
    assert record.stat().st_mode & 0o077 == 0
