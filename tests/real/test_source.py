"""The client of the Workload API against real SPIRE."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from openmcp.identity.material import SvidChoice
from openmcp.identity.source import SvidSource
from tests.support.parts import require
from tests.support.spire import Agent, Domain, federate, trust_domain

pytestmark = pytest.mark.real

PATIENCE = 20.0
RECOVERY = 10.0
"""Seconds in which we have to be back after the agent is."""
TTL = 10
"""Seconds. SPIRE dates a certificate back by ten and renews it at half of the whole: as soon as it has made it."""


@pytest.fixture(scope="module")
def domain() -> Iterator[Domain]:
    require("spire")
    with trust_domain("source.example") as running:
        yield running


@pytest.fixture(scope="module")
def other() -> Iterator[Domain]:
    require("spire")
    with trust_domain("other.example") as running:
        yield running


@pytest.fixture
def agent(domain: Domain) -> Agent:
    """An agent of the test's own, that has nothing to hand out."""
    return domain.agent(f"agent-{len(domain.agents)}")


@asynccontextmanager
async def source_of(agent: Agent, **choice: str) -> AsyncIterator[SvidSource]:
    source = SvidSource(agent.address, SvidChoice(**choice))
    source.start()
    try:
        yield source
    finally:
        await source.stop()


async def until(holds: Callable[[], Any], patience: float = PATIENCE) -> float:
    """Wait for what has no event of its own, such as a failure; return the seconds it took."""
    began = time.monotonic()
    async with asyncio.timeout(patience):
        while True:
            if holds():
                return time.monotonic() - began
            await asyncio.sleep(0.02)


def state(source: SvidSource) -> Any:
    return source.report()["state"]


def ids(source: SvidSource) -> list[str]:
    return [str(svid.id) for svid in source.material.svids] if source.material else []


async def test_without_an_entry_it_waits_for_one(domain: Domain, agent: Agent):
    async with source_of(agent) as source:
        await until(lambda: state(source) == "no registration entry")
        await asyncio.to_thread(domain.register, agent, "/late")
        await until(lambda: state(source) == "ok")
        own = source.own()
        assert (str(own.id), source.stats.rotations) == (domain.id("/late"), 0)
        assert 3500 < own.expires - time.time() <= 3600
        assert list(source.bundles) == [domain.name]


async def test_without_an_agent_it_waits_for_one(domain: Domain, agent: Agent):
    domain.register(agent, "/early")
    agent.process.stop()
    async with source_of(agent) as source:
        await until(lambda: state(source) == "agent not reachable")
        await asyncio.to_thread(agent.process.start)
        took = await until(lambda: state(source) == "ok")
        assert took < RECOVERY
        assert ids(source) == [domain.id("/early")]


async def test_an_svid_is_kept_while_the_agent_is_away_and_replaced_when_it_is_back(domain: Domain, agent: Agent):
    domain.register(agent, "/steady", ttl=60)
    async with source_of(agent) as source:
        await until(lambda: state(source) == "ok")
        before = source.own()
        await asyncio.to_thread(agent.process.stop)
        await until(lambda: source.stats.failures["unreachable"] > 0)
        assert (source.own(), state(source)) == (before, "ok")
        await asyncio.to_thread(agent.process.start)  # it has forgotten its SVIDs and makes new ones
        assert await until(lambda: source.own() != before) < RECOVERY
        assert (source.stats.rotations, str(source.own().id)) == (1, domain.id("/steady"))


async def test_svids_of_seconds_are_rotated(domain: Domain, agent: Agent):
    domain.register(agent, "/brief", ttl=TTL)
    async with source_of(agent) as source:
        await until(lambda: state(source) == "ok")
        seen, before = {source.own()}, source.stats.rotations
        source.subscribe(lambda: seen.add(source.own()))
        await until(lambda: source.stats.rotations >= before + 2, 3 * TTL)  # several come at once to who was busy
        assert len(seen) == source.stats.rotations - before + 1
        ends = [svid.expires for svid in seen]
        assert max(ends) > time.time() > min(ends) - TTL


async def test_of_several_svids_one_is_chosen(domain: Domain, agent: Agent):
    by_hint = {"internal": domain.id("/first"), "external": domain.id("/second")}
    domain.register(agent, "/first", hint="internal")
    domain.register(agent, "/second", hint="external")
    for hint, id in by_hint.items():
        async with source_of(agent, hint=hint) as hinted, source_of(agent, id=id) as named:
            await until(lambda: state(hinted) == state(named) == "ok")
            assert [(str(source.own().id), source.own().hint) for source in (hinted, named)] == [(id, hint)] * 2
            assert sorted(ids(named)) == sorted(by_hint.values())


async def test_the_end_of_an_entry_is_the_end_of_the_svid(domain: Domain, agent: Agent):
    entry = domain.register(agent, "/gone", ttl=TTL // 2)
    async with source_of(agent) as source:
        await until(lambda: state(source) == "ok")
        await asyncio.to_thread(domain.unregister, entry)
        await until(lambda: source.stats.failures["denied"] > 0)
        await until(lambda: state(source) == "expired", 2 * TTL)


async def test_a_domain_is_known_while_we_federate_with_it(domain: Domain, other: Domain, agent: Agent):
    federate(domain, other)
    domain.register(agent, "/federated", federates=[other.name])
    async with source_of(agent) as source:
        source.want_jwt_bundles()
        await until(lambda: set(source.bundles) == set(source.jwt_bundles) == {domain.name, other.name})
        assert json.loads(source.jwt_bundles[other.name])["keys"]
        await asyncio.to_thread(domain.distrust, other.name)
        await until(lambda: set(source.bundles) == set(source.jwt_bundles) == {domain.name})


async def test_a_ca_comes_and_goes(domain: Domain, agent: Agent):
    domain.register(agent, "/steady-as-well")
    async with source_of(agent) as source:
        await until(lambda: state(source) == "ok")
        (first,) = source.bundles[domain.name]
        before = source.own()
        prepared = await asyncio.to_thread(domain.prepare_ca)
        await until(lambda: len(source.bundles[domain.name]) == 2)
        old = await asyncio.to_thread(domain.activate_ca, prepared)
        await asyncio.to_thread(domain.taint_ca, old)
        await until(lambda: source.own() != before)
        await asyncio.to_thread(domain.revoke_ca, old)
        await until(lambda: len(source.bundles[domain.name]) == 1)
        assert first not in source.bundles[domain.name]


async def test_jwt_svids_are_good_for_their_audience_and_fetched_once(domain: Domain, agent: Agent):
    domain.register(agent, "/tokens")
    async with source_of(agent) as source:
        await until(lambda: state(source) == "ok")
        assert source.cached_jwt_svid("records") is None
        tokens = await asyncio.gather(*(source.jwt_svid("records") for _ in range(5)))
        assert {*tokens, source.cached_jwt_svid("records")} == {tokens[0]}
        assert await source.jwt_svid("elsewhere") != tokens[0]
        assert await asyncio.to_thread(agent.validated, "records", tokens[0]) == domain.id("/tokens")
        assert await asyncio.to_thread(agent.validated, "elsewhere", tokens[0]) is None
