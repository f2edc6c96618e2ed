"""Attacks on the framing of HTTP/1.1: request smuggling, floods, slow and malformed requests (RFC 9112)."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from openmcp.sidecar.net import http1
from tests.support.gate import KEYS, Gate, call, configuration, gate
from tests.support.hostile import Hostile, Reply, Request, friendly
from tests.support.raw import Connection

BODY = json.dumps(call()).encode()
SMUGGLED = b"POST /server HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 0\r\n\r\n"


def head(*lines: str, first: str = "POST /server HTTP/1.1", host: str | None = "127.0.0.1") -> bytes:
    """A request's head with these lines after what every proper one has."""
    named = [] if host is None else [f"host: {host}"]
    usual = ["content-type: application/json", f"x-api-key: {KEYS['alice']}"]
    return "\r\n".join([first, *named, *usual, *lines, "", ""]).encode("latin-1")


async def one_answer_and_closed(agent: Connection, server: Hostile, data: bytes, status: int = 400) -> None:
    """Exactly one answer comes, of this status; the connection is closed and nothing was forwarded."""
    await agent.send(data)
    answer = await agent.answer()
    assert (answer.status, answer.header("connection")) == (status, "close"), answer
    assert await agent.closed() == b"", "there was a second answer"
    assert server.requests == []


LENGTH = f"content-length: {len(BODY)}"
CHUNKED = "transfer-encoding: chunked"
CHUNKS = b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)

SMUGGLING = {
    "length and chunked": head(LENGTH, CHUNKED) + CHUNKS + SMUGGLED,
    "chunked and length": head(CHUNKED, LENGTH) + CHUNKS + SMUGGLED,
    "length and unknown coding": head(LENGTH, "transfer-encoding: x") + BODY + SMUGGLED,
    "two lengths": head(LENGTH, "content-length: 5") + BODY + SMUGGLED,
    "two equal lengths": head(LENGTH, LENGTH) + BODY + SMUGGLED,
    "list of lengths": head(f"content-length: {len(BODY)}, {len(BODY)}") + BODY + SMUGGLED,
    "negative length": head("content-length: -1") + BODY,
    "signed length": head(f"content-length: +{len(BODY)}") + BODY,
    "hexadecimal length": head("content-length: 0x10") + BODY,
    "length of an empty value": head("content-length: ") + BODY,
    "length with a blank inside": head("content-length: 1 0") + BODY,
    "length beyond 64 bits": head(f"content-length: {2**64 + len(BODY)}") + BODY,
    "coding twice": head(CHUNKED, CHUNKED) + CHUNKS + SMUGGLED,
    "chunked is not last": head("transfer-encoding: chunked, gzip") + CHUNKS,
    "gzip and chunked": head("transfer-encoding: gzip, chunked") + CHUNKS,
    "identity coding": head("transfer-encoding: identity", LENGTH) + BODY,
    "quoted coding": head('transfer-encoding: "chunked"') + CHUNKS,
    "vertical tab in the coding": head("transfer-encoding: \x0bchunked") + CHUNKS,
    "blank before the colon": head("transfer-encoding : chunked") + CHUNKS,
    "blank before the name": head(" transfer-encoding: chunked") + CHUNKS,
    "folded header": head("x: y\r\n transfer-encoding: chunked", LENGTH) + BODY,
    "bare LF ends a header": head("x: y\ntransfer-encoding: chunked", LENGTH) + BODY,
    "bare LF ends the head": head(LENGTH).replace(b"\r\n\r\n", b"\n\n") + BODY,
    "bare CR in a value": head("x: y\rtransfer-encoding: chunked", LENGTH) + BODY,
    "NUL in a value": head("x: y\0z", LENGTH) + BODY,
    "NUL in a name": head("x\0: y", LENGTH) + BODY,
    "no colon": head("transfer-encoding", LENGTH) + BODY,
    "empty name": head(": x", LENGTH) + BODY,
    "chunked in HTTP/1.0": head(CHUNKED, first="POST /server HTTP/1.0") + CHUNKS,
    "no host": head(LENGTH, host=None) + BODY,
    "two hosts": head("host: evil.example", LENGTH) + BODY,
    "two equal hosts": head("host: 127.0.0.1", LENGTH) + BODY,
    "absolute form": head(LENGTH, first="POST http://evil.example/server HTTP/1.1") + BODY,
    "authority form": head(LENGTH, first="CONNECT 127.0.0.1:80 HTTP/1.1") + BODY,
    "asterisk form": head(LENGTH, first="OPTIONS * HTTP/1.1") + BODY,
    "HTTP/2 preface, broken": b"PRI * HTTP/2.0\r\n\r\nMS\r\n\r\n",
    "HTTP/2 preface behind a blank line": b"\r\nPRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/0.9": b"GET /server\r\n\r\n",
    "HTTP/3.0": head(LENGTH, first="POST /server HTTP/3.0") + BODY,
    "lower-case protocol": head(LENGTH, first="POST /server http/1.1") + BODY,
    "NUL in the path": head(LENGTH, first="POST /server\0 HTTP/1.1") + BODY,
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64),
}


