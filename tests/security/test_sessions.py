"""Attacks on legacy sessions: theft, forgery, answers to questions nobody put."""

import asyncio
import base64
import json
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support.gate import LEGACY, MODERN, PATIENCE, Gate, call, configuration, gate, initialize, message
from tests.support.hostile import Hostile, Reply, Request, friendly, hostile, initialized
from tests.support.raw import Connection


async def test_the_agent_never_sees_the_servers_session_id(agent: Connection, server: Hostile) -> None:
    session = await initialize(agent)
    assert "upstream-session" not in session
    assert b"upstream-session" not in base64.urlsafe_b64decode(session + "==")
    assert (await agent.ask(call())).status == 200
    assert server.requests[-1].header("mcp-session-id") == "upstream-session"


async def attack(sidecar: Gate, server: Hostile, session: str, agent: str = "alice", path: str = "/server") -> None:
    """Every use of this session id by this agent is a 404, and the server hears of none."""
    server.requests.clear()
    headers = {"mcp_session_id": session, "mcp_protocol_version": LEGACY}
    async with sidecar.connect(agent, path) as thief:
        for body in (call(), message("notifications/initialized", None), {"jsonrpc": "2.0", "id": 1, "result": {}}):
            answer = await thief.ask(body, **headers)
            assert (answer.status, answer.code) == (404, 40400), body
        assert (await thief.ask(b"", "GET", **headers)).status == 404
        assert (await thief.ask(b"", "GET", last_event_id="x", **headers)).status == 404
        assert (await thief.ask(b"", "DELETE", **headers)).status == 404
    assert server.requests == []


async def test_stolen_session_id(agent: Connection, sidecar: Gate, server: Hostile) -> None:
    """Another principal has the id: DELETE, GET, resumption and every POST are answered as if there were none."""
    session = await initialize(agent)
    await attack(sidecar, server, session, "bob")
    assert (await agent.ask(call())).status == 200, "the owner's session is none the worse"


async def test_delete_of_anothers_session(agent: Connection, sidecar: Gate, server: Hostile) -> None:
    """Neither without a session of one's own nor beside one; the server hears of no attempt."""
    session = await initialize(agent)
    async with sidecar.connect("bob") as bob:
        await initialize(bob)
        server.requests.clear()
        for headers in ({"mcp_session_id": session}, {"mcp_session_id": [bob.headers["mcp-session-id"], session]}):
            assert (await bob.ask(b"", "DELETE", **headers)).status in (400, 404)
    assert server.requests == []
    assert (await agent.ask(call())).status == 200
    assert (await agent.ask(b"", "DELETE")).status == 200
    assert [request.method for request in server.requests] == ["POST", "DELETE"]


async def test_guessed_session_ids(sidecar: Gate, server: Hostile) -> None:
    for guess in (
        "upstream-session",
        "x",
        "",
        "=" * 40,
        "\udcff",
        "A" * 5000,
        "../..",
        base64.b64encode(b"x" * 60).decode(),
    ):
        await attack(sidecar, server, guess)


async def test_a_changed_byte_in_a_session_id(agent: Connection, sidecar: Gate, server: Hostile) -> None:
    session = await initialize(agent)
    for at in range(0, len(session), 7):
        other = "A" if session[at] != "A" else "B"
        await attack(sidecar, server, session[:at] + other + session[at + 1 :])
    for changed in (session[:-1], session + "A", session + "=", session.swapcase(), session + session):
        await attack(sidecar, server, changed)


async def test_a_session_id_of_another_server(server: Hostile, tmp_path: Path) -> None:
    config = configuration(server.url)
    config["servers"].append({**config["servers"][0], "name": "other"})
    async with gate(tmp_path, config) as sidecar, sidecar.connect() as agent:
        await attack(sidecar, server, await initialize(agent), path="/other")


