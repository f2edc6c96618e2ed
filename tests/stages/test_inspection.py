"""What servers say, inspected on its way: every surface, on whole answers and on streams, in both eras."""

import base64
import json
from typing import Any

import pytest

from openmcp.config.model import Policy
from tests.inspection.responses import block, redact, saying
from tests.policy.rules import allow
from tests.stages.scene import Json, Scene, event, failure, notification, reply, request, response, scene, stream

MAIL = "bob@corp.example"
GONE = "[redacted:email]"
REDACT = saying(redact(detect=["email"]))
BLOCK = saying(block(detect=["email"]))
TASKS = {"extensions": {"io.modelcontextprotocol/tasks": {}}}
FOUND = {"policy": "data", "rule": "contact", "action": "redact", "what": "email", "count": 1}
EITHER = pytest.mark.parametrize("streamed", [False, True], ids=["json", "sse"])
ERAS = pytest.mark.parametrize("modern", [False, True], ids=["legacy", "modern"])


def answers(it: Scene, document: Json, streamed: bool, *before: Json) -> None:
    """Let the server answer everything with this."""
    if streamed:
        it.server = lambda sent: stream(*before, document | {"id": sent.json["id"]})
    else:
        it.server = lambda sent: reply(document | {"id": sent.json["id"]})


async def asked(it: Scene, method: str, modern: bool, streamed: bool, **params: Any) -> Any:
    """The one message that answers a request."""
    capabilities = TASKS | {"elicitation": {}}
    answer = await (it.agent.modern(method, 1, capabilities, **params) if modern else it.agent.ask(method, **params))
    assert answer.status == 200
    return answer.messages[-1] if streamed else answer.json


def text(of: str) -> Json:
    return {"type": "text", "text": of}


def packed(of: str) -> str:
    return base64.b64encode(of.encode()).decode()


SURFACES: list[tuple[str, Json, Json, Json]] = [
    ("tools/call", {"name": "a"}, {"content": [text(MAIL)]}, {"content": [text(GONE)]}),
    ("tools/call", {"name": "a"}, {"content": [], "structuredContent": {"a": MAIL}},
     {"content": [], "structuredContent": {"a": GONE}}),
    ("tools/call", {"name": "a"}, {"content": [{"type": "resource", "resource": {"uri": "a:b", "blob": packed(MAIL)}}]},
     {"content": [{"type": "resource", "resource": {"uri": "a:b", "blob": packed(GONE)}}]}),
    ("tools/call", {"name": "a"}, {"content": [{"type": "resource_link", "uri": f"mailto:{MAIL}", "name": "a"}]},
     {"content": [text(GONE)]}),
    ("tools/call", {"name": "a"}, {"content": [], "_meta": {"a": MAIL}}, {"content": [], "_meta": {"a": GONE}}),
    ("tools/call", {"name": "a"}, {"content": [text(MAIL)], "isError": True},
     {"content": [text(GONE)], "isError": True}),
    ("resources/read", {"uri": "a:b"}, {"contents": [{"uri": "a:b", "text": MAIL}]},
     {"contents": [{"uri": "a:b", "text": GONE}]}),
    ("prompts/get", {"name": "a"}, {"messages": [{"role": "user", "content": text(MAIL)}]},
     {"messages": [{"role": "user", "content": text(GONE)}]}),
    ("completion/complete", {"ref": {"type": "ref/prompt", "name": "a"}, "argument": {"name": "x", "value": ""}},
     {"completion": {"values": [MAIL]}}, {"completion": {"values": [GONE]}}),
]  # fmt: skip


@EITHER
@ERAS
@pytest.mark.parametrize(("method", "params", "said", "left"), SURFACES)
async def test_results_are_redacted(
    method: str, params: Json, said: Json, left: Json, modern: bool, streamed: bool
) -> None:
    async with scene(allow(), REDACT) as it:
        kind = {"resultType": "complete"} if modern else {}
        answers(it, response(said | kind), streamed)
        assert await asked(it, method, modern, streamed, **params) == response(left | kind)
        [line] = [line for line in it.audit.lines if "findings" in line]
        [found] = line["findings"]
        assert found.pop("path").startswith("$.")
        assert found in (FOUND, FOUND | {"action": "withhold"})
        assert line["event"] == "response"
        assert MAIL not in json.dumps(it.audit.lines)


