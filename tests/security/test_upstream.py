"""Attacks in the HTTP of a server: garbage, desynchronisation, redirects, challenges, connections cut at any point."""

import asyncio
import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.gate import PATIENCE, Gate, ask_modern, call, configuration, gate, initialize, message
from tests.support.hostile import Hostile, Reply, Request, friendly, hostile
from tests.support.raw import Connection

BODY = json.dumps({"jsonrpc": "2.0", "id": 1, "result": {"content": []}}).encode()
EVIL = json.dumps({"jsonrpc": "2.0", "id": 1, "result": {"content": [{"type": "text", "text": "evil"}]}}).encode()
JSON = b"content-type: application/json\r\n"
LENGTH = b"content-length: %d\r\n" % len(BODY)
CHUNKS = b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)
OK = b"HTTP/1.1 200 OK\r\n"


def raw(data: bytes, *, close: bool = False) -> Any:
    """A handler that answers every request with these bytes."""

    async def handler(request: Request, reply: Reply) -> None:
        await reply.raw(data)
        if close:
            reply.close()

    return handler


def failed(document: dict[str, Any]) -> str:
    """The message of our answer for a server that failed; nothing of the server's is in it."""
    assert document["error"]["code"] == -32603, document
    text = document["error"]["message"]
    assert text.startswith("the MCP server"), text
    assert "data" not in document["error"]
    return str(text)


GARBAGE = {
    "garbage": b"\0\xff\r\n\r\n",
    "not HTTP": b"hello\r\n\r\n",
    "HTTP/2": b"\x00\x00\x12\x04\x00\x00\x00\x00\x00",
    "TLS alert": b"\x15\x03\x01\x00\x02\x02\x28",
    "bad status": b"HTTP/1.1 abc OK\r\n\r\n",
    "bare LF": OK + b"content-type: application/json\n" + LENGTH + b"\r\n" + BODY,
    "folded header": OK + b"content-type: application/json\r\n x\r\n" + LENGTH + b"\r\n" + BODY,
    "NUL in a header": OK + JSON + b"x: \0\r\n" + LENGTH + b"\r\n" + BODY,
    "two framings": OK + JSON + LENGTH + b"transfer-encoding: chunked\r\n\r\n" + CHUNKS,
    "two lengths": OK + JSON + LENGTH + b"content-length: 1\r\n\r\n" + BODY,
    "signed length": OK + JSON + b"content-length: +%d\r\n\r\n" % len(BODY) + BODY,
    "bad chunk": OK + JSON + b"transfer-encoding: chunked\r\n\r\nxyz\r\n",
    "chunk longer than its size": OK + JSON + b"transfer-encoding: chunked\r\n\r\n1\r\n" + CHUNKS,
    "compressed": OK
    + JSON
    + b"content-encoding: gzip\r\ncontent-length: %d\r\n\r\n" % len(gzip.compress(BODY))
    + gzip.compress(BODY),
    "a coding that is not there": OK + JSON + b"content-encoding: gzip\r\n" + LENGTH + b"\r\n" + BODY,
    "switching protocols": b"HTTP/1.1 101 X\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n"
    + OK
    + JSON
    + LENGTH
    + b"\r\n"
    + BODY,
    "a header of a megabyte": OK + b"x: " + b"y" * 1_000_000 + b"\r\n\r\n",
    "a header without end": OK + b"x: " + b"y" * 1_000_000,
    "many headers": OK + b"x: y\r\n" * 100_000,
    "endless 100s": b"HTTP/1.1 100 Continue\r\n\r\n" * 10_000,
    "endless early hints": (b"HTTP/1.1 103 X\r\nlink: " + b"y" * 100 + b"\r\n\r\n") * 2_000,
    "two types": OK + JSON + b"content-type: text/event-stream\r\n" + LENGTH + b"\r\n" + BODY,
}


@pytest.mark.parametrize("data", GARBAGE.values(), ids=GARBAGE)
async def test_garbage(agent: Connection, server: Hostile, data: bytes) -> None:
    """Each ends in one JSON-RPC error for the open id; the next call is not touched by it."""
    server.handler = raw(data)
    answer = await agent.ask(call())
    assert answer.status == 200
    assert answer.json["id"] == 1
    failed(answer.json)
    server.handler = friendly
    assert (await agent.ask(call("allowed", 2))).json["id"] == 2
    assert len(server.calls("tools/call")) == 2, "nothing was sent twice"


