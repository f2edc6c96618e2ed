"""Attacks in what a server says: answers to other requests, torn events, floods; each ends in the right answer."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from openmcp.sidecar.stages import relays
from tests.support.gate import (
    PATIENCE,
    Gate,
    ask_modern,
    call,
    configuration,
    gate,
    initialize,
    message,
    modern,
    modern_headers,
)
from tests.support.hostile import Hostile, Reply, Request, friendly, hostile
from tests.support.raw import Connection

RESULT = {"content": [{"type": "text", "text": "done"}]}


def response(identifier: Any = 1, **members: Any) -> dict[str, Any]:
    """A response of a tools/call."""
    return {"jsonrpc": "2.0", "id": identifier, "result": RESULT, **members}


def notification(name: str, **params: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "method": f"notifications/{name}", "params": params}


def as_json(document: Any, content_type: str = "application/json", status: int = 200) -> Any:
    """A handler that answers with this document."""

    async def handler(request: Request, reply: Reply) -> None:
        body = document if isinstance(document, bytes) else json.dumps(document).encode()
        await reply.respond(body, status, content_type=content_type)

    return handler


def as_stream(*events: Any, end: bool = True) -> Any:
    """A handler that answers with these events (or chunks of bytes)."""

    async def handler(request: Request, reply: Reply) -> None:
        await reply.stream()
        for event in events:
            await (reply.chunk(event) if isinstance(event, bytes) else reply.event(event))
        if end:
            await reply.end()
        else:
            reply.close()

    return handler


def failure(message: dict[str, Any], text: str = "") -> None:
    """The message is our answer for a server that failed: the class of the reason, and nothing of the server's."""
    assert (message["id"], message["error"]["code"]) == (1, -32603), message
    assert message["error"]["message"].startswith("the MCP server"), message
    assert text in message["error"]["message"], message
    assert "data" not in message["error"]


NOT_THE_ANSWER = {
    "wrong id": response(2),
    "id as a string": response("1"),
    "id as a float": response(1.0),
    "null id": response(None),
    "no id": {"jsonrpc": "2.0", "result": RESULT},
    "true for 1": response(True),
    "batch": [response()],
    "batch of two": [response(), response(2)],
    "result and error": response(error={"code": 1, "message": "x"}),
    "neither": {"jsonrpc": "2.0", "id": 1},
    "method and result": response(method="tools/call"),
    "a request": {"jsonrpc": "2.0", "id": 1, "method": "ping"},
    "a notification": notification("message", level="info", data="x"),
    "unknown member": response(extra=1),
    "no version": {"id": 1, "result": RESULT},
    "result is a list": response(result=[]),
    "result is null": response(result=None),
    "error is a string": {"jsonrpc": "2.0", "id": 1, "error": "x"},
    "error without a code": {"jsonrpc": "2.0", "id": 1, "error": {"message": "x"}},
    "error with a float code": {"jsonrpc": "2.0", "id": 1, "error": {"code": 1.5, "message": "x"}},
    "no JSON": b"hello",
    "cut JSON": json.dumps(response()).encode()[:-1],
    "two documents": json.dumps(response()).encode() * 2,
    "BOM": b"\xef\xbb\xbf" + json.dumps(response()).encode(),
    "UTF-16": json.dumps(response()).encode("utf-16"),
    "NaN": b'{"jsonrpc":"2.0","id":1,"result":{"x":NaN}}',
    "lone surrogate": b'{"jsonrpc":"2.0","id":1,"result":{"x":"\\ud800"}}',
    "deep": b'{"jsonrpc":"2.0","id":1,"result":{"x":' + b"[" * 500 + b"]" * 500 + b"}}",
    "empty": b"",
}


@pytest.mark.parametrize("document", NOT_THE_ANSWER.values(), ids=NOT_THE_ANSWER)
async def test_a_json_answer_that_is_none(agent: Connection, server: Hostile, document: Any) -> None:
    server.handler = as_json(document)
    answer = await agent.ask(call())
    assert answer.status == 200
    failure(answer.json)


