"""Agents of the legacy era with a server that has the modern one alone."""

import asyncio
import gc
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any

import pytest

from openmcp.sidecar.mcp.era import META_CAPABILITIES, META_SUBSCRIPTION
from openmcp.sidecar.mcp.translation import META_INFO, META_LEVEL
from tests.policy.rules import allow, deny
from tests.stages.scene import Sent, failure, notification, reply, request, response, stream
from tests.stages.translating import CAPABILITIES, INFO, ModernOnly, complete, text, translated

ALL = allow()
ASKED = {"ask": {"method": "elicitation/create", "params": {"message": "name?", "requestedSchema": {}}}}


def done(sent: Sent) -> Any:
    return reply(response(complete(**text("done")), sent.json["id"]))


async def test_initialize_begins_a_session_that_the_server_knows_nothing_of() -> None:
    async with translated(ALL) as it:
        it.server = ModernOnly()
        answer = await it.agent.initialize(elicitation={}, roots={"listChanged": True})

        assert answer.result == {"protocolVersion": "2025-11-25", "capabilities": CAPABILITIES, "serverInfo": INFO}
        assert [one.json["method"] for one in it.sent] == ["initialize", "server/discover"]
        assert it.agent.session is not None
        assert (await it.agent.send(notification("initialized"))).status == 202
        assert len(it.sent) == 2


async def test_each_request_says_what_the_client_said_once() -> None:
    async with translated(ALL) as it:
        it.server = ModernOnly(tools_call=done)
        begun = request("initialize", protocolVersion="2025-06-18", capabilities={"elicitation": {}}, clientInfo=INFO)
        it.agent.session = (await it.agent.send(begun, mcp_protocol_version=None)).headers["mcp-session-id"]
        answer = await it.agent.call("echo", 7, arguments={"a": 1}, _meta={"progressToken": "p"})

        assert answer.json == response(text("done"), 7)
        params = it.sent[-1].json["params"]
        assert params["name"] == "echo"
        assert params["arguments"] == {"a": 1}
        meta = params["_meta"]
        assert (meta[META_CAPABILITIES], meta[META_INFO], meta["progressToken"]) == ({"elicitation": {}}, INFO, "p")
        assert META_LEVEL not in meta
        assert it.sent[-1].headers["mcp-name"] == "echo"


async def test_a_server_with_both_eras_is_asked_in_the_agents_own() -> None:
    async with translated(ALL) as it:
        await it.agent.initialize()
        await it.agent.call("echo")
        assert [one.headers.get("mcp-session-id") for one in it.sent] == [None, "upstream-1"]


async def test_the_era_is_remembered_for_a_while() -> None:
    async with translated(ALL) as it:
        it.server = ModernOnly(tools_call=done)
        for _ in range(2):
            assert (await it.agent.call("echo")).result == text("done")
        assert [one.headers.get("mcp-protocol-version") for one in it.sent] == [
            "2025-11-25",
            "2026-07-28",
            "2026-07-28",
        ]
        it.now += 61
        await it.agent.call("echo")
        assert [one.headers.get("mcp-protocol-version") for one in it.sent[3:]] == ["2025-11-25", "2026-07-28"]


async def test_policy_and_record_see_the_agents_era() -> None:
    async with translated(allow(tools=["good"]), deny(tools=["bad"])) as it:

        def tools(sent: Sent) -> Any:
            listed = complete(tools=[{"name": "good"}, {"name": "bad"}], ttlMs=1, cacheScope="public")
            return reply(response(listed, sent.json["id"]))

        it.server = ModernOnly(tools_list=tools, tools_call=done)
        await it.agent.initialize()
        assert (await it.agent.ask("tools/list")).result == {"tools": [{"name": "good"}]}
        sent = len(it.sent)
        assert (await it.agent.call("bad")).result["isError"] is True
        assert len(it.sent) == sent
        assert {line["era"] for line in it.recorded("request")} == {"legacy"}


async def test_a_stream_is_translated_message_by_message() -> None:
    def called(sent: Sent) -> Any:
        told = notification("progress", progressToken="p", progress=1)
        final = response(complete(**text("done")), sent.json["id"])
        return stream(told, request("ping", 9), b"data: nonsense\n\n", final)

    async with translated(ALL) as it:
        it.server = ModernOnly(tools_call=called)
        await it.agent.initialize()
        answer = await it.agent.call("echo", 5, _meta={"progressToken": "p"})
        assert answer.messages == [notification("progress", progressToken="p", progress=1), response(text("done"), 5)]
        assert answer.finished