CUT = {
    "at once": b"",
    "in the status line": b"HTTP/1.1 20",
    "in the head": OK + JSON,
    "in the body": OK + JSON + LENGTH + b"\r\n" + BODY[:-1],
    "in a chunk": OK + JSON + b"transfer-encoding: chunked\r\n\r\n" + CHUNKS[:20],
    "before the last chunk": OK + JSON + b"transfer-encoding: chunked\r\n\r\n" + CHUNKS[:-5],
}


@pytest.mark.parametrize("data", CUT.values(), ids=CUT)
async def test_closed_in_the_middle(agent: Connection, server: Hostile, data: bytes) -> None:
    """A call may have had its effect: it is never sent a second time on our own account."""
    assert (await agent.ask(call())).status == 200  # so that there is a pooled connection
    server.requests.clear()
    server.handler = raw(data, close=True)
    failed((await agent.ask(call("allowed", 1))).json)
    assert len(server.requests) == 1
    server.handler = friendly
    assert (await agent.ask(call("allowed", 2))).json["id"] == 2


async def test_a_call_is_never_sent_to_another_endpoint(server: Hostile, tmp_path: Path) -> None:
    """It may have had its effect where it was cut; what has none goes to the other."""
    async with hostile() as second:
        server.handler = second.handler = raw(b"", close=True)
        config = configuration(server.url, second.url)
        async with gate(tmp_path, config) as sidecar, sidecar.connect() as agent:
            failed((await agent.ask(call())).json)
            assert len(server.requests) + len(second.requests) == 1
            server.requests.clear()
            second.requests.clear()
            failed((await agent.ask(message("tools/list"))).json)
            assert server.requests
            assert second.requests


async def test_an_error_under_another_status(agent: Connection, server: Hostile) -> None:
    """A JSON-RPC error goes on as one; a 500 would make clients drop the transport."""
    error = {"jsonrpc": "2.0", "id": 1, "error": {"code": -32000, "message": "x"}}
    body = json.dumps(error).encode()
    server.handler = raw(b"HTTP/1.1 500 X\r\n" + JSON + b"content-length: %d\r\n\r\n" % len(body) + body)
    answer = await agent.ask(call())
    assert (answer.status, answer.json) == (200, error)


@pytest.mark.parametrize(
    "head",
    [OK + JSON, OK + JSON + b"connection: close\r\n", b"HTTP/1.0 200 OK\r\n" + JSON],
    ids=["1.1", "close", "1.0"],
)
async def test_a_body_that_the_close_ends(agent: Connection, server: Hostile, head: bytes) -> None:
    server.handler = raw(head + b"\r\n" + BODY, close=True)
    assert (await agent.ask(call())).json == json.loads(BODY)


DESYNC = {
    "a second answer": OK
    + JSON
    + LENGTH
    + b"\r\n"
    + BODY
    + OK
    + JSON
    + b"content-length: %d\r\n\r\n" % len(EVIL)
    + EVIL,
    "the head of a second answer": OK + JSON + LENGTH + b"\r\n" + BODY + OK + JSON + b"content-length: 300\r\n\r\n",
    "half of a second answer": OK + JSON + LENGTH + b"\r\n" + BODY + OK + JSON + b"content-length: %d\r\n" % len(EVIL),
    "more than its length": OK + JSON + LENGTH + b"\r\n" + BODY + EVIL,
    "more than its chunks": OK + JSON + b"transfer-encoding: chunked\r\n\r\n" + CHUNKS + CHUNKS,
    "a second answer behind a stream": OK
    + b"content-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    + b"%x\r\ndata: %b\n\n\r\n0\r\n\r\n" % (len(BODY) + 8, BODY)
    + OK
    + JSON
    + b"content-length: %d\r\n\r\n" % len(EVIL)
    + EVIL,
}