@pytest.mark.parametrize("data", SMUGGLING.values(), ids=SMUGGLING)
async def test_request_smuggling(agent: Connection, server: Hostile, data: bytes) -> None:
    await one_answer_and_closed(agent, server, data)


CHUNK_FAULTS = {
    "size is no number": b"x\r\n",
    "negative size": b"-1\r\n",
    "size with 0x": b"0x5\r\nhello\r\n0\r\n\r\n",
    "size beyond 64 bits": b"fffffffffffffffff\r\n",
    "size followed by a blank": b"5 \r\nhello\r\n0\r\n\r\n",
    "chunk longer than its size": b"5\r\nhellox\r\n0\r\n\r\n",
    "bare LF after the size": b"5\nhello\r\n0\r\n\r\n",
    "bare LF after the data": b"5\r\nhello\n0\r\n\r\n",
    "bare LF at the end": b"5\r\nhello\r\n0\n\n",
    "bare CR in an extension": b"5;x=\ry\r\nhello\r\n0\r\n\r\n",
    "bare LF in an extension": b"5;x=\ny\r\nhello\r\n0\r\n\r\n",
    "empty size": b"\r\nhello\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("data", CHUNK_FAULTS.values(), ids=CHUNK_FAULTS)
async def test_bad_chunks(agent: Connection, server: Hostile, data: bytes) -> None:
    await one_answer_and_closed(agent, server, head(CHUNKED) + data)


async def test_good_chunks(agent: Connection, server: Hostile) -> None:
    half = len(BODY) // 2
    chunks = b"%x;extension=1\r\n%b\r\n%X\r\n%b\r\n0\r\n\r\n" % (half, BODY[:half], len(BODY) - half, BODY[half:])
    await agent.send(head(CHUNKED) + chunks)
    assert (await agent.answer()).status == 200
    assert server.requests[0].json == call()


@pytest.mark.parametrize(
    "trailer",
    [f"x-api-key: {KEYS['alice']}", f"authorization: Bearer {KEYS['alice']}"],
)
async def test_trailers_are_no_headers(sidecar: Gate, server: Hostile, trailer: str) -> None:
    """What stands behind the body was not seen by whoever judged the head: it identifies nobody."""
    async with sidecar.connect() as agent:
        unknown = head(CHUNKED).replace(f"x-api-key: {KEYS['alice']}\r\n".encode(), b"")
        await agent.send(unknown + CHUNKS[:-2] + trailer.encode() + b"\r\n\r\n")
        assert (await agent.answer()).status == 401
    assert server.requests == []


async def test_trailers_do_not_repeat_headers(agent: Connection) -> None:
    await agent.send(head(CHUNKED) + CHUNKS[:-2] + b"x-api-key: other\r\nmcp-session-id: stolen\r\n\r\n")
    assert (await agent.answer()).status == 200


@pytest.mark.parametrize("trailer", [b"x: " + b"y" * 1_000_000, b"x: y\r\n" * 200_000], ids=["long", "many"])
async def test_endless_trailers(agent: Connection, server: Hostile, trailer: bytes) -> None:
    await agent.send(head(CHUNKED) + CHUNKS[:-2] + trailer)
    answer = await agent.answer()
    assert answer.status in (400, 431)
    assert await agent.closed() == b""


async def test_pipelined_requests_are_answered_in_order(agent: Connection, server: Hostile) -> None:
    """The first call takes longest; still the answers come in the order of the calls."""
    release = asyncio.Event()

    async def slow_first(request: Request, reply: Reply) -> None:
        if request.json["id"] == 0:
            await release.wait()
        await friendly(request, reply)

    server.handler = slow_first
    await agent.send(b"".join(agent.request(call("allowed", number)) for number in range(10)))
    await server.received(1)
    release.set()
    answers = [await agent.answer() for _ in range(10)]
    assert [answer.json["id"] for answer in answers] == list(range(10))


async def test_garbage_behind_a_request_in_flight(agent: Connection, server: Hostile) -> None:
    """Garbage after a good request: no answer of one may be taken for that of the other."""
    release = asyncio.Event()

    async def held(request: Request, reply: Reply) -> None:
        await release.wait()
        await friendly(request, reply)

    server.handler = held
    await agent.send(agent.request(call()))
    await server.received(1)
    await agent.send(b"\0garbage\r\n\r\n")
    assert await agent.closed() == b""
    release.set()


async def test_a_flood_of_small_pipelined_requests_is_read_no_further(
    agent: Connection, server: Hostile, sidecar: Gate
) -> None:
    release = asyncio.Event()

    async def held(request: Request, reply: Reply) -> None:
        await release.wait()
        await friendly(request, reply)

    server.handler = held
    await agent.send(agent.request(call()))
    await server.received(1)
    connection = next(iter(sidecar.app._listener._connections))
    for number in range(http1.MAX_PIPELINED + 20):
        await agent.send(agent.request(call("allowed", number)))
        await asyncio.sleep(0.002)  # so that each is read by itself
    assert len(connection._pending) == http1.MAX_PIPELINED
    release.set()
    for _ in range(http1.MAX_PIPELINED + 21):
        assert (await agent.answer()).status == 200


async def test_a_flood_of_pipelined_requests_is_read_no_further(
    agent: Connection, server: Hostile, sidecar: Gate
) -> None:
    """While the first is held, no more than a few of the others are taken in."""
    release = asyncio.Event()

    async def held(request: Request, reply: Reply) -> None:
        await release.wait()
        await friendly(request, reply)

    server.handler = held
    one = agent.request(call("allowed", 1, filling="x" * 100_000))
    flood = asyncio.create_task(agent.send(one * 400))
    await server.received(1)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.shield(flood), 0.3)  # 40 MB cannot be handed over: they are not read
    connection = next(iter(sidecar.app._listener._connections))
    assert connection._ahead <= http1.MAX_AHEAD + 2 * 256 * 1024, "the limit, and what one read brings"
    release.set()
    for _ in range(400):
        assert (await agent.answer()).status == 200
    await flood