async def test_an_expired_session_id(
    agent: Connection, sidecar: Gate, server: Hostile, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = await initialize(agent)
    late = time.time() + 86_401
    monkeypatch.setattr(time, "time", lambda: late)
    await attack(sidecar, server, session)


async def test_a_session_id_of_another_key(agent: Connection, server: Hostile, tmp_path: Path) -> None:
    """Another sidecar's id, from before a restart for example, is worth nothing."""
    session = await initialize(agent)
    (tmp_path / "other").mkdir()
    async with gate(tmp_path / "other", configuration(server.url)) as other:
        await attack(other, server, session)


async def test_an_endpoint_that_is_gone(agent: Connection, sidecar: Gate, server: Hostile) -> None:
    session = await initialize(agent)
    sidecar.reload(configuration(server.url.replace("/mcp", "/elsewhere")))
    await attack(sidecar, server, session)


async def test_a_session_stays_at_its_endpoint(server: Hostile, tmp_path: Path) -> None:
    async with hostile() as second:
        config = configuration(server.url, second.url)
        async with gate(tmp_path, config) as sidecar:
            for _ in range(4):
                async with sidecar.connect() as agent:
                    server.requests.clear()
                    second.requests.clear()
                    await initialize(agent)
                    for number in range(5):
                        await agent.ask(call("allowed", number))
                    assert (await agent.ask(b"", "DELETE")).status == 200
                    assert sorted([len(server.requests), len(second.requests)]) == [0, 7]


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (404, b""),
        (404, b"not found"),
        (400, b"Bad Request: No valid session ID provided"),
        (400, b'{"error":"Session"}'),
    ],
)
async def test_a_dead_session_is_a_404(agent: Connection, server: Hostile, status: int, body: bytes) -> None:
    """Some servers answer 400 for a session they forgot; the agent has to see 404 to begin anew."""
    await initialize(agent)

    async def forgot(request: Request, reply: Reply) -> None:
        await reply.respond(body, status)

    server.handler = forgot
    answer = await agent.ask(call())
    assert (answer.status, answer.code) == (404, 40400)


@pytest.mark.parametrize("identifier", ["a\udcffb", "x" * 20_000, "a b", "a,b", "\x01"])
async def test_a_server_with_an_impossible_session_id(agent: Connection, server: Hostile, identifier: str) -> None:
    """The id must be visible ASCII (each legacy revision); whatever it is, it comes back to the server unchanged or
    the session is refused."""

    async def odd(request: Request, reply: Reply) -> None:
        if request.json["method"] == "initialize":
            body = json.dumps({"jsonrpc": "2.0", "id": 0, "result": initialized(request)}).encode()
            head = (
                b"HTTP/1.1 200 X\r\ncontent-type: application/json\r\nmcp-session-id: %b\r\ncontent-length: %d\r\n\r\n"
            )
            await reply.raw(head % (identifier.encode("utf-8", "surrogateescape"), len(body)) + body)
        else:
            await friendly(request, reply)

    server.handler = odd
    answer = await agent.ask(message("initialize", 0, protocolVersion=LEGACY, capabilities={}, clientInfo={}))
    session = answer.header("mcp-session-id")
    if session is None:
        assert answer.code == -32603
        return
    assert (await agent.ask(call(), mcp_session_id=session, mcp_protocol_version=LEGACY)).status == 200
    sent = server.requests[-1].header("mcp-session-id")
    assert sent is not None
    assert sent.encode("latin-1") == identifier.encode("utf-8", "surrogateescape")


async def test_two_session_ids_of_a_server(agent: Connection, server: Hostile) -> None:
    async def two(request: Request, reply: Reply) -> None:
        body = json.dumps({"jsonrpc": "2.0", "id": 0, "result": initialized(request)}).encode()
        head = b"HTTP/1.1 200 X\r\ncontent-type: application/json\r\nmcp-session-id: a\r\nmcp-session-id: b\r\n"
        await reply.raw(head + b"content-length: %d\r\n\r\n" % len(body) + body)

    server.handler = two
    answer = await agent.ask(message("initialize", 0, protocolVersion=LEGACY, capabilities={}, clientInfo={}))
    assert answer.header("mcp-session-id") is None
    assert answer.code == -32603


