"""Messages of megabytes: read by the worker, the same for agent and server as small ones, and in nobody's way."""

import asyncio
import json
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from openmcp.sidecar.mcp import jsonrpc
from openmcp.sidecar.worker import process
from tests.support.gate import Gate, ask_modern, call, configuration, gate, initialize, message
from tests.support.hostile import Handler, Hostile, Reply, Request, friendly
from tests.support.raw import Connection

MIB = 1024 * 1024
BIG = 2**80
LONG = 'Grüße, "Welt"\n\u2028 \\u0000 \x00' * (MIB // 40)
COMPACT: dict[str, Any] = {"separators": (",", ":"), "ensure_ascii": False}
INDENTED: dict[str, Any] = {"indent": 1}
RESULTS: dict[str, Any] = {
    "one text": {"content": [{"type": "text", "text": LONG}], "isError": False},
    "two texts around": {"content": [{"type": "text", "text": text} for text in ("a", LONG, "", "b" * 3000, LONG)]},
    "structured": {"content": [], "structuredContent": {"rows": [{"n": n, "x": [None, True]} for n in range(20_000)]}},
    "many items": {"content": [{"type": "text", "text": f"line {n}"} for n in range(20_000)], "_meta": {"a": 1}},
    "large and many": {"content": [{"type": "text", "text": f"{n}" * 1000} for n in range(200)]},
    "numbers": {"content": [], "structuredContent": {"x": BIG}, "n": BIG, "_meta": {"x": [BIG, -BIG, 1.5]}, "t": LONG},
    "deep": {"content": [], "a": {"b": {"c": [[{"d": LONG}]]}}},
    "strange keys": {"content": [], "\0": 1, "\x00 0\x00": "\x000\x00" * 100_000, "": LONG},
}


def answering(result: Any, style: dict[str, Any]) -> Handler:
    """A server that answers with this result, as JSON."""

    async def handler(request: Request, reply: Reply) -> None:
        if request.json.get("method") in ("initialize", "notifications/initialized"):
            await friendly(request, reply)
            return
        document = {"jsonrpc": "2.0", "id": request.json["id"], "result": result}
        await reply.respond(json.dumps(document, **style).encode(), content_type="application/json")

    return handler


def streaming(result: Any, style: dict[str, Any], before: str = "", step: int = MIB) -> Handler:
    """A server that answers with this result as an event, in chunks; `before` are further fields of the event."""

    async def handler(request: Request, reply: Reply) -> None:
        document = {"jsonrpc": "2.0", "id": request.json["id"], "result": result}
        lines = json.dumps(document, **style).split("\n")
        data = (before + "".join(f"data: {line}\n" for line in lines) + "\n").encode()
        await reply.stream()
        for start in range(0, len(data), step):
            await reply.chunk(data[start : start + step])
        await reply.end()

    return handler


async def until(condition: Callable[[], object]) -> None:
    """Wait for something that tells nobody when it happens."""
    async with asyncio.timeout(10):
        while True:
            if condition():
                return
            await asyncio.sleep(0.01)


Kind = Callable[[Any, dict[str, Any]], Handler]


@pytest.mark.parametrize("style", [COMPACT, INDENTED], ids=["canonical", "indented"])
@pytest.mark.parametrize("kind", [answering, streaming])
@pytest.mark.parametrize("result", RESULTS.values(), ids=RESULTS.keys())
async def test_a_large_result_comes_as_it_was(
    sidecar: Gate, agent: Connection, server: Hostile, result: Any, kind: Kind, style: dict[str, Any]
) -> None:
    server.handler = kind(result, style)
    answer = await agent.ask(call())
    document = {"jsonrpc": "2.0", "id": 1, "result": result}
    assert (answer.json if kind is answering else answer.events[0]) == document
    assert json.dumps(document, **COMPACT).encode() in answer.body, "our own serialisation, whatever the server's"
    assert sidecar.app._worker.pid is not None
    assert (await sidecar.recorded(event="response", **({} if kind is answering else {"stream": "post"})))["bytes_out"]


@pytest.mark.parametrize("kind", [answering, streaming])
async def test_a_large_result_of_the_modern_era(agent: Connection, server: Hostile, kind: Kind) -> None:
    """It gets its resultType, and is not to be shared."""
    server.handler = kind({"content": [{"type": "text", "text": LONG}], "cacheScope": "public"}, COMPACT)
    answer = await ask_modern(agent, call())
    result = (answer.json if kind is answering else answer.events[0])["result"]
    assert result == {
        "content": [{"type": "text", "text": LONG}],
        "cacheScope": "private",
        "resultType": "complete",
    }


@pytest.mark.parametrize("kind", [answering, streaming])
async def test_what_policy_denies_is_withheld_from_large_results(
    agent: Connection, server: Hostile, kind: Kind
) -> None:
    text = {"type": "text", "text": LONG}
    secret = {"type": "resource", "resource": {"uri": "file:///secret", "text": "x" * 3000}}
    server.handler = kind({"content": [text, secret] + [secret, {"type": "text", "text": "x"}] * 500}, COMPACT)
    answer = await agent.ask(call())
    content = (answer.json if kind is answering else answer.events[0])["result"]["content"]
    withheld = {"type": "text", "text": "[withheld: no policy allows this resource]"}
    assert content == [text, withheld] + [withheld, {"type": "text", "text": "x"}] * 500


@pytest.mark.parametrize("kind", [answering, streaming])
@pytest.mark.parametrize("style", [COMPACT, INDENTED], ids=["canonical", "indented"])
async def test_a_large_list_is_filtered(agent: Connection, server: Hostile, kind: Kind, style: dict[str, Any]) -> None:
    tools = [
        {"name": f"{name}{number}", "description": "x" * 3000, "inputSchema": {"type": "object", "x": BIG}}
        for number in range(200)
        for name in ("allowed", "forbidden", "other")
    ]
    server.handler = kind({"tools": tools, "nextCursor": "next", "x": LONG}, style)
    answer = await agent.ask(message("tools/list"))
    result = (answer.json if kind is answering else answer.events[0])["result"]
    assert result["tools"] == tools[::3]
    assert result["x"] == LONG
    assert result["nextCursor"] != "next"


async def test_a_large_list_that_is_none(agent: Connection, server: Hostile) -> None:
    server.handler = answering({"tools": {"x": LONG}}, COMPACT)
    assert (await agent.ask(message("tools/list"))).code == -32603


@pytest.mark.parametrize("kind", [answering, streaming])
async def test_a_large_answer_to_another_request_is_refused(agent: Connection, server: Hostile, kind: Kind) -> None:
    async def handler(request: Request, reply: Reply) -> None:
        other = Request(request.method, request.path, request.headers, json.dumps(call(identifier="1")).encode())
        await kind({"content": [{"type": "text", "text": LONG}]}, COMPACT)(other, reply)

    server.handler = handler
    answer = await agent.ask(call())
    document = answer.json if kind is answering else answer.events[0]
    assert (document["id"], document["error"]["code"]) == (1, -32603)


async def test_a_large_error(agent: Connection, server: Hostile) -> None:
    error = {"code": 7, "message": "m" * 5000, "data": {"why": LONG}}

    async def handler(request: Request, reply: Reply) -> None:
        await reply.message({"jsonrpc": "2.0", "id": 1, "error": error})

    server.handler = handler
    assert (await agent.ask(call())).json == {"jsonrpc": "2.0", "id": 1, "error": error}


@pytest.mark.parametrize(
    ("body", "media_type", "status"),
    [
        (b'{"jsonrpc":"2.0","id":1,"result":{"content":["' + b"x" * MIB, "application/json", 200),
        (b"[" * MIB, "application/json", 200),
        (b'{"jsonrpc":"2.0","id":1,"x":"%b"}' % (b"x" * MIB), "application/json", 200),
        (b"<html>" + b"x" * MIB, "text/html", 200),
        (b"<html>" + b"x" * MIB, "text/html", 500),
        (b"x" * MIB, "application/json", 500),
    ],
)
async def test_what_is_no_answer_is_refused(
    agent: Connection, server: Hostile, body: bytes, media_type: str, status: int
) -> None:
    async def handler(request: Request, reply: Reply) -> None:
        await reply.respond(body, status, content_type=media_type)

    server.handler = handler
    assert (await agent.ask(call())).code == -32603


async def test_events_around_a_large_one(sidecar: Gate, agent: Connection, server: Hostile) -> None:
    """Order, ids and what is dropped are as for small events."""

    async def handler(request: Request, reply: Reply) -> None:
        if request.json["method"] != "tools/call":
            await friendly(request, reply)
            return
        note = {"jsonrpc": "2.0", "method": "notifications/message", "params": {"level": "info"}}
        await reply.stream()
        await reply.event(note | {"params": {"level": "info", "data": "small"}}, id="a")
        await reply.event(note | {"params": {"level": "info", "data": LONG}}, id="b")
        await reply.event(note | {"method": "notifications/unknown", "params": {"data": LONG}})
        await reply.event(note | {"params": {"level": "info", "data": LONG}}, event="strange")
        await reply.chunk(b"data: {" + b"x" * MIB + b"\n\n")
        await reply.chunk(b": " + b"x" * MIB + b"\n\n")
        await reply.event({"jsonrpc": "2.0", "id": 2, "result": {"content": [LONG]}})
        await reply.event({"jsonrpc": "2.0", "id": 1, "result": {"content": [{"type": "text", "text": LONG}]}}, id="c")
        await reply.event(note | {"params": {"level": "info", "data": "behind the answer"}})
        await reply.end()

    server.handler = handler
    await initialize(agent)
    answer = await agent.ask(call())
    assert [event.get("params", {}).get("data", event.get("result")) for event in answer.events] == [
        "small",
        LONG,
        {"content": [{"type": "text", "text": LONG}]},
    ]
    assert answer.body.count(b"\nid: ") + answer.body.startswith(b"id: ") == 3
    reasons = [line["reason"] for line in await sidecar.records() if line["event"] == "dropped"]
    assert [reason.partition(":")[0] for reason in reasons] == [
        "unknown notification",
        "unknown SSE event",
        "malformed",
        "a response to no request of this stream",
    ]


async def test_a_large_question_of_the_server(sidecar: Gate, agent: Connection, server: Hostile) -> None:
    """Its id is ours, its params are as they were, and the answer finds back."""
    params = {"messages": [{"role": "user", "content": {"type": "text", "text": LONG}}], "maxTokens": 1}

    async def handler(request: Request, reply: Reply) -> None:
        if request.json.get("method") != "tools/call":
            await friendly(request, reply)
            return
        await reply.stream()
        await reply.event(message("sampling/createMessage", 77, **params))
        await reply.event({"jsonrpc": "2.0", "id": 1, "result": {"content": []}})
        await reply.end()

    server.handler = handler
    await initialize(agent, sampling={})
    question, result = (await agent.ask(call())).events
    assert question["params"] == params
    assert question["id"] != 77
    assert result["result"] == {"content": []}


async def test_too_many_parts(agent: Connection, server: Hostile) -> None:
    """A megabyte of structure where no message has any cannot be judged; it is not let through unjudged."""
    server.handler = answering({"content": [], "x": [[]] * MIB}, COMPACT)
    assert (await agent.ask(call())).code == -32603
    server.handler = answering({"tools": [{"name": "allowed", "description": LONG}]}, COMPACT)
    assert (await agent.ask(message("tools/list"))).code == -32603


async def test_a_slow_agent_gets_it_all(sidecar: Gate, agent: Connection, server: Hostile) -> None:
    """What it has not read waits here once, in the bytes that came from the server."""
    text = "x" * (10 * MIB)
    server.handler = answering({"content": [{"type": "text", "text": text}]}, COMPACT)
    agent.writer.transport.pause_reading()  # type: ignore[attr-defined]  # a stream's transport is a whole one
    await agent.send(agent.request(call()))
    (connection,) = sidecar.app._listener._connections
    await until(lambda: not connection.can_write)
    assert connection._transport.get_write_buffer_size() < MIB
    agent.writer.transport.resume_reading()  # type: ignore[attr-defined]  # as above
    answer = await agent.answer()
    assert answer.json["result"]["content"][0]["text"] == text


async def test_calls_go_on_meanwhile(sidecar: Gate, agent: Connection, server: Hostile) -> None:
    """No step of the loop takes the CPU for as long as it takes to read the message."""
    rows = [{"id": number, "name": f"n{number}", "ok": True} for number in range(200_000)]
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "result": {"content": [], "structuredContent": {"rows": rows}}})

    async def handler(request: Request, reply: Reply) -> None:
        if request.json["params"]["name"] == "allowed-large":
            await reply.respond(body.encode(), content_type="application/json")
        else:
            await friendly(request, reply)

    server.handler = handler
    before = time.thread_time()
    jsonrpc.read_lenient(body.encode())
    whole = time.thread_time() - before
    longest = [whole]
    while longest[-1] >= whole / 2:
        assert len(longest) < 6, "not because others have taken the caches"
        longest.append(0.0)
        large = asyncio.ensure_future(agent.ask(call("allowed-large", len(longest))))
        while not large.done():
            before = time.thread_time()
            await asyncio.sleep(0)
            longest[-1] = max(longest[-1], time.thread_time() - before)
        assert (await large).status == 200


