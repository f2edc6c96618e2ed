"""More connections than there may be: those on which nothing happens make room, and of whoever has most of them."""

import asyncio
import logging
from contextlib import AsyncExitStack
from functools import partial

import pytest

from openmcp.sidecar.net import listener, sweep
from openmcp.sidecar.net.exchange import HttpExchange
from tests.net.test_lifetimes import at_once, listening
from tests.support.http2 import GOAWAY, PREFACE, frame, settings
from tests.support.raw import Connection

MOST = 8
HALF = {
    "nothing": b"",
    "half a head": b"POST / HTTP/1.1\r\nhost: x\r\n",
    "half a body": b"POST / HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 9\r\n\r\n{",
    "half a preface": PREFACE[:10],
    "HTTP/2 and nothing more": PREFACE,
    "what is refused, and no end": b"GET / HTTP/1.1\r\n\r\n",
    "HTTP/2, a goodbye, and no end": PREFACE + settings({}) + frame(GOAWAY, 0, 0, bytes(8)),
}


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch, fast_clock: None) -> None:
    """Room for few, and no time that passes: connections that are closing would go by themselves."""
    monkeypatch.setattr(sweep, "INTERVAL", 3600.0)
    monkeypatch.setattr(listener, "MAX_CONNECTIONS", MOST)
    monkeypatch.setattr(listener, "AT_ONCE", 2)


async def come(stack: AsyncExitStack, port: int, address: str) -> Connection:
    """Connect from this address."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(address, 0))
    connection = Connection(reader, writer, "127.0.0.1", "/")
    stack.push_async_callback(connection.close)
    return connection


async def cut(connection: Connection) -> Connection:
    """Wait until the other side ends it."""
    try:
        while await connection.reader.read(1000):
            pass
    except ConnectionError:
        pass
    return connection


@pytest.mark.parametrize("begun", HALF.values(), ids=HALF.keys())
async def test_who_opens_many_and_says_little_shuts_nobody_out(begun: bytes, caplog: pytest.LogCaptureFixture) -> None:
    async with AsyncExitStack() as stack:
        running, port = await stack.enter_async_context(listening(None))
        come_from = partial(come, stack, port)
        honest = await come_from("127.0.0.1")
        assert (await honest.ask(method="GET")).status == 200
        many = [await come_from("127.0.0.2") for _ in range(MOST - 1)]
        for one in many:
            await one.send(begun)
        asking = [await come_from("127.0.0.3") for _ in range(3)]
        assert [(await one.ask(method="GET")).status for one in asking] == [200] * 3
        assert (await honest.ask(method="GET")).status == 200
        cuts = {asyncio.ensure_future(cut(one)) for one in many}
        gone, left = await asyncio.wait(cuts, timeout=10, return_when=asyncio.FIRST_COMPLETED)
        while len(gone) < 4:
            more, left = await asyncio.wait(left, timeout=10, return_when=asyncio.FIRST_COMPLETED)
            gone |= more
        assert running.connections == MOST - 1
        for one in left:
            one.cancel()
        logged = [line.message for line in caplog.records if line.levelno == logging.WARNING]
        assert logged == ["more than 8 connections: some of 127.0.0.2 that wait are cut"], "once"


async def test_what_is_being_served_is_not_cut() -> None:
    going, served = asyncio.Event(), asyncio.Semaphore(0)

    async def slow(exchange: HttpExchange) -> None:
        served.release()
        await going.wait()
        await at_once(exchange)

    async with AsyncExitStack() as stack:
        running, port = await stack.enter_async_context(listening(None, slow))
        busy = [await come(stack, port, "127.0.0.2") for _ in range(MOST)]
        for one in busy:
            await one.send(one.request(method="GET"))
            await served.acquire()
        await cut(await come(stack, port, "127.0.0.1"))
        going.set()
        assert [(await one.answer()).status for one in busy] == [200] * MOST
        assert running.connections == MOST