@pytest.mark.parametrize("document", NOT_THE_ANSWER.values(), ids=NOT_THE_ANSWER)
async def test_an_event_that_is_no_answer(agent: Connection, server: Hostile, document: Any) -> None:
    """It is not passed on; the answer behind it is, and once only."""
    data = document if isinstance(document, bytes) else json.dumps(document).encode()
    logged = [document] if isinstance(document, dict) and document.get("method") == "notifications/message" else []
    server.handler = as_stream(b"data: %b\n\n" % data.replace(b"\n", b""), response(), response(), response(2))
    answer = await agent.ask(call())
    assert answer.events == [*logged, response()]
    server.handler = as_stream(b"data: %b\n\n" % data)
    *before, last = (await agent.ask(call())).events
    assert before == logged
    failure(last)


async def test_a_second_response(agent: Connection, server: Hostile, sidecar: Gate) -> None:
    """Neither a second response nor anything else comes behind the first, and the connection is not confused by it."""
    server.handler = as_stream(response(), response(), notification("message", level="info", data="late"))
    assert (await agent.ask(call())).events == [response()]
    server.handler = friendly
    assert (await agent.ask(call("allowed", 2))).json["id"] == 2


async def test_a_response_on_another_stream(agent: Connection, sidecar: Gate, server: Hostile) -> None:
    """Two calls at once: an answer to the one in the stream of the other reaches nobody."""
    both = asyncio.Barrier(2)

    async def crossed(request: Request, reply: Reply) -> None:
        identifier = request.json["id"]
        await both.wait()
        await reply.stream()
        await reply.event(response({1: 2, 2: 1}[identifier]))
        await reply.event(response(identifier))
        await reply.end()

    server.handler = crossed
    async with sidecar.connect() as second:
        one, two = await asyncio.gather(agent.ask(call()), second.ask(call("allowed", 2)))
    assert (one.events, two.events) == ([response(1)], [response(2)])


async def test_a_response_on_the_notification_stream(agent: Connection, server: Hostile) -> None:
    """The session's own stream (GET) carries no responses."""

    async def handler(request: Request, reply: Reply) -> None:
        if request.method == "GET":
            nobodys = {"jsonrpc": "2.0", "id": None, "error": {"code": -32600, "message": "x"}}
            await as_stream(response(0), response(1), nobodys, notification("tools/list_changed"))(request, reply)
        else:
            await friendly(request, reply)

    server.handler = handler
    await initialize(agent)
    answer = await agent.ask(b"", "GET")
    assert [event["method"] for event in answer.events] == ["notifications/tools/list_changed"]


@pytest.mark.parametrize(
    "content_type",
    ["application/jsonp", "text/html", "text/plain", "application/json-seq", "application/javascript", "x", ""]
    + ["application/json, text/event-stream", "text/event-stream, application/json"],
)
async def test_answers_of_other_types(agent: Connection, server: Hostile, content_type: str) -> None:
    server.handler = as_json(response(), content_type)
    answer = await agent.ask(call())
    assert answer.status == 200
    failure(answer.json)


@pytest.mark.parametrize("end", [True, False])
async def test_a_stream_that_ends_without_a_response(agent: Connection, server: Hostile, end: bool) -> None:
    """The open request gets its answer, so that no client waits for ever."""
    server.handler = as_stream(notification("message", level="info", data="x"), end=end)
    first, second = (await agent.ask(call())).events
    assert first["method"] == "notifications/message"
    failure(second, "closed the connection")


EVENTS = {
    "CR": b"data: %b\r\r",
    "CRLF": b"data: %b\r\n\r\n",
    "mixed": b"data: %b\r\n\r",
    "BOM": b"\xef\xbb\xbfdata: %b\n\n",
    "no blank": b"data:%b\n\n",
    "comment": b": x\ndata: %b\n: y\n\n",
    "event name": b"event: message\ndata: %b\n\n",
    "empty event name": b"event:\ndata: %b\n\n",
    "unknown fields": b"x: y\nz\ndata: %b\n\n",
    "keep-alives before": b":\n\n\n\n:\n\ndata: %b\n\n",
}