# What response rules find

SECRET = "4111 1111 1111 1111"
MAIL = "jo@customer.example"
RULES = {
    "name": "inspect",
    "servers": ["*"],
    "requests": [],
    "responses": [
        {"name": "mail", "detect": ["email"], "action": "redact"},
        {"name": "cards", "detect": ["credit_card"], "action": "block"},
        {"name": "tool", "patterns": ["of-the-tool"], "tools": ["allowed-tool"], "action": "block"},
        {"name": "log", "patterns": ["of-the-log"], "methods": ["notifications/message"], "action": "block"},
    ],
}


@pytest.fixture
async def inspecting(server: Hostile, tmp_path: Path) -> AsyncIterator[Gate]:
    """A sidecar that looks for e-mail addresses and card numbers."""
    config = configuration(server.url)
    config["policies"] = [*config["policies"], RULES]
    (tmp_path / "inspecting").mkdir()
    async with gate(tmp_path / "inspecting", config) as running:
        yield running


def planted(text: str, *, at: int = len(LONG) // 2) -> str:
    """A long text with another one in it."""
    return f"{LONG[:at]} {text} {LONG[at:]}"


@pytest.mark.parametrize("style", [COMPACT, INDENTED], ids=["canonical", "indented"])
@pytest.mark.parametrize("kind", [answering, streaming])
async def test_a_large_result_is_redacted(inspecting: Gate, server: Hostile, kind: Kind, style: dict[str, Any]) -> None:
    def result(mail: str) -> Any:
        rows = [{"n": n, "mail": mail if n == 19_999 else "none"} for n in range(20_000)]
        item = {"type": "text", "text": planted(mail)}
        return {"content": [item, {"type": "text", "text": "x"}], "structuredContent": {"rows": rows}}

    server.handler = kind(result(MAIL), style)
    async with inspecting.connect() as agent:
        answer = await agent.ask(call())
    document = answer.json if kind is answering else answer.events[0]
    assert document["result"] == result("[redacted:email]")
    line = await inspecting.recorded(event="response", **({} if kind is answering else {"stream": "post"}))
    (found,) = line["findings"]
    assert (found["rule"], found["action"], found["count"]) == ("mail", "redact", 2)


@pytest.mark.parametrize("kind", [answering, streaming])
async def test_a_large_result_is_blocked(inspecting: Gate, server: Hostile, kind: Kind) -> None:
    for result in (
        {"content": [{"type": "text", "text": planted(SECRET)}]},
        {"content": [{"type": "text", "text": f"{n}" if n != 19_999 else SECRET} for n in range(20_000)]},
    ):
        server.handler = kind(result, COMPACT)
        async with inspecting.connect() as agent:
            answer = await agent.ask(call())
        document = answer.json if kind is answering else answer.events[0]
        assert document["result"]["isError"] is True
        assert "rule cards of policy inspect" in document["result"]["content"][0]["text"]
        assert SECRET.encode() not in answer.body
        assert len(answer.body) < 1000


async def test_a_large_read_and_a_large_error_are_blocked(inspecting: Gate, server: Hostile) -> None:
    async with inspecting.connect() as agent:
        server.handler = answering({"contents": [{"uri": "file:///public/a", "text": planted(SECRET)}]}, COMPACT)
        assert (await agent.ask(message("resources/read", uri="file:///public/a"))).code == 40300

        async def failing(request: Request, reply: Reply) -> None:
            await reply.message({"jsonrpc": "2.0", "id": 1, "error": {"code": 1, "message": planted(SECRET)}})

        server.handler = failing
        assert (await agent.ask(call())).code == 40300


@pytest.mark.parametrize("kind", [answering, streaming])
async def test_a_large_read_of_many_parts_is_blocked(inspecting: Gate, server: Hostile, kind: Kind) -> None:
    """Also on a stream, which has begun: its answer is an event, not a second head."""
    contents = [{"uri": "file:///public/a", "text": SECRET if n == 19_999 else f"{n}"} for n in range(20_000)]
    server.handler = kind({"contents": contents}, COMPACT)
    async with inspecting.connect() as agent:
        answer = await agent.ask(message("resources/read", uri="file:///public/a"))
        document = answer.json if kind is answering else answer.events[0]
        assert (document["id"], document["error"]["code"]) == (1, 40300)
        assert "HTTP/1.1" not in answer.body.decode()
        server.handler = friendly
        assert "result" in (await agent.ask(call())).json, "the connection is good for the next"


async def test_an_entry_of_a_large_list_is_withheld(inspecting: Gate, server: Hostile) -> None:
    tools = [
        {"name": f"allowed{n}", "description": f"about {MAIL if n == 7 else n} " + "x" * 3000, "inputSchema": {}}
        for n in range(200)
    ]
    spoilt = {"name": f"allowed {SECRET}", "description": "x", "inputSchema": {}}
    server.handler = answering({"tools": [*tools, spoilt], "nextCursor": MAIL}, COMPACT)
    async with inspecting.connect() as agent:
        result = (await agent.ask(message("tools/list"))).json["result"]
    tools[7]["description"] = "about [redacted:email] " + "x" * 3000
    assert result["tools"] == tools
    assert MAIL not in result["nextCursor"]


async def test_rules_for_a_tool_and_for_a_notification(inspecting: Gate, server: Hostile) -> None:
    async with inspecting.connect() as agent:
        server.handler = answering({"content": [{"type": "text", "text": planted("of-the-tool of-the-log")}]}, COMPACT)
        assert "isError" not in (await agent.ask(call())).json["result"]
        assert (await agent.ask(call("allowed-tool"))).json["result"]["isError"] is True

        async def noting(request: Request, reply: Reply) -> None:
            await reply.stream()
            for text in (planted("of-the-log"), planted("of-the-tool"), "of-the-log", planted("all is well")):
                params = {"level": "info", "data": text}
                await reply.event({"jsonrpc": "2.0", "method": "notifications/message", "params": params})
            await reply.event({"jsonrpc": "2.0", "id": 1, "result": {"content": []}})
            await reply.end()

        server.handler = noting
        *notes, _ = (await agent.ask(call())).events
        assert [note["params"]["data"] for note in notes] == [planted("of-the-tool"), planted("all is well")]


async def test_a_large_result_that_no_longer_fits_its_schema(inspecting: Gate, server: Hostile) -> None:
    strict = {"type": "object", "properties": {"mail": {"type": "string", "pattern": "@"}, "text": {"type": "string"}}}
    loose = {"type": "object", "properties": {"mail": {"type": "string"}, "text": {"type": "string"}}}
    tools = [
        {"name": f"allowed-{name}", "inputSchema": {}, "outputSchema": schema}
        for name, schema in (("strict", strict), ("loose", loose))
    ]
    async with inspecting.connect() as agent:
        server.handler = answering({"tools": tools}, COMPACT)
        await agent.ask(message("tools/list"))
        server.handler = answering({"content": [], "structuredContent": {"mail": MAIL, "text": LONG}}, COMPACT)
        left = (await agent.ask(call("allowed-loose"))).json["result"]["structuredContent"]
        assert left == {"mail": "[redacted:email]", "text": LONG}
        refused = (await agent.ask(call("allowed-strict"))).json["result"]
        assert refused["isError"] is True
        assert "structuredContent" not in refused


async def test_rules_are_exchanged_on_reload(inspecting: Gate, server: Hostile) -> None:
    server.handler = answering({"content": [{"type": "text", "text": planted(MAIL)}]}, COMPACT)
    async with inspecting.connect() as agent:
        pid = None
        for response, expected in (([], MAIL), (RULES["responses"], "[redacted:email]"), ([], MAIL)):
            config = configuration(server.url)
            other = {"name": "other", "detect": ["iban"], "action": "redact"}
            config["policies"] = [*config["policies"], {**RULES, "responses": [*response, other]}]
            inspecting.reload(config)
            assert (await agent.ask(call())).json["result"]["content"][0]["text"] == planted(expected)
            assert inspecting.app._worker.pid == (pid or inspecting.app._worker.pid)
            pid = inspecting.app._worker.pid


# The worker


def rss(pid: int | None) -> int:
    """Bytes that are resident."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def hanging() -> list[str]:
    """A worker that takes a job and never answers."""
    return ["sh", "-c", "exec sleep 600"]


async def test_a_worker_that_crashes_costs_its_message(
    sidecar: Gate, agent: Connection, server: Hostile, caplog: pytest.LogCaptureFixture
) -> None:
    server.handler = answering(RESULTS["one text"], COMPACT)
    assert (await agent.ask(call())).status == 200
    first = sidecar.app._worker.pid
    assert first is not None
    os.kill(first, signal.SIGSTOP)
    asking = asyncio.ensure_future(agent.ask(call()))
    await until(lambda: sidecar.app._worker._waiting)
    os.kill(first, signal.SIGKILL)
    answer = await asking
    assert (answer.code, (await sidecar.recorded(outcome="too_large"))["status"]) == (-32603, 200)
    assert (await agent.ask(call())).json["result"] == RESULTS["one text"]
    assert sidecar.app._worker.pid not in (None, first)


async def test_the_worker_is_given_no_secret(
    sidecar: Gate, agent: Connection, server: Hostile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_OF_THE_GATEWAY", "not for programs that look while the worker starts")
    server.handler = answering(RESULTS["one text"], COMPACT)
    assert (await agent.ask(call())).status == 200
    given = await asyncio.to_thread(Path(f"/proc/{sidecar.app._worker.pid}/environ").read_bytes)
    assert {line.partition(b"=")[0].decode() for line in given.split(b"\0") if line} <= {*process._ENVIRONMENT}


async def test_a_worker_that_ended_while_idle_is_replaced(sidecar: Gate, agent: Connection, server: Hostile) -> None:
    server.handler = answering(RESULTS["one text"], COMPACT)
    assert (await agent.ask(call())).status == 200
    running = sidecar.app._worker._running
    assert running is not None
    running.process.kill()
    await asyncio.to_thread(running.process.wait)
    await until(lambda: running.link.lost)
    assert (await agent.ask(call())).json["result"] == RESULTS["one text"]


async def test_a_worker_that_hangs_is_ended(sidecar: Gate, agent: Connection, server: Hostile) -> None:
    server.handler = answering(RESULTS["one text"], COMPACT)
    worker = sidecar.app._worker
    worker._command, worker._patience = tuple(hanging()), 0.3
    assert (await agent.ask(call())).code == -32603
    assert worker.pid is None
    worker._command, worker._patience = process.Worker()._command, process.PATIENCE
    assert (await agent.ask(call())).json["result"] == RESULTS["one text"]


async def test_a_worker_that_cannot_be_started(sidecar: Gate, agent: Connection, server: Hostile) -> None:
    server.handler = answering(RESULTS["one text"], COMPACT)
    sidecar.app._worker._command = ("/nonexistent",)
    assert (await agent.ask(call())).code == -32603


async def test_an_agent_that_leaves_does_not_stop_the_worker(sidecar: Gate, agent: Connection, server: Hostile) -> None:
    server.handler = answering(RESULTS["one text"], COMPACT)
    assert (await agent.ask(call())).status == 200
    pid = sidecar.app._worker.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    async with sidecar.connect("bob") as bob:
        await bob.send(bob.request(call()))
        await until(lambda: sidecar.app._worker._waiting)
        bob.reset()
    assert (await sidecar.recorded(outcome="client_gone"))["agent"] == "key:bob"
    os.kill(pid, signal.SIGCONT)
    assert (await agent.ask(call())).json["result"] == RESULTS["one text"]
    assert sidecar.app._worker.pid == pid


async def test_more_than_may_wait_is_refused(
    sidecar: Gate, agent: Connection, server: Hostile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "MOST_WAITING", MIB // 2)
    server.handler = answering(RESULTS["one text"], COMPACT)
    answer = await agent.ask(call())
    assert (answer.status, answer.code) == (429, 42900)
    assert sidecar.app._worker.pid is None


async def test_an_idle_worker_ends(
    sidecar: Gate, agent: Connection, server: Hostile, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.handler = answering(RESULTS["one text"], COMPACT)
    assert (await agent.ask(call())).status == 200
    running = sidecar.app._worker._running
    assert running is not None
    used = sidecar.app._worker._last
    sidecar.app._worker.sweep(used + process.IDLE - 1)
    assert sidecar.app._worker.pid == running.process.pid
    sidecar.app._worker.sweep(used + process.IDLE + 1)
    assert sidecar.app._worker.pid is None
    assert await asyncio.to_thread(running.process.wait, 10) == 0


async def test_the_worker_gives_memory_back(sidecar: Gate, agent: Connection, server: Hostile) -> None:
    """What one message needed is not kept for the next."""

    agent.patience = 60.0  # the worker has what others leave of a CPU

    async def resident() -> int:
        assert (await agent.ask(call())).json["result"] == result
        return rss(sidecar.app._worker.pid)

    result = RESULTS["one text"]
    server.handler = answering(result, COMPACT)
    before = await resident()
    result = {"content": [], "structuredContent": {"rows": [[] for _ in range(2 * MIB)]}}
    server.handler = answering(result, COMPACT)
    assert await resident() < before + 64 * MIB, "two million lists take 130"


async def test_the_worker_ends_with_the_sidecar(server: Hostile, tmp_path: Path) -> None:
    server.handler = answering(RESULTS["one text"], COMPACT)
    async with gate(tmp_path, configuration(server.url)) as sidecar, sidecar.connect() as agent:
        assert (await agent.ask(call())).status == 200
        running = sidecar.app._worker._running
        assert running is not None
    assert running.process.returncode is not None
