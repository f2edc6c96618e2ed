"""A server says what no agent may read, in every place that a message has and in every form that text has."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.security.test_sessions import Asking, begin
from tests.security.test_streams import as_stream, notification
from tests.support.gate import PATIENCE, POLICY, Gate, ask_modern, call, configuration, gate, initialize, message
from tests.support.hostile import Hostile, Reply, Request, friendly, initialized, tool
from tests.support.raw import Answer, Connection

CARD = "4111 1111 1111 1111"
SECRET = "CUST-00417733"
RULES = [
    {"name": "no-cards", "detect": ["credit_card"], "action": "block"},
    {"name": "customers", "patterns": ["CUST-[0-9]{8}"], "action": "redact"},
]
MASK = "[redacted:customers]"
LEGACY_ONLY = frozenset(("tasks/result", "initialize"))


@pytest.fixture
async def sidecar(server: Hostile, tmp_path: Path) -> AsyncIterator[Gate]:
    """A sidecar that blocks card numbers and redacts customers' numbers."""
    config = configuration(server.url)
    everything = {"name": "resources", "resources": ["*"], "action": "allow"}
    config["policies"] = [{**POLICY, "requests": [*POLICY["requests"], everything], "responses": RULES}]
    async with gate(tmp_path, config) as running:
        yield running


def replying(answer: dict[str, Any], *, stream: bool) -> Any:
    """A handler that answers a request with this result or error."""

    async def handler(request: Request, reply: Reply) -> None:
        if request.method != "POST" or "id" not in request.json or request.json["method"] == "initialize":
            await friendly(request, reply)
            return
        document = {"jsonrpc": "2.0", "id": request.json["id"], **answer}
        await (as_stream(document)(request, reply) if stream else reply.message(document))

    return handler


def text(value: str) -> dict[str, Any]:
    return {"type": "text", "text": value}


def said(value: str) -> dict[str, Any]:
    return {"result": {"content": [text(value)]}}


def coded(value: str) -> str:
    return base64.b64encode(value.encode()).decode()


def surfaces(secret: str) -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    """Where a complete answer may hide a text: the request, and the answer to it."""
    blob = coded(f"a,b\n{secret},x\n")
    read, prompt = message("resources/read", uri="note:///x"), message("prompts/get", name="allowed")
    resource = {"type": "resource", "resource": {"uri": "note:///x", "text": secret}}
    binary = {"type": "resource", "resource": {"uri": "note:///x", "mimeType": "text/csv", "blob": blob}}
    completion = message("completion/complete", ref={"type": "ref/prompt", "name": "allowed"}, argument={"name": "x"})
    return {
        "text": (call(), said(f"it is {secret}.")),
        "structuredContent": (call(), {"result": {"content": [], "structuredContent": {"x": [{"y": secret}]}}}),
        "a key of structuredContent": (call(), {"result": {"content": [], "structuredContent": {secret: 1}}}),
        "a blob": (call(), {"result": {"content": [binary]}}),
        "an embedded resource": (call(), {"result": {"content": [resource]}}),
        "a link": (
            call(),
            {
                "result": {
                    "content": [{"type": "resource_link", "uri": "note:///x", "name": "x", "description": secret}]
                }
            },
        ),
        "an image": (call(), {"result": {"content": [{"type": "image", "mimeType": "image/png", "data": blob}]}}),
        "audio": (call(), {"result": {"content": [{"type": "audio", "mimeType": "audio/wav", "data": blob}]}}),
        "an unknown type": (call(), {"result": {"content": [{"type": "x", "y": [secret]}]}}),
        "meta": (call(), {"result": {"content": [], "_meta": {"x": secret}}}),
        "meta of an item": (call(), {"result": {"content": [{**text("x"), "_meta": {"x": {"y": secret}}}]}}),
        "an unknown member": (call(), {"result": {"content": [], "x": secret}}),
        "a failed tool": (call(), {"result": {"content": [text(secret)], "isError": True}}),
        "error.message": (call(), {"error": {"code": -32000, "message": f"no such {secret}"}}),
        "error.data": (call(), {"error": {"code": -32000, "message": "x", "data": {"trace": [secret]}}}),
        "an unknown member of the error": (call(), {"error": {"code": -32000, "message": "x", "y": secret}}),
        "a resource": (read, {"result": {"contents": [{"uri": "note:///x", "text": secret}]}}),
        "a resource's blob": (read, {"result": {"contents": [{"uri": "note:///x", "blob": blob}]}}),
        "a prompt": (prompt, {"result": {"messages": [{"role": "user", "content": text(secret)}]}}),
        "a prompt's description": (prompt, {"result": {"messages": [], "description": secret}}),
        "a tool's description": (
            message("tools/list"),
            {"result": {"tools": [tool("allowed") | {"description": secret}]}},
        ),
        "a tool's schema": (
            message("tools/list"),
            {"result": {"tools": [tool("allowed") | {"inputSchema": {"type": "object", "description": secret}}]}},
        ),
        "a resource's title": (
            message("resources/list"),
            {"result": {"resources": [{"uri": "note:///x", "name": "x", "title": secret}]}},
        ),
        "a template's description": (
            message("resources/templates/list"),
            {"result": {"resourceTemplates": [{"uriTemplate": "note:///{x}", "name": "x", "description": secret}]}},
        ),
        "a prompt's arguments": (
            message("prompts/list"),
            {"result": {"prompts": [{"name": "allowed", "arguments": [{"name": "x", "description": secret}]}]}},
        ),
        "a completion": (completion, {"result": {"completion": {"values": [secret, "x"]}}}),
        "a task's status": (
            call(),
            {"result": {"task": {"taskId": "t", "status": "working", "statusMessage": secret}}},
        ),
    }


