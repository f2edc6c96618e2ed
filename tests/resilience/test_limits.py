"""Agents that call more often than they may: what they are told, how exact it is, and what it costs."""

import asyncio
import gc
import hashlib
import itertools
import json
import time
import tracemalloc
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from openmcp.sidecar.mcp.era import META_CAPABILITIES, META_VERSION
from openmcp.sidecar.stages.batch import VERSION
from openmcp.sidecar.state import rediscounters
from tests.support.approver import approver, guarded
from tests.support.gate import KEYS, MODERN, Gate, call, configuration, gate, initialize, message
from tests.support.hostile import Hostile, hostile
from tests.support.http2 import http2
from tests.support.process import sidecar
from tests.support.raw import Answer, Connection, connect
from tests.support.stores import Store, redis_server


@pytest.fixture
async def server() -> AsyncIterator[Hostile]:
    async with hostile() as running:
        yield running


@asynccontextmanager
async def limited(folder: Path, server: Hostile, *limits: dict[str, Any], **more: Any) -> AsyncIterator[Gate]:
    async with gate(folder, configuration(server.url, rateLimit=list(limits)) | more) as sidecar:
        yield sidecar


def refused(answer: Answer) -> str:
    """The limit that an answer names."""
    assert (answer.status, answer.code) == (429, 42900), answer
    return str(answer.json["error"]["message"])


def left(answer: Answer, seconds: int, began: float) -> int:
    """The seconds that an answer tells to wait, which are what is left of so many since `began` at the earliest."""
    told = int(answer.header("retry-after") or 0)
    assert seconds - (time.monotonic() - began) <= told <= seconds
    return told


async def test_the_answer_names_the_limit_and_says_when(server: Hostile, tmp_path: Path) -> None:
    limit, began = {"by": ["agent", "tool"], "requests": 2, "per": "10m"}, time.monotonic()
    async with limited(tmp_path, server, limit) as sidecar, sidecar.connect() as agent:
        for number in range(2):
            assert "result" in (await agent.ask(call(identifier=number))).json
        answer = await agent.ask(call(identifier=7))
        seconds = left(answer, 300, began)
        assert refused(answer) == f"too many requests: 2 in 10m for each agent and tool; again in {seconds} s"
        assert answer.json["id"] == 7
        assert 1000 * (seconds - 1) < answer.json["error"]["data"]["retryAfterMs"] <= 1000 * seconds
        assert len(server.calls("tools/call")) == 2
        line = await sidecar.recorded(outcome="rate_limited")
        assert (line["status"], line["agent"], line["name"]) == (429, "key:alice", "allowed")
        assert line["reason"] == answer.json["error"]["message"]
        page = await sidecar.page("/metrics")
        assert 'openmcp_errors_total{kind="rate_limited",method="tools/call",server="server"} 1.0' in page
        assert 'openmcp_rate_limit_buckets{server="server"} 1.0' in page


async def test_agents_and_tools_have_their_own(server: Hostile, tmp_path: Path) -> None:
    limit = {"by": ["agent", "tool"], "requests": 1, "per": "1h"}
    async with limited(tmp_path, server, limit) as sidecar, sidecar.connect() as alice, sidecar.connect("bob") as bob:
        for agent in (alice, bob):
            for tool in ("allowed", "allowed_too"):
                assert "result" in (await agent.ask(call(tool))).json
                refused(await agent.ask(call(tool)))
            for _ in range(5):  # a limit by tool is about calls of tools
                assert "result" in (await agent.ask(message("tools/list"))).json


async def test_a_limit_without_by_is_for_all_together(server: Hostile, tmp_path: Path) -> None:
    began = time.monotonic()
    async with (
        limited(tmp_path, server, {"requests": 3, "per": "1m", "burst": 2}) as sidecar,
        sidecar.connect() as alice,
        sidecar.connect("bob") as bob,
    ):
        assert "result" in (await alice.ask(call())).json
        assert "result" in (await bob.ask(message("tools/list"))).json
        answer = await alice.ask(call())
        assert refused(answer) == f"too many requests: 3 in 1m; again in {left(answer, 20, began)} s"


async def test_other_tools_do_not_count(server: Hostile, tmp_path: Path) -> None:
    limit = {"by": ["agent"], "requests": 1, "per": "1h", "tools": ["*_export"]}
    async with limited(tmp_path, server, limit) as sidecar, sidecar.connect() as agent:
        for _ in range(3):
            assert "result" in (await agent.ask(call())).json
        assert "result" in (await agent.ask(call("allowed_export"))).json
        refused(await agent.ask(call("allowed_big_export")))  # one bucket for all that the globs match


