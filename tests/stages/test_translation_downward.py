"""Agents of the modern era with a server that has the legacy one alone."""

import asyncio
import json
from typing import Any

import pytest

from openmcp.sidecar.mcp.era import META_SUBSCRIPTION
from openmcp.sidecar.mcp.translation import META_LEVEL, META_SERVER
from openmcp.sidecar.stages.translation import downward, listening
from openmcp.sidecar.stages.translation.kept import ASIDE, UNUSED
from tests.policy.rules import allow, deny
from tests.stages.scene import MODERN, Answer, Scene, Sent, failure, notification, reply, request, response, stream
from tests.stages.translating import CAPABILITIES, INFO, LegacyOnly, complete, text, translated

ALL = allow()
FORM = {"message": "name?", "requestedSchema": {}}


def done(sent: Sent) -> Any:
    return reply(response(text("done"), sent.json["id"]))


def methods(it: Scene) -> list[str]:
    """What the server was asked, without the refused attempts of the other era."""
    legacy = [one for one in it.sent if one.headers.get("mcp-protocol-version") != MODERN]
    return [one.json.get("method", "answer") if one.method == "POST" else one.method for one in legacy]


BEGIN = ["initialize", "notifications/initialized"]


async def test_discover_is_answered_from_a_session_that_is_ours() -> None:
    async with translated(ALL) as it:
        it.server = LegacyOnly()
        answer = await it.agent.modern("server/discover")
        assert answer.status == 200
        assert answer.result == {
            "resultType": "complete",
            "supportedVersions": [MODERN],
            "capabilities": CAPABILITIES,
            "ttlMs": 0,
            "cacheScope": "private",
            "_meta": {META_SERVER: INFO},
        }
        assert "mcp-session-id" not in answer.headers
        assert methods(it) == BEGIN
        assert {line["era"] for line in it.recorded("request")} == {"modern"}


async def test_requests_of_an_agent_share_a_session_and_get_ids_of_ours() -> None:
    async with translated(ALL) as it:
        it.server = LegacyOnly(tools_call=done)
        for _ in range(2):
            answer = await it.agent.modern("tools/call", 7, name="echo", arguments={"a": 1})
            assert answer.json == response(complete(**text("done")), 7)
        assert methods(it) == [*BEGIN, "tools/call", "tools/call"]
        calls = it.sent[-2:]
        assert [one.json["id"] for one in calls] == [1, 2]
        assert calls[0].json["params"] == {"name": "echo", "arguments": {"a": 1}}
        assert {one.headers["mcp-session-id"] for one in calls} == {"upstream-1"}


async def test_another_agent_and_another_client_have_a_session_of_their_own() -> None:
    async with translated(ALL) as it:
        it.server = LegacyOnly(tools_call=done)
        await it.agent.modern("tools/call", name="echo")
        await it.eve.modern("tools/call", name="echo")
        await it.agent.modern("tools/call", capabilities={"elicitation": {}}, name="echo")
        sessions = [one.headers.get("mcp-session-id") for one in it.sent if b'"tools/call"' in one.body]
        assert sessions == [None, "upstream-1", "upstream-2", "upstream-3"]


async def test_requests_that_come_at_once_begin_one_session() -> None:
    async with translated(ALL) as it:
        it.server = server = LegacyOnly(tools_call=done)
        await asyncio.gather(*(it.agent.modern("tools/call", number, name="echo") for number in range(5)))
        assert server.begun == 1


async def test_a_session_that_the_server_has_lost_is_begun_again() -> None:
    async with translated(ALL) as it:
        it.server = server = LegacyOnly(tools_call=done)
        await it.agent.modern("tools/call", name="echo")
        server.sessions.clear()
        assert (await it.agent.modern("tools/call", name="echo")).result == complete(**text("done"))
        assert server.begun == 2


async def test_a_server_that_loses_every_session_is_not_asked_for_ever() -> None:
    async with translated(ALL) as it:
        server = LegacyOnly()
        server.handlers["tools_call"] = lambda sent: reply(failure(-32001, None, "Session not found"), 404)
        it.server = server
        assert (await it.agent.modern("tools/call", name="echo")).code == (200, -32603)
        assert server.begun == 2


