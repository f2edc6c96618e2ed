"""Calls go on while everything that identifies us changes, on real SPIRE: SVIDs, CAs, bundles, and the agent is away.

    make soak ARGS=rotation DURATION=900          SVIDs live a minute; an outage of four minutes comes on top
    python -m tests.soak.rotation --seconds 30    the short form: SVIDs of 20 seconds, an outage of 10

AI agents, the sidecar and an MCP server each have a machine of their own with a SPIRE agent. Exit code 1 where a call
failed or a change took no effect in time.
"""

from __future__ import annotations

import argparse
import asyncio
import ssl
import statistics
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from openmcp.identity.material import Bundles, Svid, SvidChoice
from openmcp.identity.source import SvidSource
from openmcp.identity.spiffe_id import SpiffeId
from openmcp.identity.tls import SpiffeTls
from tests.real_parts import install
from tests.soak.load import Agents, Tally
from tests.support.process import Sidecar, mcp_server, python_server, sidecar
from tests.support.raw import Closed
from tests.support.spire import Agent, Domain, federate, trust_domain

OURS, PARTNER = "mesh.example", "partner.example"
CALLER, GATEWAY, SERVER = (f"spiffe://{OURS}/{name}" for name in ("agent", "openmcp", "server"))
RATE = 50
"""Calls a second, by all connections together."""
CONNECTIONS, STREAMS = 8, 4
EFFECT = 15.0
"""Seconds in which a change in SPIRE must have its effect on the sidecar: agents ask their server every second."""
RECOVERY = 10.0


@dataclass(frozen=True)
class Plan:
    """How long: SVIDs of `ttl` seconds are rotated for `seconds`, then the sidecar's agent is away for `outage`."""

    seconds: int
    ttl: int
    outage: int

    @classmethod
    def of(cls, seconds: int) -> Plan:
        """Return the plan for so many seconds of rotation: from five minutes on the long one."""
        return cls(seconds, 60, 240) if seconds >= 300 else cls(seconds, 20, 10)


@dataclass
class Report:
    """What was seen. Times are seconds from the change in SPIRE to its effect."""

    plan: Plan
    tally: Tally = field(default_factory=Tally)
    rotations: dict[str, int] = field(default_factory=dict)
    new_ca: float = 0.0
    old_ca_refused: float = 0.0
    stranger_dropped: float = 0.0
    stranger_refused: float = 0.0
    recovery: float = 0.0
    memory: int = 0
    faults: list[str] = field(default_factory=list)

    def text(self) -> str:
        """Return it for people."""
        tally, plan = self.tally, self.plan
        quantiles = statistics.quantiles([one * 1000 for one in tally.latencies], n=1000)
        lines = [
            f"{plan.seconds} s with SVIDs of {plan.ttl} s, then the sidecar's SPIRE agent away for {plan.outage} s",
            f"calls: {tally.calls}, median {quantiles[499]:.1f} ms, 99.9 % {quantiles[998]:.1f} ms",
            f"streams: {tally.streams} of {1.5 * plan.ttl:.0f} s each, {tally.events} events",
            f"sessions: {tally.sessions}, listened to {tally.listened} times, as connections end with certificates",
            f"connections of the agents: {tally.connections}",
            f"calls made again, as their connections had lost their CA: {tally.crossed}",
            f"failures: {len(tally.failures)}",
            *(f"  {failure}" for failure in tally.failures[:20]),
            "rotations: " + ", ".join(f"{who} {count}" for who, count in self.rotations.items()),
            f"the sidecar had an SVID of the new CA after {self.new_ca:.1f} s",
            f"an SVID of the revoked CA was refused after {self.old_ca_refused:.1f} s",
            f"after the end of a federation its agent's connection was closed in {self.stranger_dropped:.1f} s, "
            f"new ones were refused in {self.stranger_refused:.1f} s",
            f"a new SVID {self.recovery:.1f} s after the SPIRE agent was back",
            f"memory of the sidecar: {self.memory} MiB",
            *(f"FAULT: {fault}" for fault in self.faults),
        ]
        return "\n".join(lines)

    @property
    def good(self) -> bool:
        """Whether all was as it must be."""
        return not self.faults and not self.tally.failures


@dataclass(frozen=True)
class World:
    """What runs: two domains, an agent of SPIRE for each of us, the sidecar."""

    ours: Domain
    partner: Domain
    agents: dict[str, Agent]
    entry: str
    sidecar: Sidecar


@dataclass(frozen=True)
class Frozen:
    """A source that never changes: an SVID as somebody kept it."""

    svid: Svid
    bundles: Bundles
    generation: int = 1

    def own(self) -> Svid:
        """Return the SVID."""
        return self.svid


