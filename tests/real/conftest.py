"""A mesh on real SPIRE: a trust domain with a machine for each of two AI agents, the sidecar and an MCP server."""

from __future__ import annotations

import ssl
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest
from mcp.client.client import Client
from mcp.client.streamable_http import streamable_http_client

from tests.fakes.pki import Ca
from tests.support.parts import require
from tests.support.spire import Agent, Domain, federate, trust_domain

MESH, PARTNER, INTRUDER = "mesh.example", "partner.example", "intruder.example"
ALICE, BOB = f"spiffe://{MESH}/ns/support/sa/alice", f"spiffe://{MESH}/ns/support/sa/bob"
GATEWAY, TICKETS = f"spiffe://{MESH}/openmcp", f"spiffe://{MESH}/ns/tools/sa/tickets"
VISITOR = f"spiffe://{PARTNER}/visitor"


@dataclass(frozen=True)
class Certificate:
    """Files: a chain with its key, and the CA certificates its owner trusts."""

    chain: Path
    key: Path
    bundle: Path

    def client_context(self) -> ssl.SSLContext:
        """Return what a client needs to show it, by Python's own TLS."""
        context = ssl.create_default_context(cafile=str(self.bundle))
        context.check_hostname = False  # an SVID names no host
        context.load_cert_chain(self.chain, self.key)
        return context


@dataclass(frozen=True)
class Mesh:
    """Two trust domains on SPIRE that federate, and a third one federated with ours whose CA is `intruder`.

    `root` is our own domain's: with it a test makes what SPIRE would not. `machines` are the SPIRE agents of the
    workloads, `certificates` what these have written for them, both by the workload's ID.
    """

    domain: Domain
    partner: Domain
    root: Ca
    intruder: Ca
    gateway: Agent
    machines: dict[str, Agent]
    certificates: dict[str, Certificate]
    folder: Path

    def forged(self, name: str, ca: Ca, uris: str | list[str], ttl: float = 3600) -> Certificate:
        """Return a certificate that no SPIRE made; its owner trusts our domain."""
        leaf = ca.leaf(uris, ttl=ttl, san=bool(uris))
        chain, key = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        chain.write_bytes(leaf.chain_pem())
        key.write_bytes(leaf.key_pem())
        return Certificate(chain, key, self.certificates[TICKETS].bundle)


def key_pem(ca: Ca) -> bytes:
    """Return the key of a CA."""
    return ca.leaf((), san=False, key=ca.key).key_pem()


@pytest.fixture(scope="session")
def mesh() -> Iterator[Mesh]:
    """The mesh, for all tests of a run; whoever changes it puts it back."""
    require("spire")
    root, intruder = Ca(MESH), Ca(INTRUDER)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mesh-")))
        ours = stack.enter_context(trust_domain(MESH, (root.pem, key_pem(root))))
        partner = stack.enter_context(trust_domain(PARTNER))
        federate(ours, partner)
        ours.trust(INTRUDER, intruder.pem.decode())
        machines = {ALICE: ours.agent("alice"), BOB: ours.agent("bob"), TICKETS: ours.agent("tickets")}
        certificates = {id: written(ours, agent, id, folder / agent.name) for id, agent in machines.items()}
        machines[VISITOR] = partner.agent("visitor")
        certificates[VISITOR] = written(partner, machines[VISITOR], VISITOR, folder / "visitor", MESH)
        gateway = ours.agent("gateway")
        ours.register(gateway, "/openmcp", federates=[PARTNER, INTRUDER])
        yield Mesh(ours, partner, root, intruder, gateway, machines, certificates, folder)


def written(domain: Domain, agent: Agent, id: str, folder: Path, *federates: str) -> Certificate:
    """Register a workload and have its SVID written, as a program without a Workload API client needs it."""
    domain.register(agent, id.removeprefix(f"spiffe://{domain.name}"), federates=federates)
    folder.mkdir()
    agent.write_svid(folder)
    bundle = folder / "bundle.pem"
    bundle.write_text("".join(file.read_text() for file in sorted(folder.glob("*bundle*.pem"))))
    return Certificate(folder / "svid.0.pem", folder / "svid.0.key", bundle)


@asynccontextmanager
async def agent_at(url: str, context: ssl.SSLContext) -> AsyncIterator[Client]:
    """Connect the Python SDK's client, by its usual HTTP library."""
    async with (
        httpx2.AsyncClient(verify=context, timeout=30) as http,
        Client(streamable_http_client(url, http_client=http)) as client,
    ):
        yield client
