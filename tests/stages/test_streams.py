"""A server's streams: what passes, under which id, and what is dropped; then what the agent may send back."""

import asyncio
from typing import Any

import pytest

from openmcp.sidecar.mcp import era
from tests.policy.rules import allow, deny
from tests.stages.scene import (
    Agent,
    Answer,
    Json,
    Scene,
    Sent,
    always,
    event,
    failure,
    legacy,
    notification,
    reply,
    request,
    response,
    scene,
    stream,
)

DONE = response({"content": [{"type": "text", "text": "done"}]})
CUT = {"code": -32603, "message": "the MCP server closed the connection before it answered"}


async def streamed(it: Scene, *events: Json | bytes, agent: Agent | None = None, **call: Any) -> Answer:
    """A legacy tools/call whose answer is a stream of these events."""
    it.server = always(lambda: stream(*events))
    answer = await (agent or it.agent).call("good", **call)
    assert answer.finished
    return answer


# Exactly one response


async def test_a_stream_ends_with_its_response() -> None:
    async with scene(allow()) as it:
        log = notification("message", level="info", data="x")
        answer = await streamed(it, log, DONE)
        assert answer.messages == [log, DONE]
        assert answer.headers == {
            "content-type": "text/event-stream",
            "cache-control": "no-cache, no-transform",
            "x-accel-buffering": "no",
        }


@pytest.mark.parametrize(
    "wrong",
    [
        response(identifier=2),
        response(identifier="1"),
        response(identifier=None, error={"code": -1, "message": "m"}),
        b'data: {"jsonrpc":"2.0","id":1.0,"result":{}}\n\n',
        b'data: {"jsonrpc":"2.0","id":true,"result":{}}\n\n',
        b'data: [{"jsonrpc":"2.0","id":1,"result":{}}]\n\n',
        b'data: {"jsonrpc":"2.0","id":1,"result":{},"error":{"code":1,"message":"m"}}\n\n',
        b"event: endpoint\ndata: http://evil/\n\n",
        b'event: response\ndata: {"jsonrpc":"2.0","id":1,"result":{}}\n\n',
        b"data: garbage\n\n",
        b"data: \xff\n\n",
        notification("surprise"),
        notification("subscriptions/acknowledged"),
    ],
)
async def test_what_is_not_its_response_is_dropped_and_recorded(wrong: Json | bytes) -> None:
    async with scene(allow()) as it:
        answer = await streamed(it, wrong, DONE)
        assert answer.messages == [DONE]
        assert len(it.dropped) == 1


async def test_nothing_comes_after_the_response() -> None:
    async with scene(allow()) as it:
        late = notification("progress", progressToken=7, progress=99)
        both = b"".join(b"data: " + part + b"\n\n" for part in (b'{"jsonrpc":"2.0","id":1,"result":{}}',) * 2)
        for events in ((DONE, DONE, late), (both,), (DONE, response({"other": 1}))):
            answer = await streamed(it, *events, _meta={"progressToken": 7})
            assert len(answer.messages) == 1


@pytest.mark.parametrize("broken", [False, True])
async def test_a_stream_without_a_response_gets_one_from_us(broken: bool) -> None:
    async with scene(allow()) as it:
        it.server = always(lambda: stream(notification("message", level="info", data="x"), broken=broken))
        answer = await it.agent.call("good", "a")
        assert answer.messages[1:] == [{"jsonrpc": "2.0", "id": "a", "error": CUT}]
        assert it.ended["outcome"] == "closed"


async def test_an_event_that_never_ends_is_too_large() -> None:
    async with scene(allow()) as it:
        answer = await streamed(it, b"data: " + b"x" * 6000, b"x" * 6000)
        assert answer.messages == [failure(-32603, message="the MCP server's answer is too large")]


async def test_an_error_passes_and_is_told_apart() -> None:
    async with scene(allow()) as it:
        assert (await streamed(it, failure(-32602))).messages == [failure(-32602)]
        assert it.ended["outcome"] == "rpc_error"
        await streamed(it, response({"content": [], "isError": True}))
        assert it.ended["outcome"] == "tool_error"