SURFACES = surfaces(SECRET)


def reads(body: bytes) -> str:
    """What an agent can read of an answer: the bytes, and what base64 in them says."""
    found = body.decode()
    for word in found.replace("\\n", "").split('"'):
        if len(word) > 11 and len(word) % 4 == 0:
            try:
                found += base64.b64decode(word, validate=True).decode("utf-8", "ignore")
            except ValueError:
                continue
    return found


def clean(answer: Answer, secret: str = SECRET) -> None:
    """The agent got an answer, without the secret."""
    assert answer.status == 200
    assert secret not in reads(answer.body), answer.body
    assert secret.replace(" ", "") not in reads(answer.body), answer.body


@pytest.mark.parametrize("surface", SURFACES)
@pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])
async def test_secret_in_every_place(agent: Connection, server: Hostile, surface: str, stream: bool) -> None:
    """Only in structuredContent, in a blob, in error.data, in a description: it is redacted, and the rest stays."""
    document, answer = SURFACES[surface]
    server.handler = replying(answer, stream=stream)
    for got in (await agent.ask(document), await ask_modern(agent, document)):
        clean(got)
        if "error" not in answer:
            assert MASK in reads(got.body) or surface == "a completion", got.body


CARDS = surfaces(CARD)


@pytest.mark.parametrize("surface", CARDS)
@pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])
async def test_blocked_in_every_place(agent: Connection, server: Hostile, surface: str, stream: bool) -> None:
    """A rule that blocks leaves nothing of the answer; of a list, everything but the entry."""
    document, answer = CARDS[surface]
    server.handler = replying(answer, stream=stream)
    for got in (await agent.ask(document), await ask_modern(agent, document)):
        clean(got, CARD)
        (response,) = got.events if stream else [got.json]
        if document["method"].endswith("/list"):
            assert [value for key, value in response["result"].items() if type(value) is list] == [[]]
        elif document["method"] == "tools/call" and "result" in answer:
            assert response["result"]["isError"] is True
            assert "no-cards" in response["result"]["content"][0]["text"]
            assert response["result"].keys() <= {"content", "isError", "_meta", "resultType"}
        elif document["method"] != "completion/complete":
            assert response["error"]["code"] == 40300