async def test_sessions_that_nobody_uses_are_ended() -> None:
    async with translated(ALL) as it:
        it.server = server = LegacyOnly(tools_call=done)
        await it.agent.modern("tools/call", name="echo")
        it.now += UNUSED + 1
        await it.eve.modern("tools/call", name="echo")
        for _ in range(5):
            await asyncio.sleep(0)
        assert server.sessions == {"upstream-2"}


async def test_lists_are_filtered_and_say_how_long_they_hold() -> None:
    def tools(sent: Sent) -> Any:
        return reply(response({"tools": [{"name": "good"}, {"name": "bad"}]}, sent.json["id"]))

    async with translated(allow(tools=["good"]), deny(tools=["bad"])) as it:
        it.server = LegacyOnly(tools_list=tools)
        assert (await it.agent.modern("tools/list")).result == complete(
            tools=[{"name": "good"}], ttlMs=0, cacheScope="private"
        )


async def test_a_call_has_the_headers_that_its_tool_wants() -> None:
    """The server does not look at them; whoever stands in for a modern one does."""
    schema: dict[str, Any] = {"type": "object", "properties": {"region": {"type": "string", "x-mcp-header": "Region"}}}

    def tools(sent: Sent) -> Any:
        return reply(response({"tools": [{"name": "echo", "inputSchema": schema}]}, sent.json["id"]))

    async with translated(ALL) as it:
        it.server = LegacyOnly(tools_list=tools, tools_call=done)
        called = {"name": "echo", "arguments": {"region": "eu"}}
        assert (await it.agent.modern("tools/call", **called)).result == complete(**text("done"))
        await it.agent.modern("tools/list")
        refused = await it.agent.modern("tools/call", **called)
        assert refused.code == (400, -32020)
        assert refused.json["error"]["message"] == "Header mismatch: mcp-param-region is missing"
        body, headers = it.agent.modern_request("tools/call", 1, None, **called)
        assert (await it.agent.send(body, **headers, mcp_param_region="eu")).result == complete(**text("done"))
        assert (await it.agent.modern("tools/call", name="echo")).result == complete(**text("done"))
        schema["properties"] = {}
        await it.agent.modern("tools/list")
        assert (await it.agent.modern("tools/call", **called)).result == complete(**text("done"))
        assert methods(it).count("tools/call") == 4


async def test_errors_come_in_the_words_of_the_agents_era() -> None:
    async with translated(ALL) as it:
        it.server = LegacyOnly(
            resources_read=lambda sent: reply(failure(-32002, sent.json["id"])),
            tools_call=lambda sent: reply(failure(-32021, sent.json["id"])),
        )
        assert (await it.agent.modern("tools/call", name="echo")).code == (400, -32021)
        assert (await it.agent.modern("prompts/list")).code == (404, -32601)
        assert (await it.agent.modern("resources/read", uri="file:///a")).code == (200, -32602)


async def test_a_stream_is_translated_with_tokens_of_ours() -> None:
    def called(sent: Sent) -> Any:
        asked = sent.json
        token = asked["params"]["_meta"]["progressToken"]
        assert token == asked["id"]
        return stream(
            notification("progress", progressToken=token, progress=1),
            notification("progress", progressToken="another", progress=2),
            notification("message", level="info", data="nobody asked"),
            notification("tools/list_changed"),
            response(text("done"), asked["id"]),
        )

    async with translated(ALL) as it:
        it.server = LegacyOnly(tools_call=called)
        answer = await it.agent.modern("tools/call", 9, name="echo", _meta={"progressToken": "p"})
        told = notification("progress", progressToken="p", progress=1)
        assert answer.messages == [told, response(complete(**text("done")), 9)]


async def test_a_stream_that_says_nothing_before_its_answer_becomes_one_answer() -> None:
    async with translated(ALL) as it:
        it.server = LegacyOnly(tools_list=lambda sent: stream(failure(-32601, sent.json["id"])))
        assert (await it.agent.modern("tools/list")).code == (404, -32601)
        it.server = LegacyOnly(tools_list=lambda sent: stream(broken=True))
        assert (await it.agent.modern("tools/list")).code == (200, -32603)


