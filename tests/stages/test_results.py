"""Results on their way back: lists, cursors, states, tasks, versions; on whole answers and on streams alike."""

from typing import Any

import pytest

from openmcp.sidecar.stages.results import LIST_TTL
from openmcp.sidecar.stages.tokens import STATE_LIFETIME
from tests.policy.rules import allow, deny
from tests.stages.scene import Json, Scene, always, reply, response, scene, stream

TASKS = {"extensions": {"io.modelcontextprotocol/tasks": {}}}


def answers(it: Scene, result: Json, streamed: bool = False) -> None:
    """Let the server answer everything with this result."""
    it.server = lambda sent: (stream if streamed else reply)(response(result, sent.json["id"]))


def tools(*names: Any, **more: Any) -> Json:
    return {"tools": [{"name": name, "inputSchema": {"type": "object"}} for name in names], **more}


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    ("method", "result", "left"),
    [
        (
            "tools/list",
            {"tools": [{"name": "good"}, {"name": "bad"}, {"name": "good2"}]},
            [{"name": "good"}, {"name": "good2"}],
        ),
        ("prompts/list", {"prompts": [{"name": "bad"}, {"name": "good"}]}, [{"name": "good"}]),
        (
            "resources/list",
            {"resources": [{"uri": "good://a"}, {"uri": "good://a/../secret"}, {"uri": "a b"}, {"uri": "bad://a"}]},
            [{"uri": "good://a"}],
        ),
        (
            "resources/templates/list",
            {"resourceTemplates": [{"uriTemplate": "good://{id}"}, {"uriTemplate": "bad://{id}"}]},
            [{"uriTemplate": "good://{id}"}],
        ),
        ("tools/list", {"tools": [{"name": 1}, {"name": None}, {}, "good", ["good"], {"name": ["good"]}]}, []),
        ("tools/list", {"tools": []}, []),
    ],
)
async def test_a_list_shows_what_a_call_would_be_let_through_for(
    method: str, result: Json, left: list[Json], streamed: bool
) -> None:
    async with scene(
        allow(tools=["good*"], prompts=["good"], resources=["good://*"]), deny(resources=["*secret"])
    ) as it:
        answers(it, result | {"_meta": {"kept": 1}}, streamed)
        answer = await it.agent.ask(method)
        [got] = answer.messages if streamed else [answer.json]
        [member] = [key for key in result]
        assert got == response({member: left, "_meta": {"kept": 1}})


@pytest.mark.parametrize("result", [{}, {"tools": None}, {"tools": {"name": "good"}}, {"prompts": []}])
async def test_a_list_without_a_list_is_no_answer(result: Json) -> None:
    async with scene(allow()) as it:
        answers(it, result)
        assert (await it.agent.ask("tools/list")).code == (200, -32603)
        answers(it, result, streamed=True)
        [message] = (await it.agent.ask("tools/list")).messages
        assert message["error"]["code"] == -32603


@pytest.mark.parametrize(
    ("given", "ttl"),
    [
        ({}, 0),
        ({"ttlMs": 5, "cacheScope": "public"}, 5),
        ({"ttlMs": 10**9, "cacheScope": "public"}, LIST_TTL),
        ({"ttlMs": -1}, 0),
        ({"ttlMs": "5"}, 0),
        ({"ttlMs": True}, 0),
        ({"ttlMs": 1.5}, 0),
        ({"ttlMs": None, "cacheScope": "x"}, 0),
    ],
)
async def test_a_modern_list_is_private_and_soon_stale(given: Json, ttl: int) -> None:
    async with scene(allow()) as it:
        answers(it, tools("a", **given))
        result = (await it.agent.modern("tools/list")).result
        assert {key: result[key] for key in ("cacheScope", "ttlMs", "resultType")} == {
            "cacheScope": "private",
            "ttlMs": ttl,
            "resultType": "complete",
        }


async def test_what_one_agent_may_read_is_not_cached_for_others() -> None:
    async with scene(allow()) as it:
        answers(it, {"contents": [], "resultType": "complete", "cacheScope": "public", "ttlMs": 5})
        result = (await it.agent.modern("resources/read", uri="note:///a")).result
        assert result == {"contents": [], "resultType": "complete", "cacheScope": "private", "ttlMs": 5}


async def test_a_legacy_list_gets_nothing_of_the_kind() -> None:
    async with scene(allow()) as it:
        answers(it, tools("a"))
        assert (await it.agent.ask("tools/list")).result == tools("a")