async def test_other_agents_do_not_count(server: Hostile, tmp_path: Path) -> None:
    limit = {"agents": ["key:ali*"], "requests": 1, "per": "1h"}
    async with limited(tmp_path, server, limit) as sidecar, sidecar.connect() as alice, sidecar.connect("bob") as bob:
        assert "result" in (await alice.ask(call())).json
        refused(await alice.ask(call()))
        for _ in range(3):
            assert "result" in (await bob.ask(call())).json


async def test_what_is_denied_does_not_count(server: Hostile, tmp_path: Path) -> None:
    async with limited(tmp_path, server, {"requests": 1, "per": "1h"}) as sidecar, sidecar.connect() as agent:
        for _ in range(3):
            assert (await agent.ask(call("forbidden"))).json["result"]["isError"]
        assert "result" in (await agent.ask(call())).json
        refused(await agent.ask(call()))


async def test_a_token_of_each_limit_or_of_none(server: Hostile, tmp_path: Path) -> None:
    wide = {"requests": 3, "per": "1h"}
    narrow = {"by": ["tool"], "requests": 1, "per": "1h"}
    async with limited(tmp_path, server, wide, narrow) as sidecar, sidecar.connect() as agent:
        assert "result" in (await agent.ask(call())).json
        for _ in range(5):  # the narrow one refuses: these take nothing of the wide one
            assert "for each tool" in refused(await agent.ask(call()))
        for tool in ("allowed_1", "allowed_2"):
            assert "result" in (await agent.ask(call(tool))).json
        assert refused(await agent.ask(call("allowed_3"))).startswith("too many requests: 3 in 1h; again")


async def test_the_limit_that_lasts_longest_is_named(server: Hostile, tmp_path: Path) -> None:
    short = {"requests": 1, "per": "1m"}
    long, began = {"by": ["agent"], "requests": 1, "per": "1h"}, time.monotonic()
    async with limited(tmp_path, server, short, long) as sidecar, sidecar.connect() as agent:
        assert "result" in (await agent.ask(call())).json
        answer = await agent.ask(call())
        seconds = left(answer, 3600, began)
        assert refused(answer) == f"too many requests: 1 in 1h for each agent; again in {seconds} s"


async def test_notifications_count_and_are_refused_without_a_body_of_theirs(server: Hostile, tmp_path: Path) -> None:
    async with limited(tmp_path, server, {"requests": 2, "per": "1h"}) as sidecar, sidecar.connect() as agent:
        await initialize(agent)
        assert (await agent.ask(message("notifications/initialized", None))).status == 202
        answer = await agent.ask(message("notifications/cancelled", None, requestId=1))
        refused(answer)
        assert answer.json["id"] is None


async def test_sessions_batches_and_eras_are_no_way_around(server: Hostile, tmp_path: Path) -> None:
    """An agent is limited by who it is, however it comes."""
    limit = {"by": ["agent", "tool"], "requests": 5, "per": "1h"}
    async with limited(tmp_path, server, limit) as sidecar:
        for _ in range(3):
            async with sidecar.connect() as agent:
                await initialize(agent, VERSION)
                await agent.ask([call(identifier=number) for number in range(10)])
        meta = {META_VERSION: MODERN, META_CAPABILITIES: {}}
        modern = {"mcp_protocol_version": MODERN, "mcp_method": "tools/call", "mcp_name": "allowed"}
        escaped = json.dumps(call()).replace("allowed", "\\u0061llowed").encode()
        async with sidecar.connect() as agent, http2(sidecar.app.mcp_address, x_api_key=KEYS["alice"]) as other:
            refused(await agent.ask(message("tools/call", 1, name="allowed", _meta=meta), **modern))
            refused(await agent.ask(escaped))
            refused(await other.ask(call()))
        assert len(server.calls("tools/call")) == 5


async def test_asking_for_an_approval_counts(server: Hostile, tmp_path: Path) -> None:
    config = guarded(server.url)
    config["servers"][0]["rateLimit"] = [{"requests": 1, "per": "1h"}]
    async with gate(tmp_path, config) as sidecar, sidecar.connect() as agent:
        assert (await agent.ask(call("guarded", ticket=7))).status == 200
        record = await approver(sidecar).asked()
        refused(await agent.ask(call("guarded", ticket=8)))
        assert record.shown == (("$.ticket", "7"),)