@EITHER
@ERAS
@pytest.mark.parametrize(("method", "params", "said", "left"), SURFACES)
async def test_results_are_blocked(
    method: str, params: Json, said: Json, left: Json, modern: bool, streamed: bool
) -> None:
    async with scene(allow(), BLOCK) as it:
        answers(it, response(said | {"resultType": "complete"}), streamed)
        got = await asked(it, method, modern, streamed, **params)
        reason = "Blocked: rule secrets of policy data does not let through what the server says"
        if method == "tools/call":
            decision = got["result"]["_meta"]["dev.openmcp/decision"]
            content = [text(f"{reason} (decision {decision})")]
            kind = {"resultType": "complete"} if modern else {}
            assert got["result"] == {"content": content, "isError": True, "_meta": got["result"]["_meta"], **kind}
        else:
            decision = got["error"]["data"]["dev.openmcp/decision"]
            assert got["error"] == {"code": 40300, "message": reason, "data": {"dev.openmcp/decision": decision}}
        assert it.recorded("request")[0]["call"] == decision
        assert it.ended["outcome"] == "blocked"
        assert [line["findings"][0]["action"] for line in it.audit.lines if "findings" in line] == ["block"]


@EITHER
@ERAS
async def test_errors(modern: bool, streamed: bool) -> None:
    async with scene(allow(), REDACT) as it:
        answers(it, failure(-32000, message=f"no {MAIL}", trace=[MAIL]), streamed)
        for method, params in (("tools/call", {"name": "a"}), ("tools/list", {})):
            got = await asked(it, method, modern, streamed, **params)
            assert got["error"] == {"code": -32000, "message": f"no {GONE}", "data": {"trace": [GONE]}}
    async with scene(allow(), BLOCK) as it:
        answers(it, failure(-32000, message=f"no {MAIL}"), streamed)
        got = await asked(it, "tools/call", modern, streamed, name="a")
        assert (got["error"]["code"], MAIL in json.dumps(got)) == (40300, False)
        assert it.ended["outcome"] == "blocked"


async def test_what_an_initialize_error_says_of_versions_is_versions() -> None:
    async with scene(allow()) as it:
        data = {"supported": ["2026-07-28", MAIL, "4111111111111111", 7]}
        it.server = lambda sent: reply(failure(-32022, **data), 400)
        error = (await it.agent.ask("initialize", protocolVersion="2025-11-25")).json["error"]
        assert error["data"]["supported"] == ["2026-07-28"]


# Notifications and questions

NOTES: list[tuple[Json, Json]] = [
    (notification("message", level="info", data={"a": MAIL}), notification("message", level="info", data={"a": GONE})),
    (notification("message", level="info", logger=MAIL, data=1),
     notification("message", level="info", logger=GONE, data=1)),
    (notification("progress", progressToken="t", progress=1, message=MAIL),
     notification("progress", progressToken="t", progress=1, message=GONE)),
]  # fmt: skip


@ERAS
@pytest.mark.parametrize(("said", "left"), NOTES)
async def test_notifications(said: Json, left: Json, modern: bool) -> None:
    params = {"name": "a", "_meta": {"progressToken": "t"}}
    for policy, got in ((REDACT, [left]), (BLOCK, [])):
        async with scene(allow(), policy) as it:
            answers(it, response({"content": [], "resultType": "complete"}), True, said)
            ask = it.agent.modern if modern else it.agent.ask
            messages = (await ask("tools/call", 1, **params)).messages
            assert messages[:-1] == got
            assert "result" in messages[-1]
            [line] = [line for line in it.audit.lines if "findings" in line]
            assert line["event"] == ("notification" if got else "dropped")
            assert MAIL not in json.dumps(it.audit.lines)