@pytest.mark.parametrize(
    "data",
    [
        b"GET /" + b"x" * 40_000 + b" HTTP/1.1\r\n",
        head("x: " + "y" * 40_000),
        head(*(f"x-{n}: y" for n in range(200))),
        head("x: y")[:-2] + b"z: " + b"y" * 200_000,
        head(*(["x: y"] * 20_000)),
    ],
    ids=["url", "value", "names", "unfinished", "repetitions"],
)
async def test_headers_too_large(agent: Connection, server: Hostile, data: bytes) -> None:
    await one_answer_and_closed(agent, server, data, 431)


async def test_a_request_is_refused_once(agent: Connection, server: Hostile, sidecar: Gate) -> None:
    """Every header beyond the limit is a reason; one answer and one record are enough."""
    await one_answer_and_closed(agent, server, head(*(f"x-{n}: y" for n in range(200))), 431)
    assert (await sidecar.recorded(event="refused"))["status"] == 431


async def test_headers_too_large_byte_by_byte(agent: Connection, server: Hostile) -> None:
    """An unfinished header in many small pieces is counted as well."""
    await agent.send(head()[:-2] + b"x: ")

    async def trickle() -> None:
        while True:
            await agent.send(b"y" * 1_000)

    task = asyncio.create_task(trickle())
    assert (await agent.answer()).status == 431
    task.cancel()
    assert server.requests == []