@pytest.mark.parametrize("modern", [False, True])
async def test_pages_are_filtered_one_by_one_under_cursors_of_their_agent(modern: bool) -> None:
    async with scene(allow(tools=["good"]), endpoints=2) as it:
        ask = it.agent.modern if modern else it.agent.ask
        answers(it, tools("bad", nextCursor="page 2"))
        first = (await ask("tools/list")).result
        assert first["tools"] == [], "an empty page with a cursor is legal"
        assert first["nextCursor"] != "page 2"
        home = it.sent[-1].endpoint

        answers(it, tools("bad", "good"))
        second = (await ask("tools/list", cursor=first["nextCursor"])).result
        assert ([tool["name"] for tool in second["tools"]], "nextCursor" in second) == (["good"], False)
        assert (it.sent[-1].json["params"]["cursor"], it.sent[-1].endpoint) == ("page 2", home)

        sent = len(it.sent)
        status = 400 if modern else 200  # what the clients of each era take for an answer
        for agent, method, cursor in (
            (it.eve, "tools/list", first["nextCursor"]),
            (it.agent, "prompts/list", first["nextCursor"]),
            (it.agent, "tools/list", "page 2"),
            (it.agent, "tools/list", first["nextCursor"][:-1]),
        ):
            answer = await (agent.modern if modern else agent.ask)(method, cursor=cursor)
            assert answer.code == (status, -32602)
        assert (await ask("tools/list", cursor=7)).code == (400, -32602)
        assert len(it.sent) == sent


@pytest.mark.parametrize("cursor", [7, ["x"], {"a": 1}, True])
async def test_a_cursor_of_the_server_is_a_string(cursor: Any) -> None:
    async with scene(allow()) as it:
        answers(it, tools("a", nextCursor=cursor))
        assert (await it.agent.ask("tools/list")).code == (200, -32603)


# Result types


@pytest.mark.parametrize(
    ("method", "kind", "capabilities", "good"),
    [
        ("tools/call", "complete", {}, True),
        ("tools/call", None, {}, True),
        ("tools/call", "task", TASKS, True),
        ("tools/call", "task", {}, False),
        ("tools/call", "task", {"extensions": []}, False),
        ("tools/call", "partial", {}, False),
        ("tools/call", ["complete"], {}, False),
        ("tools/call", 1, {}, False),
        ("completion/complete", "input_required", {}, False),
        ("tools/list", "input_required", {}, False),
        ("server/discover", "input_required", {}, False),
    ],
)
@pytest.mark.parametrize("streamed", [False, True])
async def test_the_type_of_a_result_is_known_or_added(
    method: str, kind: Any, capabilities: Json, good: bool, streamed: bool
) -> None:
    async with scene(allow()) as it:
        typed = {} if kind is None else {"resultType": kind}
        answers(it, {"content": [], "taskId": "t1", "inputRequests": {}, **typed}, streamed)
        params: Json = {"name": "a", "ref": {"type": "ref/prompt", "name": "a"}}
        answer = await it.agent.modern(method, 1, capabilities, **params)
        [got] = answer.messages if streamed else [answer.json]
        if good:
            assert got["result"]["resultType"] == (kind or "complete")
        else:
            assert got["error"]["code"] == -32603


async def test_a_legacy_result_is_left_alone() -> None:
    async with scene(allow()) as it:
        answers(it, {"content": [], "resultType": "whatever"})
        assert (await it.agent.call("a")).result == {"content": [], "resultType": "whatever"}


# Multi round-trip requests

ASK = {"name": {"method": "elicitation/create", "params": {"message": "?", "requestedSchema": {}}}}


@pytest.mark.parametrize(
    ("asked", "capabilities", "good"),
    [
        (ASK, {"elicitation": {}}, True),
        (ASK, {}, False),
        (ASK, {"sampling": {}}, False),
        ({"a": {"method": "roots/list"}}, {"roots": {}}, True),
        ({"a": {"method": "sampling/createMessage", "params": {}}}, {"sampling": {}}, True),
        ({"a": {"method": "sampling/createMessage", "params": {"tools": []}}}, {"sampling": {}}, False),
        ({"a": {"method": "sampling/createMessage", "params": {"tools": []}}}, {"sampling": {"tools": {}}}, True),
        ({"a": {"method": "elicitation/create", "params": {"mode": "url"}}}, {"elicitation": {}}, False),
        ({**ASK, "b": {"method": "roots/list"}}, {"elicitation": {}}, False),
        ({"a": {"method": "ping"}}, {"elicitation": {}}, False),
        ({"a": {"method": "tools/call"}}, {"elicitation": {}}, False),
        ({"a": {"method": ["roots/list"]}}, {"roots": {}}, False),
        ({"a": {"method": {}}}, {"roots": {}}, False),
        ({"a": {}}, {"roots": {}}, False),
        ({"a": "roots/list"}, {"roots": {}}, False),
        ({"dev.openmcp/approval": {"method": "roots/list"}}, {"roots": {}}, False),
        ([], {"roots": {}}, False),
        ({}, {"roots": {}}, False),
    ],
)
@pytest.mark.parametrize("streamed", [False, True])
async def test_a_server_asks_for_input_that_the_agent_offered(
    asked: Any, capabilities: Json, good: bool, streamed: bool
) -> None:
    async with scene(allow()) as it:
        answers(it, {"resultType": "input_required", "inputRequests": asked}, streamed)
        answer = await it.agent.modern("tools/call", 1, capabilities, name="pay")
        [got] = answer.messages if streamed else [answer.json]
        if good:
            assert got["result"]["inputRequests"] == asked
        else:
            assert got["error"]["code"] == -32603