@contextmanager
def world(plan: Plan) -> Iterator[World]:
    """Start everything; what the sidecar printed is shown at the end."""
    with ExitStack() as stack:
        ours, partner = (stack.enter_context(trust_domain(name)) for name in (OURS, PARTNER))
        federate(ours, partner)
        agents = {name: ours.agent(name) for name in ("agent", "openmcp", "server")}
        agents["partner"] = partner.agent("partner")
        ours.register(agents["agent"], "/agent", ttl=plan.ttl)
        ours.register(agents["server"], "/server", ttl=plan.ttl)
        entry = ours.register(agents["openmcp"], "/openmcp", ttl=plan.ttl, federates=[PARTNER])
        partner.register(agents["partner"], "/agent", ttl=3600, federates=[OURS])
        command = python_server("tests.fixtures.spiffe_server", "--workload-api", agents["server"].address)
        url = stack.enter_context(mcp_server("the MCP server", command))
        running = stack.enter_context(sidecar(configuration(agents["openmcp"], url)))
        stack.callback(lambda: print(f"--- log of the sidecar ---\n{running.running.printed()[-8000:]}"))
        yield World(ours, partner, agents, entry, running)


def configuration(agent: Agent, url: str) -> dict[str, Any]:
    """The sidecar's: both domains may call the server."""
    domains = [OURS, PARTNER]
    rule = {"name": "everything", "action": "allow"}
    return {
        "listen": {"tls": {"type": "spiffe", "trustDomains": domains}},
        "identity": {"workloadApi": agent.address, "agents": [{"type": "mtls", "trustDomains": domains}]},
        "servers": [{"name": "server", "endpoints": [url], "auth": {"type": "spiffe", "serverIds": [SERVER]}}],
        "policies": [
            {"name": "both", "servers": ["server"], "agents": [CALLER, f"spiffe://{PARTNER}/*"], "requests": [rule]}
        ],
    }


@asynccontextmanager
async def identity(agent: Agent) -> AsyncIterator[SvidSource]:
    """Follow the Workload API of an agent; there is an SVID when it is yielded."""
    source, ready = SvidSource(agent.address, SvidChoice()), asyncio.Event()
    source.subscribe(ready.set)
    source.start()
    try:
        async with asyncio.timeout(EFFECT):
            await ready.wait()
        yield source
    finally:
        await source.stop()


async def run(plan: Plan, there: World) -> Report:
    """Let agents call for as long as the plan says, and change what there is to change."""
    report = Report(plan)
    async with identity(there.agents["agent"]) as source, identity(there.agents["partner"]) as strangers:
        callers = agents_of(there, source, report.tally)
        callers.again = True
        async with asyncio.TaskGroup() as group:
            for _ in range(CONNECTIONS):
                group.create_task(callers.call(CONNECTIONS / RATE))
            for _ in range(STREAMS):
                group.create_task(callers.stream(1.5 * plan.ttl))
            group.create_task(callers.listen())
            try:
                await changes(plan, there, source, strangers, report)
            except TimeoutError as fault:
                report.faults.append(str(fault))
            finally:
                callers.ending.set()
        if report.tally.crossed > CONNECTIONS:  # a CA is revoked while its SVIDs are in use, once
            report.faults.append(f"{report.tally.crossed} calls were cut off by the end of their connections")
        report.rotations["agents"] = source.stats.rotations
        report.memory = there.sidecar.running.resident()
    return report


def agents_of(there: World, source: Any, tally: Tally) -> Agents:
    """Agents with the SVID of `source`; the server must see the sidecar in front of them."""
    tls = SpiffeTls(source)
    return Agents(there.sidecar.url, "/server", lambda: tls.client_context((GATEWAY,)), GATEWAY, tally)


async def changes(plan: Plan, there: World, source: SvidSource, strangers: SvidSource, report: Report) -> None:
    """Rotate, replace the CA, end the federation, have the sidecar's agent away, one after the other."""
    third = plan.seconds / 3
    await asyncio.sleep(third)
    await new_ca(there, source, report)
    await asyncio.sleep(third)
    await end_of_federation(there, source, strangers, report)
    await asyncio.sleep(third)
    report.rotations["sidecar"] = await rotations(there)
    least = 2 if plan.seconds < 3 * plan.ttl else plan.seconds // plan.ttl
    if min(source.stats.rotations, report.rotations["sidecar"]) < least:
        report.faults.append(f"fewer than {least} rotations")
    await outage(plan, there, report)