@pytest.fixture
async def small(server: Hostile, tmp_path: Path) -> AsyncIterator[Connection]:
    """A connection to a sidecar that takes requests of 1 KiB."""
    config = configuration(server.url, limits={"requestBytes": "1KiB", "responseBytes": "4KiB", "inFlight": 2})
    async with gate(tmp_path, config) as running, running.connect() as connection:
        yield connection


async def test_a_body_too_large(small: Connection, server: Hostile) -> None:
    """By its declared length it is refused before it is read."""
    await one_answer_and_closed(small, server, head("content-length: 1025"), 413)


async def test_a_chunked_body_too_large(small: Connection, server: Hostile) -> None:
    await one_answer_and_closed(small, server, head(CHUNKED) + b"401\r\n" + b"x" * 1025, 413)


async def test_a_body_of_just_the_limit(small: Connection, server: Hostile) -> None:
    body = BODY + b" " * (1024 - len(BODY))
    assert (await small.ask(body)).status == 200


async def test_expectations(small: Connection, server: Hostile) -> None:
    """100 (Continue) for a body that is taken, 413 for one that is not, 417 for anything else that is expected."""
    await small.send(head(LENGTH, "expect: 100-continue"))
    assert (await small.answer_head())[0] == 100
    await small.send(BODY)
    assert (await small.answer()).status == 200
    server.requests.clear()
    await one_answer_and_closed(small, server, head("content-length: 1025", "expect: 100-continue"), 413)


async def test_unknown_expectation(agent: Connection, server: Hostile) -> None:
    await one_answer_and_closed(agent, server, head(LENGTH, "expect: x") + BODY, 417)


async def test_an_offer_to_upgrade_is_not_taken(agent: Connection, server: Hostile) -> None:
    """h2c: the request is served in HTTP/1.1, its body belongs to it, and what follows to the next."""
    upgrade = head(LENGTH, "connection: upgrade, http2-settings", "upgrade: h2c", "http2-settings: AAMAAABk") + BODY
    await agent.send(upgrade + agent.request(call("allowed", 2)))
    first, second = await agent.answer(), await agent.answer()
    assert (first.status, second.status) == (200, 200)
    assert (first.json["id"], second.json["id"]) == (1, 2)
    assert [request.json["id"] for request in server.requests] == [1, 2]
    assert all(request.header("upgrade") is None for request in server.requests)


@pytest.mark.parametrize("size", [1, 50, 100_000])
async def test_smuggling_by_an_offer_to_upgrade(agent: Connection, server: Hostile, size: int) -> None:
    """The body of a request with an offer is no second request."""
    inner = agent.request(call("allowed", "smuggled"))
    body = json.dumps(call("allowed", "outer")).encode()
    data = head(f"content-length: {len(inner)}", "connection: upgrade", "upgrade: h2c") + inner
    data += head(CHUNKED, "connection: Upgrade", "upgrade: websocket") + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    for start in range(0, len(data), size):
        await agent.send(data[start : start + size])
    assert (await agent.answer()).status == 400, "a request is no JSON"
    assert (await agent.answer()).json["id"] == "outer"
    assert [request.json["id"] for request in server.requests] == ["outer"]