async def test_a_stream_that_takes_its_time_stays_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downward, "QUIET", 0.0)
    opened: list[Any] = []

    def called(sent: Sent) -> Any:
        opened.append((stream(open_end=True), sent.json["id"]))
        return opened[0][0]

    async with translated(ALL) as it:
        it.server = LegacyOnly(tools_call=called)
        body, headers = it.agent.modern_request("tools/call", 3, name="echo")
        answer = it.agent.begin(body, **headers)
        serving = asyncio.create_task(it.pipeline(answer))
        await asyncio.wait_for(answer.begun.wait(), 20)
        opened[0][0].take(b"data: " + _encoded(response(text("done"), opened[0][1])) + b"\n\n")
        await asyncio.wait_for(serving, 20)
        assert answer.messages == [response(complete(**text("done")), 3)]


async def test_logs_come_to_whoever_asked_for_them() -> None:
    log = notification("message", level="info", data="x")

    async with translated(ALL) as it:
        it.server = LegacyOnly(
            tools_call=lambda sent: stream(log, response(text("done"), sent.json["id"])),
            logging_setLevel=lambda sent: reply(response({}, sent.json["id"])),
        )
        answer = await it.agent.modern("tools/call", name="echo", _meta={META_LEVEL: "info"})
        assert answer.messages[0] == log
        assert methods(it) == [*BEGIN, "logging/setLevel", "tools/call"]


def asking(*questions: tuple[str, dict[str, Any]]) -> tuple[Any, Any]:
    """A server that asks these one after the other while it works on a call, and says what it was told."""
    streams: list[Any] = []
    told: list[Any] = []

    def called(sent: Sent) -> Any:
        streams.append((stream(request(questions[0][0], "q0", **questions[0][1]), open_end=True), sent.json["id"]))
        return streams[-1][0]

    def answer(sent: Sent) -> Any:
        told.append(sent.json)
        open_stream, call = streams[-1]
        if len(told) < len(questions):
            method, params = questions[len(told)]
            following = request(method, f"q{len(told)}", **params)
        else:
            following = response(text("done"), call)
        open_stream.take(b"data: " + _encoded(following) + b"\n\n")
        return reply(status=202)

    return LegacyOnly(tools_call=called, answer=answer), told


def _encoded(document: Any) -> bytes:
    return json.dumps(document).encode()


async def call(it: Scene, identifier: int, **params: Any) -> Any:
    """Call as a client that can be asked; the response on the stream."""
    answer: Answer = await it.agent.modern(
        "tools/call", identifier, capabilities={"elicitation": {}}, name="echo", **params
    )
    return answer.json.get("result") or answer.json


async def test_questions_of_the_server_bring_the_agent_back() -> None:
    async with translated(ALL) as it:
        it.server, told = asking(("elicitation/create", FORM), ("elicitation/create", FORM))
        first = await call(it, 1)
        assert first["resultType"] == "input_required"
        assert first["inputRequests"] == {"question": {"method": "elicitation/create", "params": FORM}}
        given = {"action": "accept", "content": {"name": "ada"}}
        second = await call(it, 2, requestState=first["requestState"], inputResponses={"question": given})
        assert second["resultType"] == "input_required"
        last = await call(it, 3, requestState=second["requestState"], inputResponses={"question": given})
        assert last == complete(**text("done"))
        assert told == [response(given, "q0"), response(given, "q1")]
        assert methods(it) == [*BEGIN, "tools/call", "answer", "answer"]


async def test_an_agent_that_comes_back_without_an_answer_is_asked_again() -> None:
    async with translated(ALL) as it:
        it.server, told = asking(("elicitation/create", FORM))
        first = await call(it, 1)
        again = await call(it, 2, requestState=first["requestState"])
        assert again["inputRequests"] == first["inputRequests"]
        given = {"action": "decline"}
        last = await call(it, 3, requestState=again["requestState"], inputResponses={"question": given})
        assert last == complete(**text("done"))
        assert (await call(it, 4, requestState=again["requestState"]))["error"]["code"] == -32602  # it is over
        assert told == [response(given, "q0")]


async def test_only_the_agent_that_was_asked_can_answer() -> None:
    async with translated(ALL) as it:
        it.server, told = asking(("elicitation/create", FORM))
        first = await call(it, 1)
        given = {"requestState": first["requestState"], "inputResponses": {"question": {"action": "accept"}}}
        answer = await it.eve.modern("tools/call", 2, capabilities={"elicitation": {}}, name="echo", **given)
        assert answer.code == (400, -32602)
        assert (await call(it, 2, arguments={"other": 1}, **given))["error"]["code"] == -32602
        assert told == []