@pytest.mark.parametrize("state", [7, [], {}, True])
async def test_a_servers_state_is_a_string(state: Any) -> None:
    async with scene(allow()) as it:
        answers(it, {"resultType": "input_required", "requestState": state})
        assert (await it.agent.modern("tools/call", name="pay")).code == (200, -32603)


@pytest.mark.parametrize("state", ["theirs", None])
async def test_a_retry_brings_the_servers_own_state_to_its_endpoint(state: str | None) -> None:
    async with scene(allow(), endpoints=3) as it:
        asked = {"resultType": "input_required", "inputRequests": ASK}
        answers(it, asked | ({} if state is None else {"requestState": state}))
        first = (await it.agent.modern("tools/call", 1, {"elicitation": {}}, name="pay", arguments={"n": 1})).result
        assert first["requestState"] != state
        home = it.sent[-1].endpoint

        answers(it, {"content": [], "resultType": "complete"})
        given = {"inputResponses": {"name": {"action": "accept"}}, "requestState": first["requestState"]}
        answer = await it.agent.modern("tools/call", 2, {}, name="pay", arguments={"n": 1}, **given)
        assert answer.result == {"content": [], "resultType": "complete"}
        sent = it.sent[-1]
        assert sent.endpoint == home
        assert sent.json["params"].get("requestState") == state
        assert ("requestState" in sent.json["params"]) is (state is not None), "the server gave none: it gets none"
        assert sent.json["params"]["inputResponses"] == given["inputResponses"]


async def test_a_state_is_of_no_use_to_others_elsewhere_or_later() -> None:
    async with scene(allow()) as it:
        answers(it, {"resultType": "input_required", "requestState": "theirs"})
        state = (await it.agent.modern("tools/call", name="pay", arguments={"n": 1})).result["requestState"]
        sent = len(it.sent)
        for agent, method, params in (
            (it.eve, "tools/call", {"name": "pay", "arguments": {"n": 1}}),
            (it.agent, "tools/call", {"name": "pay", "arguments": {"n": 2}}),
            (it.agent, "tools/call", {"name": "other", "arguments": {"n": 1}}),
            (it.agent, "prompts/get", {"name": "pay", "arguments": {"n": 1}}),
            (it.agent, "tasks/get", {"taskId": "t1"}),
        ):
            assert (await agent.modern(method, 2, requestState=state, **params)).code == (400, -32602)
        for wrong in ("theirs", state + "A", None, 7):
            answer = await it.agent.modern("tools/call", 2, name="pay", arguments={"n": 1}, requestState=wrong)
            assert answer.code == (400, -32602)
        it.now += STATE_LIFETIME
        answer = await it.agent.modern("tools/call", 2, name="pay", arguments={"n": 1}, requestState=state)
        assert answer.code == (400, -32602)
        assert len(it.sent) == sent


async def test_a_retry_goes_through_policy_again() -> None:
    async with scene(allow()) as it:
        answers(it, {"resultType": "input_required", "requestState": "theirs"})
        state = (await it.agent.modern("tools/call", name="pay")).result["requestState"]
        it.govern(allow(), deny(tools=["pay"]))
        answer = await it.agent.modern("tools/call", 2, name="pay", requestState=state)
        assert answer.result["isError"] is True
        assert len(it.sent) == 1


# Discovery


@pytest.mark.parametrize(
    ("versions", "left"),
    [
        (["2026-07-28"], ["2026-07-28"]),
        (["2027-01-01", "2026-07-28", "2025-11-25", "2024-11-05"], ["2026-07-28", "2025-11-25"]),
        (["2027-01-01", 7, None, []], []),
    ],
)
async def test_discovery_names_the_versions_that_can_pass(versions: list[Any], left: list[str]) -> None:
    async with scene(allow()) as it:
        found = {"capabilities": {"tools": {}, "x": 1}, "serverInfo": {"name": "s"}, "resultType": "complete"}
        answers(it, found | {"supportedVersions": versions})
        assert (await it.agent.modern("server/discover")).result == found | {"supportedVersions": left}