@pytest.mark.parametrize("on_get", [False, True])
async def test_rules_select_notifications_by_their_method(on_get: bool) -> None:
    only = saying(redact(detect=["email"], methods=["notifications/message"]))
    async with scene(allow(), only) as it:
        await it.agent.initialize()
        log, task = notification("message", data=MAIL), notification("tasks/status", taskId="t", statusMessage=MAIL)
        it.server = lambda sent: stream(log, task, *([] if on_get else [response({"content": [text(MAIL)]})]))
        answer = await (it.agent.send(method="GET") if on_get else it.agent.call("a"))
        assert answer.messages[:2] == [notification("message", data=GONE), task]
        assert answer.messages[2:] == ([] if on_get else [response({"content": [text(MAIL)]})])


@ERAS
async def test_what_is_the_agents_own_is_no_find(modern: bool) -> None:
    async with scene(allow(), BLOCK, saying(block(detect=["credit_card"]), name="cards")) as it:
        card = 4111111111111111
        said = notification("progress", progressToken=card, progress=1)
        answers(it, response({"content": [], "resultType": "complete"}), True, said)
        ask = it.agent.modern if modern else it.agent.ask
        assert (await ask("tools/call", 1, name="a", _meta={"progressToken": card})).messages[0] == said


async def test_a_subscriptions_own_id_is_no_find() -> None:
    async with scene(allow(), saying(redact(detect=["credit_card", "email"]))) as it:
        card = 4111111111111111
        meta = {"io.modelcontextprotocol/subscriptionId": card}

        def said(mail: str) -> list[Json]:
            acknowledged = notification(
                "subscriptions/acknowledged", notifications={"toolsListChanged": True}, _meta=meta
            )
            changed = notification("tools/list_changed", _meta=meta | {"x": mail}, note=mail)
            return [acknowledged, changed]

        it.server = lambda sent: stream(*said(MAIL), response({"resultType": "complete", "_meta": {}}, card))
        answer = await it.agent.modern("subscriptions/listen", card, notifications={"toolsListChanged": True})
        assert answer.messages[:2] == said(GONE)


@pytest.mark.parametrize(
    ("method", "said", "left"),
    [
        ("elicitation/create", {"message": MAIL, "requestedSchema": {}}, {"message": GONE, "requestedSchema": {}}),
        ("elicitation/create", {"message": "", "mode": "url", "url": f"https://x/{MAIL}"}, None),
        ("elicitation/create", {"message": "", "requestedSchema": {"properties": {MAIL: {}}}}, None),
        ("sampling/createMessage", {"messages": [{"role": "user", "content": text(MAIL)}], "systemPrompt": MAIL},
         {"messages": [{"role": "user", "content": text(GONE)}], "systemPrompt": GONE}),
    ],
)  # fmt: skip
@pytest.mark.parametrize("on_get", [False, True])
async def test_questions_of_a_server(method: str, said: Json, left: Json | None, on_get: bool) -> None:
    for policy, expected in ((REDACT, left), (BLOCK, None)):
        async with scene(allow(), policy) as it:
            await it.agent.initialize(elicitation={"url": {}, "form": {}}, sampling={})
            asks = [request(method, 7, **said), *([] if on_get else [response()])]
            it.server = lambda sent, asks=asks: (  # type: ignore[misc]  # bound now
                stream(*asks) if sent.method == "GET" or "method" in sent.json else reply(status=202)
            )
            answer = await (it.agent.send(method="GET") if on_get else it.agent.call("a"))
            asked = [message["params"] for message in answer.messages if "method" in message]
            assert asked == ([] if expected is None else [expected])
            await it.background()
            rejected = [one.json for one in it.sent if one.method == "POST" and "error" in one.json]
            assert [(one["id"], one["error"]["code"]) for one in rejected] == ([(7, 40300)] if expected is None else [])
            assert MAIL not in json.dumps(rejected)