async def new_ca(there: World, source: SvidSource, report: Report) -> None:
    """Replace our domain's CA: SVIDs are made anew by the next one, those of the old one are refused."""
    ours = there.ours
    kept = await asyncio.to_thread(minted, ours, "/agent")
    thief = agents_of(there, Frozen(kept, source.bundles), Tally())
    if not await taken(thief):
        report.faults.append("an SVID of our CA was refused")
    before = await rotations(there)
    prepared = await asyncio.to_thread(ours.prepare_ca)
    old = await asyncio.to_thread(ours.activate_ca, prepared)
    began = time.monotonic()
    await asyncio.to_thread(ours.taint_ca, old)
    while await rotations(there) == before:
        await due(began, "no SVID of the new CA")
    report.new_ca = time.monotonic() - began
    began = time.monotonic()
    await asyncio.to_thread(ours.revoke_ca, old)
    while await taken(thief):
        await due(began, "the SVID of a revoked CA was taken")
    report.old_ca_refused = time.monotonic() - began


async def end_of_federation(there: World, source: SvidSource, strangers: SvidSource, report: Report) -> None:
    """Take the partner's bundle away: its agents are not served any more, on connections of before neither."""
    began = time.monotonic()
    await asyncio.to_thread(federate, there.ours, there.partner)  # which has to learn of our new CA
    while strangers.bundles.get(OURS) != source.bundles[OURS]:
        await due(began, "the partner's agent did not get our new CA")
    visitors = agents_of(there, strangers, Tally())
    async with visitors.connection() as visitor:
        if await visitors.served(visitor) == "close" or visitors.tally.failures:
            report.faults.append(f"the partner's agent was not served: {visitors.tally.failures}")
        began = time.monotonic()
        await asyncio.to_thread(there.ours.distrust, PARTNER)
        visitor.patience = EFFECT
        try:
            await visitor.closed()
        except TimeoutError:
            report.faults.append("the connection of the partner's agent was left open")
        report.stranger_dropped = time.monotonic() - began
    while await taken(visitors):
        await due(began, "the partner's agent was let in")
    report.stranger_refused = time.monotonic() - began


async def outage(plan: Plan, there: World, report: Report) -> None:
    """Have the sidecar's SPIRE agent away, for less than what its SVID then lives."""
    ours, agent = there.ours, there.agents["openmcp"]
    await asyncio.to_thread(ours.set_ttl, there.entry, 2 * plan.outage + 60)
    began = time.monotonic()
    while await lifetime(there) < plan.ttl + plan.outage:  # one more of the old kind may come before
        await due(began, "the sidecar did not get an SVID that lives longer")
    await asyncio.to_thread(agent.process.stop)
    await asyncio.sleep(plan.outage)
    before = await rotations(there)
    await asyncio.to_thread(agent.process.start)
    began = time.monotonic()
    while await rotations(there) == before:
        await due(began, "no new SVID from the agent that is back")
    report.recovery = time.monotonic() - began
    if report.recovery > RECOVERY:
        report.faults.append(f"recovery took longer than {RECOVERY:.0f} s")
    await asyncio.sleep(RECOVERY / 2)


async def due(began: float, fault: str) -> None:
    """Wait a moment for a change. Raises TimeoutError where it is overdue."""
    if time.monotonic() - began > EFFECT:
        raise TimeoutError(f"{fault} after {EFFECT:.0f} s")
    await asyncio.sleep(0.1)


async def taken(agents: Agents) -> bool:
    """Whether a new connection of these agents is served."""
    try:
        async with agents.connection() as agent:
            await agents.served(agent)
    except (Closed, ConnectionError, ssl.SSLError):
        return False
    return True


async def rotations(there: World) -> int:
    """How often the sidecar's SVID was replaced."""
    return int(await asyncio.to_thread(metric, there.sidecar, "openmcp_svid_rotations_total"))


async def lifetime(there: World) -> float:
    """How many seconds the sidecar's SVID will live."""
    return await asyncio.to_thread(metric, there.sidecar, "openmcp_svid_expires_seconds") - time.time()


def minted(domain: Domain, path: str) -> Svid:
    """An SVID of an hour, made by the CA of this moment for somebody who keeps it."""
    chain, key = domain.mint(path)
    found = x509.load_pem_x509_certificates(chain)
    der = load_pem_private_key(key, None).private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    ends = found[0].not_valid_before_utc.timestamp(), found[0].not_valid_after_utc.timestamp()
    return Svid(SpiffeId(domain.name, path), tuple(one.public_bytes(Encoding.DER) for one in found), der, "", *ends)


def metric(gateway: Sidecar, name: str) -> float:
    """The value of a metric without labels."""
    with urllib.request.urlopen(f"{gateway.admin}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    (value,) = [line.removeprefix(f"{name} ") for line in lines if line.startswith(f"{name} ")]
    return float(value)


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=30, help="of rotation, before the outage (default: 30)")
    plan = Plan.of(parser.parse_args().seconds)
    if not install.is_installed("spire"):
        parser.error("SPIRE is missing: make real-parts ARGS=spire")
    with world(plan) as there:
        report = asyncio.run(run(plan, there))
    print(report.text())
    return 0 if report.good else 1


if __name__ == "__main__":
    sys.exit(main())
