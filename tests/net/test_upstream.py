"""The servers' side: what happens to a call when its server does not answer as HTTP and MCP want it."""

import asyncio
import json
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from openmcp.sidecar.net.upstream import UpstreamConnection
from openmcp.sidecar.net.values import Patience
from tests.fuzz.wire import Transport
from tests.support.gate import Gate, ask_modern, call, configuration, gate, initialize, message
from tests.support.hostile import Hostile, Reply, Request, friendly, head
from tests.support.raw import PATIENCE, Answer, Connection

JSON = "application/json"
DONE = {"content": [{"type": "text", "text": "done"}]}
CLOSED = "the MCP server closed the connection before it answered"
PROTOCOL = "the MCP server's answer is not valid MCP"
TOO_LARGE = "the MCP server's answer is too large"
TIMEOUT = "the MCP server did not answer in time"
CONNECT = "the MCP server cannot be reached"

Handler = Callable[[Request, Reply], Awaitable[None]]


def answer_to(request: Request) -> bytes:
    """The JSON of a proper answer."""
    return json.dumps({"jsonrpc": "2.0", "id": request.json["id"], "result": DONE}).encode()


def raw(data: bytes, *, close: bool = True) -> Handler:
    """A server that answers these bytes, in which %b stands for a proper JSON body."""

    async def handler(request: Request, reply: Reply) -> None:
        await reply.raw(data.replace(b"%b", answer_to(request)))
        if close:
            reply.close()

    return handler


def failed(answer: Answer, why: str) -> None:
    """Expect the answer of a call whose server failed."""
    assert answer.status == 200
    assert answer.json == {"jsonrpc": "2.0", "id": 1, "error": {"code": -32603, "message": why}}


async def streamed(agent: Connection, document: dict[str, Any]) -> list[Any]:
    """The events of an answer. The call is made again where a busy machine did not begin the stream in its time."""
    for _ in range(10):
        answer = await agent.ask(document)
        if answer.header("content-type") == "text/event-stream":
            break
    return answer.events


async def ended(sidecar: Gate, identifier: int = 1) -> dict[str, Any]:
    """The line of the record that says how the exchange of this id ended."""
    async with asyncio.timeout(PATIENCE):
        while True:
            found = [line for line in await sidecar.records() if line.get("id") == identifier and "outcome" in line]
            if found:
                return found[0]
            await asyncio.sleep(0.01)


async def left(sidecar: Gate) -> None:
    """Wait until the sidecar has seen that the server closed its connections; a call would fail on one of them."""
    (endpoint,) = sidecar.app.snapshot.routes["/server"].upstream.endpoints
    async with asyncio.timeout(PATIENCE):
        while endpoint.idle:  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0.01)


BODY = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"