# Questions of the server to the agent


ELICITATION = {"jsonrpc": "2.0", "id": 7, "method": "elicitation/create", "params": {"message": "?", "mode": "form"}}


class Asking:
    """A server that puts `question` to the agent within a tools/call, and ends it when the answer is there."""

    def __init__(self, question: dict[str, Any]) -> None:
        self.question = question
        self.answers: asyncio.Queue[Any] = asyncio.Queue()
        self.finished = asyncio.Event()

    async def __call__(self, request: Request, reply: Reply) -> None:
        if request.method == "POST" and request.json.get("method") == "tools/call":
            await reply.stream()
            await reply.event(self.question)
            await self.finished.wait()
            await reply.event({"jsonrpc": "2.0", "id": request.json["id"], "result": {"content": []}})
            await reply.end()
            return
        if request.method == "POST" and "method" not in request.json:
            self.answers.put_nowait(request.json)
        await friendly(request, reply)


async def begin(agent: Connection, identifier: int = 1) -> None:
    """Call, and read the head of the stream that comes back."""
    await agent.send(agent.request(call("allowed", identifier)))
    status, headers = await agent.answer_head()
    assert (status, dict(headers)["content-type"]) == (200, "text/event-stream")


@pytest.mark.parametrize("identifier", [7, "7", 0, "x"])
async def test_an_answer_reaches_the_server_under_its_own_id(
    agent: Connection, sidecar: Gate, server: Hostile, identifier: int | str
) -> None:
    server.handler = asking = Asking({**ELICITATION, "id": identifier})
    await initialize(agent, elicitation={})
    await begin(agent)
    question = await agent.event()
    assert question["method"] == "elicitation/create"
    assert question["id"] != identifier
    async with sidecar.connect(**headers_of(agent)) as second:
        answer = await second.ask({"jsonrpc": "2.0", "id": question["id"], "result": {"action": "accept"}})
        assert (answer.status, answer.body) == (202, b"")
        async with asyncio.timeout(PATIENCE):
            assert await asking.answers.get() == {"jsonrpc": "2.0", "id": identifier, "result": {"action": "accept"}}
        asking.finished.set()
        assert (await agent.event())["id"] == 1
        again = await second.ask({"jsonrpc": "2.0", "id": question["id"], "result": {"action": "accept"}})
        assert (again.status, again.code) == (400, -32600), "a question is answered once"
    assert asking.answers.empty()


def headers_of(agent: Connection) -> dict[str, str]:
    """The session of another connection, as keywords of `Gate.connect`."""
    return {name.replace("-", "_"): value for name, value in agent.headers.items() if name.startswith("mcp-")}


async def test_forged_answer_to_an_elicitation(agent: Connection, sidecar: Gate, server: Hostile) -> None:
    """An answer under the server's own id, a guessed one, or by another session or principal reaches nobody."""
    server.handler = asking = Asking(ELICITATION)
    await initialize(agent, elicitation={})
    await begin(agent)
    question = await agent.event()
    async with sidecar.connect(**headers_of(agent)) as same, sidecar.connect() as other, sidecar.connect("bob") as bob:
        await initialize(other, elicitation={})
        await initialize(bob, elicitation={})
        for forged in (7, "7", "x", question["id"] + "A", question["id"][:-1], None, 0):
            answer = await same.ask({"jsonrpc": "2.0", "id": forged, "result": {"action": "accept"}})
            assert (answer.status, answer.code) == (400, -32600), forged
        if "upstream-session":  # all of these sessions have one id at the server: only ours tell them apart
            answer = await bob.ask({"jsonrpc": "2.0", "id": question["id"], "result": {"action": "accept"}})
            assert (answer.status, answer.code) == (400, -32600)
        answer = await same.ask(
            {"jsonrpc": "2.0", "id": question["id"], "result": {"action": "accept"}}, mcp_session_id=None
        )
        assert (answer.status, answer.code) == (400, -32600)
    assert asking.answers.empty()
    asking.finished.set()


