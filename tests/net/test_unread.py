"""Answers of HTTP/2 that nobody takes: how much of them a connection keeps, and all together."""

from __future__ import annotations

import asyncio

import pytest

from openmcp.sidecar.net import http2 as implementation
from openmcp.sidecar.net import unread
from openmcp.sidecar.ports import Exchange
from tests.net.test_http2 import until
from tests.net.test_lifetimes import listening
from tests.support.http2 import CANCEL, INITIAL_WINDOW_SIZE, REFUSED_STREAM, Http2, http2, reset, window

ANSWER = 200_000
LARGE = 1_000_000
CLOSED = {INITIAL_WINDOW_SIZE: 0}


async def answering(exchange: Exchange) -> None:
    """Answer with what is small enough to be one piece; in pieces, or as a stream, where that is asked for."""
    if exchange.request.body == b"large":
        await exchange.respond_large(200, b"", [bytes(LARGE // 10)] * 10)
    elif exchange.request.body == b"stream":
        exchange.start_stream(b"", b"")
        await exchange.write_large(bytes(LARGE // 10) for _ in range(10))
        exchange.finish()
    else:
        exchange.respond(200, b"", bytes(ANSWER))


async def asked(agent: Http2, count: int, body: bytes = b"x") -> list[int]:
    """Ask so often, and wait until it is answered as far as that goes."""
    numbers = [await agent.request(body) for _ in range(count)]
    for number in numbers:
        await agent.begun(number)
    return numbers


@pytest.mark.parametrize(("body", "size"), [(b"x", ANSWER), (b"large", LARGE), (b"stream", LARGE)])
async def test_what_is_taken_given_up_or_lost_is_kept_no_more(body: bytes, size: int) -> None:
    async with listening(None, answering) as (listener, port):
        async with http2(("127.0.0.1", port), changed=CLOSED) as agent, http2(("127.0.0.1", port)) as other:
            first, second, _ = await asked(agent, 3, body)
            assert listener.unread.total == 3 * size
            await agent.send(window(0, 2**20), window(first, 2**20))
            assert len((await agent.answer(first)).body) == size
            assert listener.unread.total == 2 * size
            await agent.send(reset(second))
            await agent.pinged()
            assert listener.unread.total == size
            await asked(other, 1, body)
        await until(lambda: listener.connections == 0)
        assert listener.unread.total == 0


async def test_a_connection_with_much_unread_takes_no_more_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unread, "MANY", 10 * ANSWER)
    async with listening(None, answering) as (listener, port), http2(("127.0.0.1", port), changed=CLOSED) as agent:
        numbers = await asked(agent, 11)
        assert await agent.was_reset(await agent.request(b"x")) == REFUSED_STREAM
        async with http2(("127.0.0.1", port)) as other:  # it is nobody else's fault
            await other.send(window(0, 2**20))
            await other.send(window(number := await other.request(b"x"), 2**20))
            assert len((await other.answer(number)).body) == ANSWER
        await agent.send(window(0, 2**20), window(numbers[0], 2**20))
        await agent.answer(numbers[0])
        assert listener.unread.total == 10 * ANSWER
        await asked(agent, 1)


async def test_answers_that_nobody_takes_wait_less_long_where_there_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unread, "MANY", 2 * ANSWER)
    monkeypatch.setattr(unread, "PATIENCE", 0.1)
    async with listening(None, answering) as (listener, port), http2(("127.0.0.1", port), changed=CLOSED) as agent:
        numbers = await asked(agent, 3)
        async with asyncio.timeout(implementation.STALL_TIMEOUT / 10):
            assert await agent.was_reset(numbers[0]) == CANCEL
        await until(lambda: listener.unread.total <= 2 * ANSWER)


async def test_of_all_connections_the_one_that_keeps_most_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unread, "MOST", 20 * ANSWER)
    refused: list[int] = []
    async with listening(None, answering) as (listener, port):
        monkeypatch.setattr(listener.unread, "_on_cut", lambda: refused.append(429))
        async with (
            http2(("127.0.0.1", port), changed=CLOSED) as modest,
            http2(("127.0.0.1", port), changed=CLOSED) as hoarder,
        ):
            (number,) = await asked(modest, 1)
            await asked(hoarder, 18)
            assert listener.unread.total == 19 * ANSWER
            for _ in range(5):
                await hoarder.request(b"x")
            await hoarder.closed()
            await until(lambda: listener.connections == 1)
            assert (listener.unread.total, refused) == (ANSWER, [429])
            await modest.send(window(0, 2**20), window(number, 2**20))
            assert len((await modest.answer(number)).body) == ANSWER


async def test_an_attack_by_many_connections_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unread, "MOST", 50 * ANSWER)
    most = 0

    async def watched(exchange: Exchange) -> None:
        nonlocal most
        await answering(exchange)
        most = max(most, listener.unread.total)

    async with listening(None, watched) as (listener, port):
        clients = [http2(("127.0.0.1", port), changed=CLOSED) for _ in range(12)]
        agents = [await client.__aenter__() for client in clients]
        await until(lambda: listener.connections == 12)
        for _ in range(12):
            for agent in agents:
                try:
                    await agent.request(b"x")
                except ConnectionError:  # it was cut
                    continue
        await until(lambda: listener.connections < 12)
        for client in clients:
            await client.__aexit__(None, None, None)
        assert 40 * ANSWER < most <= 50 * ANSWER