async def test_events_are_written_in_one_form_whatever_the_servers() -> None:
    async with scene(allow()) as it:
        answer = await streamed(
            it, b': hi\r\rretry: 5\rid: x\rdata: {\rdata:   "jsonrpc": "2.0", "id": 1, "result": {}}\r\r'
        )
        assert answer.body == b'retry: 5\nevent: message\ndata: {"jsonrpc":"2.0","id":1,"result":{}}\n\n'


# Progress


@pytest.mark.parametrize(
    ("token", "reports", "passed"),
    [
        (7, [(7, 1), (7, 2.5), (7, 3)], [1, 2.5, 3]),
        ("a", [("a", 1), ("a", 1), ("a", 0.5), ("a", 2)], [1, 2]),
        (7, [("7", 1), (8, 1), (7.0, 1), (True, 1), (None, 1), ([7], 1)], []),
        (1, [(True, 1), (1.0, 1), (1, 1)], [1]),
        (7, [(7, "1"), (7, None), (7, True), (7, [1])], []),
        (7, [(7, -5), (7, 0), (7, 10**30)], [-5, 0, 10**30]),
        (None, [(7, 1), (None, 1)], []),
        ([7], [([7], 1)], []),
        (2**60, [(2**60, 1)], []),
        (1.5, [(1.5, 1)], []),
    ],
)
async def test_progress_is_for_the_token_that_was_given_and_increases(
    token: Any, reports: list[tuple[Any, Any]], passed: list[Any]
) -> None:
    async with scene(allow()) as it:
        events = [notification("progress", progressToken=one, progress=value) for one, value in reports]
        meta = {} if token is None else {"_meta": {"progressToken": token}}
        answer = await streamed(it, *events, notification("progress", progressToken=token), DONE, **meta)
        assert [message["params"]["progress"] for message in answer.messages[:-1]] == passed
        assert answer.messages[-1] == DONE
        assert len(it.dropped) == len(reports) + 1 - len(passed)


# Requests of the server


@pytest.mark.parametrize(
    ("asked", "declared", "put"),
    [
        (request("ping", 9), {}, True),
        (request("elicitation/create", 9, message="?"), {"elicitation": {}}, True),
        (request("sampling/createMessage", 9), {"sampling": {}}, True),
        (request("roots/list", 9), {"roots": {}}, True),
        (request("elicitation/create", 9, message="?"), {}, False),
        (request("elicitation/create", 9, message="?"), {"sampling": {}, "roots": {}}, False),
        (request("elicitation/create", 9, mode="url", url="http://evil/"), {"elicitation": {}}, False),
        (request("sampling/createMessage", 9, tools=[]), {"sampling": {}}, False),
        (request("tools/call", 9, name="good"), {"elicitation": {}}, False),
        (request("initialize", 9), {}, False),
    ],
)
async def test_a_server_asks_what_the_agent_offered_to_answer(asked: Json, declared: Json, put: bool) -> None:
    async with scene(allow()) as it:
        await it.agent.initialize(**declared)
        answered = asyncio.Event()

        async def server(sent: Sent) -> Any:
            if sent.json.get("method") == "tools/call":
                return stream(asked, DONE)
            answered.set()
            return reply(status=202)

        it.server = server
        answer = await it.agent.call("good")
        assert answer.messages[-1] == DONE
        if not put:
            assert len(answer.messages) == 1
            await asyncio.wait_for(answered.wait(), 20)
            await it.background()
            rejection = it.sent[-1]
            assert (rejection.json["id"], rejection.json["error"]["code"]) == (9, -32601)
            assert rejection.headers["mcp-session-id"] == "upstream-1"
            return
        [got, _] = answer.messages
        assert got == {**asked, "id": got["id"]}
        assert got["id"] != 9
        assert len(it.sent) == 2, "the answer is the agent's"


async def test_outside_a_legacy_session_a_server_asks_nothing() -> None:
    async with scene(allow()) as it:
        answer = await streamed(it, request("ping", 9), DONE)
        assert answer.messages == [DONE]
        it.server = always(lambda: stream(request("roots/list", 9), DONE))
        modern = await it.agent.modern("tools/call", 1, {"roots": {}}, name="good")
        assert [message["id"] for message in modern.messages] == [1]
        assert len(it.dropped) == len(it.sent) == 2