async def test_what_the_agent_did_not_offer_is_refused_in_its_place() -> None:
    async with translated(ALL) as it:
        it.server, told = asking(("sampling/createMessage", {}), ("ping", {}))
        assert await call(it, 1) == complete(**text("done"))
        assert [one.get("result", one.get("error", {}).get("code")) for one in told] == [-32601, {}]


async def test_an_agent_that_goes_away_again_and_again_has_few_cancellations_under_way() -> None:
    """A server that takes no cancellation would have us open a connection for each."""
    begun: asyncio.Queue[None] = asyncio.Queue()
    told, taking = 0, asyncio.Event()

    async def called(sent: Sent) -> Any:
        begun.put_nowait(None)
        await asyncio.Event().wait()

    async def cancel(sent: Sent) -> Any:
        nonlocal told
        told += 1
        await taking.wait()
        return reply(status=202)

    async def comes_and_goes(it: Scene) -> None:
        body, headers = it.agent.modern_request("tools/call", 3, name="echo")
        serving = asyncio.create_task(it.pipeline(it.agent.begin(body, **headers)))
        await begun.get()
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)

    async with translated(ALL) as it:
        it.server = LegacyOnly(tools_call=called, notifications_cancelled=cancel)  # type: ignore[arg-type]  # they wait
        for _ in range(2 * ASIDE):
            await comes_and_goes(it)
        await later()
        assert told == ASIDE
        taking.set()
        await later()
        await comes_and_goes(it)
        await later()
        assert told == ASIDE + 1


async def test_an_agent_that_goes_away_cancels_its_call() -> None:
    begun = asyncio.Event()
    cancelled = asyncio.Event()

    async def called(sent: Sent) -> Any:
        begun.set()
        await asyncio.Event().wait()

    def cancel(sent: Sent) -> Any:
        assert sent.json["params"]["requestId"] == 1
        cancelled.set()
        return reply(status=202)

    async with translated(ALL) as it:
        it.server = LegacyOnly(tools_call=called, notifications_cancelled=cancel)  # type: ignore[arg-type]  # it waits
        body, headers = it.agent.modern_request("tools/call", 3, name="echo")
        serving = asyncio.create_task(it.pipeline(it.agent.begin(body, **headers)))
        await begun.wait()
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
        await asyncio.wait_for(cancelled.wait(), 20)


def changes(*, reading: Any) -> LegacyOnly:
    """A server whose sessions have a stream, which `reading` makes."""

    def ok(sent: Sent) -> Any:
        return reply(response({}, sent.json["id"]))

    return LegacyOnly(resources_subscribe=ok, resources_unsubscribe=ok, tools_call=done, GET=reading)