@pytest.mark.parametrize(
    ("data", "kind", "why"),
    [
        (b"", "closed", CLOSED),
        (b"HTTP/1.1 200", "closed", CLOSED),
        (BODY + b"content-length: 500\r\n\r\n{", "closed", CLOSED),
        (BODY + b'transfer-encoding: chunked\r\n\r\n5\r\n{"js', "closed", CLOSED),
        (BODY + b"transfer-encoding: chunked\r\n\r\nzz\r\n", "protocol", PROTOCOL),
        (b"\x15\x03\x01\x00\x02\x02\x46", "protocol", PROTOCOL),
        (b"SSH-2.0-OpenSSH_9.2p1\r\n", "protocol", PROTOCOL),
        (b"HTTP/9.9 200 OK\r\n\r\n", "protocol", PROTOCOL),
        (b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n", "protocol", PROTOCOL),
        (BODY + b"content-length: 3\r\ncontent-length: 4\r\n\r\n{}{}", "protocol", PROTOCOL),
        (BODY + b"content-length: 2\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n", "protocol", PROTOCOL),
        (BODY + b"x-long: " + b"x" * 70_000 + b"\r\n\r\n%b", "protocol", PROTOCOL),
        (BODY + b"".join(b"x-%d: %d\r\n" % (n, n) for n in range(9000)) + b"\r\n%b", "protocol", PROTOCOL),
        (BODY + b"content-encoding: gzip\r\n\r\n%b", "protocol", PROTOCOL),
        (BODY + b"content-length: 99999\r\n\r\n" + b"x" * 99_999, "too_large", TOO_LARGE),
        (BODY + b"\r\n" + b"x" * 99_999, "too_large", TOO_LARGE),
        (BODY + b"\r\nno JSON", "protocol", PROTOCOL),
        (BODY + b"\r\n[%b]", "protocol", PROTOCOL),
        (b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\n\r\n%b", "protocol", PROTOCOL),
        (b"HTTP/1.1 200 OK\r\ncontent-type: application/jsonp\r\n\r\n%b", "protocol", PROTOCOL),
        (b"HTTP/1.1 204 No Content\r\n\r\n", "status", "the MCP server refused the request"),
        (
            b"HTTP/1.1 302 Found\r\nlocation: http://evil.example/\r\n\r\n",
            "status",
            "the MCP server refused the request",
        ),
    ],
)
async def test_a_bad_answer_is_an_error_and_a_record(
    server: Hostile, tmp_path: Path, data: bytes, kind: str, why: str
) -> None:
    async with gate(tmp_path, configuration(server.url, limits={"responseBytes": "64KiB"})) as sidecar:
        async with sidecar.connect() as agent:
            server.handler = raw(data)
            failed(await agent.ask(call()), why)
            await left(sidecar)
            server.handler = friendly
            assert (await agent.ask(call(identifier=2))).json["result"] == DONE
        line = await ended(sidecar)
        assert (line["outcome"], line["status"], line["server"]) == (kind, 200, "server")
        assert len(server.calls("tools/call")) == 2


@pytest.mark.parametrize(
    "data",
    [
        BODY + b"\r\n%b",
        b"HTTP/1.0 200 OK\r\ncontent-type: application/json\r\n\r\n%b",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" + BODY + b"\r\n%b",
        BODY + b"connection: close\r\n\r\n%b",
    ],
)
async def test_unusual_answers_are_understood(agent: Connection, server: Hostile, data: bytes) -> None:
    server.handler = raw(data)
    for number in range(3):
        assert (await agent.ask(call(identifier=number))).json["id"] == number
    assert server.connections == 3


EVENTS = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("data", "kind", "why"),
    [
        (EVENTS, "closed", CLOSED),
        (EVENTS + b"5\r\ndata:", "closed", CLOSED),
        (EVENTS + b"0\r\n\r\n", "closed", CLOSED),
        (EVENTS + b"zz\r\n", "protocol", PROTOCOL),
        (EVENTS + b"1fff0\r\n" + b"x" * 0x1FFF0 + b"\r\n", "too_large", TOO_LARGE),
    ],
)
async def test_a_stream_that_breaks_ends_in_an_error(
    server: Hostile, tmp_path: Path, data: bytes, kind: str, why: str
) -> None:
    async with gate(tmp_path, configuration(server.url, limits={"responseBytes": "64KiB"})) as sidecar:
        async with sidecar.connect() as agent:
            server.handler = raw(data)
            answer = await agent.ask(call())
            assert answer.events == [{"jsonrpc": "2.0", "id": 1, "error": {"code": -32603, "message": why}}]
            await left(sidecar)
            server.handler = friendly
            assert (await agent.ask(call(identifier=2))).json["result"] == DONE
        assert (await ended(sidecar))["outcome"] == kind


async def test_a_second_answer_is_not_the_next_ones(agent: Connection, server: Hostile) -> None:
    """What follows an answer on its connection is no answer to what is asked next, however it is cut."""

    async def twice(request: Request, reply: Reply) -> None:
        body = answer_to(request)
        stolen = json.dumps({"jsonrpc": "2.0", "id": request.json["id"] + 1, "result": {"content": []}}).encode()
        first, second = (
            head(200, {"content-type": JSON, "content-length": str(len(one))}) + one for one in (body, stolen)
        )
        cut = {0: len(second), 1: 30, 2: len(second) - 5}[request.json["id"] % 3]
        await reply.raw(first + second[:cut])
        await reply.left()

    server.handler = twice
    for number in range(6):
        assert (await agent.ask(call(identifier=number))).json == {"jsonrpc": "2.0", "id": number, "result": DONE}
    assert server.connections == 6


async def test_a_stream_has_one_end(agent: Connection, server: Hostile) -> None:
    """An HTTP answer behind a stream is not part of it."""

    async def more(request: Request, reply: Reply) -> None:
        event = b"data: " + json.dumps({"jsonrpc": "2.0", "method": "notifications/message", "params": {}}).encode()
        last = b"data: " + answer_to(request) + b"\n\n"
        first = EVENTS + b"%x\r\n%b\n\n\r\n0\r\n\r\n" % (len(event) + 2, event)
        await reply.raw(first + EVENTS + b"%x\r\n%b\r\n0\r\n\r\n" % (len(last), last))

    server.handler = more
    *_, end = (await agent.ask(call())).events
    assert end == {"jsonrpc": "2.0", "id": 1, "error": {"code": -32603, "message": CLOSED}}


async def test_words_on_an_idle_connection_close_it(agent: Connection, server: Hostile) -> None:
    speak, left = asyncio.Event(), asyncio.Event()

    async def talkative(request: Request, reply: Reply) -> None:
        await friendly(request, reply)
        await speak.wait()
        await reply.raw(b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
        await reply.left()
        left.set()

    server.handler = talkative
    assert (await agent.ask(call())).json["result"] == DONE
    speak.set()
    await left.wait()
    assert (await agent.ask(call())).json["result"] == DONE
    assert server.connections == 2


# Stale connections


def stale(server: Hostile) -> Handler:
    """A server that closes an idle connection at the very moment at which it is used again."""
    used: set[asyncio.StreamWriter] = set()  # kept: another one could get the id of one that is gone

    async def handler(request: Request, reply: Reply) -> None:
        if reply.writer in used:
            reply.close()
            return
        used.add(reply.writer)
        await friendly(request, reply)

    return handler


async def test_a_call_into_a_stale_connection_is_never_sent_twice(agent: Connection, server: Hostile) -> None:
    server.handler = stale(server)
    assert (await agent.ask(call())).json["result"] == DONE
    failed(await agent.ask(call()), CLOSED)
    assert len(server.calls("tools/call")) == 2
    assert (await agent.ask(call())).json["result"] == DONE


@pytest.mark.parametrize("method", ["tools/list", "prompts/list"])
async def test_a_list_into_a_stale_connection_is_asked_again(agent: Connection, server: Hostile, method: str) -> None:
    async def handler(request: Request, reply: Reply) -> None:
        if request.json["id"] == 2 and len(server.calls(method)) == 1:
            reply.close()
        elif request.json["method"] == "prompts/list":
            await reply.result({"prompts": []})
        else:
            await friendly(request, reply)

    server.handler = handler
    assert (await agent.ask(call())).json["result"] == DONE
    assert "result" in (await agent.ask(message(method, 2))).json
    assert len(server.calls(method)) == 2
    assert server.connections == 2


async def test_an_initialize_into_a_stale_connection_is_asked_again(agent: Connection, server: Hostile) -> None:
    async def handler(request: Request, reply: Reply) -> None:
        if request.json["method"] == "initialize" and len(server.calls("initialize")) == 1:
            reply.close()
        else:
            await friendly(request, reply)

    server.handler = handler
    assert (await agent.ask(call())).json["result"] == DONE
    await initialize(agent)
    assert (len(server.calls("initialize")), server.connections) == (2, 2)


async def test_a_server_that_always_closes_is_asked_twice_at_most(agent: Connection, server: Hostile) -> None:
    assert (await agent.ask(call())).json["result"] == DONE
    server.handler = raw(b"")
    failed(await agent.ask(message("tools/list")), CLOSED)
    assert len(server.calls("tools/list")) == 2


# Time


async def test_a_server_that_hangs_is_given_up(server: Hostile, tmp_path: Path) -> None:
    async def hang(request: Request, reply: Reply) -> None:
        await reply.left()

    server.handler = hang
    async with gate(tmp_path, configuration(server.url, timeouts={"request": "100ms"})) as sidecar:
        async with sidecar.connect() as agent:
            failed(await agent.ask(call()), TIMEOUT)
        line = await ended(sidecar)
        assert line["outcome"] == "timeout"
        assert line["latency"]["upstream_us"] >= 100_000


@pytest.mark.parametrize("timeouts", [{"idle": "100ms"}, {"idle": "5s", "stream": "100ms"}])
async def test_a_stream_that_does_not_end_is_given_up(
    server: Hostile, tmp_path: Path, timeouts: dict[str, str]
) -> None:
    note = {"jsonrpc": "2.0", "method": "notifications/message", "params": {"level": "info", "data": "x"}}

    async def silent(request: Request, reply: Reply) -> None:
        await reply.stream()
        await reply.event(note)
        await reply.left()

    server.handler = silent
    async with gate(tmp_path, configuration(server.url, timeouts=timeouts)) as sidecar:
        async with sidecar.connect() as agent:
            *notes, end = await streamed(agent, call())
            assert notes == [note]
            assert end == {"jsonrpc": "2.0", "id": 1, "error": {"code": -32603, "message": TIMEOUT}}
        assert (await ended(sidecar))["outcome"] == "timeout"


async def test_a_host_that_does_not_answer_is_given_up(tmp_path: Path) -> None:
    """A listening socket whose queue is full: the kernel drops further SYNs."""
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        fillers = [socket.socket() for _ in range(4)]
        try:
            for filler in fillers:
                filler.setblocking(False)
                filler.connect_ex(full.getsockname())
            url = f"http://127.0.0.1:{full.getsockname()[1]}/mcp"
            async with gate(tmp_path, configuration(url, timeouts={"connect": "100ms"})) as sidecar:
                async with sidecar.connect() as agent:
                    failed(await agent.ask(call()), CONNECT)
                assert (await ended(sidecar))["outcome"] == "connect"
        finally:
            for filler in fillers:
                filler.close()


async def test_a_port_where_nobody_listens_is_an_error(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/mcp"
    async with gate(tmp_path, configuration(url)) as sidecar, sidecar.connect() as agent:
        failed(await agent.ask(call()), CONNECT)


# Caps


async def test_the_calls_beyond_the_cap_alone_are_refused(server: Hostile, tmp_path: Path) -> None:
    release = asyncio.Event()

    async def wait(request: Request, reply: Reply) -> None:
        await release.wait()
        await friendly(request, reply)

    server.handler = wait
    async with (
        gate(tmp_path, configuration(server.url, limits={"inFlight": 2})) as sidecar,
        sidecar.connect() as one,
        sidecar.connect() as two,
        sidecar.connect() as three,
    ):
        first, second = (asyncio.ensure_future(each.ask(call())) for each in (one, two))
        await server.received(2)
        refused = await three.ask(call())
        assert (refused.status, refused.code, refused.header("retry-after")) == (429, 42900, "1")
        release.set()
        assert [(await each).json["result"] for each in (first, second)] == [DONE, DONE]
        assert (await three.ask(call())).json["result"] == DONE
    assert len(server.requests) == 3


# The agent leaves


@pytest.mark.parametrize("streams", [False, True])
async def test_the_server_sees_at_once_that_a_modern_client_left(sidecar: Gate, server: Hostile, streams: bool) -> None:
    saw = asyncio.Event()

    async def hang(request: Request, reply: Reply) -> None:
        if streams:
            await reply.stream()
        await reply.left()
        saw.set()

    server.handler = hang
    async with sidecar.connect() as agent:
        asking = asyncio.ensure_future(ask_modern(agent, call()))
        await server.received(1)
        asking.cancel()
        agent.reset()
    async with asyncio.timeout(PATIENCE):  # the server would wait for its answer a minute
        await saw.wait()
    assert (await ended(sidecar))["outcome"] == "client_gone"
    assert sidecar.app.snapshot.routes["/server"].upstream.in_flight == 0


async def test_a_call_that_is_given_up_with_its_answer_there_leaves_the_next_one_alone() -> None:
    """Its connection is free by then, and perhaps another call's."""
    idle: list[UpstreamConnection] = []
    connection = UpstreamConnection(idle.append, lambda closed: None)
    transport = Transport(connection)
    connection.connection_made(transport)
    patience = Patience(head=60.0, idle=60.0, total=60.0)
    first = asyncio.ensure_future(connection.request((b"first",), 100, patience))
    await asyncio.sleep(0)
    connection.data_received(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
    assert idle == [connection]
    second = asyncio.ensure_future(connection.request((b"second",), 100, patience))
    first.cancel()
    await asyncio.wait((first,))
    assert (first.cancelled(), transport.closed) == (True, False)
    connection.data_received(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nme")
    assert (await second).body == b"me"
