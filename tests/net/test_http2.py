"""The agents' side in HTTP/2 (RFC 9113): what a connection accepts, refuses, and waits for."""

from __future__ import annotations

import asyncio
import json
import weakref
from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest

from openmcp.identity.tls import SpiffeTls
from openmcp.sidecar.errors import Refused
from openmcp.sidecar.net import http2 as implementation
from openmcp.sidecar.net import tail, uploads
from openmcp.sidecar.net.floods import Flood, Guard
from openmcp.sidecar.ports import Exchange, HttpRequest
from tests.fakes.pki import Ca
from tests.net.test_lifetimes import AGENT, US, ending, listening, tls_of
from tests.support.gate import KEYS, Gate, call, initialize
from tests.support.hostile import Hostile, Reply, Request, friendly
from tests.support.http2 import (
    ACK,
    ANY_STREAM,
    CANCEL,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    ENHANCE_YOUR_CALM,
    GOAWAY,
    HEADERS,
    INITIAL_WINDOW_SIZE,
    NO_ERROR,
    PING,
    PREFACE,
    PRIORITY,
    PROTOCOL_ERROR,
    REFUSED_STREAM,
    SETTINGS,
    Http2,
    Incoming,
    frame,
    http2,
    reset,
    settings,
    window,
)
from tests.support.mtls import Moved, bundles_of, careless_client
from tests.support.raw import Closed, Connection

DONE = {"content": [{"type": "text", "text": "done"}]}
LIMIT = 65536
"""Bytes of a body, where the listener is one of `listening`."""


class Handler:
    """A handler that keeps what was asked, and answers with the body when it is let."""

    def __init__(self) -> None:
        self.requests: list[HttpRequest] = []
        self.begun = asyncio.Event()
        self.release = asyncio.Event()
        self.release.set()
        self.cancelled = 0

    async def __call__(self, exchange: Exchange) -> None:
        self.requests.append(exchange.request)
        self.begun.set()
        try:
            await self.release.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        exchange.respond(200, b"content-type: text/plain\r\n", exchange.request.body)


@pytest.fixture
def handler() -> Handler:
    return Handler()


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something that has no event."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - it is no event's
            await asyncio.sleep(0.005)


# Which protocol


async def test_a_call_over_the_whole_way(sidecar: Gate, server: Hostile) -> None:
    async with http2(sidecar.app.mcp_address, x_api_key=KEYS["alice"]) as agent:
        answers = [await agent.ask(call(identifier=number)) for number in range(3)]
        assert [(one.status, one.json["id"], one.json["result"]) for one in answers] == [
            (200, number, DONE) for number in range(3)
        ]
        assert [answers[0].header(name) for name in ("content-type", "content-length")] == [
            "application/json",
            str(len(answers[0].body)),
        ]
        assert answers[0].header("date") is not None
        denied = await agent.ask(call("forbidden", 4))
        assert denied.json["result"]["isError"] is True
    async with http2(sidecar.app.mcp_address) as nobody:
        assert (await nobody.ask(call())).status == 401
    assert len(server.requests) == 3


