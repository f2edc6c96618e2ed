"""Bodies that nobody has asked for yet: what callers can have the process keep, before it is known who they are."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, ExitStack

import pytest

from openmcp.sidecar.net.listener import MOST_KEPT
from tests.net.test_lifetimes import listening
from tests.resilience.test_memory import rss
from tests.support.gate import call, configuration
from tests.support.hostile import Hostile, hostile
from tests.support.http2 import DATA, END_STREAM, frame, http2
from tests.support.process import Sidecar
from tests.support.process import sidecar as process
from tests.support.raw import Connection, connect

SIZE = 4 * 1024 * 1024
SLACK = 192 * 1024
"""KiB for what comes in between two looks, and for the shape of the heap: 146 to 262 MiB in all on a busy machine, 480
where nothing is bounded."""


@pytest.fixture
async def server() -> AsyncIterator[Hostile]:
    async with hostile() as running:
        yield running


@pytest.fixture
async def running(server: Hostile) -> AsyncIterator[Sidecar]:
    """A sidecar as a process."""
    config = configuration(server.url)
    del config["listen"]
    with ExitStack() as stack:
        yield await asyncio.to_thread(stack.enter_context, process(config))
        await asyncio.to_thread(stack.close)


async def served(running: Sidecar) -> None:
    """Expect that an agent gets its answer."""
    async with connect(running.url, "/server", x_api_key="key-of-alice") as agent:
        assert (await agent.ask(call())).json["id"] == 1


async def begin(stack: AsyncExitStack, running: Sidecar, size: int) -> Connection:
    """Send so much of a body of `SIZE`."""
    agent = await stack.enter_async_context(connect(running.url, "/server"))
    head = agent.request(b"", content_length=str(SIZE))
    await agent.send(head + b" " * size)
    return agent


async def test_bodies_that_do_not_end_are_bounded_on_all_connections(running: Sidecar) -> None:
    async with AsyncExitStack() as stack:
        before = rss(running)
        sending = [begin(stack, running, SIZE - 1) for _ in range(120)]
        begun = [one for one in await asyncio.gather(*sending, return_exceptions=True) if isinstance(one, Connection)]
        await served(running)
        assert rss(running) - before < MOST_KEPT // 1024 + SLACK
        refused = [line for line in running.records() if line.get("status") == 429]
        assert len(refused) >= 120 - MOST_KEPT // SIZE - 1
        assert {line["reason"] for line in refused} == {"http"}
        del begun


async def test_an_idle_connection_keeps_nothing_of_its_last_body(running: Sidecar) -> None:
    async with AsyncExitStack() as stack:
        before = rss(running)
        for _ in range(40):
            agent = await begin(stack, running, SIZE)
            assert (await agent.answer()).status == 401
        assert rss(running) - before < 4 * SIZE // 1024 + SLACK // 6
        await served(running)


async def test_the_connection_that_keeps_most_is_cut() -> None:
    async with AsyncExitStack() as stack:
        listener, port = await stack.enter_async_context(listening(None))
        listener.most_kept = 100_000
        small, large = [await stack.enter_async_context(http2(("127.0.0.1", port))) for _ in range(2)]
        first = await small.begin(small.fields(content_length="65000"))
        await small.send(*[frame(DATA, 0, first, bytes(10_000))] * 4)
        for _ in range(2):
            number = await large.begin(large.fields(content_length="65000"))
            await large.send(*[frame(DATA, 0, number, bytes(10_000))] * 4)
        await large.closed()
        await small.send(*[frame(DATA, 0, first, bytes(10_000))] * 2, frame(DATA, END_STREAM, first, bytes(5000)))
        assert (await small.answer(first)).status == 200