@pytest.mark.parametrize("surface", SURFACES)
@pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])
async def test_secret_in_a_large_message(agent: Connection, server: Hostile, surface: str, stream: bool) -> None:
    """A message that is read in a process of its own is inspected all the same."""
    for secret, places in ((SECRET, SURFACES), (CARD, CARDS)):
        document, answer = places[surface]
        (member,) = answer
        padding = "Lorem ipsum dolor sit amet. " * 12_000
        large = {member: {**answer[member], "padding": padding}}
        server.handler = replying(large, stream=stream)
        clean(await agent.ask(document), secret)


def wide(value: str) -> str:
    return value.translate({code: code + 0xFEE0 for code in range(0x21, 0x7F)})


FORMS = {
    "JSON escapes": "".join(f"\\u{ord(char):04x}" for char in SECRET),
    "full width": wide(SECRET),
    "zero width": "\u200b".join(SECRET),
    "soft hyphens": "\u00ad".join(SECRET),
    "variation selectors": "\ufe0f".join(SECRET),
    "tags between": "\U000e0041".join(SECRET),
    "direction marks": f"\u202d{SECRET[:6]}\u200f{SECRET[6:]}\u202c",
    "mathematical digits": SECRET[:5] + "".join(chr(0x1D7CE + int(digit)) for digit in SECRET[5:]),
    "base64": coded(f"customer {SECRET} of ours"),
    "base64 for URLs": base64.urlsafe_b64encode(f"??>>{SECRET}??>>".encode()).decode().rstrip("="),
    "base64 twice": coded(coded(f"customer {SECRET} of ours")),
    "JSON in a string": json.dumps(json.dumps({"x": f"\u00e9{SECRET}"}))[1:-1],
    "JSON escapes in a string": '{\\"x\\": \\"\\\\u0043UST-00417733\\"}',
    "a data URI": f"data:text/plain;base64,{coded(f'customer {SECRET}')}",
    "an escaped data URI": f"data:text/plain,{quote(SECRET).replace('C', '%43')}",
}


def plain(found: str) -> str:
    """What a reader makes of a text: without what is invisible, in plain characters."""
    import unicodedata

    shown = unicodedata.normalize("NFKC", found)
    return "".join(c for c in shown if unicodedata.category(c) not in ("Cf", "Mn") and not 0xE0000 <= ord(c) <= 0xE01EF)


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])
async def test_encoded_secrets(agent: Connection, server: Hostile, form: str, stream: bool) -> None:
    body = f'{{"jsonrpc":"2.0","id":1,"result":{{"content":[{{"type":"text","text":"{form}"}}]}}}}'.encode()

    async def handler(request: Request, reply: Reply) -> None:
        if stream:
            await as_stream(b"data: %b\n\n" % body)(request, reply)
        else:
            await reply.respond(body, content_type="application/json")

    server.handler = handler
    answer = await agent.ask(call())
    (response,) = answer.events if stream else [answer.json]
    left = response["result"]["content"][0]["text"]
    for _ in range(3):
        assert SECRET not in plain(left)
        assert "00417733" not in plain(left)
        try:
            left = (
                base64.b64decode(left.partition("base64,")[2] or left + "==")
                .decode("utf-8", "ignore")
                .replace("\0", "")
            )
        except ValueError:
            break


@pytest.mark.parametrize("at", range(1, len(SECRET)))
async def test_split_secrets(agent: Connection, server: Hostile, at: int) -> None:
    """Over two items of content, which agents put together before they read them."""
    content = [text(f"it is {SECRET[:at]}"), text(f"{SECRET[at:]} of course")]
    server.handler = replying({"result": {"content": content}}, stream=False)
    result = (await agent.ask(call())).json["result"]
    assert SECRET not in "".join(item["text"] for item in result["content"])


async def test_split_over_the_stream(agent: Connection, server: Hostile) -> None:
    """Whatever pieces an event comes in."""
    event = b"data: %b\n\n" % json.dumps({"jsonrpc": "2.0", "id": 1, **said(SECRET)}).encode()
    for size in (1, 2, 3, 5, 7, 11, 64):
        server.handler = as_stream(*(event[start : start + size] for start in range(0, len(event), size)))
        clean(await agent.ask(call()))