@EITHER
async def test_input_that_a_result_asks_for(streamed: bool) -> None:
    async with scene(allow(), REDACT) as it:
        wants = {"a": {"method": "elicitation/create", "params": {"message": MAIL, "requestedSchema": {}}}}
        said = {"resultType": "input_required", "inputRequests": wants, "requestState": MAIL}
        answers(it, response(said), streamed)
        result = (await asked(it, "tools/call", True, streamed, name="a"))["result"]
        assert result["inputRequests"]["a"]["params"]["message"] == GONE
        assert MAIL not in result["requestState"], "the server's state goes sealed: it is nobody's to read"
        answers(it, response({"content": [], "resultType": "complete"}), streamed)
        await asked(it, "tools/call", True, streamed, name="a", requestState=result["requestState"])
        assert it.sent[-1].json["params"]["requestState"] == MAIL


@EITHER
async def test_a_legacy_results_state_is_read_by_the_agent(streamed: bool) -> None:
    async with scene(allow(), REDACT) as it:
        answers(it, response({"content": [], "requestState": MAIL}), streamed)
        assert (await asked(it, "tools/call", False, streamed, name="a"))["result"]["isError"] is True
        answers(it, response({"resultType": "input_required", "requestState": MAIL}), streamed)
        assert (await asked(it, "tools/call", False, streamed, name="a"))["result"]["isError"] is True


async def test_our_own_seals_are_no_finds() -> None:
    async with scene(allow(), saying(block(patterns=["[A-Za-z0-9_-]{60}"]))) as it:
        answers(it, response({"tools": [], "nextCursor": "x"}), False)
        assert "nextCursor" in (await asked(it, "tools/list", False, False))["result"]
        answers(it, response({"tasks": [], "nextCursor": "x"}), False)
        assert "nextCursor" in (await asked(it, "tasks/list", False, False))["result"]
        answers(it, response({"resultType": "input_required", "requestState": "x"}), False)
        assert "requestState" in (await asked(it, "tools/call", True, False, name="a"))["result"]


@EITHER
@ERAS
async def test_what_a_task_brings_is_inspected_as_its_tools_own(modern: bool, streamed: bool) -> None:
    only = saying(redact(detect=["email"], tools=["slow"]))
    async with scene(allow(), only) as it:
        made = {"resultType": "task", "taskId": "t1"} if modern else {"task": {"taskId": "t1", "statusMessage": MAIL}}
        answers(it, response(made), streamed)
        first = await asked(it, "tools/call", modern, streamed, name="slow")
        assert MAIL not in json.dumps(first)
        payload = {"content": [text(MAIL)]}
        for method in ("tasks/get", "tasks/cancel", "tasks/update" if modern else "tasks/result"):
            said = payload if method == "tasks/result" else {"taskId": "t1", "statusMessage": MAIL, "result": payload}
            answers(it, response(said | {"resultType": "complete"}), streamed)
            got = await asked(it, method, modern, streamed, taskId="t1")
            assert json.dumps(got["result"]) == json.dumps(said | {"resultType": "complete"}).replace(MAIL, GONE)
        answers(it, response({"content": [text(MAIL)], "resultType": "complete"}), streamed)
        assert MAIL in json.dumps(await asked(it, "tools/call", modern, streamed, name="fast"))
        if not modern:
            answers(it, response({"tasks": [{"taskId": "t1", "statusMessage": MAIL}, {"taskId": "t2"}]}), streamed)
            listed = (await asked(it, "tasks/list", modern, streamed))["result"]
            assert listed["tasks"] == [{"taskId": "t1", "statusMessage": GONE}]


@EITHER
async def test_a_blocked_payload_of_a_task_is_a_tools_error(streamed: bool) -> None:
    async with scene(allow(), BLOCK) as it:
        answers(it, response({"task": {"taskId": "t1"}}), streamed)
        await asked(it, "tools/call", False, streamed, name="slow")
        answers(it, response({"content": [text(MAIL)]}), streamed)
        got = await asked(it, "tasks/result", False, streamed, taskId="t1")
        assert (got["result"]["isError"], MAIL in json.dumps(got)) == (True, False)