@pytest.mark.parametrize("form", EVENTS.values(), ids=EVENTS)
@pytest.mark.parametrize("size", [1, 1000])
async def test_cr_only_sse_and_other_forms(agent: Connection, server: Hostile, form: bytes, size: int) -> None:
    """However it is written and split, the agent gets it in one form (which `Answer.events` insists on)."""
    stream = (
        form % json.dumps(notification("message", level="info", data="x")).encode()
        + form.removeprefix(b"\xef\xbb\xbf") % json.dumps(response()).encode()
    )
    server.handler = as_stream(*(stream[start : start + size] for start in range(0, len(stream), size)))
    answer = await agent.ask(call())
    assert [event.get("method") for event in answer.events] == ["notifications/message", None]
    assert answer.events[1] == response()


async def test_split_data(agent: Connection, server: Hostile) -> None:
    """One message over several `data` lines is one message; it goes on in one line."""
    lines = json.dumps(response(), indent=2).encode().split(b"\n")
    server.handler = as_stream(b"".join(b"data: %b\n" % line for line in lines) + b"\n")
    assert (await agent.ask(call())).events == [response()]


@pytest.mark.parametrize("name", ["endpoint", "error", "Message", "message ", "x"])
async def test_unknown_events(agent: Connection, server: Hostile, name: str) -> None:
    """SSE `endpoint` to a foreign host: an event of the old transport has no meaning here, and goes no further."""
    evil = f"event: {name}\ndata: http://evil.example/mcp\n\n".encode()
    hidden = f"event: {name}\ndata: {json.dumps(response())}\n\n".encode()
    server.handler = as_stream(evil, hidden, notification("message", level="info", data="x"), response())
    answer = await agent.ask(call())
    assert b"evil" not in answer.body
    assert [event.get("method") for event in answer.events] == ["notifications/message", None]


@pytest.mark.parametrize("method", ["evil", "tools/call", "initialized", "subscriptions/acknowledged"])
async def test_unknown_notifications(agent: Connection, server: Hostile, sidecar: Gate, method: str) -> None:
    server.handler = as_stream(notification(method), response())
    assert (await agent.ask(call())).events == [response()]
    assert (await sidecar.recorded(event="dropped"))["reason"] == "unknown notification"


async def test_progress_nobody_asked_for(agent: Connection, server: Hostile) -> None:
    """Only for the token that the agent gave, only upwards, and not after the end."""
    given = [
        notification("progress", progressToken=token, progress=value)
        for token, value in (
            ("t", 1),
            ("x", 2),
            (1, 2),
            ("t", 0),
            ("t", 1),
            ("t", "2"),
            ("t", None),
            ("t", 2.5),
            ("t", 3),
        )
    ]
    server.handler = as_stream(*given, response(), notification("progress", progressToken="t", progress=4))
    document = call()
    document["params"]["_meta"] = {"progressToken": "t"}
    *progress, last = (await agent.ask(document)).events
    assert [event["params"]["progress"] for event in progress] == [1, 2.5, 3]
    assert last == response()
    assert (await agent.ask(call())).events == [response()], "no token was given"


async def test_progress_for_a_token_of_another_type(agent: Connection, server: Hostile) -> None:
    server.handler = as_stream(notification("progress", progressToken="1", progress=1), response())
    document = call()
    document["params"]["_meta"] = {"progressToken": 1}
    assert (await agent.ask(document)).events == [response()]


async def test_a_server_request_outside_of_a_session(agent: Connection, server: Hostile) -> None:
    """2026-07-28 has no requests of servers; a legacy one without a session has nowhere to answer to."""
    question = {"jsonrpc": "2.0", "id": 5, "method": "ping"}
    server.handler = as_stream(question, response())
    assert (await agent.ask(call())).events == [response()]
    server.handler = as_stream(question, response(result={**RESULT, "resultType": "complete"}))
    answer = await ask_modern(agent, call())
    assert [event["id"] for event in answer.events] == [1]
    assert server.calls("tools/call") == [json.loads(request.body) for request in server.requests], (
        "nothing was rejected"
    )


async def test_cancellation_of_another_request(agent: Connection, server: Hostile) -> None:
    server.handler = as_stream(notification("cancelled", requestId=1), notification("cancelled"), response())
    assert (await agent.ask(call())).events == [response()]


# Floods


