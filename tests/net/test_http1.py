"""The agents' side: what a connection of HTTP/1.1 (RFC 9112) accepts, refuses, and waits for."""

import asyncio
import json
import re
import time
from email.utils import format_datetime, parsedate_to_datetime
from typing import Any

import pytest

from openmcp.sidecar.net import http1
from tests.support.gate import Gate, call, configuration, gate, message, modern, modern_headers
from tests.support.hostile import Hostile, Reply, Request, friendly, tool
from tests.support.raw import PATIENCE, Connection, connect

DONE = {"content": [{"type": "text", "text": "done"}]}


def statuses(received: bytes) -> list[int]:
    """The status of each response in all that came over a connection."""
    return [int(part[:3]) for part in received.split(b"HTTP/1.1 ")[1:]]


def in_chunks(body: bytes, size: int) -> bytes:
    """A body in chunked coding."""
    pieces = [body[start : start + size] for start in range(0, len(body), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


# Keep-alive and order


async def test_connections_are_kept_on_both_sides(agent: Connection, server: Hostile) -> None:
    for number in range(5):
        answer = await agent.ask(call(identifier=number))
        assert (answer.status, answer.json) == (200, {"jsonrpc": "2.0", "id": number, "result": DONE})
        assert answer.header("connection") is None
    assert (server.connections, len(server.requests)) == (1, 5)


async def test_an_answer_has_the_date_of_its_second(agent: Connection) -> None:
    before = int(time.time())
    written = (await agent.ask(call())).header("date")
    moment = parsedate_to_datetime(written or "")
    assert before - 5 <= moment.timestamp() <= time.time()
    assert written == format_datetime(moment, usegmt=True)


async def test_one_task_serves_a_connection_and_ends_with_it(agent: Connection, sidecar: Gate) -> None:
    assert (await agent.ask(call())).status == 200
    (connection,) = sidecar.app._listener._connections
    task = connection._task
    assert task is not None
    assert (await agent.ask(call(identifier=2))).status == 200
    assert connection._task is task
    await agent.close()
    await asyncio.wait((task,), timeout=PATIENCE)
    assert task.done()
    assert sidecar.app._listener.connections == 0


async def test_a_client_that_wants_to_close_is_closed(agent: Connection) -> None:
    answer = await agent.ask(call(), connection="close")
    assert (answer.status, answer.header("connection")) == (200, "close")
    assert await agent.closed() == b""


async def test_pipelined_requests_are_answered_in_order(agent: Connection, server: Hostile) -> None:
    release = asyncio.Event()

    async def slow_first(request: Request, reply: Reply) -> None:
        if request.json["id"] == 0:
            await release.wait()
        await friendly(request, reply)

    server.handler = slow_first
    await agent.send(b"".join(agent.request(call(identifier=number)) for number in range(3)))
    await server.received(1)
    await agent.send(b"".join(agent.request(call(identifier=number)) for number in range(3, 40)))
    release.set()
    assert [(await agent.answer()).json["id"] for _ in range(40)] == list(range(40))


async def test_a_request_may_come_byte_by_byte(agent: Connection) -> None:
    for byte in agent.request(call()):
        await agent.send(bytes((byte,)))
    assert (await agent.answer()).json["result"] == DONE


# Framing


@pytest.mark.parametrize("size", [1, 7, 65536])
async def test_a_chunked_request_is_read(agent: Connection, server: Hostile, size: int) -> None:
    asked = call(text="x" * 500)
    head = agent.request(asked, content_length=None, transfer_encoding="chunked").partition(b"\r\n\r\n")[0]
    await agent.send(head + b"\r\n\r\n" + in_chunks(json.dumps(asked).encode(), size))
    assert (await agent.answer()).json["result"] == DONE
    assert server.requests[0].json["params"]["arguments"] == {"text": "x" * 500}
    assert (await agent.ask(call(identifier=2))).json["id"] == 2


async def test_a_chunked_answer_is_read(agent: Connection, server: Hostile) -> None:
    async def chunked(request: Request, reply: Reply) -> None:
        body = json.dumps({"jsonrpc": "2.0", "id": request.json["id"], "result": DONE}).encode()
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
        for byte in head + in_chunks(body, 5):
            await reply.raw(bytes((byte,)))

    server.handler = chunked
    assert [(await agent.ask(call())).json["result"] for _ in range(2)] == [DONE, DONE]
    assert server.connections == 1


async def test_blanks_around_a_value_are_no_part_of_it(agent: Connection) -> None:
    """RFC 9110, 5.5: also where a request comes in pieces."""
    asked = modern(call())
    request = agent.request(asked, **modern_headers(asked))
    for name in (b"host", b"mcp-name", b"x-api-key"):
        request = re.sub(rb"\r\n(%b): ([^\r]*)" % name, rb"\r\n\1:\t \2 \t", request, flags=re.IGNORECASE)
    assert request.count(b" \t\r\n") == 3
    await agent.send(request)
    for byte in request:
        await agent.send(bytes((byte,)))
    assert [(await agent.answer()).json["result"]["content"] for _ in range(2)] == [DONE["content"]] * 2


# Expectations


async def test_a_client_that_asks_first_is_told_to_continue(agent: Connection) -> None:
    head, _, body = agent.request(call(), expect="100-continue").partition(b"\r\n\r\n")
    await agent.send(head + b"\r\n\r\n")
    assert await agent.answer_head() == (100, [])
    await agent.send(body)
    assert (await agent.answer()).json["result"] == DONE


async def test_a_pipelined_client_that_asks_first_is_told_in_its_turn(agent: Connection, server: Hostile) -> None:
    release = asyncio.Event()

    async def slow_first(request: Request, reply: Reply) -> None:
        await release.wait()
        await friendly(request, reply)

    server.handler = slow_first
    head, _, body = agent.request(call(identifier=2), expect="100-continue").partition(b"\r\n\r\n")
    await agent.send(agent.request(call(identifier=1)) + head + b"\r\n\r\n")
    await server.received(1)
    release.set()
    assert (await agent.answer()).json["id"] == 1
    assert await agent.answer_head() == (100, [])
    await agent.send(body)
    assert (await agent.answer()).json["id"] == 2


async def test_another_expectation_is_refused(agent: Connection) -> None:
    await agent.send(agent.request(call(), expect="200-maybe"))
    assert statuses(await agent.closed()) == [417]


async def test_a_body_that_would_be_too_large_is_not_asked_for(agent: Connection, server: Hostile) -> None:
    head = agent.request(call(), expect="100-continue", content_length=str(2**30)).partition(b"\r\n\r\n")[0]
    await agent.send(head + b"\r\n\r\n")
    assert statuses(await agent.closed()) == [413]
    assert server.requests == []


# Limits


@pytest.mark.parametrize(
    "lines",
    [
        {"x_long": "x" * (http1.MAX_HEAD + 1)},
        {f"x_{number}": "x" for number in range(http1.MAX_HEADERS * 3)},
        {f"x_{number}": "x" * 1024 for number in range(64)},
    ],
    ids=["one long", "many", "many long"],
)
@pytest.mark.parametrize("piece", [512, 2**20])
async def test_too_much_of_a_head_is_refused_once(
    agent: Connection, server: Hostile, lines: dict[str, str], piece: int
) -> None:
    data = agent.request(call(), **lines)
    for start in range(0, len(data), piece):
        await agent.send(data[start : start + piece])
    assert statuses(await agent.closed()) == [431]
    assert server.requests == []


async def test_a_long_target_is_refused(agent: Connection) -> None:
    agent.path = "/server?" + "x" * http1.MAX_HEAD
    await agent.send(agent.request(call()))
    assert statuses(await agent.closed()) == [431]


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_over_the_limit_is_refused(server: Hostile, tmp_path: Any, chunked: bool) -> None:
    async with gate(tmp_path, configuration(server.url, limits={"requestBytes": "2KiB"})) as sidecar:
        async with sidecar.connect() as agent:
            assert (await agent.ask(call(text="x" * 1800))).status == 200
            if chunked:
                head = agent.request(call(), content_length=None, transfer_encoding="chunked")
                await agent.send(head.partition(b"\r\n\r\n")[0] + b"\r\n\r\n" + in_chunks(b"x" * 4096, 100))
            else:
                await agent.send(agent.request(call(text="x" * 4096)))
            assert statuses(await agent.closed()) == [413]
        assert await sidecar.recorded(event="refused", status=413)
    assert len(server.requests) == 1


# Time


async def test_a_head_that_does_not_end_is_not_waited_for(
    agent: Connection, monkeypatch: pytest.MonkeyPatch, sidecar: Gate
) -> None:
    monkeypatch.setattr(http1, "HEAD_TIMEOUT", 0.05)
    await agent.send(b"POST /server HTTP/1.1\r\nhost: lo")
    assert statuses(await agent.closed()) == [408]
    assert await sidecar.recorded(event="refused", status=408)


async def test_a_trickling_head_is_not_waited_for(agent: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http1, "HEAD_TIMEOUT", 0.2)
    gone = asyncio.ensure_future(agent.closed())
    for byte in b"POST /server HTTP/1.1\r\n" + b"x-slow: 1\r\n" * 100:
        if gone.done():
            break
        agent.writer.write(bytes((byte,)))
        await asyncio.wait([gone], timeout=0.01)
    assert statuses(await gone) == [408]


async def test_a_body_that_does_not_come_is_not_waited_for(agent: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http1, "BODY_TIMEOUT", 0.05)
    await agent.send(agent.request(call())[:-5])
    assert statuses(await agent.closed()) == [408]


async def test_an_idle_connection_is_closed(agent: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http1, "IDLE_TIMEOUT", 0.05)
    assert (await agent.ask(call())).status == 200
    assert await agent.closed() == b""


async def test_a_connection_that_never_speaks_is_closed(sidecar: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http1, "HEAD_TIMEOUT", 0.05)
    async with sidecar.connect() as agent:
        assert await agent.closed() == b""


async def test_a_call_under_way_has_no_such_limit(
    agent: Connection, server: Hostile, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HEAD_TIMEOUT", "BODY_TIMEOUT", "IDLE_TIMEOUT"):
        monkeypatch.setattr(http1, name, 0.05)

    async def slow(request: Request, reply: Reply) -> None:
        await asyncio.sleep(0.2)  # what is tested is that nothing happens meanwhile
        await friendly(request, reply)

    server.handler = slow
    assert (await agent.ask(call())).json["result"] == DONE


# Other clients


async def test_a_client_of_http_1_0_is_served(agent: Connection) -> None:
    await agent.send(agent.request(call()).replace(b"HTTP/1.1", b"HTTP/1.0"))
    answer = await agent.answer()
    assert (answer.json["result"], answer.header("connection")) == (DONE, "close")
    assert await agent.closed() == b""


async def test_a_client_of_http_1_0_gets_a_stream_without_chunks(agent: Connection, server: Hostile) -> None:
    async def stream(request: Request, reply: Reply) -> None:
        await reply.stream()
        await reply.event({"jsonrpc": "2.0", "id": 1, "result": DONE})
        await reply.end()

    server.handler = stream
    await agent.send(agent.request(call()).replace(b"HTTP/1.1", b"HTTP/1.0"))
    answer = await agent.answer()
    assert answer.header("transfer-encoding") is None
    assert answer.events == [{"jsonrpc": "2.0", "id": 1, "result": DONE}]


OFFER = {"connection": "Upgrade, HTTP2-Settings", "upgrade": "h2c", "http2_settings": "AAMAAABkAAQAAP__"}


async def test_an_offer_of_http_2_is_passed_over(agent: Connection) -> None:
    """As the JDK's client makes it with its first request, a POST included."""
    assert (await agent.ask(call(), **OFFER)).json["result"] == DONE
    assert (await agent.ask(call())).json["result"] == DONE


async def test_offers_may_be_pipelined_and_split(agent: Connection) -> None:
    whole = agent.request(call(), **OFFER) * 3
    for start in range(0, len(whole), 50):
        await agent.send(whole[start : start + 50])
    assert [(await agent.answer()).json["result"] for _ in range(3)] == [DONE] * 3


async def test_a_thousand_offers_at_once_are_refused_or_served(sidecar: Gate) -> None:
    """Each begins a new parse: none may be a step deeper on the stack, and the others' service goes on."""
    count = 2000
    async with connect(sidecar.url) as agent:
        lines = b"".join(b"%b: %b\r\n" % (k.replace("_", "-").encode(), v.encode()) for k, v in OFFER.items())
        request = b"GET /no HTTP/1.1\r\nhost: localhost\r\n" + lines + b"\r\n"
        await agent.send(request * count)
        assert {(await agent.answer()).status for _ in range(count)} == {404}


@pytest.mark.parametrize(
    "line",
    [
        b"GET http://localhost/server HTTP/1.1",
        b"POST http://evil.example/server HTTP/1.1",
        b"CONNECT localhost:443 HTTP/1.1",
        b"CONNECT /server HTTP/1.1",
        b"OPTIONS * HTTP/1.1",
        b"GET //server HTTP/2.0",
        b"PRI * HTTP/2.0",
        b"GET /server HTTP/1.2",
        b"GET /server",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ],
)
async def test_other_targets_and_protocols_are_refused(agent: Connection, server: Hostile, line: bytes) -> None:
    await agent.send(line + b"\r\nhost: localhost\r\n\r\n" + agent.request(call()))
    received = statuses(await agent.closed())
    assert len(received) == 1
    assert received[0] in (400, 405)
    assert server.requests == []


async def test_a_list_is_answered_after_all_this(agent: Connection) -> None:
    answer = await agent.ask(message("tools/list"))
    assert answer.json["result"]["tools"] == [tool("allowed")]


async def test_pipelined_requests_may_be_cut_anywhere(sidecar: Gate) -> None:
    """A segment that begins within one head and ends within another is not a head of that size."""
    count = 1000
    async with connect(sidecar.url) as agent:
        data = b"GET /no HTTP/1.1\r\nhost: localhost\r\nx-fill: %b\r\n\r\n" % (b"x" * 200) * count
        await agent.send(data[:-200_000])
        await agent.send(data[-200_000:])
        assert {(await agent.answer()).status for _ in range(count)} == {404}