@pytest.mark.parametrize("data", DESYNC.values(), ids=DESYNC)
@pytest.mark.parametrize("pause", [False, True])
async def test_an_answer_nobody_asked_for(
    agent: Connection, sidecar: Gate, server: Hostile, data: bytes, pause: bool
) -> None:
    """Response splitting: what follows an answer is not the answer to the next request, whoever's that is."""
    cut = data.index(BODY) + len(BODY) if pause else len(data)
    sent = asyncio.Event()

    async def handler(request: Request, reply: Reply) -> None:
        await reply.raw(data[:cut])
        await asyncio.sleep(0.02)  # so that the sidecar reads it by itself
        await reply.raw(data[cut:])
        await asyncio.sleep(0.02)  # so that it comes before the next request goes out: nobody could tell otherwise
        sent.set()

    server.handler = handler
    first = await agent.ask(call())
    assert b"evil" not in first.body
    await sent.wait()
    server.handler = friendly
    async with sidecar.connect("bob") as bob:
        for other in (bob, agent):
            for _ in range(3):
                assert (await other.ask(call())).json["result"]["content"][0]["text"] == "done"


async def test_unsolicited_bytes_on_an_idle_connection(agent: Connection, server: Hostile) -> None:
    writers = []

    async def remembers(request: Request, reply: Reply) -> None:
        writers.append(reply)
        await friendly(request, reply)

    server.handler = remembers
    assert (await agent.ask(call())).status == 200
    before = server.connections
    await writers[0].raw(OK + JSON + b"content-length: %d\r\n\r\n" % len(EVIL) + EVIL)
    await asyncio.sleep(0.02)  # so that the sidecar has read it
    for _ in range(3):
        assert (await agent.ask(call())).json["result"]["content"][0]["text"] == "done"
    assert server.connections == before + 1, "that connection was not used again"


@pytest.mark.parametrize("trailer", ["content-type: text/event-stream", "mcp-session-id: evil"])
async def test_trailers_of_a_json_answer(agent: Connection, server: Hostile, trailer: str) -> None:
    """What stands behind a body changes nothing of how it is read, and cannot keep the agent waiting."""
    chunks = CHUNKS[:-2] + trailer.encode() + b"\r\n\r\n"
    server.handler = raw(OK + JSON + b"transfer-encoding: chunked\r\n\r\n" + chunks)
    async with asyncio.timeout(PATIENCE):
        assert (await agent.ask(call())).json == json.loads(BODY)


@pytest.mark.parametrize("trailer", [b"x: " + b"y" * 1_000_000, b"x: y\r\n" * 200_000], ids=["long", "many"])
@pytest.mark.parametrize("kind", ["application/json", "text/event-stream"])
async def test_endless_trailers(agent: Connection, server: Hostile, trailer: bytes, kind: str) -> None:
    body = BODY if kind == "application/json" else b": nothing\n\n"
    chunks = b"%x\r\n%b\r\n0\r\n" % (len(body), body) + trailer
    server.handler = raw(OK + b"content-type: %b\r\ntransfer-encoding: chunked\r\n\r\n" % kind.encode() + chunks)
    async with asyncio.timeout(PATIENCE):
        answer = await agent.ask(call())
    failed(answer.json if kind == "application/json" else answer.events[0])


