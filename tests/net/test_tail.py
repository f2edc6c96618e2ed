"""How a client's connection is closed: who takes the last answer slowly, or still sends, gets the whole of it."""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import cast

import pytest

from openmcp.sidecar.net import http1, sweep, tail
from openmcp.sidecar.net.exchange import HttpExchange
from openmcp.sidecar.ports import Exchange
from tests.fakes.pki import Ca
from tests.net.test_http2 import Handler, until
from tests.net.test_lifetimes import connected, listening, tls_of
from tests.support.http2 import (
    ACK,
    GOAWAY,
    INITIAL_WINDOW_SIZE,
    PING,
    PREFACE,
    Http2,
    Incoming,
    frame,
    http2,
    settings,
    window,
)
from tests.support.mtls import careless_client

SIZE = 12_000_000
"""Bytes: more than two sockets take."""
REQUEST = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"


class Thin:
    """A transport whose client reads now and then."""

    def __init__(self, *waiting: int) -> None:
        self.waiting = list(waiting)
        self.ended = ""

    def is_closing(self) -> bool:
        return bool(self.ended)

    def can_write_eof(self) -> bool:
        return False

    def close(self) -> None:
        self.ended = "closed"

    def abort(self) -> None:
        self.ended = "aborted"

    def get_write_buffer_size(self) -> int:
        return self.waiting.pop(0)

    def get_extra_info(self, name: str) -> None:
        """It has no socket."""


def test_a_client_that_reads_slowly_does_not_stall() -> None:
    """A large answer over a thin line takes longer than a client may stand still."""
    watched = tail.Tail(lambda: 100.0)
    watched.open(cast(asyncio.Transport, Thin(900, 600, 300, 300, 300, 0, 0)))
    watched.watch()
    later = (0.9, 1.8, 2.7, 3.6, 3.8, 4.0, 5.1)
    stalled = [watched.stalled(100.0 + late * tail.STALL_TIMEOUT) for late in later]
    assert stalled == [False, False, False, False, True, False, True]


def test_one_that_does_not_read_our_goodbye_has_no_time_to_answer_it() -> None:
    """It has had everything for as long as anybody may."""
    thin, now = Thin(0, 0, 0), 100.0
    closed = tail.Tail(lambda: now)
    closed.open(cast(asyncio.Transport, thin))
    closed.shut(tail.STALL_TIMEOUT)
    ends = []
    for now in (100.0 + late * tail.LINGER_TIMEOUT for late in (0.9, 1.1, 1.2)):
        closed.linger(now)
        ends.append(thin.ended)
    assert ends == ["", "closed", "aborted"]


