"""Our JWT-SVIDs are fetched once for all who wait, renewed at half of their time, and serve on while that fails."""

import asyncio

import pytest

from openmcp.identity import own_jwt_svids
from openmcp.identity.material import JwtSvid, NoIdentity
from openmcp.identity.own_jwt_svids import JwtSvids
from openmcp.identity.spiffe_id import parse

ID = parse("spiffe://example.org/gateway")
NOW = 1_800_000_000.0


class Agent:
    """Hands out `audience-1`, `audience-2`, ... for 300 seconds each, when the test lets it; what is in `failure` it
    raises. `now` is the clock of all."""

    def __init__(self) -> None:
        self.now = NOW
        self.asked = 0
        self.lifetime = 300.0
        self.arrived = asyncio.Event()
        self.failure: str | None = None
        self.answers = asyncio.Event()
        self.answers.set()
        self.svids = JwtSvids(self.fetch, lambda: self.now)

    async def fetch(self, audience: str) -> JwtSvid:
        self.asked += 1
        number = self.asked
        self.arrived.set()
        try:
            await self.answers.wait()
        except asyncio.CancelledError:
            await asyncio.sleep(0)  # a call that is cancelled takes its time to end
            raise
        if self.failure is not None:
            raise NoIdentity(self.failure)
        return JwtSvid(ID, f"{audience}-{number}", self.now + self.lifetime)

    async def begin(self, audience: str = "a") -> "asyncio.Task[str]":
        """Ask for a token, up to where the answer is waited for."""
        self.arrived.clear()
        task = asyncio.create_task(self.svids.get(audience))
        async with asyncio.timeout(20):
            await self.arrived.wait()
        return task


@pytest.fixture
async def agent():
    made = Agent()
    yield made
    await made.svids.stop()
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_token_is_kept_until_its_half(agent):
    assert agent.svids.cached("a") is None
    assert await agent.svids.get("a") == "a-1"
    agent.now += 149
    assert (agent.svids.cached("a"), await agent.svids.get("a")) == ("a-1", "a-1")
    agent.now += 1
    assert agent.svids.cached("a") is None
    assert await agent.svids.get("a") == "a-2"
    assert agent.svids.cached("a") == "a-2"


async def test_each_audience_has_its_own(agent):
    assert [await agent.svids.get(one) for one in ("a", "b", "a", "b")] == ["a-1", "b-2", "a-1", "b-2"]


async def test_all_who_wait_get_the_same(agent):
    agent.answers.clear()
    waiting = [await agent.begin()] + [asyncio.create_task(agent.svids.get("a")) for _ in range(9)]
    agent.answers.set()
    assert await asyncio.gather(*waiting) == ["a-1"] * 10
    assert agent.asked == 1


async def test_one_who_goes_away_takes_nothing_from_the_others(agent):
    agent.answers.clear()
    first = await agent.begin()
    second = asyncio.create_task(agent.svids.get("a"))
    first.cancel()
    await asyncio.wait({first})
    agent.answers.set()
    assert (await second, agent.asked) == ("a-1", 1)


async def test_while_the_renewal_fails_the_old_one_serves_until_shortly_before_its_end(agent):
    await agent.svids.get("a")
    agent.failure = "the agent is away"
    agent.now += 200
    assert await agent.svids.get("a") == "a-1"
    assert (agent.svids.cached("a"), agent.asked) == ("a-1", 2), "asked again within seconds"
    agent.now += own_jwt_svids.RETRY
    assert agent.svids.cached("a") is None
    assert (await agent.svids.get("a"), agent.asked) == ("a-1", 3)
    agent.now = NOW + 300 - own_jwt_svids.MARGIN
    assert agent.svids.cached("a") is None
    with pytest.raises(NoIdentity, match="the agent is away"):
        await agent.svids.get("a")


async def test_a_renewal_that_hangs_does_not_hold_up_who_has_an_old_one(agent, monkeypatch):
    monkeypatch.setattr(own_jwt_svids, "PATIENCE", 0.01)
    await agent.svids.get("a")
    agent.answers.clear()
    agent.now += 200
    assert await agent.svids.get("a") == "a-1"
    assert await agent.svids.get("a") == "a-1"
    assert agent.asked == 2
    waiting = asyncio.create_task(agent.svids.get("a"))
    agent.answers.set()
    assert await waiting == "a-2"


async def test_a_failure_answers_for_a_second(agent):
    agent.failure = "no registration entry"
    for _ in range(3):
        with pytest.raises(NoIdentity, match="no registration entry"):
            await agent.svids.get("a")
    assert agent.asked == 1
    agent.failure = None
    agent.now += own_jwt_svids.AFTER_FAILURE
    assert await agent.svids.get("a") == "a-2"


async def test_a_token_that_was_refused_is_not_used_again(agent):
    await agent.svids.get("a")
    agent.svids.forget("a")
    agent.svids.forget("never seen")
    assert agent.svids.cached("a") is None
    assert await agent.svids.get("a") == "a-2"


async def test_after_it_was_refused_it_does_not_serve_while_fetching_fails(agent):
    await agent.svids.get("a")
    agent.svids.forget("a")
    agent.failure = "the agent is away"
    with pytest.raises(NoIdentity, match="the agent is away"):
        await agent.svids.get("a")


async def test_with_another_identity_nothing_stays_and_nothing_comes_late(agent):
    await agent.svids.get("a")
    agent.answers.clear()
    old = await agent.begin("b")
    agent.svids.clear()
    assert agent.svids.cached("a") is None
    new = await agent.begin("b")
    beside = asyncio.create_task(agent.svids.get("b"))
    agent.answers.set()
    with pytest.raises(NoIdentity, match="our identity is changing"):
        await old
    assert (await new, await beside, agent.svids.cached("b")) == ("b-3", "b-3", "b-3")


async def test_who_waits_at_the_end_is_told(agent):
    agent.answers.clear()
    waiting = await agent.begin()
    await agent.svids.stop()
    assert asyncio.all_tasks() <= {asyncio.current_task(), waiting}
    with pytest.raises(NoIdentity):
        await waiting


async def test_a_token_of_seconds_serves_until_a_tenth_of_them_is_left(agent):
    agent.lifetime = 20
    await agent.svids.get("a")
    agent.failure = "the agent is away"
    agent.now += 17
    assert await agent.svids.get("a") == "a-1"
    agent.now += 1
    with pytest.raises(NoIdentity, match="the agent is away"):
        await agent.svids.get("a")