async def test_a_session_id_in_a_trailer(agent: Connection, server: Hostile) -> None:
    body = json.dumps(
        {"jsonrpc": "2.0", "id": 0, "result": {"protocolVersion": "2025-11-25", "capabilities": {}}}
    ).encode()
    chunks = b"%x\r\n%b\r\n0\r\nmcp-session-id: evil\r\n\r\n" % (len(body), body)
    server.handler = raw(OK + JSON + b"transfer-encoding: chunked\r\n\r\n" + chunks)
    answer = await agent.ask(message("initialize", 0, protocolVersion="2025-11-25", capabilities={}, clientInfo={}))
    assert answer.header("mcp-session-id") is None


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308, 300])
async def test_redirects_are_not_followed(agent: Connection, server: Hostile, status: int) -> None:
    """Neither by us, with our credential and the agent's call, nor by the agent."""
    server.handler = raw(
        b"HTTP/1.1 %d X\r\nlocation: %b/evil\r\ncontent-length: 0\r\n\r\n" % (status, server.url.encode())
    )
    answer = await agent.ask(call())
    assert answer.status == 200
    assert answer.header("location") is None
    failed(answer.json)
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", [401, 403, 407, 511])
@pytest.mark.parametrize("form", ["empty", "json"])
async def test_challenges_are_not_passed_on(agent: Connection, server: Hostile, status: int, form: str) -> None:
    """resource_metadata of a server would lead the agent to an authorization server of that server's choice."""

    async def challenge(request: Request, reply: Reply) -> None:
        headers = {"www_authenticate": 'Bearer resource_metadata="http://evil.example"', "set_cookie": "a=b"}
        body = b""
        if form == "json":
            headers["content_type"] = "application/json"
            body = json.dumps({"jsonrpc": "2.0", "id": 1, "error": {"code": -32000, "message": "http://evil"}}).encode()
        await reply.respond(body, status, **headers)

    server.handler = challenge
    for answer in (await agent.ask(call()), await ask_modern(agent, call())):
        assert answer.status == 200
        assert answer.header("www-authenticate") is None
        assert answer.header("set-cookie") is None
        assert b"evil" not in answer.body
        failed(answer.json)


@pytest.mark.parametrize("status", [204, 205, 304, 400, 402, 405, 409, 410, 418, 429, 500, 502, 503, 599, 999])
async def test_other_statuses(agent: Connection, server: Hostile, status: int) -> None:
    """A request always gets an answer, and never the server's page."""
    server.handler = raw(b"HTTP/1.1 %d X\r\ncontent-type: text/html\r\ncontent-length: %d\r\n\r\n" % (status, 0))
    answer = await agent.ask(call())
    assert answer.status == 200
    failed(answer.json)


async def test_a_202_to_a_request(agent: Connection, server: Hostile) -> None:
    """A client that gets 202 for a request waits for ever."""
    server.handler = raw(b"HTTP/1.1 202 X\r\ncontent-length: 0\r\n\r\n")
    answer = await agent.ask(call())
    assert answer.status == 200
    failed(answer.json)


async def test_the_servers_headers_are_not_passed_on(agent: Connection, server: Hostile) -> None:
    async def handler(request: Request, reply: Reply) -> None:
        await reply.message(
            json.loads(BODY),
            set_cookie="a=b",
            access_control_allow_origin="*",
            strict_transport_security="max-age=1",
            server="evil",
            alt_svc='h3="evil:443"',
            refresh="0; url=http://evil",
            location="http://evil",
            mcp_session_id="evil",
            connection="keep-alive",
        )

    server.handler = handler
    answer = await agent.ask(call())
    assert sorted(name for name, _ in answer.headers) == ["content-length", "content-type", "date"]


async def test_an_error_text_of_the_network_is_not_shown(agent: Connection, server: Hostile, sidecar: Gate) -> None:
    """Addresses and reasons are for the operator's log; the agent learns the class alone."""
    server.handler = raw(b"HTTP/1.1 500 secret\r\ncontent-type: text/plain\r\ncontent-length: 6\r\n\r\nsecret")
    answer = await agent.ask(call())
    assert b"secret" not in answer.body
    assert b"127.0.0.1" not in answer.body
    line = await sidecar.recorded(ends=True)
    assert (line["outcome"], line["status"]) == ("status", 200)


async def test_a_server_that_closes_everything(server: Hostile, agent: Connection) -> None:
    assert (await agent.ask(call())).status == 200
    server.handler = raw(b"", close=True)
    failed((await agent.ask(call())).json)
    await initialize_fails(agent)


async def initialize_fails(agent: Connection) -> None:
    answer = await agent.ask(message("initialize", 3, protocolVersion="2025-11-25", capabilities={}, clientInfo={}))
    assert answer.json["id"] == 3
    failed(answer.json)


async def test_a_delete_that_fails(agent: Connection, server: Hostile) -> None:
    await initialize(agent)
    server.handler = raw(b"HTTP/1.1 302 X\r\nlocation: http://evil\r\ncontent-length: 0\r\n\r\n")
    answer = await agent.ask(b"", "DELETE")
    assert answer.status == 502
    assert answer.header("location") is None
