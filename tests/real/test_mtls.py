"""Who may use what, and which servers are talked to: SVIDs of SPIRE, the sidecar as a process, SDKs on both sides."""

from __future__ import annotations

import asyncio
import json
import ssl
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.real.conftest import ALICE, BOB, GATEWAY, MESH, PARTNER, TICKETS, VISITOR, Certificate, Mesh, agent_at
from tests.support.gate import call, modern, modern_headers
from tests.support.parts import node, require, sdk_environment
from tests.support.process import ROOT, Sidecar, mcp_server, sidecar
from tests.support.raw import Answer, Closed, connect
from tests.support.spire import wait_until

pytestmark = pytest.mark.real

REFUSED = {
    "other": f"not one of servers[].auth.serverIds: the server is {BOB}",
    "posing": f"not signed by a CA of its own trust domain: {TICKETS}",
    "expired": "expired: certificate has expired",
    "nameless": "no URI SAN, thus no SPIFFE ID",
}
"""Servers nobody must talk to, and why."""


def allow(name: str, servers: list[str], *agents: str) -> dict[str, Any]:
    """A policy under which these agents may do everything there."""
    rule = {"name": "everything", "action": "allow"}
    return {"name": name, "servers": servers, "agents": list(agents), "requests": [rule]}


def configuration(mesh: Mesh, urls: dict[str, str]) -> dict[str, Any]:
    auth = {"type": "spiffe", "serverIds": [TICKETS]}
    domains = [MESH, PARTNER]
    return {
        "listen": {"tls": {"type": "spiffe", "trustDomains": domains}},
        "identity": {"workloadApi": mesh.gateway.address, "agents": [{"type": "mtls", "trustDomains": domains}]},
        "servers": [{"name": name, "endpoints": [url], "auth": auth} for name, url in urls.items()],
        "policies": [
            allow("alice", ["*"], ALICE),
            allow("everybody", ["notes"], f"spiffe://{MESH}/ns/support/sa/*", f"spiffe://{PARTNER}/*"),
        ],
    }


@pytest.fixture(scope="module")
def gateway(mesh: Mesh) -> Iterator[Sidecar]:
    """A sidecar in front of servers of every kind; `tickets` and `notes` are the same good one."""
    require("node", "sdk")
    good = mesh.certificates[TICKETS]
    servers = {
        "tickets": good,
        "other": mesh.certificates[BOB],
        "posing": mesh.forged("posing", mesh.intruder, TICKETS),
        "expired": mesh.forged("expired", mesh.root, TICKETS, ttl=-1),
        "nameless": mesh.forged("nameless", mesh.root, []),
    }
    with ExitStack() as stack:
        urls = {name: stack.enter_context(tls_server(name, certificate)) for name, certificate in servers.items()}
        yield stack.enter_context(sidecar(configuration(mesh, urls | {"notes": urls["tickets"]})))


def tls_server(name: str, certificate: Certificate) -> Any:
    """Run the SDK's server with this certificate."""
    files = (certificate.chain, certificate.key, certificate.bundle)
    script = ROOT / "tests" / "fixtures" / "node" / "mtls-server.mjs"
    return mcp_server(f"server {name}", node(script, *files), sdk_environment())


async def whoami(gateway: Sidecar, server: str, certificate: Certificate) -> str:
    """Ask the server, through the sidecar, whom it sees."""
    async with agent_at(f"{gateway.url}/{server}", certificate.client_context()) as client:
        result = await client.call_tool("whoami", {})
    return "".join(content.text for content in result.content if content.type == "text")


async def ask(gateway: Sidecar, server: str, context: ssl.SSLContext) -> Answer:
    """Send one call as an agent would, and return the whole answer."""
    document = call("whoami")
    async with connect(gateway.url, f"/{server}", context) as agent:
        return await agent.ask(modern(document), **modern_headers(document))


async def recorded(gateway: Sidecar, **fields: Any) -> list[dict[str, Any]]:
    """Return the lines of the record that have these fields; waits, as a line is written after its answer."""

    def found() -> list[dict[str, Any]]:
        return [line for line in gateway.records() if fields.items() <= line.items()]

    await asyncio.to_thread(wait_until, lambda: bool(found()), f"a record with {fields}")
    return found()


def readiness(gateway: Sidecar) -> Any:
    with urllib.request.urlopen(f"{gateway.admin}/readyz") as answer:
        return json.load(answer)


async def test_an_agent_uses_a_server_that_another_may_not(mesh: Mesh, gateway: Sidecar):
    assert await whoami(gateway, "tickets", mesh.certificates[ALICE]) == f"URI:{GATEWAY}"
    denied = await ask(gateway, "tickets", mesh.certificates[BOB].client_context())
    assert "no policy allows this" in denied.json["result"]["content"][0]["text"]
    assert await whoami(gateway, "notes", mesh.certificates[BOB]) == f"URI:{GATEWAY}"


async def test_an_agent_of_a_federated_domain_has_its_own_id(mesh: Mesh, gateway: Sidecar):
    assert await whoami(gateway, "notes", mesh.certificates[VISITOR]) == f"URI:{GATEWAY}"
    (line, *_) = await recorded(gateway, agent=VISITOR, method="tools/call", event="request")
    assert (line["server"], line["identified_by"], line["decision"]) == ("notes", "mtls", "allow")


@pytest.mark.parametrize("server", REFUSED)
async def test_a_server_that_is_not_the_right_one_is_refused(mesh: Mesh, gateway: Sidecar, server: str):
    why = REFUSED[server]
    answer = await ask(gateway, server, mesh.certificates[ALICE].client_context())
    assert answer.json["error"]["message"] == f"the MCP server is not trusted: {why}"
    (line,) = await recorded(gateway, server=server, event="response")
    assert (line["agent"], line["outcome"], line["reason"]) == (ALICE, "untrusted", why)
    assert f"server {server}: " in gateway.running.printed()
    assert why in gateway.running.printed()
    (endpoint,) = readiness(gateway)["servers"][server]["endpoints"]
    assert endpoint["problem"] == why


async def test_an_agent_without_a_certificate_is_told_so(mesh: Mesh, gateway: Sidecar):
    context = ssl.create_default_context(cafile=str(mesh.certificates[ALICE].bundle))
    context.check_hostname = False
    answer = await ask(gateway, "notes", context)
    assert (answer.status, answer.header("www-authenticate")) == (401, 'Bearer realm="openmcp"')
    assert "presents nothing that identity.agents knows" in answer.json["error"]["message"]


BAD_AGENTS = {
    "posing": f"not signed by a CA of its own trust domain: {ALICE}",
    "expired": "expired: certificate has expired",
    "nameless": "no URI SAN, thus no SPIFFE ID",
}


@pytest.mark.parametrize("name", BAD_AGENTS)
async def test_an_agent_with_a_bad_certificate_does_not_get_in(mesh: Mesh, gateway: Sidecar, name: str):
    forged = {
        "posing": lambda: mesh.forged("posing-agent", mesh.intruder, ALICE),
        "expired": lambda: mesh.forged("expired-agent", mesh.root, ALICE, ttl=-1),
        "nameless": lambda: mesh.forged("nameless-agent", mesh.root, []),
    }
    with pytest.raises((Closed, ssl.SSLError, ConnectionError)):
        await ask(gateway, "notes", forged[name]().client_context())
    assert f"the handshake of a client is refused: {BAD_AGENTS[name]}" in gateway.running.printed()