async def test_an_offer_to_upgrade_keeps_what_is_refused(agent: Connection, server: Hostile) -> None:
    """A header that may stand once is still seen to stand twice."""
    lines = (LENGTH, "connection: upgrade", "upgrade: h2c")
    await agent.send(head("x-api-key: other", *lines) + BODY)
    answer = await agent.answer()
    assert (answer.status, answer.code) == (400, -32020)
    await one_answer_and_closed(agent, server, head("host: evil.example", *lines) + BODY)


@pytest.mark.parametrize("method", ["PUT", "PATCH", "OPTIONS", "TRACE"])
async def test_other_methods(agent: Connection, server: Hostile, method: str) -> None:
    assert (await agent.ask(b"", method)).status == 405
    assert server.requests == []


async def test_the_answer_to_head_has_no_body(agent: Connection, server: Hostile) -> None:
    """Or else it would be taken for the answer to the next request."""
    await agent.send(agent.request(b"", "HEAD"))
    status, _ = await agent.answer_head()
    assert status == 405
    assert (await agent.ask(call())).json["id"] == 1


async def slow(agent: Connection, data: bytes, status: int | None) -> None:
    """The data is sent, and nothing more: the connection ends, with this answer or without one."""
    await agent.send(data)
    ended = await agent.closed()
    if status is None:
        assert ended == b""
    else:
        assert re.match(rb"HTTP/1.1 %d " % status, ended), ended


@pytest.mark.parametrize(
    ("constant", "data", "status"),
    [
        ("HEAD_TIMEOUT", b"", None),
        ("HEAD_TIMEOUT", b"\r\n", None),
        ("HEAD_TIMEOUT", b"POST /server HTTP/1.1\r\nhost: x\r\n", 408),
        ("BODY_TIMEOUT", head(LENGTH) + BODY[:-1], 408),
        ("BODY_TIMEOUT", head(CHUNKED) + b"5\r\nhel", 408),
        ("BODY_TIMEOUT", head(CHUNKED) + b"5\r\nhello\r\n0\r\nx: y\r\n", 408),
    ],
    ids=["nothing", "blank lines", "head", "body", "chunk", "trailer"],
)
async def test_slow_requests(
    sidecar: Gate, monkeypatch: pytest.MonkeyPatch, constant: str, data: bytes, status: int | None
) -> None:
    """Slowloris: a request that never ends holds its connection no longer than the limit."""
    monkeypatch.setattr(http1, constant, 0.3)
    async with sidecar.connect() as agent:
        await slow(agent, data, status)


async def test_an_idle_connection_ends(sidecar: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http1, "IDLE_TIMEOUT", 0.3)
    async with sidecar.connect() as agent:
        assert (await agent.ask(call())).status == 200
        await slow(agent, b"", None)


async def test_a_refused_request_is_recorded(agent: Connection, server: Hostile, sidecar: Gate) -> None:
    await one_answer_and_closed(agent, server, SMUGGLING["two lengths"])
    line = await sidecar.recorded(event="refused")
    assert line["status"] == 400


async def test_faults_of_one_connection_are_not_those_of_others(sidecar: Gate, server: Hostile) -> None:
    """While a hundred connections misbehave in every way, a proper one is served."""

    async def misbehave(data: bytes) -> None:
        async with sidecar.connect() as rude:
            await rude.send(data)
            await rude.closed()

    attacks: list[Awaitable[None]] = [misbehave(data) for data in (*SMUGGLING.values(), *CHUNK_FAULTS.values())]
    async with sidecar.connect() as polite:
        storm = asyncio.gather(*attacks)
        for number in range(50):
            assert (await polite.ask(call("allowed", number))).json["id"] == number
        await storm


Attack = Callable[[Connection], Awaitable[None]]


@pytest.mark.parametrize("size", [1, 2, 3, 7])
async def test_a_request_in_small_pieces(agent: Connection, server: Hostile, size: int) -> None:
    data = agent.request(call()) + head(CHUNKED) + CHUNKS
    for start in range(0, len(data), size):
        await agent.send(data[start : start + size])
    assert [(await agent.answer()).status, (await agent.answer()).status] == [200, 200]
    assert server.requests[0].json == server.requests[1].json == call()