async def test_what_a_task_brought_is_inspected_as_its_tools_own_when_its_stream_is_taken_up_again() -> None:
    async with scene(allow(), saying(redact(detect=["email"], tools=["slow"]))) as it:
        await it.agent.initialize()
        it.server = lambda sent: reply(response({"task": {"taskId": "t1"}}, sent.json["id"]))
        await it.agent.call("slow")
        it.server = lambda sent: stream(event(None, "a1"))
        last = (await it.agent.ask("tasks/result", taskId="t1")).events[-1].id
        assert last is not None
        it.server = lambda sent: stream(response({"content": [text(MAIL)]}))
        (resumed,) = (await it.agent.send(method="GET", last_event_id=last.decode())).messages
        assert resumed["result"]["content"] == [text(GONE)]


async def test_news_of_a_task_is_inspected_as_its_tools_own() -> None:
    async with scene(allow(), saying(redact(detect=["email"], tools=["slow"]))) as it:
        await it.agent.initialize()
        it.server = lambda sent: reply(response({"task": {"taskId": "t1"}}, sent.json["id"]))
        await it.agent.call("slow")
        news = notification("tasks/status", taskId="t1", statusMessage=MAIL)
        others = notification("tasks/status", taskId="t2", statusMessage=MAIL)
        related = notification("message", data=MAIL, _meta={"io.modelcontextprotocol/related-task": {"taskId": "t1"}})
        it.server = lambda sent: stream(news, others, related)
        messages = (await it.agent.send(method="GET")).messages
        assert [MAIL in json.dumps(message) for message in messages] == [False, True, False]


# Lists


@EITHER
@ERAS
@pytest.mark.parametrize(
    ("method", "member", "name"),
    [
        ("tools/list", "tools", "name"),
        ("prompts/list", "prompts", "name"),
        ("resources/list", "resources", "uri"),
        ("resources/templates/list", "resourceTemplates", "uriTemplate"),
    ],
)
async def test_entries_of_lists(method: str, member: str, name: str, modern: bool, streamed: bool) -> None:
    async with scene(allow(), REDACT, saying(block(patterns=["stop"]), name="words")) as it:
        entries = [
            {name: "a:1", "description": MAIL, "title": f"{MAIL}!"},
            {name: f"a:{MAIL}"},
            {name: "a:3", "description": "stop"},
            {name: "a:4", "description": "fine"},
        ]
        answers(it, response({member: entries, "nextCursor": MAIL}), streamed)
        result = (await asked(it, method, modern, streamed))["result"]
        assert result[member] == [{name: "a:1", "description": GONE, "title": f"{GONE}!"}, entries[3]]
        assert "nextCursor" in result


@EITHER
@ERAS
@pytest.mark.parametrize("hidden", ["\U000e0041", "\u202e", "\u2066", "\u200b", "\u2060", "\ufeff"])
async def test_hidden_characters_are_taken_out_of_lists_without_any_rule(
    hidden: str, modern: bool, streamed: bool
) -> None:
    async with scene(allow()) as it:
        entries = [
            {"name": "a", "description": f"do{hidden} this", "inputSchema": {"properties": {f"x{hidden}": [hidden]}}},
            {"name": f"b{hidden}"},
            {"name": "c", "description": "schöne Grüße \u00ad"},
        ]  # fmt: skip
        answers(it, response({"tools": entries}), streamed)
        result = (await asked(it, "tools/list", modern, streamed))["result"]
        assert result["tools"] == [
            {"name": "a", "description": "do this", "inputSchema": {"properties": {"x": [""]}}},
            entries[2],
        ]
        answers(it, response({"content": [text(hidden)], "resultType": "complete"}), streamed)
        got = (await asked(it, "tools/call", modern, streamed, name="a"))["result"]
        assert got["content"] == [text(hidden)], "elsewhere that is for rules to say"


# Output schemas

PROMISED = {"type": "object", "properties": {"n": {"type": "integer"}, "m": {"type": "string"}}, "required": ["n"]}
CARD = 4111111111111111