async def later() -> None:
    """Let what nobody waits for be done."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_a_subscription_gets_the_stream_of_the_agents_session() -> None:
    updated = notification("resources/updated", uri="file:///a")
    foreign = notification("resources/updated", uri="file:///b")

    async with translated(ALL) as it:
        it.server = changes(
            reading=lambda sent: stream(notification("tools/list_changed"), foreign, updated, request("ping", "p"))
        )
        await it.agent.modern("tools/call", name="echo")
        wanted = {"toolsListChanged": True, "promptsListChanged": True, "resourceSubscriptions": ["file:///a"]}
        answer = await it.agent.modern("subscriptions/listen", 5, notifications=wanted)
        mark = {"_meta": {META_SUBSCRIPTION: 5}}
        honoured = {"toolsListChanged": True, "resourceSubscriptions": ["file:///a"]}
        assert answer.messages == [
            notification("subscriptions/acknowledged", notifications=honoured, **mark),
            notification("tools/list_changed", **mark),
            notification("resources/updated", uri="file:///a", **mark),
            response(complete(**mark), 5),
        ]
        await later()
        following = ["resources/subscribe", "GET", "answer", "resources/unsubscribe"]
        assert methods(it) == [*BEGIN, "tools/call", *following]


async def test_subscriptions_of_an_agent_share_the_stream_of_its_session() -> None:
    streams: list[Any] = []

    def reading(sent: Sent) -> Any:
        streams.append(stream(open_end=True))
        return streams[-1]

    async with translated(ALL) as it:
        it.server = changes(reading=reading)
        begun = []
        for number, uris in ((4, ["file:///a"]), (5, ["file:///a", "file:///b"])):
            wanted = {"toolsListChanged": number == 4, "resourceSubscriptions": uris}
            body, headers = it.agent.modern_request("subscriptions/listen", number, notifications=wanted)
            answer = it.agent.begin(body, **headers)
            begun.append((answer, asyncio.create_task(it.pipeline(answer))))
            await asyncio.wait_for(answer.begun.wait(), 20)
        (first, serving), (second, also) = begun
        told = [notification("tools/list_changed")]
        told += [notification("resources/updated", uri=f"file:///{name}") for name in "ab"]
        for one in told:
            streams[0].take(b"data: " + _encoded(one) + b"\n\n")
        await later()
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
        streams[0].take(b"data: " + _encoded(told[1]) + b"\n\n")
        await later()
        streams[0].end(None)
        await asyncio.wait_for(also, 20)
        await later()
        a, b = [{"uri": f"file:///{name}"} for name in "ab"]
        assert [one["params"].get("uri") for one in first.messages[1:]] == [None, a["uri"]]
        assert [one.get("params", {}).get("uri") for one in second.messages[1:]] == [a["uri"], b["uri"], a["uri"], None]
        assert second.messages[-1] == response(complete(_meta={META_SUBSCRIPTION: 5}), 5)
        assert methods(it) == [
            *BEGIN,
            "resources/subscribe",
            "GET",
            "resources/subscribe",
            "resources/unsubscribe",
            "resources/unsubscribe",
        ]


async def test_a_subscription_begins_again_once_the_last_one_is_over() -> None:
    async with translated(ALL) as it:
        it.server = changes(reading=lambda sent: stream(notification("tools/list_changed")))
        for number in (4, 5):
            answer = await it.agent.modern("subscriptions/listen", number, notifications={"toolsListChanged": True})
            assert len(answer.messages) == 3
        assert methods(it) == [*BEGIN, "GET", "GET"]


async def test_many_changes_at_once_are_all_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, "LARGEST", 1000)
    changed = _encoded(notification("tools/list_changed"))
    large = _encoded(notification("tools/list_changed", _meta={"x": "x" * listening.LARGEST}))
    count = 3 * listening.MOST_WAITING

    async with translated(ALL) as it:
        it.server = changes(reading=lambda sent: stream((b"data: " + changed + b"\n\n") * count, b"data: " + large))
        answer = await it.agent.modern("subscriptions/listen", 4, notifications={"toolsListChanged": True})
        assert len(answer.messages) == count + 2


async def test_an_agent_that_does_not_read_loses_its_subscription_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, "MOST_WAITING", 3)
    hub = listening.Hub(None, stream(*[notification("tools/list_changed")] * 5), 1000)  # type: ignore[arg-type]  # asks nothing
    slow, other = hub.join({"toolsListChanged": True}), hub.join({})
    await later()
    heard = [slow.heard.get_nowait() for _ in range(4)]
    assert [one is None for one in heard] == [False, False, False, True]
    assert other.heard.get_nowait() is None
    hub.leave(slow)
    hub.leave(other)


async def test_a_session_that_gives_no_stream_is_not_listened_to() -> None:
    def reading(sent: Sent) -> Any:
        return reply(status=404) if sent.headers["mcp-session-id"] == "upstream-1" else stream()

    async with translated(ALL) as it:
        it.server = changes(reading=reading)
        await it.agent.modern("subscriptions/listen", 5, notifications={"resourceSubscriptions": ["file:///a"]})
        await later()
        asked = methods(it)
        asked.remove("resources/unsubscribe")  # whenever it comes: nobody waits for it
        subscribed = ["resources/subscribe", "GET"]
        assert asked == [*BEGIN, *subscribed, *BEGIN, *subscribed, "DELETE"]


async def test_a_server_with_both_eras_is_asked_in_the_agents_own() -> None:
    async with translated(ALL) as it:
        it.server = lambda sent: reply(response(complete(**text("done")), sent.json["id"]))
        await it.agent.modern("tools/call", name="echo")
        assert [one.headers["mcp-protocol-version"] for one in it.sent] == [MODERN]


async def test_a_modern_refusal_is_no_sign_of_the_other_era() -> None:
    async with translated(ALL) as it:
        it.server = lambda sent: reply(failure(-32602, sent.json["id"]), 400)
        assert (await it.agent.modern("tools/call", name="echo")).code == (400, -32602)
        assert len(it.sent) == 1