class Deaf:
    """A transport of TLS whose client reads nothing."""

    def __init__(self) -> None:
        self.done: list[str] = []

    def can_write_eof(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return 100

    def get_extra_info(self, name: str) -> None:
        """It has no socket."""

    def is_closing(self) -> bool:
        return bool(self.done)

    def close(self) -> None:
        self.done.append("close")

    def abort(self) -> None:
        self.done.append("abort")


def test_who_is_cut_off_has_no_longer_over_tls() -> None:
    """The end is told at once; that is no reason to keep the connection for those who do not read it."""
    deaf, ending = Deaf(), tail.Tail(lambda: 100.0)
    ending.open(cast(asyncio.Transport, deaf))
    ending.shut(tail.LINGER_TIMEOUT)
    ending.finish()
    ending.linger(100.0 + tail.LINGER_TIMEOUT / 2)
    assert deaf.done == ["close"]
    ending.linger(100.0 + tail.LINGER_TIMEOUT)
    assert deaf.done == ["close", "abort"]


@pytest.fixture(params=[False, True], ids=["clear", "tls"])
def tls(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture
def context(tls: bool) -> ssl.SSLContext | None:
    return tls_of(Ca("example.org"))[1] if tls else None


@pytest.fixture
def by(tls: bool) -> ssl.SSLContext | None:
    return careless_client() if tls else None


async def large(exchange: Exchange) -> None:
    exchange.respond(200, b"", bytes(SIZE))


@asynccontextmanager
async def slow(
    port: int, by: ssl.SSLContext | None
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A client whose socket takes little."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
    name = "x" if by is not None else None
    reader, writer = await asyncio.open_connection(sock=sock, ssl=by, server_hostname=name)
    try:
        yield reader, writer
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


async def test_a_slow_client_gets_the_last_answer_whole(
    context: ssl.SSLContext | None, by: ssl.SSLContext | None
) -> None:
    async with listening(context, large) as (listener, port), slow(port, by) as (reader, writer):
        writer.write(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
        got, there = 0, listener.clock
        while listener.clock < there + tail.LINGER_TIMEOUT + 0.5:
            got += len(await reader.readexactly(1))
            await asyncio.sleep(0.01)
        assert got + len(await reader.read()) == SIZE


async def test_one_that_sends_its_next_requests_meanwhile_gets_it_too(
    context: ssl.SSLContext | None, by: ssl.SSLContext | None
) -> None:
    """None of them is served: the sidecar drains."""
    begun, release = asyncio.Event(), asyncio.Event()

    async def held(exchange: Exchange) -> None:
        begun.set()
        await release.wait()
        await large(exchange)

    async with listening(context, held) as (listener, port), slow(port, by) as (reader, writer):
        writer.write(REQUEST * 2)
        await begun.wait()
        listener.accepting = False
        release.set()
        await reader.readuntil(b"\r\n\r\n")
        got = 0
        while got < SIZE:
            got += len(await reader.read(65536))
            writer.write(REQUEST)
        assert got == SIZE
        listener.accepting = True


async def test_one_that_opens_its_windows_gets_it_too(
    context: ssl.SSLContext | None, by: ssl.SSLContext | None
) -> None:
    """What it sends crosses with the end of the connection."""
    if by is not None:
        by.set_alpn_protocols(["h2"])
    async with listening(context, large) as (_, port), slow(port, by) as (reader, writer):
        agent = Http2(reader, writer, "x", "/", "http" if by is None else "https")
        await agent.send(PREFACE, settings({INITIAL_WINDOW_SIZE: 2**30}), window(0, 2**30))
        number = await agent.request(b"x")
        await agent.begun(number)
        await agent.send(frame(GOAWAY, 0, 0, bytes(8)))
        stream = agent.streams.setdefault(number, Incoming())
        while not stream.ended:
            await agent.read()
            await agent.send(window(0, 1))
        assert len(stream.body) == SIZE
        await agent.closed()


@pytest.mark.parametrize("code", [0, 255])
async def test_what_comes_behind_a_goodbye_is_read(
    code: int, monkeypatch: pytest.MonkeyPatch, fast_clock: None
) -> None:
    monkeypatch.setattr(sweep, "INTERVAL", 3600.0)  # however slow this client is
    async with listening(None) as (listener, port), http2(("127.0.0.1", port)) as agent:
        await agent.pinged()
        await agent.send(frame(GOAWAY, 0, 0, bytes(7) + bytes([code])))
        await agent.closed()
        assert listener.connections == 1
        for _ in range(3):
            await agent.send(frame(PING, 0, 0, bytes(8)), frame(PING, ACK, 0, bytes(8)))
        sock = agent.writer.get_extra_info("socket")
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0, "no RST"
        await agent.close()
        await until(lambda: listener.connections == 0)


async def test_a_second_goodbye_and_what_is_no_protocol_behind_one_harm_nobody() -> None:
    async with listening(None) as (listener, port), http2(("127.0.0.1", port)) as agent:
        await agent.pinged()
        block = agent.block(agent.fields())
        goodbye = frame(GOAWAY, 0, 0, bytes(8))
        await agent.send(goodbye, goodbye, frame(1, 5, 1, block), frame(1, 5, 2, block), frame(6, 0, 0, b"short"))
        await agent.closed()
        await agent.close()
        await until(lambda: listener.connections == 0)


@pytest.mark.parametrize("speaks", ["HTTP/1.1", "HTTP/2"])
async def test_who_does_not_close_is_cut(
    context: ssl.SSLContext | None, by: ssl.SSLContext | None, monkeypatch: pytest.MonkeyPatch, speaks: str
) -> None:
    """It read what it was sent, and no more."""
    monkeypatch.setattr(tail, "LINGER_TIMEOUT", 0.1)
    handler = Handler()
    async with listening(context, handler) as (listener, port):
        if speaks == "HTTP/2":
            async with http2(("127.0.0.1", port), by) as agent:
                assert (await agent.ask(b"x")).status == 200
                agent.writer.transport.pause_reading()  # type: ignore[attr-defined]  # a stream's can
                await agent.send(frame(GOAWAY, 0, 0, bytes(8)))
                await until(lambda: listener.connections == 0)
                agent.writer.transport.abort()
        else:
            async with connected(port, by) as plain:
                plain.writer.transport.pause_reading()  # type: ignore[attr-defined]  # a stream's can
                await plain.send(plain.request(b"x", connection="close"))
                await until(lambda: listener.connections == 0)
                plain.writer.transport.abort()


async def test_a_slow_client_that_has_asked_for_nothing_more_gets_its_answer_whole(
    context: ssl.SSLContext | None, by: ssl.SSLContext | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over TLS the connection is idle long before the client has everything."""
    monkeypatch.setattr(http1, "IDLE_TIMEOUT", 0.1)
    async with listening(context, large) as (listener, port), slow(port, by) as (reader, writer):
        writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
        got = 0
        (connection,) = listener._connections
        while not connection.waiting:
            got += len(await reader.readexactly(4096))
        idle = listener.clock
        await until(lambda: listener.clock > idle + 0.5)
        assert got + len(await reader.read()) == SIZE


async def test_a_drain_ends_with_the_answer_that_it_found_under_way() -> None:
    """The sidecar was done with it, its client was not."""
    async with listening(None, large) as (listener, port), slow(port, None) as (reader, writer):
        writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
        drained = asyncio.create_task(listener.drain(60.0, lambda: None))
        assert len(await reader.readexactly(SIZE)) == SIZE
        async with asyncio.timeout(10.0):
            assert await reader.read() == b""
        writer.close()
        await drained


async def test_a_drain_waits_for_what_the_kernel_has_and_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the sidecar's network ends with it, as in a Pod, so does what is still under way there. A client that keeps
    its connection for later reads nothing, and does not hear of the end."""
    monkeypatch.setattr(tail, "LINGER_TIMEOUT", 60.0)
    async with (
        listening(None, lambda exchange: answered(exchange, 1_000_000)) as (listener, port),
        slow(port, None) as (reader, writer),
    ):
        writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
        (connection,) = listener._connections
        got = 0
        while not connection.waiting:
            got += len(await reader.readexactly(1))
        drained = asyncio.create_task(listener.drain(60.0, lambda: None))
        begun = listener.clock
        await until(lambda: listener.clock > begun + 0.1)
        assert listener.connections == 1
        assert got + len(await reader.read()) == 1_000_000
        async with asyncio.timeout(10.0):
            await drained


async def answered(exchange: HttpExchange, size: int) -> None:
    exchange.respond(200, b"", bytes(size))


async def test_a_client_that_is_gone_does_not_fail_the_end_of_its_stream() -> None:
    """Its reset is there, but the loop does not know yet."""
    ended = asyncio.Event()

    async def stream(exchange: HttpExchange) -> None:
        exchange.start_stream(b"", b"")
        exchange.flush()
        agent.close()
        exchange.finish()
        ended.set()

    async with listening(None, stream) as (listener, port):
        with socket.create_connection(("127.0.0.1", port)) as agent:
            agent.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            agent.sendall(b"GET / HTTP/1.0\r\n\r\n")
            await until(ended.is_set)
        await until(lambda: listener.connections == 0)


async def test_a_client_of_http2_that_has_answered_our_goodbye_sees_the_end_at_once(
    context: ssl.SSLContext | None, by: ssl.SSLContext | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Go's waits for the end where nothing is under way."""
    monkeypatch.setattr(tail, "LINGER_TIMEOUT", 60.0)
    async with listening(context) as (listener, port), http2(("127.0.0.1", port), by) as agent:
        await agent.pinged()
        drained = asyncio.create_task(listener.drain(60.0, lambda: None))
        async with asyncio.timeout(10.0):
            await agent.closed()
        await agent.close()
        await drained