NOTIFICATIONS = {
    "log": notification("message", level="info", data=SECRET),
    "deep in a log": notification("message", level="info", data={"x": [{"y": SECRET}]}),
    "the log's name": notification("message", level="info", logger=SECRET, data="x"),
    "progress": notification("progress", progressToken="t", progress=1, message=SECRET),
    "statusMessage": notification("tasks/status", taskId="t", status="working", statusMessage=SECRET),
    "the reason of a cancellation": notification("cancelled", requestId=9, reason=SECRET),
    "meta": notification("tools/list_changed", _meta={"x": SECRET}),
    "an unknown member": notification("message", level="info", data="x", more=SECRET),
}


@pytest.mark.parametrize("leak", NOTIFICATIONS.values(), ids=NOTIFICATIONS)
@pytest.mark.parametrize("secret", [SECRET, CARD], ids=["redacted", "blocked"])
async def test_leak_via_log_progress_status_message(
    agent: Connection, server: Hostile, leak: dict[str, Any], secret: str
) -> None:
    """What a rule redacts comes without it, what a rule blocks does not come; on a call's stream and the session's."""
    leaking = json.loads(json.dumps(leak).replace(SECRET, secret))

    async def handler(request: Request, reply: Reply) -> None:
        if request.method == "GET":
            await as_stream(leaking)(request, reply)
        elif request.method == "POST" and request.json.get("method") == "tools/call":
            done = {"jsonrpc": "2.0", "id": 1, **said("done")}
            await as_stream(leaking, done)(request, reply)
        else:
            await friendly(request, reply)

    server.handler = handler
    await initialize(agent)
    document = call()
    document["params"]["_meta"] = {"progressToken": "t"}
    called, listened = await agent.ask(document), await agent.ask(b"", "GET")
    clean(called, secret)
    clean(listened, secret)
    assert called.events[-1]["result"]["content"][0]["text"] == "done"
    if secret == SECRET and leak["method"] != "notifications/tasks/status":
        assert MASK in called.body.decode()


QUESTIONS = {
    "elicitation": ("elicitation/create", {"message": SECRET, "requestedSchema": {"type": "object"}}),
    "a form": (
        "elicitation/create",
        {"message": "?", "requestedSchema": {"properties": {"x": {"type": "string", "description": SECRET}}}},
    ),
    "sampling": ("sampling/createMessage", {"messages": [{"role": "user", "content": text(SECRET)}], "maxTokens": 1}),
    "a system prompt": ("sampling/createMessage", {"messages": [], "maxTokens": 1, "systemPrompt": SECRET}),
    "meta": ("roots/list", {"_meta": {"x": SECRET}}),
}


@pytest.mark.parametrize("kind", QUESTIONS)
@pytest.mark.parametrize("secret", [SECRET, CARD], ids=["redacted", "blocked"])
async def test_leak_via_a_question(agent: Connection, server: Hostile, kind: str, secret: str) -> None:
    """A question that is blocked is answered in the agent's place, so that the server does not wait."""
    method, params = QUESTIONS[kind]
    question = {"jsonrpc": "2.0", "id": 7, "method": method, "params": params}
    server.handler = asking = Asking(json.loads(json.dumps(question).replace(SECRET, secret)))
    await initialize(agent, elicitation={}, sampling={}, roots={})
    await begin(agent)
    if secret == CARD:
        async with asyncio.timeout(PATIENCE):
            refusal = await asking.answers.get()
        assert (refusal["id"], "error" in refusal) == (7, True)
    else:
        came = await agent.event()
        assert came["method"] == method
        assert SECRET not in json.dumps(came)
        assert MASK in json.dumps(came)
    asking.finished.set()
    assert (await agent.event())["id"] == 1