@EITHER
@ERAS
async def test_a_redacted_result_keeps_what_the_tool_promises_or_becomes_an_error(modern: bool, streamed: bool) -> None:
    async with scene(allow(), saying(redact(detect=["email", "credit_card"]))) as it:
        answers(it, response({"tools": [{"name": "a", "outputSchema": PROMISED}, {"name": "b"}]}), streamed)
        await asked(it, "tools/list", modern, streamed)
        for tool, given, fits in (
            ("a", {"n": 1, "m": MAIL}, True),
            ("a", {"n": CARD, "m": ""}, False),
            ("b", {"n": CARD, "m": ""}, True),
        ):
            said = {"content": [text(json.dumps(given))], "structuredContent": given, "resultType": "complete"}
            answers(it, response(said), streamed)
            result = (await asked(it, "tools/call", modern, streamed, name=tool))["result"]
            if fits:
                left = json.loads(json.dumps(given).replace(MAIL, GONE).replace(str(CARD), '"[redacted:credit_card]"'))
                assert (result["structuredContent"], json.loads(result["content"][0]["text"])) == (left, left)
            else:
                assert result["isError"] is True
                assert "structuredContent" not in result
                assert "output schema" in result["content"][0]["text"]
                assert it.ended["outcome"] == "blocked"
            assert str(CARD) not in json.dumps(result)


async def test_what_was_not_redacted_is_not_held_against_the_schema() -> None:
    async with scene(allow(), REDACT) as it:
        answers(it, response({"tools": [{"name": "a", "outputSchema": PROMISED}]}), False)
        await it.agent.ask("tools/list")
        said = {"content": [text(MAIL)], "structuredContent": {"n": "wrong"}}
        answers(it, response(said), False)
        assert (await it.agent.call("a")).result == said | {"content": [text(GONE)]}


# The rest


async def test_a_clean_answer_passes_as_it_came() -> None:
    async with scene(allow(), REDACT, BLOCK) as it:
        body = b'{"jsonrpc":"2.0","id":1,"result":{"content":[{"type":"text","text":"fine"}]}}'
        it.server = lambda sent: reply(body)
        assert (await it.agent.call("a")).body == body
        assert not [line for line in it.audit.lines if "findings" in line]


async def test_a_secret_in_a_stream_that_is_cut_anywhere() -> None:
    whole = b"data: " + json.dumps(response({"content": [text(f"mail {MAIL} now")]})).encode() + b"\n\n"
    for cut in range(1, len(whole)):
        async with scene(allow(), REDACT) as it:
            it.server = lambda sent, cut=cut: stream(whole[:cut], whole[cut:])  # type: ignore[misc]  # bound now
            [message] = (await it.agent.call("a")).messages
            assert message["result"]["content"] == [text(f"mail {GONE} now")]


async def test_findings_are_counted() -> None:
    shadow = Policy(name="trial", servers=("tools",), mode="shadow", responses=BLOCK.responses)
    async with scene(allow(), REDACT, shadow) as it:
        answers(it, response({"content": [text(MAIL), text(f"x {MAIL}")]}), False)
        await it.agent.call("a")
        [line] = [line for line in it.audit.lines if "findings" in line]
        assert [(one["policy"], one["count"], one.get("shadow")) for one in line["findings"]] == [
            ("data", 2, None),
            ("trial", 2, True),
        ]
        exposition = it.pipeline._recorder.metrics.exposition().decode()
        for labels in (
            'action="redact",policy="data",rule="contact",server="tools"',
            'action="shadow",policy="trial",rule="secrets",server="tools"',
        ):
            assert f"openmcp_findings_total{{{labels}}} 2.0" in exposition


async def test_another_configuration_inspects_from_then_on() -> None:
    async with scene(allow(), REDACT) as one, scene(allow()) as other:
        answers(other, response({"content": [text(MAIL)]}), False)
        assert (await other.agent.call("a")).result == {"content": [text(MAIL)]}
        other.pipeline.snapshot = one.snapshot.__class__(
            **{name: getattr(other.snapshot, name) for name in other.snapshot.__struct_fields__}
            | {"inspectors": one.snapshot.inspectors}
        )
        assert (await other.agent.call("a")).result == {"content": [text(GONE)]}