async def asked(it: Scene, agent: Agent) -> Any:
    """The id under which a server's ping comes to the agent."""
    await agent.initialize(elicitation={})
    it.server = always(lambda: stream(request("elicitation/create", 9, message="?"), DONE))
    identifier = (await agent.call("good")).messages[0]["id"]
    it.server = legacy
    return identifier


@pytest.mark.parametrize(
    "reply_of_agent", [{"result": {"action": "decline"}}, {"error": {"code": -1, "message": "no"}}]
)
async def test_an_answer_goes_to_the_server_under_its_own_id_once(reply_of_agent: Json) -> None:
    async with scene(allow()) as it:
        document = response(identifier=await asked(it, it.agent), **reply_of_agent)
        answer = await it.agent.send(document)
        assert (answer.status, answer.body) == (202, b"")
        assert it.sent[-1].json == {"jsonrpc": "2.0", "id": 9, **reply_of_agent}
        assert it.sent[-1].headers["mcp-session-id"] == "upstream-1"
        sent = len(it.sent)
        assert (await it.agent.send(document)).code == (400, -32600)
        assert len(it.sent) == sent


async def test_a_stream_in_answer_to_an_answer_is_let_go() -> None:
    """It would be held until its time limit, and with it a connection to the server."""
    async with scene(allow()) as it:
        identifier = await asked(it, it.agent)
        answers = []

        def answering(sent: Sent) -> Any:
            answers.append(stream(open_end=True))
            return answers[-1]

        it.server = answering
        assert (await it.agent.send(response(identifier=identifier))).status == 202
        assert [one._connection.released for one in answers] == [False]


async def test_a_server_is_not_told_of_tasks_that_it_could_not_follow() -> None:
    """2025-11-25: tasks of the client are asked for by requests of the server that do not pass (`SERVER_REQUESTS`)."""
    async with scene(allow()) as it:
        offered = {"elicitation": {"form": {}}, "tasks": {"requests": {"elicitation": {"create": {}}}}}
        assert (await it.agent.initialize(**offered)).status == 200
        assert it.sent[-1].json["params"]["capabilities"] == {"elicitation": {"form": {}}}
        for params in ({}, {"capabilities": None}, {"capabilities": []}, {"capabilities": {"roots": {}}}):
            await it.agent.ask("initialize", protocolVersion="2025-11-25", **params)
            assert it.sent[-1].json["params"] == {"protocolVersion": "2025-11-25", **params}


async def test_nobody_answers_what_was_not_asked_of_him() -> None:
    async with scene(allow()) as it:
        identifier = await asked(it, it.agent)
        stolen = it.agent.session
        await it.eve.initialize(elicitation={})
        sent = len(it.sent)
        for agent, forged in ((it.agent, 9), (it.agent, "9"), (it.agent, identifier + "x"), (it.eve, identifier)):
            assert (await agent.send(response(identifier=forged))).code == (400, -32600)
        assert (await it.eve.send(response(identifier=identifier), mcp_session_id=stolen)).code == (404, 40400)
        assert (await it.agent.send(response(identifier=identifier), mcp_session_id=None)).code == (400, -32600)
        assert (await it.agent.send(failure(-1, None))).code == (400, -32600)
        assert len(it.sent) == sent


async def test_who_may_no_longer_use_the_server_answers_it_no_more() -> None:
    async with scene(allow()) as it:
        identifier = await asked(it, it.agent)
        it.govern(deny())
        assert (await it.agent.send(response(identifier=identifier))).code == (404, 40400)
        assert (await it.agent.send(method="GET")).code == (405, -32600)
        it.govern(allow(tools=["good"]), deny())
        assert (await it.agent.send(response(identifier=identifier))).code == (404, 40400)
        assert (await it.agent.send(method="GET")).code == (405, -32600)


async def test_a_server_takes_back_its_request_under_the_agents_id() -> None:
    async with scene(allow()) as it:
        await it.agent.initialize(elicitation={})
        question = request("elicitation/create", 9, message="?")
        answer = await streamed(it, question, notification("cancelled", requestId=9, reason="late"), DONE)
        put, cancelled, _ = answer.messages
        assert cancelled == notification("cancelled", requestId=put["id"], reason="late")
        wrong = [notification("cancelled", requestId=value) for value in (None, [9], {}, 1.5)]
        assert (await streamed(it, *wrong, DONE)).messages == [DONE]