async def test_phishing_elicitation_url(server: Hostile, tmp_path: Path) -> None:
    """An agent that takes URLs gets none that a rule blocks, by neither era's way of asking."""
    config = configuration(server.url)
    rule = {"name": "only-ours", "patterns": [r"https?://(?:[^/]*\.)?evil\.example"], "action": "block"}
    config["policies"] = [{**POLICY, "responses": [rule]}]
    params = {"mode": "url", "message": "log in", "elicitationId": "e", "url": "https://idp.evil.example/login"}
    question = {"jsonrpc": "2.0", "id": 7, "method": "elicitation/create", "params": params}
    server.handler = asking = Asking(question)
    async with gate(tmp_path, config) as sidecar, sidecar.connect() as agent:
        await initialize(agent, elicitation={"url": {}})
        await begin(agent)
        async with asyncio.timeout(PATIENCE):
            assert "error" in await asking.answers.get()
        asking.finished.set()
        assert (await agent.event())["id"] == 1
        asks = {
            "resultType": "input_required",
            "inputRequests": {"q": {"method": question["method"], "params": params}},
        }
        server.handler = replying({"result": asks}, stream=False)
        async with sidecar.connect() as other:
            answer = await ask_modern(other, call(), elicitation={"url": {}})
            assert b"evil.example" not in answer.body
            assert answer.json["result"]["isError"] is True


async def test_leak_via_input_requests(agent: Connection, server: Hostile) -> None:
    """2026-07-28: questions come as a result."""
    for secret in (SECRET, CARD):
        asked = {"method": "elicitation/create", "params": {"message": secret, "requestedSchema": {}}}
        server.handler = replying(
            {"result": {"resultType": "input_required", "inputRequests": {"q": asked}}}, stream=False
        )
        answer = await ask_modern(agent, call(), elicitation={})
        clean(answer, secret)
        result = answer.json["result"]
        if secret == SECRET:
            assert result["inputRequests"]["q"]["params"]["message"] == MASK
        else:
            assert result["isError"] is True


@pytest.mark.parametrize("secret", [SECRET, CARD], ids=["redacted", "blocked"])
async def test_task_payload_uninspected(agent: Connection, server: Hostile, secret: str) -> None:
    """What a task brings later is looked at as the answer of the tool that made it."""
    created = {"task": {"taskId": "t", "status": "working"}}
    server.handler = replying({"result": created}, stream=False)
    assert (await agent.ask(call())).json["result"] == created
    inner = {"content": [text(secret)], "structuredContent": {"x": secret}}
    for method, result in (
        ("tasks/result", inner),
        ("tasks/get", {"taskId": "t", "status": "completed", "result": inner}),
        ("tasks/get", {"taskId": "t", "status": "failed", "statusMessage": secret}),
        ("tasks/get", {"taskId": "t", "status": "failed", "error": {"code": 1, "message": secret, "data": [secret]}}),
        ("tasks/list", {"tasks": [{"taskId": "t", "status": "working", "statusMessage": secret}]}),
        ("tasks/cancel", {"taskId": "t", "status": "cancelled", "statusMessage": secret}),
    ):
        for stream in (False, True):
            server.handler = replying({"result": result}, stream=stream)
            params = {} if method == "tasks/list" else {"taskId": "t"}
            clean(await agent.ask(message(method, **params)), secret)


async def test_leak_via_initialize(agent: Connection, server: Hostile) -> None:
    async def leaking(request: Request, reply: Reply) -> None:
        result = initialized(request) | {"instructions": SECRET, "serverInfo": {"name": SECRET, "version": "1"}}
        await reply.result(result, mcp_session_id="s")

    server.handler = leaking
    clean(await agent.ask(message("initialize", protocolVersion="2025-11-25", capabilities={}, clientInfo={})))


