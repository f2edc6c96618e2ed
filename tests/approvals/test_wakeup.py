"""Waiting for decisions: of this process, of others, of time; one read for all, and not too often."""

import asyncio

import pytest

from openmcp.sidecar.approvals.wakeup import Wakeup
from openmcp.sidecar.state.memory import MemoryStore
from openmcp.sidecar.state.records import Status
from openmcp.sidecar.state.store import MANY, StoreUnavailable
from tests.contracts.requests import NOW, request, yes

LONG = 30.0
"""Seconds that no test waits."""


class Shared(MemoryStore):
    """A store that tells of nothing, as one that other processes change; it remembers what was read, and when."""

    shared = True

    def __init__(self):
        super().__init__()
        self.away = False
        self.asked = []
        self.was_read = asyncio.Event()

    def subscribe(self, callback):
        pass

    async def get_many(self, keys, now):
        keys = list(keys)
        self.asked.append((asyncio.get_running_loop().time(), keys))
        self.was_read.set()
        if self.away:
            raise StoreUnavailable("away")
        return await super().get_many(keys, now)

    async def reads(self, many):
        """Wait for so many reads from now on."""
        for _ in range(many):
            self.was_read.clear()
            await self.was_read.wait()


def waking(store, now=NOW):
    return Wakeup(store, lambda: now, first=0.01, most=0.02)


async def test_a_decision_of_this_process_wakes_at_once():
    store = MemoryStore()
    wakeup = waking(store)
    record, _ = await store.open(request(), NOW)
    waiting = asyncio.create_task(wakeup.wait(record, LONG))
    await asyncio.sleep(0)
    await store.vote(record.key, record.rid, yes(), NOW)
    found = await waiting
    assert found is not None
    assert found.status is Status.APPROVED
    assert wakeup.reads == 0
    assert len(wakeup) == 0


async def test_a_decision_before_the_wait_is_not_missed():
    store = MemoryStore()
    record, _ = await store.open(request(), NOW)
    await store.vote(record.key, record.rid, yes(), NOW)
    found = await waking(store).wait(record, LONG)
    assert found is not None
    assert found.status is Status.APPROVED


async def test_a_decision_of_another_process_wakes_all_who_wait_for_it():
    store = Shared()
    wakeup = waking(store)
    record, _ = await store.open(request(), NOW)
    other, _ = await store.open(request(), NOW)
    waits = [asyncio.create_task(wakeup.wait(record, LONG)) for _ in range(5)]
    still = asyncio.create_task(wakeup.wait(other, LONG))
    await store.reads(2)
    await store.vote(record.key, record.rid, yes(), NOW)
    assert {found.status for found in await asyncio.gather(*waits) if found} == {Status.APPROVED}
    assert not still.done()
    assert len(wakeup) == 1
    still.cancel()
    await asyncio.gather(still, return_exceptions=True)
    assert len(wakeup) == 0
    await wakeup.close()


async def test_a_newer_generation_wakes_too():
    store = Shared()
    wakeup = waking(store)
    record, _ = await store.open(request(), NOW)
    waiting = asyncio.create_task(wakeup.wait(record, LONG))
    await store.cancel(record.key, record.rid, "agent", NOW)
    again, _ = await store.open(request(record.key), NOW)
    found = await waiting
    assert found is not None
    assert found.rid == again.rid
    await wakeup.close()


async def test_nothing_after_so_many_seconds():
    store = Shared()
    wakeup = waking(store)
    record, _ = await store.open(request(), NOW)
    assert await wakeup.wait(record, 0.05) is None
    assert len(wakeup) == 0
    await wakeup.close()


@pytest.mark.parametrize("kind", [MemoryStore, Shared])
async def test_the_end_of_the_request_wakes_with_what_is_there_then(kind):
    store = kind()
    record, _ = await store.open(request(), NOW)
    wakeup = waking(store, record.pending_until - 30)
    found = await wakeup.wait(record, LONG)
    assert found is not None
    assert found.status is Status.EXPIRED
    await wakeup.close()


async def test_one_read_for_all_and_those_beyond_it_take_turns():
    store = Shared()
    wakeup = waking(store)
    records = [(await store.open(request(), NOW))[0] for _ in range(MANY + 50)]
    waits = [asyncio.create_task(wakeup.wait(record, LONG)) for record in records]
    await store.reads(3)
    sizes = [len(keys) for _, keys in store.asked]
    assert set(sizes) == {MANY}
    assert {key for _, keys in store.asked[:2] for key in keys} == {record.key for record in records}
    for wait in waits:
        wait.cancel()
    await asyncio.gather(*waits, return_exceptions=True)
    await wakeup.close()


async def test_reads_keep_their_distance_however_many_begin_to_wait():
    store = Shared()
    wakeup = Wakeup(store, lambda: NOW, first=0.05, most=0.1)
    record, _ = await store.open(request(), NOW)
    waits = [asyncio.create_task(wakeup.wait(record, LONG))]
    for _ in range(6):
        await store.reads(1)
        waits += [asyncio.create_task(wakeup.wait(record, LONG)) for _ in range(3)]
    times = [time for time, _ in store.asked]
    assert min(later - earlier for earlier, later in zip(times, times[1:], strict=False)) >= 0.05
    for wait in waits:
        wait.cancel()
    await asyncio.gather(*waits, return_exceptions=True)
    await wakeup.close()


async def test_reads_become_rarer_and_who_begins_to_wait_makes_them_frequent_again():
    store = Shared()
    wakeup = Wakeup(store, lambda: NOW, first=0.02, most=0.2)
    record, _ = await store.open(request(), NOW)
    waits = [asyncio.create_task(wakeup.wait(record, LONG))]
    await store.reads(8)
    times = [time for time, _ in store.asked]
    gaps = [later - earlier for earlier, later in zip(times, times[1:], strict=False)]
    assert [gap >= 0.02 * 1.19 ** (number + 1) for number, gap in enumerate(gaps)] == [True] * 7
    waits.append(asyncio.create_task(wakeup.wait(record, LONG)))
    await asyncio.sleep(0)
    assert wakeup._pause < 0.03
    for wait in waits:
        wait.cancel()
    await asyncio.gather(*waits, return_exceptions=True)
    await wakeup.close()


async def test_an_outage_is_said_once_and_waited_out(caplog):
    store = Shared()
    wakeup = waking(store)
    record, _ = await store.open(request(), NOW)
    waiting = asyncio.create_task(wakeup.wait(record, LONG))
    store.away = True
    await store.reads(3)
    store.away = False
    await store.vote(record.key, record.rid, yes(), NOW)
    assert await waiting is not None
    assert [one.getMessage() for one in caplog.records] == ["cannot look for decisions: away"]
    await wakeup.close()


async def test_nobody_who_waits_is_no_poller():
    store = Shared()
    wakeup = waking(store)
    record, _ = await store.open(request(), NOW)
    await wakeup.wait(record, 0.03)
    poller = wakeup._poller
    assert poller is not None
    await poller
    before = len(store.asked)
    await store.vote(record.key, record.rid, yes(), NOW)
    waiting = asyncio.create_task(wakeup.wait(record, LONG))
    assert await waiting is not None
    assert len(store.asked) == before + 1
    await wakeup.close()