async def test_an_endless_event(server: Hostile, tmp_path: Path) -> None:
    """An event beyond the limit ends the stream with an error; the server is cut off."""
    cut = asyncio.Event()

    async def endless(request: Request, reply: Reply) -> None:
        await reply.stream()
        try:
            while not reply.writer.is_closing():
                await reply.chunk(b"data: " + b"x" * 10_000 + b"\n")
        finally:
            cut.set()

    server.handler = endless
    config = configuration(server.url, limits={"responseBytes": "100KiB"})
    async with gate(tmp_path, config) as sidecar, sidecar.connect() as agent:
        answer = await agent.ask(call())
        failure(answer.events[0], "too large")
        async with asyncio.timeout(PATIENCE):
            await cut.wait()


async def test_a_flood_of_events_to_an_agent_that_does_not_read(
    agent: Connection, sidecar: Gate, server: Hostile
) -> None:
    """Back-pressure: the server is read no further than some buffers, and another agent is served meanwhile."""
    sent = 0
    event = b"data: %b\n\n" % json.dumps(notification("message", level="info", data="x" * 5_000)).encode()

    async def flood(request: Request, reply: Reply) -> None:
        nonlocal sent
        if request.json["id"] != 1:
            await friendly(request, reply)
            return
        await reply.stream()
        while not reply.writer.is_closing():
            await reply.chunk(event)
            sent += len(event)

    server.handler = flood
    await agent.send(agent.request(call()))
    await agent.answer_head()
    agent.reader._limit = 65536  # type: ignore[attr-defined]  # this agent stops reading now
    agent.writer.transport.pause_reading()  # type: ignore[attr-defined]  # uvloop's and asyncio's have it
    async with sidecar.connect() as other:
        settled, before = 0, -1
        while settled < 3:
            for number in range(2, 30):
                assert (await other.ask(call("allowed", number))).json["id"] == number
            settled = settled + 1 if sent == before else 0
            before = sent
    assert sent < 40_000_000, "what is on the way fits into sockets' and our own buffers"
    agent.reset()


async def test_an_answer_too_large(server: Hostile, tmp_path: Path) -> None:
    server.handler = as_json(response(result={"content": ["x" * 200_000]}))
    config = configuration(server.url, limits={"responseBytes": "100KiB"})
    async with gate(tmp_path, config) as sidecar, sidecar.connect() as agent:
        failure((await agent.ask(call())).json, "too large")
        server.handler = friendly
        assert (await agent.ask(call())).json["id"] == 1


async def test_too_many_calls(server: Hostile, tmp_path: Path) -> None:
    """A flood of held calls: beyond the cap 429, at once, and when they are answered all is as before."""
    release = asyncio.Event()

    async def held(request: Request, reply: Reply) -> None:
        await release.wait()
        await friendly(request, reply)

    server.handler = held
    config = configuration(server.url, limits={"inFlight": 2})
    async with gate(tmp_path, config) as sidecar, sidecar.connect() as one, sidecar.connect() as two:
        await one.send(one.request(call()))
        await two.send(two.request(call()))
        await server.received(2)
        async with sidecar.connect() as third:
            answer = await third.ask(call())
            assert (answer.status, answer.header("retry-after")) == (429, "1")
            assert len(server.requests) == 2
            release.set()
            assert ((await one.answer()).status, (await two.answer()).status) == (200, 200)
            assert (await third.ask(call())).status == 200


async def test_a_hanging_upstream_slows_no_other(server: Hostile, tmp_path: Path) -> None:
    async def hangs(request: Request, reply: Reply) -> None:
        await asyncio.Event().wait()

    server.handler = hangs
    async with hostile() as good:
        config = configuration(server.url, limits={"inFlight": 4}, timeouts={"request": "600ms"})
        config["servers"].append({"name": "good", "endpoints": [good.url]})
        async with gate(tmp_path, config) as sidecar, sidecar.connect(path="/good") as agent:
            stuck = [asyncio.create_task(ask_once(sidecar, number)) for number in range(4)]
            await server.received(4)
            for number in range(100):
                assert (await agent.ask(call("allowed", number))).json["id"] == number
            for answer in await asyncio.gather(*stuck):
                failure(answer, "in time")


async def ask_once(sidecar: Gate, number: int) -> Any:
    async with sidecar.connect() as agent:
        return (await agent.ask(call())).json