async def test_a_response_in_a_revision_that_has_none(agent: Connection, server: Hostile) -> None:
    answer = await agent.ask({"jsonrpc": "2.0", "id": 1, "result": {}}, mcp_protocol_version=MODERN)
    assert (answer.status, answer.code) == (400, -32600)
    assert server.requests == []


QUESTIONS = {
    "elicitation": ELICITATION,
    "sampling": {"jsonrpc": "2.0", "id": 7, "method": "sampling/createMessage", "params": {"messages": []}},
    "roots": {"jsonrpc": "2.0", "id": 7, "method": "roots/list"},
    "unknown": {"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": {"name": "x"}},
}


@pytest.mark.parametrize("kind", QUESTIONS)
async def test_a_question_the_client_did_not_offer_to_answer(agent: Connection, server: Hostile, kind: str) -> None:
    """It is not put to the agent, and the server is told so under its own id."""
    server.handler = asking = Asking(QUESTIONS[kind])
    offered: dict[str, Any] = {name: {} for name in ("elicitation", "sampling", "roots") if name != kind}
    await initialize(agent, **offered)
    await begin(agent)
    async with asyncio.timeout(PATIENCE):
        refusal = await asking.answers.get()
    assert (refusal["id"], refusal["error"]["code"]) == (7, -32601)
    asking.finished.set()
    assert (await agent.event())["id"] == 1, "the next that the agent sees is the result"


@pytest.mark.parametrize(
    ("question", "capabilities"),
    [
        ({**QUESTIONS["sampling"], "params": {"messages": [], "tools": []}}, {"sampling": {}}),
        ({**QUESTIONS["sampling"], "params": {"messages": [], "toolChoice": {}}}, {"sampling": {}}),
        ({**ELICITATION, "params": {"mode": "url", "url": "https://evil.example"}}, {"elicitation": {}}),
        ({**ELICITATION, "params": {"mode": "url", "url": "https://evil.example"}}, {"elicitation": {"form": {}}}),
        ({**ELICITATION, "params": {"mode": "form", "message": "?"}}, {"elicitation": {"url": {}}}),
        ({**ELICITATION, "params": {"message": "?"}}, {"elicitation": {"url": {}}}),
    ],
    ids=["tools", "toolChoice", "url", "url beside form", "form", "form by default"],
)
async def test_sampling_with_tools_and_url_elicitation_only_where_offered(
    agent: Connection, server: Hostile, question: dict[str, Any], capabilities: dict[str, Any]
) -> None:
    """2025-11-25: both are capabilities of their own (`sampling.tools`, `elicitation.url`)."""
    server.handler = asking = Asking(question)
    await initialize(agent, **capabilities)
    await begin(agent)
    async with asyncio.timeout(PATIENCE):
        refusal = await asking.answers.get()
    assert refusal["id"] == 7
    assert "error" in refusal
    asking.finished.set()
    assert (await agent.event())["id"] == 1


@pytest.mark.parametrize(
    ("question", "capabilities"),
    [
        ({**QUESTIONS["sampling"], "params": {"messages": [], "tools": []}}, {"sampling": {"tools": {}}}),
        ({**ELICITATION, "params": {"mode": "url", "url": "https://x.example"}}, {"elicitation": {"url": {}}}),
        (ELICITATION, {"elicitation": {"url": {}, "form": {}}}),
        ({**ELICITATION, "params": {"message": "?"}}, {"elicitation": {}}),
    ],
)
async def test_questions_that_were_offered_pass(
    agent: Connection, server: Hostile, question: dict[str, Any], capabilities: dict[str, Any]
) -> None:
    server.handler = asking = Asking(question)
    await initialize(agent, **capabilities)
    await begin(agent)
    assert (await agent.event())["params"] == question["params"]
    asking.finished.set()


# Resumption