@pytest.mark.parametrize("size", [1, 5, 24])
async def test_a_preface_may_come_in_pieces(handler: Handler, size: int) -> None:
    async with listening(None, handler) as (_, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        agent = Http2(reader, writer, "127.0.0.1")
        hello = PREFACE + settings({})
        for at in range(0, len(hello), size):
            await agent.send(hello[at : at + size])
            await asyncio.sleep(0)
        assert (await agent.ask(b"hello")).body == b"hello"
        await agent.close()


async def test_what_only_begins_like_a_preface_is_http_1(handler: Handler) -> None:
    async with listening(None, handler) as (_, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        agent = Connection(reader, writer, "127.0.0.1", "/")
        for piece in (b"P", b"OST / HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\nhi"):
            await agent.send(piece)
            await asyncio.sleep(0.01)
        assert (await agent.answer()).body == b"hi"
        await agent.close()


async def test_operators_are_told_in_http_1_alone(sidecar: Gate) -> None:
    reader, writer = await asyncio.open_connection(*sidecar.app.admin_address)
    writer.write(PREFACE + settings({}))
    assert (await reader.read()).startswith(b"HTTP/1.1 400 ")
    writer.close()


async def test_requests_carry_the_certificate_of_their_connection(handler: Handler) -> None:
    ca = Ca("example.org")
    _, context = tls_of(ca)
    async with listening(context, handler) as (_, port):
        async with http2(("127.0.0.1", port), careless_client(ca.leaf(AGENT))) as agent:
            numbers = [await agent.request(b"x") for _ in range(3)]
            for number in numbers:
                assert (await agent.answer(number)).status == 200
        async with http2(("127.0.0.1", port), careless_client()) as agent:
            assert (await agent.ask(b"x")).status == 200
    ids = [str(one.peer.certificate.spiffe_id) if one.peer.certificate else None for one in handler.requests]
    assert ids == [AGENT] * 3 + [None]


# What is a request


async def test_a_request_is_what_it_is_in_http_1(handler: Handler) -> None:
    async with listening(None, handler) as (_, port), http2(("127.0.0.1", port), path="/a/b?c=d") as agent:
        fields = [*agent.fields("PUT"), ("accept", "text/plain"), ("x", "1"), ("x", "2"), ("te", "trailers")]
        number = await agent.begin(fields)
        await agent.send(
            frame(DATA, 0, number, b"one, "), frame(DATA, 0, number), frame(DATA, END_STREAM, number, b"two")
        )
        assert (await agent.answer(number)).body == b"one, two"
        headers = {
            b"accept": b"application/json, text/event-stream,text/plain",
            b"x": b"1",
            b"te": b"trailers",
            b"host": f"127.0.0.1:{port}".encode(),
        }
        (request,) = handler.requests
        assert (request.method, request.path, request.headers) == ("PUT", "/a/b", headers)
        assert (request.repeated, request.body) == (frozenset((b"accept", b"x")), b"one, two")


async def test_trailers_are_ignored(handler: Handler) -> None:
    async with listening(None, handler) as (_, port), http2(("127.0.0.1", port)) as agent:
        number = await agent.begin(agent.fields())
        trailers = agent.block([("authorization", "Bearer x"), ("x-api-key", "y")])
        await agent.send(frame(DATA, 0, number, b"body"), frame(HEADERS, END_HEADERS | END_STREAM, number, trailers))
        assert (await agent.answer(number)).body == b"body"
        assert not {b"authorization", b"x-api-key"} & handler.requests[0].headers.keys()


async def test_head_has_no_body(handler: Handler) -> None:
    async with listening(None, handler) as (_, port), http2(("127.0.0.1", port)) as agent:
        answer = await agent.ask(b"four", "HEAD")
        assert (answer.status, answer.header("content-length"), answer.body) == (200, "4", b"")


GOOD = [(":method", "POST"), (":scheme", "http"), (":authority", "x"), (":path", "/")]
MALFORMED = {
    "upper case": [*GOOD, ("X", "y")],
    "blank in a name": [*GOOD, ("x y", "z")],
    "empty name": [*GOOD, ("", "z")],
    "NUL in a value": [*GOOD, ("x", "y\0z")],
    "line in a value": [*GOOD, ("x", "y\r\nhost: evil")],
    "LF in a value": [*GOOD, ("x", "y\nz")],
    "blank before a value": [*GOOD, ("x", " y")],
    "blank after a value": [*GOOD, ("x", "y\t")],
    "unknown pseudo": [*GOOD, (":protocol", "websocket")],
    "pseudo behind others": [*GOOD[:3], ("x", "y"), GOOD[3]],
    "pseudo twice": [*GOOD, (":path", "/other")],
    "no method": GOOD[1:],
    "no scheme": [GOOD[0], *GOOD[2:]],
    "no path": GOOD[:3],
    "empty path": [*GOOD[:3], (":path", "")],
    "absolute path": [*GOOD[:3], (":path", "http://evil.example/")],
    "blank in the path": [*GOOD[:3], (":path", "/a b")],
    "line in the path": [*GOOD[:3], (":path", "/a HTTP/1.1\r\nx: y")],
    "no host": [*GOOD[:2], GOOD[3]],
    "two hosts": [*GOOD, ("host", "evil.example")],
    "host twice": [*GOOD, ("host", "x"), ("host", "x")],
    "CONNECT": [(":method", "CONNECT"), (":authority", "x")],
    "connection": [*GOOD, ("connection", "close")],
    "keep-alive": [*GOOD, ("keep-alive", "1")],
    "transfer-encoding": [*GOOD, ("transfer-encoding", "chunked")],
    "upgrade": [*GOOD, ("upgrade", "h2c")],
    "te": [*GOOD, ("te", "gzip")],
    "length twice": [*GOOD, ("content-length", "0"), ("content-length", "0")],
    "wrong length": [*GOOD, ("content-length", "1")],
}


@pytest.mark.parametrize("fields", MALFORMED.values(), ids=MALFORMED)
async def test_a_malformed_request_ends_its_stream_alone(handler: Handler, fields: list[tuple[str, str]]) -> None:
    async with listening(None, handler) as (_, port), http2(("127.0.0.1", port)) as agent:
        handler.release.clear()
        before = await agent.request(b"before")
        assert await agent.was_reset(await agent.begin(fields, ends=True)) == PROTOCOL_ERROR
        handler.release.set()
        assert (await agent.answer(before)).body == b"before"
        assert (await agent.ask(b"after")).body == b"after"
        assert [request.body for request in handler.requests] == [b"before", b"after"]


async def test_a_host_may_stand_for_the_authority(handler: Handler) -> None:
    async with listening(None, handler) as (_, port), http2(("127.0.0.1", port)) as agent:
        for fields in ([*GOOD[:2], GOOD[3], ("host", "y")], [*GOOD, ("host", "x")]):
            assert (await agent.answer(await agent.begin(fields, ends=True))).status == 200
        assert [request.headers for request in handler.requests] == [{b"host": b"y"}, {b"host": b"x"}]


@pytest.mark.parametrize("fields", [[("x", "y" * 33_000)], [(f"x{number}", "y") for number in range(101)]])
async def test_too_many_headers_are_refused(handler: Handler, fields: list[tuple[str, str]]) -> None:
    async with listening(None, handler) as (_, port), http2(("127.0.0.1", port)) as agent:
        number = agent.next()
        block = agent.block([*GOOD, *fields])
        pieces = [block[at : at + 16384] for at in range(0, len(block), 16384)]
        last = len(pieces) - 1
        await agent.send(
            *(
                frame(CONTINUATION if at else HEADERS, END_HEADERS if at == last else 0, number, piece)
                for at, piece in enumerate(pieces)
            )
        )
        assert (await agent.answer(number)).status == 431
        assert (await agent.ask(b"next")).status == 200


# Bodies


async def test_a_body_beyond_its_limit_is_refused(handler: Handler) -> None:
    async with listening(None, handler) as (_, port), http2(("127.0.0.1", port)) as agent:
        declared = await agent.begin(agent.fields(content_length=str(LIMIT + 1)))
        assert (await agent.answer(declared)).status == 413
        assert await agent.was_reset(declared) == NO_ERROR
        undeclared = await agent.begin(agent.fields())
        for _ in range(4):
            await agent.send(frame(DATA, 0, undeclared, bytes(16384)))
        while undeclared not in agent.windows:
            await agent.read()
        await agent.send(frame(DATA, 0, undeclared, b"x"))
        assert (await agent.answer(undeclared)).status == 413
        await agent.send(frame(DATA, END_STREAM, undeclared, b"what was under way already"))
        assert (await agent.ask(b"next")).body == b"next"
        assert len(handler.requests) == 1


async def upload(agent: Http2, number: int, size: int, sent: int = 0) -> None:
    """Send a body, of which some is sent, as the windows let it."""
    while sent < size:
        room = 65536 + agent.windows.get(number, 0) - sent
        if room <= 0:
            await agent.read()
            continue
        step = min(16384, size - sent, room)
        sent += step
        await agent.send(frame(DATA, END_STREAM if sent == size else 0, number, bytes(step)))


async def test_large_bodies_take_turns_and_hold_up_no_small_one(
    handler: Handler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "MAX_UPLOADS", 300_000)
    async with listening(None, handler) as (listener, port):
        listener.body_limit = lambda path: 400_000
        async with http2(("127.0.0.1", port), changed={INITIAL_WINDOW_SIZE: 2**30}) as agent:
            await agent.send(window(0, 2**30))
            first, gone, second = [await agent.begin(agent.fields(content_length="200000")) for _ in range(3)]
            for number in (first, gone, second):
                await agent.send(*[frame(DATA, 0, number, bytes(16384))] * 3)
            assert (await agent.ask(b"small")).body == b"small"
            assert agent.windows.keys() == {0, first}
            await agent.send(reset(gone))
            await upload(agent, first, 200_000, 3 * 16384)
            assert len((await agent.answer(first)).body) == 200_000
            await upload(agent, second, 200_000, 3 * 16384)
            assert len((await agent.answer(second)).body) == 200_000


async def test_a_large_body_comes_in_whole(handler: Handler) -> None:
    async with listening(None, handler) as (listener, port):
        listener.body_limit = lambda path: 12_000_000
        async with http2(("127.0.0.1", port), changed={INITIAL_WINDOW_SIZE: 2**30}) as agent:
            await agent.send(window(0, 2**30))
            for size in (10_000_000, 3_000_000):  # the second one needs a connection window that was opened anew
                number = await agent.begin(agent.fields(content_length=str(size)))
                await upload(agent, number, size)
                assert len((await agent.answer(number)).body) == size


@pytest.mark.parametrize(("expected", "status"), [("100-continue", 200), ("200-maybe", 417)])
async def test_expectations(handler: Handler, expected: str, status: int) -> None:
    async with listening(None, handler) as (_, port), http2(("127.0.0.1", port)) as agent:
        number = await agent.begin(agent.fields(expect=expected))
        if status == 200:
            assert (await agent.begun(number)).headers == [[(":status", "100")]]
            await agent.send(frame(DATA, END_STREAM, number, b"body"))
        assert (await agent.answer(number)).status == status


# Streams


async def test_answers_come_as_they_are_ready(sidecar: Gate, server: Hostile) -> None:
    release = asyncio.Event()

    async def slow_first(request: Request, reply: Reply) -> None:
        if request.json["id"] == 0:
            await release.wait()
        await friendly(request, reply)

    server.handler = slow_first
    async with http2(sidecar.app.mcp_address, x_api_key=KEYS["alice"]) as agent:
        numbers = [await agent.request(call(identifier=number)) for number in range(5)]
        assert [(await agent.answer(number)).json["id"] for number in numbers[1:]] == [1, 2, 3, 4]
        assert not agent.streams.get(numbers[0])
        release.set()
        assert (await agent.answer(numbers[0])).json["id"] == 0


async def test_an_answer_goes_as_far_as_the_windows(handler: Handler) -> None:
    small = {INITIAL_WINDOW_SIZE: 10}
    async with listening(None, handler) as (_, port), http2(("127.0.0.1", port), changed=small) as agent:
        first, second = await agent.request(bytes(50_000)), await agent.request(bytes(50_000))
        for number in (first, second):
            assert (await agent.begun(number, 10)).body == bytes(10)
        await agent.send(window(second, 30_000))
        await agent.begun(second, 30_010)
        await agent.pinged()
        assert [len(agent.streams[number].body) for number in (first, second)] == [10, 30_010]
        await agent.send(settings({INITIAL_WINDOW_SIZE: 40_000}))
        while sum(len(agent.streams[number].body) for number in (first, second)) < 65_535:
            await agent.read()
        await agent.pinged()  # that is the connection's window
        assert sum(len(agent.streams[number].body) for number in (first, second)) == 65_535
        await agent.send(window(0, 100_000), window(first, 20_000))
        assert [len((await agent.answer(number)).body) for number in (first, second)] == [50_000, 50_000]


async def test_a_stream_of_unknown_length(handler: Handler) -> None:
    async def told(exchange: Exchange) -> None:
        exchange.start_stream(b"content-type: text/event-stream\r\n", b": alive\n\n")
        for number in range(3):
            exchange.write(b"data: %d\n\n" % number)
            await exchange.drain()
        await exchange.write_large([b"a" * 50_000, b"b" * 50_000])
        exchange.finish()

    async with listening(None, told) as (_, port), http2(("127.0.0.1", port)) as agent:
        number = await agent.request(b"x")
        await agent.begun(number, 65_535)
        await agent.send(window(0, 50_000), window(number, 50_000))
        answer = await agent.answer(number)
        assert (answer.status, answer.headers[1:]) == (200, [("content-type", "text/event-stream")])
        assert answer.body == b"".join(b"data: %d\n\n" % n for n in range(3)) + b"a" * 50_000 + b"b" * 50_000


async def test_a_slow_reader_makes_its_writer_wait(handler: Handler) -> None:
    written: list[int] = []

    async def told(exchange: Exchange) -> None:
        async def pieces() -> None:
            exchange.start_stream(b"", b"")
            for number in range(20):
                exchange.write(bytes(16384))
                await exchange.drain()
                written.append(number)

        await pieces()
        exchange.finish()

    async with listening(None, told) as (_, port), http2(("127.0.0.1", port)) as agent:
        number = await agent.request(b"x")
        await agent.begun(number, 65_535)
        await agent.pinged()
        assert len(written) == 7  # 65,535 bytes are on the way, and less than 65,536 wait
        await agent.send(window(0, 2**20), window(number, 2**20))
        assert len((await agent.answer(number)).body) == 20 * 16384


async def test_a_large_answer_comes_in_pieces(handler: Handler) -> None:
    async def large(exchange: Exchange) -> None:
        await exchange.respond_large(200, b"x: y\r\n", [bytes(100_000)] * 3)

    async with listening(None, large) as (_, port), http2(("127.0.0.1", port)) as agent:
        await agent.send(window(0, 2**20))
        number = await agent.request(b"x")
        await agent.send(window(number, 2**20))
        answer = await agent.answer(number)
        assert (answer.header("content-length"), len(answer.body)) == ("300000", 300_000)


async def test_a_session_with_its_stream(sidecar: Gate, server: Hostile) -> None:
    async with sidecar.connect() as first:
        session = await initialize(first)
    hold = asyncio.Event()

    async def streaming(request: Request, reply: Reply) -> None:
        if request.method == "GET":
            await reply.stream()
            await reply.event({"jsonrpc": "2.0", "method": "notifications/tools/list_changed"})
            await hold.wait()
        else:
            await friendly(request, reply)

    server.handler = streaming
    headers = {"x_api_key": KEYS["alice"], "mcp_session_id": session, "mcp_protocol_version": "2025-11-25"}
    async with http2(sidecar.app.mcp_address, **headers) as agent:
        stream = await agent.request(method="GET")
        body = (await agent.begun(stream, 20)).body
        while b"\n\n" not in agent.streams[stream].body.partition(b"data: {")[2]:
            await agent.read()
        body = agent.streams[stream].body
        assert json.loads(body.partition(b"data: {")[2].partition(b"\n")[0].join([b"{", b""])) == {
            "jsonrpc": "2.0",
            "method": "notifications/tools/list_changed",
        }
        assert (await agent.ask(call())).json["result"] == DONE
        hold.set()


# Giving up


async def test_a_request_that_is_given_up_is_cancelled(handler: Handler) -> None:
    async with listening(None, handler) as (_, port), http2(("127.0.0.1", port)) as agent:
        handler.release.clear()
        number, other = await agent.request(b"x"), await agent.request(b"other")
        await until(lambda: len(handler.requests) == 2)
        await agent.send(reset(number))
        await until(lambda: handler.cancelled == 1)
        handler.release.set()
        assert (await agent.answer(other)).body == b"other"
        assert number not in agent.streams


async def test_a_connection_that_is_lost_cancels_all_of_its_requests(handler: Handler) -> None:
    async with listening(None, handler) as (listener, port):
        async with http2(("127.0.0.1", port)) as agent:
            handler.release.clear()
            for _ in range(3):
                await agent.request(b"x")
            await until(lambda: len(handler.requests) == 3)
        await until(lambda: handler.cancelled == 3)
        await until(lambda: listener.connections == 0)


async def failing(exchange: Exchange) -> None:
    raise Refused(400, 1, "nobody takes this", reason="test")


async def leaving(exchange: Exchange) -> None:
    return


async def breaking(exchange: Exchange) -> None:
    exchange.start_stream(b"", b"")
    exchange.write(b"half")
    await exchange.drain()
    raise ValueError


async def cutting(exchange: Exchange) -> None:
    exchange.start_stream(b"", b"")
    exchange.write(b"half")
    await exchange.drain()
    exchange.abort()


@pytest.mark.parametrize(
    ("fault", "status", "code"), [(failing, 500, None), (leaving, None, 2), (breaking, None, 2), (cutting, None, 2)]
)
async def test_handlers_that_fail(
    fault: Callable[[Exchange], Awaitable[None]], status: int | None, code: int | None
) -> None:
    async with listening(None, fault) as (_, port), http2(("127.0.0.1", port)) as agent:
        number = await agent.request(b"x")
        if status is not None:
            assert (await agent.answer(number)).status == status
        else:
            assert await agent.was_reset(number) == code
        await agent.pinged()


async def test_a_connection_is_freed_with_its_end(handler: Handler) -> None:
    async with listening(None, handler) as (listener, port):
        async with http2(("127.0.0.1", port)) as agent:
            assert (await agent.ask(b"x")).status == 200
            (connection,) = listener._connections
            gone = weakref.ref(connection) if hasattr(connection, "__weakref__") else None
            del connection
        await until(lambda: listener.connections == 0)
        if gone is not None:
            await until(lambda: gone() is None)  # without a collection: nothing refers to itself


# Limits


async def test_too_many_streams_are_refused_and_may_be_asked_again(handler: Handler) -> None:
    async with listening(None, handler) as (_, port), http2(("127.0.0.1", port)) as agent:
        handler.release.clear()
        numbers = [await agent.request(b"x") for _ in range(110)]
        assert [await agent.was_reset(number) for number in numbers[100:]] == [REFUSED_STREAM] * 10
        assert agent.settings[3] == 100
        handler.release.set()
        assert [(await agent.answer(number)).status for number in numbers[:100]] == [200] * 100
        assert (await agent.ask(b"again")).body == b"again"
        assert len(handler.requests) == 101


async def test_rapid_resets_end_the_connection(handler: Handler) -> None:
    async with listening(None, handler) as (_, port), http2(("127.0.0.1", port)) as agent:
        handler.release.clear()
        for _ in range(300):
            number = agent.next()
            await agent.send(frame(HEADERS, END_HEADERS | END_STREAM, number, agent.block(GOOD)), reset(number))
        assert (await agent.said_goodbye())[1] == ENHANCE_YOUR_CALM
        await agent.closed()
        assert len(handler.requests) <= 210


async def test_many_requests_at_once_end_the_connection_unread(handler: Handler) -> None:
    async with listening(None, handler) as (_, port), http2(("127.0.0.1", port)) as agent:
        block, again = agent.block(GOOD), agent.block(GOOD)
        await agent.pinged()
        requests = [frame(HEADERS, END_HEADERS | END_STREAM, agent.next(), again if n else block) for n in range(400)]
        await agent.send(*requests)
        assert (await agent.said_goodbye())[1] == ENHANCE_YOUR_CALM
        assert len(handler.requests) <= 250


async def test_what_is_given_up_is_paid_by_what_is_served(handler: Handler) -> None:
    async with listening(None, handler) as (_, port), http2(("127.0.0.1", port)) as agent:
        for _ in range(600):
            number = agent.next()
            await agent.send(frame(HEADERS, END_HEADERS, number, agent.block(agent.fields())), reset(number))
            assert (await agent.ask(b"served")).status == 200


def many(one: bytes) -> list[bytes]:
    return [one] * 3000


def continuations(size: int) -> list[bytes]:
    return [frame(HEADERS, 0, 1, b""), *([frame(CONTINUATION, 0, 1, bytes(size))] * 60)]


FLOODS = {
    "PING": many(frame(PING, 0, 0, bytes(8))),
    "PING answers": many(frame(PING, ACK, 0, bytes(8))),
    "SETTINGS": many(settings({INITIAL_WINDOW_SIZE: 1})),
    "SETTINGS answers": many(frame(SETTINGS, ACK, 0)),
    "PRIORITY": many(frame(PRIORITY, 0, 1, b"\0\0\0\3\1")),
    "unknown frames": many(frame(0xFA, 0, 0)),
    "windows": many(window(0, 1)),
    "empty CONTINUATION": continuations(0),
    "large CONTINUATION": continuations(16384),
}


@pytest.mark.parametrize("flood", FLOODS.values(), ids=FLOODS)
async def test_floods_end_the_connection(handler: Handler, flood: list[bytes]) -> None:
    async with listening(None, handler) as (listener, port), http2(("127.0.0.1", port)) as agent:
        await agent.pinged()
        with suppress(ConnectionError):
            await agent.send(*flood)
        assert (await agent.said_goodbye())[1] == ENHANCE_YOUR_CALM
        await agent.closed()
        await agent.close()
        await until(lambda: listener.connections == 0)


async def test_who_stays_after_a_flood_is_cut(handler: Handler) -> None:
    async with listening(None, handler) as (listener, port), http2(("127.0.0.1", port)) as agent:
        listener._sweeper.stop()
        await agent.send(*FLOODS["PING"])
        await agent.closed()
        assert listener.connections == 1
        listener._sweeper.start()
        await until(lambda: listener.connections == 0)


async def test_a_flood_of_empty_data_ends_the_connection(handler: Handler) -> None:
    async with listening(None, handler) as (_, port), http2(("127.0.0.1", port)) as agent:
        number = await agent.begin(agent.fields())
        await agent.send(*many(frame(DATA, 0, number)))
        assert (await agent.said_goodbye())[1] == ENHANCE_YOUR_CALM


async def test_a_bomb_of_headers_ends_the_connection(handler: Handler) -> None:
    """One field of 4 KiB in the dynamic table, named by one byte as often as a frame holds (RFC 7541, 7.3)."""
    async with listening(None, handler) as (_, port), http2(("127.0.0.1", port)) as agent:
        block = agent.block([*GOOD, ("x", "y" * 4000)]) + b"\xbe" * 10_000
        await agent.send(frame(HEADERS, END_HEADERS | END_STREAM, agent.next(), block))
        assert (await agent.said_goodbye())[1] in (PROTOCOL_ERROR, ENHANCE_YOUR_CALM)
        assert handler.requests == []


async def test_nothing_is_kept_for_a_client_that_wants_a_large_table(handler: Handler) -> None:
    async with listening(None, handler) as (_, port), http2(("127.0.0.1", port), changed={1: 2**31}) as agent:
        agent.decoder.max_allowed_table_size = 2**31
        for _ in range(3):
            assert (await agent.ask(b"x")).status == 200
        assert list(agent.decoder.header_table.dynamic_entries) == []
        await agent.send(settings({1: 0}))
        assert (await agent.ask(b"x")).status == 200


# Time


async def test_a_header_section_that_does_not_go_on(handler: Handler, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(implementation, "HEAD_TIMEOUT", 0.1)
    async with listening(None, handler) as (_, port), http2(("127.0.0.1", port)) as agent:
        handler.release.clear()
        await agent.request(b"x")
        await agent.pinged()
        await agent.send(frame(HEADERS, 0, agent.next(), b""))
        assert (await agent.said_goodbye())[1] == ENHANCE_YOUR_CALM
        await until(lambda: handler.cancelled == 1)


async def test_a_body_that_does_not_go_on_is_refused(handler: Handler, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(implementation, "BODY_TIMEOUT", 0.1)
    async with listening(None, handler) as (_, port), http2(("127.0.0.1", port)) as agent:
        number = await agent.begin(agent.fields())
        assert (await agent.answer(number)).status == 408
        assert (await agent.ask(b"x")).status == 200


async def test_an_idle_connection_is_closed(handler: Handler, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(implementation, "IDLE_TIMEOUT", 0.1)
    async with listening(None, handler) as (_, port), http2(("127.0.0.1", port)) as agent:
        number = await agent.request(b"x")
        assert (await agent.answer(number)).status == 200
        assert await agent.said_goodbye() == (number, NO_ERROR)
        await agent.closed()


async def test_an_answer_that_nobody_takes_is_given_up(handler: Handler, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(implementation, "STALL_TIMEOUT", 0.1)
    closed = {INITIAL_WINDOW_SIZE: 0}
    async with listening(None, handler) as (_, port), http2(("127.0.0.1", port), changed=closed) as agent:
        number = await agent.request(b"x")
        assert await agent.was_reset(number) == CANCEL


async def test_a_client_that_reads_nothing_is_cut(handler: Handler, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tail, "STALL_TIMEOUT", 0.1)
    async with listening(None, handler) as (listener, port):
        listener.body_limit = lambda path: 2**24
        async with http2(("127.0.0.1", port), changed={INITIAL_WINDOW_SIZE: 2**30}) as agent:
            agent.reader._limit = 1  # type: ignore[attr-defined] # the stream stops to read its socket
            await agent.send(window(0, 2**30))
            for _ in range(90):
                number = await agent.begin(agent.fields())
                await agent.send(*(frame(DATA, 0, number, bytes(16000)) for _ in range(4)))
                await agent.send(frame(DATA, END_STREAM, number))
            await until(lambda: listener.connections == 0)


async def test_a_silent_stream_is_kept_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("openmcp.sidecar.net.stream.KEEP_ALIVE_AFTER", 0.05)

    async def silent(exchange: Exchange) -> None:
        exchange.start_stream(b"", b": alive\n\n")
        exchange.flush()
        await asyncio.Event().wait()

    async with listening(None, silent) as (_, port), http2(("127.0.0.1", port)) as agent:
        number = await agent.request(b"x")
        assert (await agent.begun(number, 18)).body.startswith(b": alive\n\n: alive\n\n")


# The end of a connection


async def test_a_drain_lets_everything_end_well(handler: Handler) -> None:
    async with listening(None, handler) as (listener, port), http2(("127.0.0.1", port)) as agent:
        agent.answers_pings = False
        handler.release.clear()
        first = await agent.request(b"first")
        await until(lambda: len(handler.requests) == 1)
        draining = asyncio.ensure_future(listener.drain(60.0, lambda: None))
        await asyncio.sleep(0)
        (connection,) = listener._connections
        connection._announced += 60.0  # else a busy machine may find that this client says nothing
        assert await agent.said_goodbye() == (ANY_STREAM, NO_ERROR)
        second = await agent.request(b"second")  # it was on its way
        await until(lambda: len(handler.requests) == 2)
        await agent.send(frame(PING, ACK, 0, b"leaving."))
        assert await agent.said_goodbye(2) == (second, NO_ERROR)
        late = await agent.request(b"late")
        assert await agent.was_reset(late) == REFUSED_STREAM
        assert not draining.done()
        handler.release.set()
        assert [(await agent.answer(number)).body for number in (first, second)] == [b"first", b"second"]
        await agent.closed()
        await draining
        assert len(handler.requests) == 2


async def test_a_connection_whose_handshake_ends_in_the_drain_is_told(handler: Handler) -> None:
    async with listening(None, handler) as (listener, port), http2(("127.0.0.1", port)) as agent:
        assert (await agent.ask(b"x")).status == 200
        listener.accepting = False  # as it is then; the drain itself has told those that were there before
        assert await agent.said_goodbye(2) == (1, NO_ERROR)
        await agent.closed()
        listener.accepting = True


async def test_a_drain_does_not_wait_for_a_client_that_says_nothing(
    handler: Handler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(implementation, "GOODBYE", 0.1)
    async with listening(None, handler) as (listener, port), http2(("127.0.0.1", port)) as agent:
        agent.answers_pings = False
        await agent.pinged()
        await listener.drain(10.0, lambda: None)
        assert await agent.said_goodbye(2) == (0, NO_ERROR)
        await agent.closed()


async def test_answers_reach_a_client_that_has_said_goodbye(handler: Handler) -> None:
    async with listening(None, handler) as (_, port), http2(("127.0.0.1", port)) as agent:
        handler.release.clear()
        number = await agent.request(b"x")
        await agent.send(frame(GOAWAY, 0, 0, bytes(8) + b"bye"))
        await agent.pinged()
        handler.release.set()
        assert (await agent.answer(number)).body == b"x"
        await agent.closed()


async def test_a_client_that_says_goodbye_for_an_error_is_left(handler: Handler) -> None:
    async with listening(None, handler) as (_, port), http2(("127.0.0.1", port)) as agent:
        handler.release.clear()
        await agent.request(b"x")
        await until(lambda: len(handler.requests) == 1)
        await agent.send(frame(GOAWAY, 0, 0, bytes(7) + b"\1"))
        await agent.closed()
        await until(lambda: handler.cancelled == 1)


async def test_a_certificate_that_ends(handler: Handler, monkeypatch: pytest.MonkeyPatch) -> None:
    ending(monkeypatch, 60.0, 80.0)
    async with listening(None, handler) as (listener, port), http2(("127.0.0.1", port)) as agent:
        handler.release.clear()
        agent.answers_pings = False
        under_way, partial = await agent.request(b"x"), await agent.begin(agent.fields())
        await agent.pinged()
        (connection,) = listener._connections
        assert connection._ends - connection._until == pytest.approx(20.0)
        connection._until = listener.clock
        assert await agent.said_goodbye() == (ANY_STREAM, NO_ERROR)
        connection._ends = listener.clock
        assert await agent.said_goodbye(2) == (partial, NO_ERROR)
        assert await agent.was_reset(partial) == REFUSED_STREAM
        handler.release.set()
        assert (await agent.answer(under_way)).body == b"x"
        await agent.closed()


async def test_a_ca_that_is_no_longer_trusted(handler: Handler) -> None:
    ca, other = Ca("example.org"), Ca("example.org")
    source = Moved.of(ca, US)
    tls = SpiffeTls(source)
    context = tls.server_context(lambda why: None)
    by = careless_client(ca.leaf(AGENT))
    async with listening(context, handler) as (listener, port), http2(("127.0.0.1", port), by) as agent:
        handler.release.clear()
        number = await agent.request(b"x")
        await until(lambda: len(handler.requests) == 1)
        source.rotate(bundles=bundles_of(other))
        listener.review(tls.still_trusted)
        assert await agent.said_goodbye() == (number, NO_ERROR)
        handler.release.set()
        assert (await agent.answer(number)).body == b"x"
        await agent.closed()


@pytest.mark.parametrize(
    "fields",
    [GOOD, [*GOOD, ("X", "y")], [*GOOD, ("content-length", "9999999")], [*GOOD, ("x", "y" * 10_000)]],
    ids=["good", "malformed", "too large", "many headers"],
)
async def test_what_is_given_up_at_once_harms_nobody(handler: Handler, fields: list[tuple[str, str]]) -> None:
    async with listening(None, handler) as (_, port), http2(("127.0.0.1", port)) as agent:
        handler.release.clear()
        other = await agent.request(b"other")
        await agent.pinged()
        numbers = [agent.next() for _ in range(3)]
        together = [frame(HEADERS, END_HEADERS, number, agent.block(fields)) for number in numbers]
        together += [frame(DATA, 0, number, bytes(16384)) for number in numbers]
        await agent.send(*together, *(reset(number) for number in numbers))
        await agent.pinged()
        handler.release.set()
        assert (await agent.answer(other)).body == b"other"
        assert len(handler.requests) == 1


def test_what_is_given_up_is_counted_also_where_it_comes_slowly() -> None:
    guard = Guard()
    for _ in range(200):
        guard.reset()
    guard.check()
    guard.reset()
    with pytest.raises(Flood, match="too many requests that are given up"):
        guard.check()
    guard.rest(0.1)
    guard.answered()
    guard.reset()
    guard.reset()
    guard.check()
    guard.reset()
    with pytest.raises(Flood):
        guard.check()


PADDED = 0x8


async def test_a_flood_of_padding_ends_the_connection(handler: Handler) -> None:
    async with listening(None, handler) as (_, port), http2(("127.0.0.1", port)) as agent:
        number = await agent.begin(agent.fields())
        with suppress(ConnectionError, Closed):
            for _ in range(40):  # as the windows allow
                await agent.send(*many(frame(DATA, PADDED, number, b"\xff" + bytes(255)))[:100])
                await agent.pinged()
        assert [code for _, code in agent.goaways] == [ENHANCE_YOUR_CALM]


async def test_a_window_that_opens_byte_by_byte_ends_the_connection() -> None:
    """Each byte would be a frame of its own (CVE-2019-9511)."""

    async def large(exchange: Exchange) -> None:
        exchange.respond(200, b"", bytes(100_000))

    async with (
        listening(None, large) as (_, port),
        http2(("127.0.0.1", port), changed={INITIAL_WINDOW_SIZE: 0}) as agent,
    ):
        numbers = [await agent.request(b"x") for _ in range(50)]
        for number in numbers:
            await agent.begun(number)
        with suppress(ConnectionError, Closed):
            for _ in range(100):
                await agent.send(*(window(number, 1) for number in numbers))
                await agent.pinged()
        assert [code for _, code in agent.goaways] == [ENHANCE_YOUR_CALM]


async def test_small_events_are_no_dribble(handler: Handler) -> None:
    """A client may open both windows for each of them."""

    async def events(exchange: Exchange) -> None:
        exchange.start_stream(b"", b"")
        for _ in range(3000):
            exchange.write(b"data: 1\n\n")
            await exchange.drain()
            await asyncio.sleep(0)
        exchange.finish()

    async with listening(None, events) as (_, port), http2(("127.0.0.1", port)) as agent:
        number = await agent.request(b"x")
        while not agent.streams.setdefault(number, Incoming()).ended:
            before = len(agent.streams[number].body)
            await agent.read()
            size = len(agent.streams[number].body) - before
            if size and not agent.streams[number].ended:
                await agent.send(window(0, size), window(number, size))
        assert len(agent.streams[number].body) == 3000 * 9