async def test_an_agent_that_goes_away_is_noticed(agent: Connection, server: Hostile, sidecar: Gate) -> None:
    """2026-07-28: the disconnect is the cancellation; the server sees it at once."""
    seen = asyncio.Event()

    async def waits(request: Request, reply: Reply) -> None:
        await reply.stream()
        await reply.event(notification("message", level="info", data="x"))
        while not reply.writer.is_closing():
            await reply.chunk(b":\n\n")
            await asyncio.sleep(0.01)
        seen.set()

    server.handler = waits
    document = call()
    await agent.send(agent.request(modern(document), **modern_headers(document)))
    await agent.answer_head()
    await agent.event()
    agent.reset()
    async with asyncio.timeout(PATIENCE):
        await seen.wait()
    assert (await sidecar.recorded(ends=True))["outcome"] == "client_gone"


async def test_stream_headers(agent: Connection, server: Hostile) -> None:
    """A stream must not be held back or stored on its way, and the server's own headers are not passed on."""

    async def handler(request: Request, reply: Reply) -> None:
        await reply.stream(set_cookie="a=b", access_control_allow_origin="*", x_evil="1", cache_control="public")
        await reply.event(response())
        await reply.end()

    server.handler = handler
    answer = await agent.ask(call())
    assert sorted(name for name, _ in answer.headers) == [
        "cache-control",
        "content-type",
        "date",
        "transfer-encoding",
        "x-accel-buffering",
    ]
    assert answer.header("x-accel-buffering") == "no"


async def test_a_notification_stream_of_a_stranger(agent: Connection, sidecar: Gate, server: Hostile) -> None:
    """A GET without a session reaches the server as one without; no session of others is shown."""
    await initialize(agent)
    async with sidecar.connect("bob") as bob:
        answer = await bob.ask(b"", "GET")
        assert answer.status == 405
    assert server.requests[-1].header("mcp-session-id") is None


async def test_an_update_of_a_denied_resource(agent: Connection, server: Hostile) -> None:
    updates = [
        notification("resources/updated", uri=uri)
        for uri in ("file:///secret", "file:///public/../secret", "file:///public/%2e%2e/secret", "\n", 1, None)
    ]
    server.handler = as_stream(*updates, notification("resources/updated", uri="file:///public/x"), response())
    events = (await agent.ask(call())).events
    assert [event.get("params", {}).get("uri") for event in events] == ["file:///public/x", None]


async def test_messages_of_the_server_are_recorded(agent: Connection, server: Hostile, sidecar: Gate) -> None:
    server.handler = as_stream(notification("message", level="info", data="x"), response(9), response())
    await agent.ask(call())
    await sidecar.recorded(event="notification")
    await sidecar.recorded(event="dropped")
    line = await sidecar.recorded(ends=True)
    assert (line["outcome"], line["status"]) == ("ok", 200)


async def test_a_notification_gets_no_body(agent: Connection, server: Hostile) -> None:
    """Whatever a server answers to a notification, the agent gets 202 and nothing else."""
    for handler in (as_json(response()), as_stream(response()), as_json(b"x", "text/html")):
        server.handler = handler
        answer = await agent.ask(message("notifications/initialized", None))
        assert (answer.status, answer.body) == (202, b"")
    server.handler = friendly
    assert (await agent.ask(call())).status == 200


async def test_questions_without_an_end_that_are_rejected(sidecar: Gate, agent: Connection, server: Hostile) -> None:
    """A rejection is a request: a server that takes none has no more of them open than a few, whatever it asks."""

    async def asks(request: Request, reply: Reply) -> None:
        if "error" in request.json:
            await reply.left()
        elif request.json["method"] != "tools/call":
            await friendly(request, reply)
        else:
            await reply.stream()
            for number in range(500):
                await reply.event(message("sampling/createMessage", number))
            await reply.event(response())

    server.handler = asks
    await initialize(agent)
    assert (await agent.ask(call())).events == [response()]
    assert len(sidecar.app._pipeline.relays.background) == relays.REJECTIONS
    await server.received(2 + relays.REJECTIONS)
    for task in sidecar.app._pipeline.relays.background:
        task.cancel()
    assert (await agent.ask(call())).events == [response()]
    await server.received(3 + relays.REJECTIONS + 1)