async def test_discovery_without_versions_is_no_answer() -> None:
    async with scene(allow()) as it:
        answers(it, {"capabilities": {}, "resultType": "complete"})
        assert (await it.agent.modern("server/discover")).code == (200, -32603)


# Tasks


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("modern", [False, True])
async def test_a_task_is_its_agents_alone_on_its_endpoint(modern: bool, streamed: bool) -> None:
    async with scene(allow(), endpoints=2) as it:

        def asks(agent: Any, method: str, **params: Any) -> Any:
            return agent.modern(method, 1, TASKS, **params) if modern else agent.ask(method, **params)

        answers(it, {"resultType": "task", "taskId": "t1"} if modern else {"task": {"taskId": "t1"}}, streamed)
        await asks(it.agent, "tools/call", name="slow")
        home = it.sent[-1].endpoint
        answers(it, {"status": "working", "resultType": "complete"})
        for method in ("tasks/get", "tasks/cancel", "tasks/update" if modern else "tasks/result"):
            assert (await asks(it.agent, method, taskId="t1")).status == 200
            assert it.sent[-1].endpoint == home
            sent = len(it.sent)
            status = 400 if modern else 200
            for agent, identifier in ((it.eve, "t1"), (it.agent, "t2"), (it.agent, 1), (it.agent, ["t1"])):
                code = (await asks(agent, method, taskId=identifier)).code
                assert code[1] == -32602 or (modern and code == (400, -32020)), "a header never equals what is no text"
                assert code[0] in (status, 400)
            assert len(it.sent) == sent


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_task_asks_for_what_its_agent_offered_alone(streamed: bool) -> None:
    async with scene(allow()) as it:
        answers(it, {"resultType": "task", "taskId": "t1"})
        await it.agent.modern("tools/call", 1, TASKS, name="slow")
        url = {"a": {"method": "elicitation/create", "params": {"mode": "url", "url": "https://evil.example"}}}
        for asked, offered, good in (
            (ASK, {"elicitation": {}}, True),
            (ASK, {}, False),
            (url, {"elicitation": {}}, False),
            (url, {"elicitation": {"url": {}}}, True),
            ({"dev.openmcp/a": ASK["name"]}, {"elicitation": {}}, False),
            ([ASK], {"elicitation": {}}, False),
        ):
            task = {"resultType": "complete", "taskId": "t1", "status": "input_required", "inputRequests": asked}
            answers(it, task, streamed)
            answer = await it.agent.modern("tasks/get", 1, TASKS | offered, taskId="t1")
            [got] = answer.messages if streamed else [answer.json]
            assert got.get("result") == (task if good else None)


async def test_a_list_of_tasks_shows_the_agents_own() -> None:
    async with scene(allow()) as it:
        answers(it, {"task": {"taskId": "t1"}})
        await it.agent.call("slow")
        listed = [{"taskId": "t1", "status": "working"}, {"taskId": "t2"}, {"taskId": ["t1"]}, "t1", {}]
        answers(it, {"tasks": listed, "nextCursor": "more"})
        mine = (await it.agent.ask("tasks/list")).result
        assert mine["tasks"] == [{"taskId": "t1", "status": "working"}]
        assert (await it.eve.ask("tasks/list")).result["tasks"] == []
        await it.agent.ask("tasks/list", cursor=mine["nextCursor"])
        assert it.sent[-1].json["params"]["cursor"] == "more"
        it.server = always(lambda: reply(response({"tasks": None})))
        assert (await it.agent.ask("tasks/list")).code == (200, -32603)


async def test_an_agent_listens_to_its_own_tasks() -> None:
    async with scene(allow()) as it:
        answers(it, {"resultType": "task", "taskId": "t1"})
        await it.agent.modern("tools/call", 1, TASKS, name="slow")
        sent = len(it.sent)
        for wanted in (["t1", "t2"], "t1", [["t1"]]):
            answer = await it.agent.modern("subscriptions/listen", 1, TASKS, notifications={"taskIds": wanted})
            assert answer.code == (400, -32602)
        answer = await it.eve.modern("subscriptions/listen", 1, TASKS, notifications={"taskIds": ["t1"]})
        assert answer.code == (400, -32602)
        assert len(it.sent) == sent
        answers(it, {"resultType": "complete"})
        answer = await it.agent.modern("subscriptions/listen", 1, TASKS, notifications={"taskIds": ["t1"]})
        assert answer.status == 200
