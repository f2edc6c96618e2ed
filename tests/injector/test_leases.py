"""Who holds a Lease, when it passes on, and what becomes of the work."""

import asyncio

import pytest

from openmcp.injector.leases import DEADLINE, DURATION, Lease
from tests.injector.objects import Objects

PATH = "/apis/coordination.k8s.io/v1/namespaces/mesh/leases/openmcp-injector-ca"


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def objects():
    return Objects()


@pytest.fixture
def clock():
    return Clock()


def lease_of(objects, clock, identity):
    return Lease(objects, "mesh", "openmcp-injector-ca", identity, clock=clock)


async def looks(lease):
    """One look of `run`."""
    await lease._look()
    return lease.held


def spec(objects):
    return objects.found[PATH]["spec"]


async def test_the_first_one_makes_it_and_the_second_waits(objects, clock):
    first, second = lease_of(objects, clock, "a"), lease_of(objects, clock, "b")
    assert (await looks(first), await looks(second)) == (True, False)
    said = spec(objects)
    assert (said["holderIdentity"], said["leaseDurationSeconds"], said["leaseTransitions"]) == ("a", 15, 0)


async def test_whoever_renews_keeps_it(objects, clock):
    first, second = lease_of(objects, clock, "a"), lease_of(objects, clock, "b")
    acquired = [await looks(first)] and spec(objects)["acquireTime"]
    for _ in range(20):
        clock.now += 5
        assert (await looks(first), await looks(second)) == (True, False)
    assert (spec(objects)["acquireTime"], spec(objects)["leaseTransitions"]) == (acquired, 0)


async def test_a_silent_holder_is_succeeded_after_its_time_by_our_own_clock(objects, clock):
    first, second = lease_of(objects, clock, "a"), lease_of(objects, clock, "b")
    await looks(first)
    objects.found[PATH]["spec"]["renewTime"] = "1999-01-01T00:00:00.000000Z"  # clocks of others mean nothing
    assert not await looks(second)
    clock.now += DURATION - 0.1
    assert not await looks(second)
    clock.now += 0.1
    assert await looks(second)
    assert (spec(objects)["holderIdentity"], spec(objects)["leaseTransitions"]) == ("b", 1)


async def test_a_holder_that_cannot_renew_stops_before_anybody_else_begins(objects, clock):
    first, second = lease_of(objects, clock, "a"), lease_of(objects, clock, "b")
    await looks(first)
    await looks(second)
    objects.cut = True
    clock.now += DEADLINE - 0.1
    assert await looks(first)
    clock.now += 0.1
    assert not await looks(first)
    objects.cut = False
    clock.now += DURATION - DEADLINE - 0.1
    assert not await looks(second)


async def test_of_two_that_try_at_once_one_wins(objects, clock):
    first, second = lease_of(objects, clock, "a"), lease_of(objects, clock, "b")
    objects.put(PATH, {"metadata": {"name": "openmcp-injector-ca"}, "spec": {"holderIdentity": ""}})
    stolen = []

    def race(path):
        if not stolen:
            stolen.append(path)
            objects.put(PATH, {"spec": {"holderIdentity": "b", "leaseDurationSeconds": 15}})

    objects.before_write = race
    assert (await looks(first), await looks(second)) == (False, True)


async def test_what_was_released_is_taken_at_once(objects, clock):
    first, second = lease_of(objects, clock, "a"), lease_of(objects, clock, "b")
    await looks(first)
    await looks(second)
    await first.release()
    assert not first.held
    assert await looks(second)


async def test_only_the_holder_releases(objects, clock):
    first, second = lease_of(objects, clock, "a"), lease_of(objects, clock, "b")
    await looks(first)
    await second.release()
    assert spec(objects)["holderIdentity"] == "a"


async def test_a_holder_that_was_succeeded_takes_nothing_back(objects, clock):
    lease = lease_of(objects, clock, "a")
    await looks(lease)
    objects.put(PATH, {"spec": {"holderIdentity": "b", "leaseDurationSeconds": 15}})
    await lease.release()
    assert spec(objects)["holderIdentity"] == "b"


async def test_work_is_done_while_it_is_held_and_cancelled_when_lost(objects, clock):
    lease, seen = lease_of(objects, clock, "a"), asyncio.Queue()

    async def work():
        seen.put_nowait("begun")
        try:
            await asyncio.Event().wait()
        finally:
            seen.put_nowait("ended")

    task = asyncio.ensure_future(lease.while_held(work))
    for _ in range(2):
        await looks(lease)
        assert await asyncio.wait_for(seen.get(), 5) == "begun"
        clock.now += DURATION
        objects.cut = True
        await looks(lease)
        assert await asyncio.wait_for(seen.get(), 5) == "ended"
        objects.cut = False
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_failure_is_said_once_and_again_when_it_is_another_one(objects, clock, caplog):
    lease = lease_of(objects, clock, "a")
    objects.cut = True
    for _ in range(3):
        await looks(lease)
    objects.cut = False
    await looks(lease)
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [
        "the Lease openmcp-injector-ca cannot be read or written: cut off"
    ]