async def test_a_stream_that_breaks_off_is_answered() -> None:
    async with translated(ALL) as it:
        it.server = ModernOnly(tools_call=lambda sent: stream(notification("message", level="info"), broken=True))
        await it.agent.initialize()
        assert (await it.agent.call("echo")).messages[-1]["error"]["code"] == -32603


async def test_errors_come_with_the_status_that_legacy_clients_read() -> None:
    async with translated(ALL) as it:
        it.server = ModernOnly()
        await it.agent.initialize()
        assert (await it.agent.ask("prompts/list")).code == (200, -32601)
        assert (await it.agent.ask("tasks/list")).code == (200, -32601)
        assert it.sent[-1].json["method"] == "prompts/list"


async def test_what_is_about_the_session_is_answered_here() -> None:
    async with translated(ALL) as it:
        it.server = ModernOnly(tools_call=done)
        await it.agent.initialize()
        sent = len(it.sent)
        assert (await it.agent.ask("ping")).result == {}
        assert (await it.agent.ask("logging/setLevel", level="loud")).code == (200, -32602)
        assert (await it.agent.ask("logging/setLevel", level="warning")).result == {}
        assert len(it.sent) == sent
        await it.agent.call("echo")
        assert it.sent[-1].json["params"]["_meta"][META_LEVEL] == "warning"
        assert (await it.agent.send(method="DELETE")).status == 200
        assert (await it.agent.ask("ping")).status == 404
        assert (await it.agent.call("echo")).status == 404
        assert (await it.agent.send(notification("initialized"))).status == 404
        assert (await it.agent.send(method="GET", accept="text/event-stream")).status == 404


async def test_a_tool_gets_its_arguments_in_headers_where_it_wants_them() -> None:
    schema = {"type": "object", "properties": {"region": {"type": "string", "x-mcp-header": "Region"}}}

    def called(sent: Sent) -> Any:
        if sent.headers.get("mcp-param-region") != "eu":
            return reply(failure(-32020, sent.json["id"]), 400)
        return done(sent)

    def tools(sent: Sent) -> Any:
        if "cursor" not in sent.json["params"]:
            return reply(response(complete(tools=[], nextCursor="2"), sent.json["id"]))
        return reply(response(complete(tools=[{"name": "echo", "inputSchema": schema}]), sent.json["id"]))

    async with translated(ALL) as it:
        it.server = ModernOnly(tools_call=called, tools_list=tools)
        await it.agent.initialize()
        for _ in range(2):
            assert (await it.agent.call("echo", arguments={"region": "eu"})).result == text("done")
        methods = [one.json["method"] for one in it.sent[2:]]
        assert methods == ["tools/call", "tools/list", "tools/list", "tools/call", "tools/call"]


def asks(*, streamed: bool) -> Any:
    """A server that asks for a name before it is done."""

    def called(sent: Sent) -> Any:
        params = sent.json["params"]
        if params.get("requestState") == "s1":
            name = params["inputResponses"]["ask"]["content"]["name"]
            return reply(response(complete(**text(name)), sent.json["id"]))
        wants = {"resultType": "input_required", "inputRequests": ASKED, "requestState": "s1"}
        document = response(wants, sent.json["id"])
        return stream(document) if streamed else reply(document)

    return called


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_question_of_the_server_is_put_to_the_agent_on_its_stream(streamed: bool) -> None:
    async with translated(ALL) as it:
        it.server = ModernOnly(tools_call=asks(streamed=streamed))
        await it.agent.initialize(elicitation={})
        call = it.agent.begin(request("tools/call", 3, name="echo"))
        serving = asyncio.create_task(it.pipeline(call))
        question = await _question(it, call)
        assert (question["method"], question["params"]) == (ASKED["ask"]["method"], ASKED["ask"]["params"])

        given = {"action": "accept", "content": {"name": "ada"}}
        assert (await it.eve.send(response(given, question["id"]))).status == 400  # it has no session
        assert (await it.agent.send(response(given, question["id"]))).status == 202
        assert (await it.agent.send(response(given, question["id"]))).status == 400
        await asyncio.wait_for(serving, 20)
        assert call.messages[-1] == response(text("ada"), 3)
        assert it.sent[-1].json["id"] != 3
        assert it.recorded("server-request")


async def test_an_agent_that_will_not_answer_gets_its_error() -> None:
    async with translated(ALL) as it:
        it.server = ModernOnly(tools_call=asks(streamed=False))
        await it.agent.initialize(elicitation={})
        call = it.agent.begin(request("tools/call", 3, name="echo"))
        serving = asyncio.create_task(it.pipeline(call))
        question = await _question(it, call)
        assert (await it.agent.send(failure(-1, question["id"], "no"))).status == 202
        await asyncio.wait_for(serving, 20)
        assert call.messages[-1] == failure(-1, 3, "no")