async def stream_with_ids(request: Request, reply: Reply) -> None:
    """A server whose stream has event ids, as both official SDKs', which replay any session's events for its id."""
    if request.method == "GET" and request.header("accept") == "text/event-stream":
        await reply.stream()
        await reply.event({"jsonrpc": "2.0", "method": "notifications/tools/list_changed"}, id="upstream-event-1")
        await reply.end()
    else:
        await friendly(request, reply)


async def event_id(agent: Connection) -> str:
    """The id of the first event of the session's stream, as the agent sees it."""
    answer = await agent.ask(b"", "GET")
    assert answer.status == 200
    return next(line[4:] for line in answer.body.decode().split("\n") if line.startswith("id: "))


async def test_foreign_last_event_id(agent: Connection, sidecar: Gate, server: Hostile) -> None:
    server.handler = stream_with_ids
    await initialize(agent)
    mine = await event_id(agent)
    assert "upstream-event-1" not in mine
    answer = await agent.ask(b"", "GET", last_event_id=mine)
    assert answer.status == 200
    assert server.requests[-1].header("last-event-id") == "upstream-event-1"
    server.requests.clear()
    async with sidecar.connect("bob") as bob:
        await initialize(bob)
        server.requests.clear()
        for foreign in (mine, "upstream-event-1", mine[:-1], mine + "A", "", "x" * 5000):
            assert (await bob.ask(b"", "GET", last_event_id=foreign)).status == 404
        session = bob.headers["mcp-session-id"]
        assert (await bob.ask(b"", "GET", last_event_id=session)).status == 404, "a token of another kind"
    assert server.requests == []


async def test_last_event_id_of_another_session_of_the_same_agent(
    agent: Connection, sidecar: Gate, server: Hostile
) -> None:
    sessions = iter(("one", "two"))

    async def many(request: Request, reply: Reply) -> None:
        if request.method == "POST" and request.json["method"] == "initialize":
            await reply.result(initialized(request), mcp_session_id=next(sessions))
        else:
            await stream_with_ids(request, reply)

    server.handler = many
    await initialize(agent)
    first = await event_id(agent)
    async with sidecar.connect() as second:
        await initialize(second)
        server.requests.clear()
        assert (await second.ask(b"", "GET", last_event_id=first)).status == 404
    assert server.requests == []


async def test_resumption_without_a_session(agent: Connection, server: Hostile) -> None:
    assert (await agent.ask(b"", "GET", last_event_id="x")).status == 404
    assert (await agent.ask(b"", "DELETE")).status == 400
    assert server.requests == []


async def test_a_resumed_request_is_judged_again(agent: Connection, sidecar: Gate, server: Hostile) -> None:
    """What policy no longer allows cannot be had by taking up the stream where it broke off."""

    async def breaks_off(request: Request, reply: Reply) -> None:
        if request.method == "POST" and request.json.get("method") == "tools/call":
            await reply.stream()
            await reply.chunk(b"id: first\ndata:\n\n")
            await reply.end()
        else:
            await friendly(request, reply)

    server.handler = breaks_off
    await initialize(agent)
    answer = await agent.ask(call())
    token = next(line[4:] for line in answer.body.decode().split("\n") if line.startswith("id: "))
    config = configuration(server.url)
    config["policies"][0] = {**config["policies"][0], "requests": config["policies"][0]["requests"][2:]}
    sidecar.reload(config)
    server.requests.clear()
    assert (await agent.ask(b"", "GET", last_event_id=token)).status == 404
    assert server.requests == []


async def test_get_and_delete_in_a_revision_without_them(agent: Connection, server: Hostile) -> None:
    for method in ("GET", "DELETE"):
        assert (await agent.ask(b"", method, mcp_protocol_version=MODERN)).status == 405
    assert server.requests == []


async def test_the_record_names_a_session_but_does_not_tell_it(agent: Connection, sidecar: Gate) -> None:
    session = await initialize(agent)
    await agent.ask(call())
    line = await sidecar.recorded(event="request", method="tools/call")
    assert line["session"]
    text = sidecar.record.read_text()
    assert session not in text
    assert "upstream-session" not in text
    assert "key-of-alice" not in text
