"""Shared token buckets on a real Redis: exact, of all or of none, gone when full; and what becomes of outages."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from openmcp.sidecar.state.counters import Bucket, CountersAway
from openmcp.sidecar.state.rediscounters import SECONDS, RedisCounters
from tests.support.process import free_ports
from tests.support.stores import PASSWORD, Store, failed_over, redis_server

pytestmark = pytest.mark.real
TAKEN = (-1, 0.0)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with redis_server(tmp_path_factory.mktemp("redis"), "--requirepass", PASSWORD) as started:
        yield started


@pytest.fixture
async def counters(server: Store) -> AsyncIterator[RedisCounters]:
    made = RedisCounters(server.url, password=PASSWORD)
    yield made
    await made._redis.flushdb()
    await made.close()


def bucket(name: str, *, per_token: float = 60.0, burst: int = 2) -> Bucket:
    return Bucket(name, per_token, (burst - 1) * per_token)


async def test_as_many_as_the_bucket_holds(counters: RedisCounters) -> None:
    assert [await counters.take([bucket("a")]) for _ in range(2)] == [TAKEN, TAKEN]
    place, seconds = await counters.take([bucket("a")])
    assert (place, round(seconds)) == (0, 60)
    assert await counters.take([bucket("b")]) == TAKEN


async def test_a_token_of_each_or_of_none(counters: RedisCounters) -> None:
    narrow, wide = bucket("narrow", burst=1), bucket("wide", burst=3)
    assert await counters.take([wide, narrow]) == TAKEN
    for _ in range(5):
        place, seconds = await counters.take([wide, narrow])
        assert (place, round(seconds)) == (1, 60)
    assert [(await counters.take([wide]))[0] for _ in range(3)] == [-1, -1, 0]


async def test_many_at_once_get_no_more_than_there_is(counters: RedisCounters, server: Store) -> None:
    other = RedisCounters(server.url, password=PASSWORD)
    taken = await asyncio.gather(*(one.take([bucket("a", burst=50)]) for one in (counters, other) * 100))
    assert sum(place < 0 for place, _ in taken) == 50
    await other.close()


async def test_what_is_asked_at_once_is_answered_each_by_itself(counters: RedisCounters) -> None:
    """More than are put at once, of one bucket and of two, with answers of all kinds."""
    one, two = bucket("one", burst=3), bucket("two", burst=150)
    questions = [[two] if number % 2 else [two, one] for number in range(300)]
    answers = await asyncio.gather(*(counters.take(question) for question in questions))
    pairs = [place for number, (place, _) in enumerate(answers) if number % 2 == 0]
    alone = [place for number, (place, _) in enumerate(answers) if number % 2]
    assert (pairs.count(-1), alone.count(-1), alone.count(0)) == (3, 147, 3)
    assert pairs[:4] == [-1, -1, -1, 1]


async def test_tokens_fall_at_their_rate(counters: RedisCounters) -> None:
    quick = bucket("quick", per_token=0.005, burst=20)
    started = before = time.perf_counter()
    through, unseen = 0, 0.0
    while before - started < 1.0:
        through += (await counters.take([quick]))[0] < 0
        now = time.perf_counter()
        unseen += max(0.0, now - before - 0.09)  # the bucket was full while nobody let us ask
        before = now
    allowed = 20 + (before - started) / 0.005
    assert 0.95 * allowed - unseen / 0.005 <= through <= allowed + 1


async def test_nothing_is_left_of_a_bucket_that_is_full(counters: RedisCounters) -> None:
    began = time.monotonic()
    assert await counters.take([bucket("short", per_token=0.05), bucket("long")]) == TAKEN
    async with asyncio.timeout(10):
        while await counters._redis.exists("{openmcp}:limit:short"):
            pass
    left = await counters._redis.pttl("{openmcp}:limit:long") / 1000
    assert left + time.monotonic() - began > 59
    assert left <= 60


async def test_a_call_that_is_given_up_leaves_no_answer_for_another(counters: RedisCounters) -> None:
    assert await counters.take([bucket("a", burst=1)]) == TAKEN
    for _ in range(50):
        given_up = asyncio.create_task(counters.take([bucket("a", burst=1)]))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        given_up.cancel()
        await asyncio.wait({given_up})
        name = f"b{time.perf_counter()}"
        assert await counters.take([bucket(name)]) == TAKEN


async def test_a_wrong_password_is_an_outage_that_does_not_name_it(server: Store) -> None:
    made = RedisCounters(server.url, password="wrong horse")
    with pytest.raises(CountersAway) as raised:
        await made.take([bucket("a")])
    assert "wrong horse" not in str(raised.value)
    await made.close()


async def test_nobody_there() -> None:
    (port,) = free_ports(1)
    made = RedisCounters(f"redis://127.0.0.1:{port}")
    with pytest.raises(CountersAway):
        await made.take([bucket("a")])
    await made.close()


@pytest.mark.parametrize("crowd", [1, 1000])
async def test_a_redis_that_hangs_holds_nobody_up_for_longer_than_half_a_second(
    crowd: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("openmcp.sidecar.state.rediscounters.SECONDS", SECONDS)

    async def hangs(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    listener = await asyncio.start_server(hangs, "127.0.0.1", 0)
    made = RedisCounters(f"redis://127.0.0.1:{listener.sockets[0].getsockname()[1]}")
    took: list[float] = []
    while not took or took[-1] >= 2 * SECONDS:
        assert len(took) < 5, "not because this machine has stalled"
        started = asyncio.get_running_loop().time()
        answers = await asyncio.gather(*(made.take([bucket("a")]) for _ in range(crowd)), return_exceptions=True)
        took.append(asyncio.get_running_loop().time() - started)
        assert {type(answer) for answer in answers} == {CountersAway}
    await made.close()
    listener.close()


async def test_a_clock_that_went_back_empties_a_bucket_and_no_more(counters: RedisCounters) -> None:
    """After a failover the clock of Redis may be another."""
    assert await counters.take([bucket("a")]) == TAKEN
    ahead = int(await counters._redis.get("{openmcp}:limit:a")) + 3600 * 10**6
    await counters._redis.set("{openmcp}:limit:a", ahead)
    place, seconds = await counters.take([bucket("a")])
    assert (place, round(seconds)) == (0, 60)


async def test_a_server_that_has_become_a_replica_is_left(tmp_path: Path) -> None:
    async with failed_over(tmp_path) as (url, fail_over):
        counters = RedisCounters(url)
        assert await counters.take([bucket("a")]) == TAKEN
        await fail_over()
        with pytest.raises(CountersAway, match="read only replica"):
            await counters.take([bucket("a")])
        assert await counters.take([bucket("b")]) == TAKEN
        await counters.close()