async def test_an_agent_is_not_asked_what_it_did_not_offer() -> None:
    async with translated(ALL) as it:
        it.server = ModernOnly(tools_call=asks(streamed=False))
        await it.agent.initialize(sampling={})
        answer = await it.agent.call("echo", 3)
        assert [one["error"]["code"] for one in answer.messages] == [-32603]


async def _question(it: Any, call: Any) -> Any:
    for _ in range(1000):
        if call.body:
            return json.loads(call.events[0].data)
        await asyncio.sleep(0)
    raise AssertionError("no question came")


class Waiting:
    """What a server does with a call: it has begun, and is not answered before it may be."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.free = asyncio.Event()

    async def __call__(self, sent: Sent) -> Any:
        self.begun.set()
        await self.free.wait()
        return done(sent)


@asynccontextmanager
async def waited_for() -> AsyncIterator[tuple[Any, Waiting]]:
    """A session with a modern server that lets its calls wait."""
    async with translated(ALL) as it:
        called = Waiting()
        it.server = ModernOnly(tools_call=called)  # type: ignore[arg-type]  # it waits
        await it.agent.initialize()
        yield it, called


async def test_a_call_that_is_cancelled_ends() -> None:
    async with waited_for() as (it, called):
        call = it.agent.begin(request("tools/call", 3, name="echo"))
        serving = asyncio.create_task(it.pipeline(call))
        await called.begun.wait()
        for other in (4, "3", 3.0, [3]):
            assert (await it.agent.send(notification("cancelled", requestId=other))).status == 202
            assert not serving.done()
        assert (await it.agent.send(notification("cancelled", requestId=3))).status == 202
        await asyncio.wait_for(serving, 20)
        assert call.code == (200, -32603)


async def test_nothing_is_kept_of_calls_that_were_cancelled() -> None:
    """An exception that is raised again and again keeps the frames of all the times, and what is in them."""

    def frames() -> int:
        gc.collect()
        return sum(type(one) is TracebackType for one in gc.get_objects())

    async with waited_for() as (it, called):
        kept = []
        for _ in range(3):
            called.begun.clear()
            serving = asyncio.create_task(it.pipeline(it.agent.begin(request("tools/call", 1, name="echo"))))
            await called.begun.wait()
            await it.agent.send(notification("cancelled", requestId=1))
            await asyncio.wait_for(serving, 20)
            kept.append(frames())
        assert kept[2] <= kept[1] <= kept[0]


async def test_true_is_not_the_id_of_a_call() -> None:
    async with waited_for() as (it, called):
        call = it.agent.begin(request("tools/call", 1, name="echo"))
        serving = asyncio.create_task(it.pipeline(call))
        await called.begun.wait()
        assert (await it.agent.send(notification("cancelled", requestId=True))).status == 202
        called.free.set()
        await asyncio.wait_for(serving, 20)
        assert "content" in call.result


async def test_the_sessions_stream_is_a_subscription() -> None:
    async with translated(ALL) as it:
        listened: list[Any] = []

        def listen(sent: Sent) -> Any:
            asked = sent.json
            listened.append(asked["params"]["notifications"])
            mark = {"_meta": {META_SUBSCRIPTION: asked["id"]}}
            return stream(
                notification("subscriptions/acknowledged", notifications=listened[-1], **mark),
                notification("tools/list_changed", **mark),
                notification("prompts/list_changed", **mark),
                notification("resources/updated", uri="file:///a", **mark),
                response(complete(**mark), asked["id"]),
            )

        it.server = ModernOnly(subscriptions_listen=listen)
        await it.agent.initialize()
        assert (await it.agent.ask("resources/subscribe", uri="file:///a")).result == {}
        answer = await it.agent.send(method="GET", accept="text/event-stream")
        assert listened == [{"toolsListChanged": True, "resourceSubscriptions": ["file:///a"]}]
        assert answer.messages == [
            {"jsonrpc": "2.0", "method": "notifications/tools/list_changed"},
            notification("resources/updated", uri="file:///a"),
        ]


async def test_a_session_of_another_agent_is_not_found() -> None:
    async with translated(ALL) as it:
        it.server = ModernOnly(tools_call=done)
        await it.agent.initialize()
        it.eve.session = it.agent.session
        assert (await it.eve.call("echo")).status == 404