async def test_a_reload_fills_no_bucket(server: Hostile, tmp_path: Path) -> None:
    limit = {"requests": 1, "per": "1h"}
    async with limited(tmp_path, server, limit) as sidecar, sidecar.connect() as agent:
        assert "result" in (await agent.ask(call())).json
        changed = configuration(server.url, rateLimit=[limit], timeouts={"request": "7s"})
        sidecar.reload(changed)
        refused(await agent.ask(call()))
        sidecar.reload(configuration(server.url, rateLimit=[{"requests": 2, "per": "1h"}]))
        assert "result" in (await agent.ask(call())).json
        sidecar.reload(configuration(server.url))
        for _ in range(3):
            assert "result" in (await agent.ask(call())).json
        assert "openmcp_rate_limit_buckets{" not in await sidecar.page("/metrics")


class Hammered(NamedTuple):
    """What came of calls without a pause: how many got through in all and in how many seconds; and how many at most
    did from the first refusal, when the bucket is empty, to the last, in how many seconds at least: a call is judged
    between its going and its coming, however long they take."""

    through: int
    seconds: float
    between: int
    seconds_between: float


async def hammered(ways: list[Callable[[], Any]], through: int) -> Hammered:
    """Call without a pause until so many calls got through."""
    answered: list[tuple[float, bool]] = []
    sent: list[float] = []
    left = iter(range(through))
    started = time.perf_counter()

    async def one(open_way: Callable[[], Any]) -> None:
        async with open_way() as agent:
            while True:
                went = time.perf_counter()
                answer = await agent.ask(call())
                assert answer.status in (200, 429)
                answered.append((time.perf_counter(), answer.status == 200))
                sent.append(went)
                if answered[-1][1] and next(left, None) is None:
                    return

    await asyncio.gather(*(one(way) for way in ways))
    taken = time.perf_counter() - started
    refused = [place for place, (_, good) in enumerate(answered) if not good]
    begun, over = sent[refused[0]], answered[refused[-1]][0]
    return Hammered(
        sum(good for _, good in answered),
        taken,
        sum(good and came >= begun and went <= over for (came, good), went in zip(answered, sent, strict=True)),
        sent[refused[-1]] - answered[refused[0]][0],
    )


async def test_limits_are_exact_to_a_hundredth(server: Hostile, tmp_path: Path) -> None:
    """The burst is as large as what a busy machine may miss while others have it: in five seconds."""
    limit = {"by": ["agent"], "requests": 100, "per": "1s", "burst": 500}
    async with limited(tmp_path, server, limit) as sidecar:
        came = await hammered([sidecar.connect] * 4, 900)
    assert came.through <= 500 + 100 * came.seconds
    assert came.between >= 0.99 * 100 * came.seconds_between


AGENTS = 10_000


def key_of(number: int) -> str:
    return f"key-{number}"


async def test_ten_thousand_agents_cost_less_than_20_mib(server: Hostile, tmp_path: Path) -> None:
    """All that is kept for them while their limits hold, counted where it is allocated."""
    limits = [{"by": ["agent", "tool"], "requests": 2, "per": "1h"}, {"by": ["agent"], "requests": 100, "per": "1h"}]
    config = configuration(server.url, rateLimit=limits)
    digests = [{"name": f"k{n}", "sha256": hashlib.sha256(key_of(n).encode()).hexdigest()} for n in range(AGENTS + 500)]
    config["identity"]["agents"][0]["keys"] = digests
    async with gate(tmp_path, config) as sidecar, connect(sidecar.url) as agent:

        async def calls(numbers: range) -> None:
            for number in numbers:
                assert (await agent.ask(call(), x_api_key=key_of(number))).status == 200
                server.requests.clear()

        await calls(range(500))
        tracemalloc.start()
        try:
            await calls(range(500, AGENTS + 500))
            gc.collect()
            grown, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert (await agent.ask(call(), x_api_key=key_of(0))).status == 200
        assert (await agent.ask(call(), x_api_key=key_of(0))).status == 429
        assert f'openmcp_rate_limit_buckets{{server="server"}} {2 * AGENTS + 1000}' in (
            await sidecar.page("/metrics")
        ).replace(".0", "")
    assert grown < 20 * 2**20