async def test_a_rule_for_a_tool_holds_for_its_task(server: Hostile, tmp_path: Path) -> None:
    """A rule with a selector is not got around by asking for the result later."""
    config = configuration(server.url)
    rule = {"name": "customers", "tools": ["allowed_a"], "patterns": ["CUST-[0-9]{8}"], "action": "redact"}
    config["policies"] = [{**POLICY, "responses": [rule]}]
    async with gate(tmp_path, config) as sidecar, sidecar.connect() as agent:
        for name in ("allowed_a", "allowed_b"):
            server.handler = replying({"result": {"task": {"taskId": name, "status": "working"}}}, stream=False)
            await agent.ask(call(name))
        server.handler = replying(said(SECRET), stream=False)
        clean(await agent.ask(message("tasks/result", taskId="allowed_a")))
        clean(await agent.ask(call("allowed_a")))
        other = await agent.ask(message("tasks/result", taskId="allowed_b"))
        assert other.json["result"]["content"] == [text(SECRET)]


async def test_leak_via_discover(agent: Connection, server: Hostile) -> None:
    discovered = {"supportedVersions": ["2026-07-28", SECRET], "capabilities": {}, "instructions": SECRET}
    server.handler = replying({"result": discovered}, stream=False)
    answer = await ask_modern(agent, message("server/discover"))
    clean(answer)
    assert answer.json["result"]["supportedVersions"] == ["2026-07-28"]


@pytest.mark.parametrize("secret", [SECRET, CARD, "2099-01-01"])
async def test_leak_via_a_refused_version(agent: Connection, server: Hostile, secret: str) -> None:
    """The versions that a server says it speaks are told to the agent, and nothing else as one of them."""
    error = {"code": -32022, "message": "x", "data": {"supported": [secret, "2026-07-28"], "requested": secret}}

    async def refusing(request: Request, reply: Reply) -> None:
        await reply.respond(
            json.dumps({"jsonrpc": "2.0", "id": 1, "error": error}).encode(), 400, content_type="application/json"
        )

    server.handler = refusing
    asked = message("initialize", protocolVersion="2025-11-25", capabilities={}, clientInfo={})
    answer = await agent.ask(asked)
    assert answer.code == -32022
    told = answer.json["error"]["data"]["supported"]
    assert told == [version for version in error["data"]["supported"] if version.startswith("20")]
    assert secret.startswith("20") or secret not in reads(answer.body)


async def test_leak_in_a_batch(agent: Connection, server: Hostile) -> None:
    """2025-03-26: every part of what comes back is inspected by itself."""
    await initialize(agent, "2025-03-26")
    server.handler = replying(said(SECRET), stream=False)
    first = await agent.ask([call("allowed", 1), call("allowed", 2)])
    clean(first)
    assert first.body.count(MASK.encode()) == 2
    server.handler = replying(said(CARD), stream=True)
    clean(await agent.ask([call("allowed", 1), call("allowed", 2)]), CARD)


async def test_leak_in_a_resumed_stream(agent: Connection, server: Hostile) -> None:
    """The answer to a call whose stream broke off comes on another one, and is the tool's all the same."""

    async def breaks_off(request: Request, reply: Reply) -> None:
        if request.method == "GET" and request.header("accept") == "text/event-stream":
            await as_stream({"jsonrpc": "2.0", "id": 1, **said(SECRET)})(request, reply)
        elif request.method == "POST" and request.json.get("method") == "tools/call":
            await as_stream(b"id: first\ndata:\n\n")(request, reply)
        else:
            await friendly(request, reply)

    server.handler = breaks_off
    await initialize(agent)
    broken = await agent.ask(call())
    token = next(line[4:] for line in broken.body.decode().split("\n") if line.startswith("id: "))
    answer = await agent.ask(b"", "GET", last_event_id=token)
    clean(answer)
    assert MASK in answer.body.decode()


@pytest.mark.parametrize("member", ["progress", "total"])
async def test_leak_via_a_number_of_progress(agent: Connection, server: Hostile, member: str) -> None:
    """A number that cannot be rewritten: the notification does not come."""
    numbers = {"progress": 1, member: 4111111111111111}
    done = {"jsonrpc": "2.0", "id": 1, **said("done")}
    server.handler = as_stream(notification("progress", progressToken="t", **numbers), done)
    document = call()
    document["params"]["_meta"] = {"progressToken": "t"}
    assert (await agent.ask(document)).events == [done]