# Resources under policy


@pytest.mark.parametrize(
    ("params", "passes"),
    [
        ({"uri": "good://a"}, True),
        ({"uri": "bad://a"}, False),
        ({"uri": "good://a/../secret"}, False),
        ({"uri": "good://a b"}, False),
        ({"uri": ["good://a"]}, False),
        ({}, False),
    ],
)
async def test_an_update_is_of_a_resource_that_the_agent_may_read(params: Json, passes: bool) -> None:
    async with scene(allow(resources=["good://*"], tools=["good"]), deny(resources=["*secret"])) as it:
        update = notification("resources/updated", **params)
        assert (await streamed(it, update, DONE)).messages == ([update, DONE] if passes else [DONE])


# The session's own stream, and resumption


async def test_the_sessions_stream_carries_what_belongs_to_no_request() -> None:
    async with scene(allow()) as it:
        await it.agent.initialize()
        changed = notification("tools/list_changed", _meta={"k": 1})
        it.server = always(lambda: stream(event(None, "0", 5), event(changed, "1"), DONE, notification("x")))
        answer = await it.agent.send(method="GET")
        assert answer.messages == [changed], "a response belongs to no request here"
        first, second = answer.events
        assert (first.data, first.retry, first.id is not None) == (b"", 5, True)
        assert second.id not in (b"1", first.id, None)
        assert (it.sent[-1].method, it.sent[-1].headers["mcp-session-id"]) == ("GET", "upstream-1")
        assert it.sent[-1].headers["accept"] == "text/event-stream"
        assert answer.finished


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (lambda: reply(status=405), 405),
        (lambda: reply(status=404), 404),
        (lambda: reply(b"bad session", 400), 404),
        (lambda: reply(status=401), 502),
        (lambda: reply(status=302, location="http://elsewhere/"), 502),
        (lambda: reply(b"{}"), 502),
    ],
)
async def test_a_server_without_such_a_stream(answer: Any, status: int) -> None:
    async with scene(allow()) as it:
        await it.agent.initialize()
        it.server = always(answer)
        assert (await it.agent.send(method="GET")).status == status


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("tools/call", {"name": "good", "_meta": {"progressToken": 7}}),
        ("resources/read", {"uri": "good://a", "_meta": {"progressToken": 7}}),
        ("tools/list", {"_meta": {"progressToken": 7}}),
        (
            "completion/complete",
            {
                "ref": {"type": "ref/prompt", "name": "good"},
                "argument": {"name": "a", "value": ""},
                "_meta": {"progressToken": 7},
            },
        ),
    ],
)
async def test_a_broken_stream_is_resumed_with_all_its_rules(method: str, params: Json) -> None:
    async with scene(allow()) as it:
        await it.agent.initialize()
        first = notification("progress", progressToken=7, progress=1)
        it.server = always(lambda: stream(event(None, "a1"), event(first, "a2")))
        answer = await it.agent.ask(method, **params)
        assert answer.messages == [first], "no error is made up: the client comes back for the rest"
        last = answer.events[-1].id
        assert last is not None

        more = notification("progress", progressToken=7, progress=2)
        foreign = notification("progress", progressToken=8, progress=2)
        result = response({"tools": [], "content": [], "contents": [], "completion": {"values": ["x"]}})
        it.server = always(lambda: stream(more, foreign, response(identifier=2), result, result))
        resumed = await it.agent.send(method="GET", last_event_id=last.decode())
        assert it.sent[-1].headers["last-event-id"] == "a2"
        assert resumed.messages == [more, result]


async def test_a_stream_whose_event_ids_would_be_too_long_is_answered() -> None:
    """Who came back with one would hear that its session is gone."""
    async with scene(allow()) as it:
        await it.agent.initialize()
        it.server = always(lambda: stream(event(None, "a1", 5), event(notification("message", data=1), "a2")))
        answer = await it.agent.ask("resources/read", uri="good://" + "a" * 4000)
        assert [(one.id, one.retry) for one in answer.events] == [(None, 5), (None, None), (None, None)]
        assert answer.messages[-1] == {"jsonrpc": "2.0", "id": 1, "error": CUT}