async def test_ten_thousand_agents_cost_a_real_sidecar_less_than_20_mib(server: Hostile) -> None:
    """The same by what the system counts, of a process of its own."""
    limits = [{"by": ["agent", "tool"], "requests": 2, "per": "1h"}, {"by": ["agent"], "requests": 100, "per": "1h"}]
    config = configuration(server.url, rateLimit=limits)
    digests = [{"name": f"k{n}", "sha256": hashlib.sha256(key_of(n).encode()).hexdigest()} for n in range(AGENTS + 500)]
    config["identity"]["agents"][0]["keys"] = digests
    del config["listen"]
    with sidecar(config) as running:
        async with connect(running.url) as agent:

            async def calls(numbers: range) -> int:
                for number in numbers:
                    assert (await agent.ask(call(), x_api_key=key_of(number))).status == 200
                    server.requests.clear()
                return running.running.resident()

            before = await calls(range(500))
            after = await calls(range(500, AGENTS + 500))
    assert after - before < 20, (before, after)


# Shared through Redis.

SHARED = {"by": ["agent"], "requests": 50, "per": "1s", "burst": 250, "shared": True}


@asynccontextmanager
async def two(folder: Path, server: Hostile, redis: Store, *limits: dict[str, Any]) -> AsyncIterator[list[Gate]]:
    """Two gateways with one Redis."""
    async with AsyncExitStack() as stack:
        gates = []
        for name in ("one", "two"):
            (folder / name).mkdir()
            state = {"type": "redis", "url": redis.url}
            gates.append(await stack.enter_async_context(limited(folder / name, server, *limits, state=state)))
        yield gates


@pytest.mark.real
async def test_two_gateways_share_a_limit_to_a_twentieth(
    server: Hostile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rediscounters, "SECONDS", 10.0)  # however busy the machine is: outages are other tests' matter
    with redis_server(tmp_path) as redis:
        async with two(tmp_path, server, redis, SHARED) as gates:
            came = await hammered([one.connect for one in gates] * 2, 500)
            assert came.through <= 250 + 50 * came.seconds
            assert came.between >= 0.95 * 50 * came.seconds_between
            for one in gates:
                assert "openmcp_rate_limit_unshared 0.0" in await one.page("/metrics")


@pytest.mark.real
async def test_a_shared_limit_refuses_at_the_other_gateway(server: Hostile, tmp_path: Path) -> None:
    limit = {"by": ["agent", "tool"], "requests": 2, "per": "1h", "shared": True}
    own, began = {"requests": 3, "per": "1h"}, time.monotonic()
    with redis_server(tmp_path) as redis:
        async with (
            two(tmp_path, server, redis, own, limit) as (one, other),
            one.connect() as here,
            other.connect() as there,
            other.connect("bob") as bob,
        ):
            for agent in (here, there):
                assert "result" in (await agent.ask(call())).json
            for agent in (here, there):
                answer = await agent.ask(call())
                seconds = left(answer, 1800, began)
                assert refused(answer) == f"too many requests: 2 in 1h for each agent and tool; again in {seconds} s"
            for tool in ("allowed_1", "allowed_2"):  # what the shared one refused took nothing of the other
                assert "result" in (await bob.ask(call(tool))).json
            assert "3 in 1h;" in refused(await bob.ask(call("allowed_3")))


@pytest.mark.real
async def test_without_redis_each_gateway_limits_by_itself(
    server: Hostile, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    limit = {"by": ["agent", "tool"], "requests": 3, "per": "1h", "shared": True}
    with redis_server(tmp_path) as redis:
        async with two(tmp_path, server, redis, limit) as gates, AsyncExitStack() as stack:
            agents: list[Connection] = [await stack.enter_async_context(one.connect()) for one in gates]
            assert "result" in (await agents[0].ask(call())).json
            redis.kill()
            assert [await _through(agent) for agent in agents] == [2, 3]
            assert "openmcp_rate_limit_unshared 1.0" in await gates[0].page("/metrics")
            said = [line.getMessage() for line in caplog.records if line.name == "openmcp.limits"]
            assert len(said) == 2
            assert said[0].startswith("shared rate limits are counted by this gateway alone: Redis: ")
            redis.start()
            async with asyncio.timeout(10):
                for number in itertools.count():
                    await agents[0].ask(call(f"allowed_{number}"))
                    if "openmcp_rate_limit_unshared 0.0" in await gates[0].page("/metrics"):
                        break
                    await asyncio.sleep(0.1)  # each call is for another tool, and 100 have a bucket of their own
            said = [line.getMessage() for line in caplog.records if line.name == "openmcp.limits"]
            assert said[2:] == ["shared rate limits are shared again"]


async def _through(agent: Connection) -> int:
    """How many calls get through before one is refused."""
    for count in itertools.count():
        if (await agent.ask(call())).status == 429:
            return count
    raise AssertionError