@pytest.mark.parametrize("fails", [lambda: reply(status=500), lambda: reply(b"{}", 401)])
async def test_a_stream_that_cannot_be_taken_up_now_can_be_later(fails: Any) -> None:
    """A 200 that is no stream would make clients give up the id of the event, and so the answer (TypeScript SDK)."""
    async with scene(allow()) as it:
        await it.agent.initialize()
        it.server = always(lambda: stream(event(None, "a1")))
        last = (await it.agent.call("good")).events[-1].id
        assert last is not None
        it.server = always(fails)
        answer = await it.agent.send(method="GET", last_event_id=last.decode())
        assert (answer.code, answer.json["id"]) == ((502, -32603), None)


async def test_an_event_id_is_of_no_use_to_others_or_after_a_denial() -> None:
    async with scene(allow()) as it:
        await it.agent.initialize()
        it.server = always(lambda: stream(event(notification("message", level="info", data=1), "a1")))
        last = (await it.agent.call("good")).events[-1].id
        assert last is not None
        it.server = lambda sent: reply(response({}, sent.json["id"]), mcp_session_id="upstream-2")
        stolen = it.agent.session
        await it.eve.initialize()
        sent = len(it.sent)
        for agent, headers in (
            (it.eve, {"last_event_id": last.decode()}),
            (it.eve, {"last_event_id": last.decode(), "mcp_session_id": stolen}),
            (it.agent, {"last_event_id": "a1"}),
            (it.agent, {"last_event_id": last.decode() + "A"}),
            (it.agent, {"last_event_id": last.decode(), "mcp_session_id": None}),
        ):
            assert (await agent.send(method="GET", **headers)).code == (404, 40400)
        it.govern(allow(), deny(tools=["good"]))
        assert (await it.agent.send(method="GET", last_event_id=last.decode())).code == (404, 40400)
        assert len(it.sent) == sent


# Streams of 2026-07-28


async def test_a_modern_requests_stream_carries_its_progress_and_log_alone() -> None:
    async with scene(allow()) as it:
        progress = notification("progress", progressToken=7, progress=1)
        log = notification("message", level="info", data="x")
        foreign = ["tools/list_changed", "subscriptions/acknowledged", "cancelled", "elicitation/complete", "tasks"]
        events = [progress, log, *(notification(name) for name in foreign), notification("resources/updated", uri="x:")]
        done = response({"content": [], "resultType": "complete"})
        it.server = always(lambda: stream(event(None, "1"), *events, done))
        answer = await it.agent.modern("tools/call", name="good", _meta={"progressToken": 7})
        assert answer.messages == [progress, log, done]
        assert [one.id for one in answer.events] == [None] * 3, "not resumable"


def told(name: str, subscription: Any = 1, **params: Any) -> Json:
    return notification(name, **params, _meta={era.META_SUBSCRIPTION: subscription})


ACKNOWLEDGED = told("subscriptions/acknowledged", notifications={"toolsListChanged": True})
WANTED = {"toolsListChanged": True, "promptsListChanged": False, "resourceSubscriptions": ["good://a"]}
END = response({"resultType": "complete", "_meta": {era.META_SUBSCRIPTION: 1}})


async def listened(it: Scene, *events: Json | bytes, wanted: Json = WANTED) -> list[Any]:
    it.server = always(lambda: stream(*events))
    answer = await it.agent.modern("subscriptions/listen", notifications=wanted)
    assert answer.finished
    return answer.messages


@pytest.mark.parametrize(
    ("message", "passes"),
    [
        (told("tools/list_changed"), True),
        (told("prompts/list_changed"), False),
        (told("resources/list_changed"), False),
        (told("tools/list_changed", 2), False),
        (told("tools/list_changed", "1"), False),
        (told("tools/list_changed", 1.0), False),
        (told("tools/list_changed", True), False),
        (notification("tools/list_changed"), False),
        (told("resources/updated", uri="good://a"), True),
        (told("resources/updated", uri="bad://a"), False),
        (told("progress", progressToken=1, progress=1), False),
        (told("message", level="info", data=1), False),
        (told("tasks", taskId="t1"), False),
        (told("cancelled", requestId=1), True),
        (told("cancelled", requestId=2), False),
        (told("cancelled", requestId="1"), False),
        (request("ping", 1), False),
    ],
)
async def test_a_subscription_carries_what_it_asked_for(message: Json, passes: bool) -> None:
    async with scene(allow(resources=["good://*"])) as it:
        assert await listened(it, ACKNOWLEDGED, message, END) == [ACKNOWLEDGED, *([message] if passes else []), END]


async def test_a_subscription_tells_of_the_tasks_that_it_named_alone() -> None:
    """A server that mixes up who listens to what would tell of another agent's, under no rule of its tool."""
    tasks = {"extensions": {"io.modelcontextprotocol/tasks": {}}}
    async with scene(allow()) as it:
        for name in ("t1", "t2"):
            it.server = always(lambda name=name: reply(response({"resultType": "task", "taskId": name})))
            await it.agent.modern("tools/call", 1, tasks, name="slow")
        mine = told("tasks", taskId="t1", status="completed")
        others = [told("tasks", taskId=name, status="completed") for name in ("t2", "t3", 1, None, ["t1"])]
        question = {"method": "elicitation/create", "params": {"mode": "url", "url": "https://evil.example"}}
        others.append(told("tasks", taskId="t1", status="input_required", inputRequests={"a": question}))
        it.server = always(lambda: stream(ACKNOWLEDGED, *others, told("tasks"), mine, END))
        answer = await it.agent.modern("subscriptions/listen", 1, tasks, notifications={"taskIds": ["t1"]})
        assert answer.messages == [ACKNOWLEDGED, mine, END]


async def test_nothing_comes_before_the_acknowledgement() -> None:
    async with scene(allow()) as it:
        changed = told("tools/list_changed")
        assert await listened(it, changed, ACKNOWLEDGED, changed, END) == [ACKNOWLEDGED, changed, END]


async def test_a_subscription_that_breaks_off_is_answered() -> None:
    async with scene(allow()) as it:
        assert await listened(it, ACKNOWLEDGED) == [ACKNOWLEDGED, {"jsonrpc": "2.0", "id": 1, "error": CUT}]


async def test_a_subscription_to_a_denied_resource_is_denied() -> None:
    async with scene(allow(resources=["good://*"])) as it:
        wanted = {"resourceSubscriptions": ["good://a", "bad://a"]}
        answer = await it.agent.modern("subscriptions/listen", notifications=wanted)
        assert answer.code == (200, 40300)
        assert it.sent == []


async def opened(it: Scene, body: Json | bytes, method: str = "POST", **headers: str) -> tuple[Answer, Any]:
    """A stream that stays open, with the task that serves it."""
    first = ACKNOWLEDGED if method == "POST" else event(None, "1")
    it.server = always(lambda: stream(first, open_end=True))
    answer = it.agent.begin(body, method, **headers)
    task = asyncio.create_task(it.pipeline(answer))
    await asyncio.wait_for(answer.begun.wait(), 20)
    while not answer.body:  # noqa: ASYNC110  # what is waited for has no event: the next turn of the loop
        await asyncio.sleep(0)
    return answer, task


async def test_a_change_of_policy_is_announced_to_those_who_asked() -> None:
    async with scene(allow()) as it:
        body, headers = it.agent.modern_request("subscriptions/listen", notifications=WANTED)
        answer, task = await opened(it, body, **headers)
        [relay] = it.pipeline.relays.open
        assert relay.idle
        relay.announce_lists()
        relay.stop()
        await asyncio.wait_for(task, 20)
        assert answer.messages == [ACKNOWLEDGED, told("tools/list_changed"), END], "and it ends in good order"
        assert it.pipeline.relays.open == set()


async def test_a_legacy_session_is_told_of_every_list() -> None:
    async with scene(allow()) as it:
        await it.agent.initialize()
        answer, task = await opened(it, b"", "GET")
        [relay] = it.pipeline.relays.open
        relay.announce_lists()
        relay.stop()
        await asyncio.wait_for(task, 20)
        lists = ("tools", "prompts", "resources")
        assert [message["method"] for message in answer.messages] == [
            f"notifications/{one}/list_changed" for one in lists
        ]
        assert answer.finished
