"""Agents and servers that would use the translation between eras against others."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import msgspec
import pytest

from openmcp.sidecar.errors import UpstreamFailed
from openmcp.sidecar.mcp.translation import META_INFO
from openmcp.sidecar.stages.translation import downward, kept, sides
from openmcp.sidecar.stages.translation.rounds import MOST_QUESTIONS
from openmcp.sidecar.stages.translation.sides import MOST_URIS, Remembered
from openmcp.sidecar.stages.translation.spoken import Spoken
from openmcp.sidecar.stages.translation.upward import LOOKED_UP_FOR, URI_BYTES
from openmcp.sidecar.types import Message
from tests.policy.rules import allow
from tests.stages.scene import MODERN, Agent, Answer, Scene, Sent, failure, reply, request, response, scene, stream
from tests.stages.translating import LegacyOnly, ModernOnly, complete, text, translated

ALL = allow()
ASKING = {"message": "name?", "requestedSchema": {}}


def done(sent: Sent) -> Any:
    return reply(response(text("done"), sent.json["id"]))


def modern_done(sent: Sent) -> Any:
    return reply(response(complete(**text("done")), sent.json["id"]))


def client(number: int) -> dict[str, Any]:
    """The `_meta` of a client that nobody has seen before."""
    return {META_INFO: {"name": f"client {number}", "version": "1"}}


async def later() -> None:
    """Let what nobody waits for be done."""
    for _ in range(50):
        await asyncio.sleep(0)


def translator(it: Scene) -> Any:
    return it.snapshot.routes["/tools"].translator


# What goes on to the server is what was judged


async def test_a_modern_call_does_not_become_a_task_of_the_legacy_era() -> None:
    async with translated(ALL) as it:
        it.server = LegacyOnly(tools_call=done)
        await it.agent.modern("tools/call", name="echo", task={"ttl": 60_000})
        assert it.sent[-1].json["params"] == {"name": "echo"}


async def test_answers_to_questions_that_were_not_put_go_nowhere() -> None:
    async with translated(ALL) as it:
        it.server = ModernOnly(tools_call=modern_done)
        await it.agent.initialize(elicitation={})
        forged = {"inputResponses": {"ask": {"action": "accept"}}, "requestState": "s1"}
        await it.agent.call("echo", **forged)
        assert forged.keys().isdisjoint(it.sent[-1].json["params"])


async def test_a_call_that_lacks_a_header_makes_nobody_list_all_tools_again() -> None:
    def refusing(sent: Sent) -> Any:
        return reply(failure(-32020, sent.json["id"]), 400)

    def tools(sent: Sent) -> Any:
        return reply(response(complete(tools=[], nextCursor="more"), sent.json["id"]))

    async with translated(ALL) as it:
        it.server = ModernOnly(tools_call=refusing, tools_list=tools)
        await it.agent.initialize()
        for _ in range(10):
            assert (await it.agent.call("echo")).json["error"]["code"] == -32020
        lists = [one for one in it.sent if b'"tools/list"' in one.body]
        assert len(lists) == sides.ROUNDS
        it.now += LOOKED_UP_FOR + 1
        await it.agent.call("echo")
        assert len([one for one in it.sent if b'"tools/list"' in one.body]) == 2 * sides.ROUNDS


# Nobody decides for others which era a server has


class Both:
    """A server with both eras, that refuses what it finds odd in ways that a server of the other one has."""

    def __init__(self) -> None:
        self.legacy = LegacyOnly(tools_call=done)
        self.modern = ModernOnly(tools_call=modern_done)

    def __call__(self, sent: Sent) -> Any:
        if sent.headers.get("mcp-protocol-version") == MODERN:
            if b'"odd"' in sent.body:
                return reply(failure(-32600, sent.json["id"], "odd"), 400)
            return self.modern(sent)
        if b'"odd"' in sent.body:
            return reply(failure(-32602, sent.json["id"], "odd"), 400)
        return self.legacy(sent)


async def test_a_refusal_that_an_agent_brought_about_is_its_own() -> None:
    async with translated(ALL) as it:
        it.server = Both()
        answer = await it.eve.modern("tools/call", name="odd")
        assert answer.json["error"]["code"] == -32022  # as without translation
        assert (await it.agent.modern("tools/call", name="echo")).result == complete(**text("done"))
        assert it.sent[-1].headers["mcp-protocol-version"] == MODERN
        assert sum(b'"odd"' in one.body for one in it.sent) == 1


async def test_a_discovery_that_is_refused_makes_no_server_legacy() -> None:
    async with translated(ALL) as it:
        it.server = both = Both()
        await it.eve.modern("server/discover", _meta=client(0) | {"progressToken": "odd"})
        assert (await it.agent.modern("tools/call", name="echo")).result == complete(**text("done"))
        assert it.sent[-1].headers["mcp-protocol-version"] == MODERN
        assert both.legacy.begun == 0


async def test_an_initialize_that_is_refused_makes_no_server_modern() -> None:
    async with translated(ALL) as it:
        it.server = both = Both()
        odd = request("initialize", protocolVersion="2025-11-25", capabilities={}, clientInfo={"name": "odd"})
        assert "error" in (await it.eve.send(odd, mcp_protocol_version=None)).json
        await later()
        assert both.legacy.sessions == set()  # the one that was begun to find out
        await it.agent.initialize()
        assert both.legacy.sessions == {"upstream-2"}


# Sessions that are kept for modern agents


async def test_nothing_is_kept_of_sessions_that_do_not_begin() -> None:
    async with translated(ALL) as it:
        it.server = LegacyOnly(tools_call=done)
        await it.agent.modern("tools/call", name="echo")
        it.server = lambda sent: reply(failure(-32603, sent.json["id"]))
        for number in range(20):
            await it.eve.modern("tools/call", name="echo", _meta=client(number))
        assert len(translator(it)._downward._keeping) == 1


async def test_an_agent_with_many_clients_ends_its_own_sessions_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "MOST", 8)
    monkeypatch.setattr(kept, "MOST_OF_ONE", 3, raising=False)
    async with translated(ALL) as it:
        it.server = server = LegacyOnly(tools_call=done)
        await it.agent.modern("tools/call", name="echo")
        for number in range(20):
            await it.eve.modern("tools/call", name="echo", _meta=client(number))
        await later()
        assert server.sessions == {"upstream-1", "upstream-19", "upstream-20", "upstream-21"}


async def test_a_session_is_not_ended_under_a_call(monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def called(sent: Sent) -> Any:
        if sent.headers["mcp-session-id"] == "upstream-1":
            begun.set()
            await go_on.wait()
        return done(sent)

    async with translated(ALL) as it:
        it.server = server = LegacyOnly(tools_call=called)  # type: ignore[arg-type]  # it waits
        calling = asyncio.create_task(it.agent.modern("tools/call", name="echo"))
        await begun.wait()
        it.now += 2 * kept.UNUSED
        await it.eve.modern("tools/call", name="echo")
        await later()
        assert server.sessions == {"upstream-1", "upstream-2"}
        go_on.set()
        assert (await calling).result == complete(**text("done"))
        it.now += kept.UNUSED + 1
        await it.eve.modern("tools/call", name="echo", _meta=client(1))
        await later()
        assert server.sessions == {"upstream-3"}


async def test_a_call_that_takes_too_long_is_cancelled_and_costs_no_session() -> None:
    cancelled = []

    def slow(sent: Sent) -> Any:
        raise UpstreamFailed("timeout", "too slow")

    def cancel(sent: Sent) -> Any:
        cancelled.append((sent.headers["mcp-session-id"], sent.json["params"]["requestId"]))
        return reply(status=202)

    async with translated(ALL) as it:
        it.server = server = LegacyOnly(tools_call=slow, notifications_cancelled=cancel)
        for number in range(2):
            assert (await it.agent.modern("tools/call", number, name="echo")).code == (200, -32603)
        await later()
        assert cancelled == [("upstream-1", 1), ("upstream-1", 2)]
        assert server.begun == 1


async def test_a_call_that_was_read_is_not_made_again() -> None:
    async with translated(ALL) as it:
        it.server = server = LegacyOnly(
            tools_call=lambda sent: reply(failure(-32000, sent.json["id"], "no such session of yoga"), 404)
        )
        assert (await it.agent.modern("tools/call", name="echo")).json["error"]["message"] == "no such session of yoga"
        assert server.begun == 1
        assert sum(b'"tools/call"' in one.body for one in it.sent) == 2  # the first was refused for its era


# Calls that wait for an agent's answer


async def test_nobody_makes_others_questions_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downward, "MOST_PARKED", 3)
    cancelled = []
    streams: dict[int, Any] = {}

    def called(sent: Sent) -> Any:
        streams[sent.json["id"]] = stream(request("elicitation/create", "q", **ASKING), open_end=True)
        return streams[sent.json["id"]]

    def cancel(sent: Sent) -> Any:
        cancelled.append((sent.headers["mcp-session-id"], sent.json["params"]["requestId"]))
        return reply(status=202)

    async with translated(ALL) as it:
        it.server = LegacyOnly(tools_call=called, notifications_cancelled=cancel)
        first = await _asked(it.agent, 1)
        for number in range(6):
            await _asked(it.eve, number)
        await later()
        assert cancelled == [("upstream-2", 1), ("upstream-2", 2), ("upstream-2", 3), ("upstream-2", 4)]
        streams[1].take(b"")
        again = await _asked(it.agent, 2, requestState=first["requestState"])
        assert again["resultType"] == "input_required"


async def _asked(agent: Agent, number: int, **params: Any) -> Any:
    answer: Answer = await agent.modern("tools/call", number, capabilities={"elicitation": {}}, name="echo", **params)
    return answer.json["result"]


async def test_a_server_asks_no_more_than_so_many_questions_at_once() -> None:
    def asks(count: int) -> Any:
        wanted = {f"q{number}": {"method": "elicitation/create", "params": ASKING} for number in range(count)}
        return lambda sent: reply(response({"resultType": "input_required", "inputRequests": wanted}, sent.json["id"]))

    async with translated(ALL) as it:
        it.server = ModernOnly(tools_call=asks(MOST_QUESTIONS + 1))
        await it.agent.initialize(elicitation={})
        answer = await it.agent.call("echo", 3)
        assert [one["error"]["code"] for one in answer.messages] == [-32603]


# Sessions that the server, or the configuration, knows no more


async def test_a_session_of_a_server_that_has_become_modern_begins_anew() -> None:
    async with translated(ALL) as it:
        it.server = LegacyOnly(tools_call=done)
        await it.agent.initialize()
        it.server = ModernOnly(tools_call=modern_done)
        assert (await it.agent.call("echo")).status == 404
        await it.agent.initialize()
        assert (await it.agent.call("echo")).result == text("done")


async def test_a_session_of_ours_ends_with_the_translation() -> None:
    async with translated(ALL) as it:
        it.server = ModernOnly(tools_call=modern_done)
        await it.agent.initialize()
        sent = len(it.sent)
        route = msgspec.structs.replace(it.snapshot.routes["/tools"], translator=None)
        it.pipeline.snapshot = msgspec.structs.replace(it.snapshot, routes={"/tools": route})
        assert (await it.agent.call("echo")).status == 404
        assert (await it.agent.send(method="GET", accept="text/event-stream")).status == 404
        assert len(it.sent) == sent


# Several gateways that share their sessions' key


async def test_another_gateway_goes_on_with_a_legacy_session() -> None:
    async with translated(ALL) as it, translated(ALL) as other:
        it.server = other.server = ModernOnly(tools_call=asks_once)
        await it.agent.initialize(elicitation={})
        call = it.agent.begin(request("tools/call", 3, name="echo"))
        serving = asyncio.create_task(it.pipeline(call))
        await later()
        question = call.messages[0]

        other.agent.session = it.agent.session
        assert (await other.agent.ask("ping")).result == {}
        put = other.agent.begin(request("tools/call", 4, name="echo"))
        there = asyncio.create_task(other.pipeline(put))
        await later()
        given = {"action": "accept", "content": {}}
        assert (await other.agent.send(response(given, question["id"]))).status == 400  # it was put by the first one
        for answering, agent in ((put, other.agent), (call, it.agent)):
            assert (await agent.send(response(given, answering.messages[0]["id"]))).status == 202
        await asyncio.wait_for(asyncio.gather(serving, there), 20)
        assert (call.messages[-1], put.messages[-1]) == (response(text("done"), 3), response(text("done"), 4))


def asks_once(sent: Sent) -> Any:
    if "inputResponses" in sent.json["params"]:
        return modern_done(sent)
    wanted = {"ask": {"method": "elicitation/create", "params": ASKING}}
    return reply(response({"resultType": "input_required", "inputRequests": wanted}, sent.json["id"]))


async def test_another_gateway_does_not_know_a_call_that_waits() -> None:
    async with translated(ALL) as it, translated(ALL) as other:
        called: list[Sent] = []

        def asking(sent: Sent) -> Any:
            called.append(sent)
            return stream(request("elicitation/create", "q", **ASKING), open_end=True)

        it.server = other.server = LegacyOnly(tools_call=asking)
        first = await _asked(it.agent, 1)
        given = {"requestState": first["requestState"], "inputResponses": {"question": {"action": "accept"}}}
        answer = await other.agent.modern("tools/call", 2, capabilities={"elicitation": {}}, name="echo", **given)
        assert answer.code == (400, -32602)
        assert len(called) == 1


# What is remembered


async def test_of_tools_with_very_long_names_nothing_is_remembered() -> None:
    schema = {"properties": {"a": {"type": "string", "x-mcp-header": "A"}}}
    names = [f"{number}" + "x" * 1000 for number in range(5)]

    def tools(sent: Sent) -> Any:
        found = [{"name": name, "inputSchema": schema} for name in (*names, "short", 7)]
        return reply(response({"tools": found}, sent.json["id"]))

    async with translated(ALL) as it:
        it.server = LegacyOnly(tools_list=tools)
        await it.agent.modern("tools/list")
        assert list(translator(it)._downward._mirrors._values) == ["tools\0short"]


async def test_what_a_session_is_subscribed_to_is_bounded() -> None:
    async with translated(ALL) as it:
        it.server = ModernOnly()
        await it.agent.initialize()
        for number in range(MOST_URIS):
            assert (await it.agent.ask("resources/subscribe", uri=f"file:///{number}")).result == {}
        assert (await it.agent.ask("resources/subscribe", uri="file:///one-more")).code == (200, -32602)
        assert (await it.agent.ask("resources/subscribe", uri="file:///7")).result == {}  # it is
        assert (await it.agent.ask("resources/unsubscribe", uri="file:///7")).result == {}
        assert (await it.agent.ask("resources/subscribe", uri="file:///one-more")).result == {}
        await it.eve.initialize()
        for number in range(3):
            await it.eve.ask("resources/subscribe", uri=f"file:///{number}" + "x" * (URI_BYTES // 2))
        kept = translator(it)._upward._sessions._values.values()
        assert max(sum(map(len, legacy.uris)) for _, legacy in kept) <= URI_BYTES


def test_nobody_makes_others_go_from_what_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sides, "MOST", 8)
    monkeypatch.setattr(sides, "SHARE", 3)
    remembered: Remembered[int] = Remembered()
    remembered.keep("alice", "a", 1)
    for number in range(100):
        remembered.keep("eve", f"e{number}", number)
    assert remembered.seen("a") == 1
    assert [number for number in range(100) if f"e{number}" in remembered] == list(range(93, 100))
    for number in range(5):
        remembered.keep(f"other {number}", f"o{number}", number)
    assert "a" in remembered  # it was used
    assert remembered.lose("a") == 1
    assert remembered.lose("a") is None


async def test_a_stream_that_is_given_up_at_once_lets_go_of_what_it_reads() -> None:
    ended = asyncio.Event()

    async def said() -> AsyncGenerator[Message, None]:
        try:
            await asyncio.Event().wait()
            yield  # type: ignore[misc]  # it never comes to that
        finally:
            ended.set()

    Spoken(said()).response.close()
    await asyncio.wait_for(ended.wait(), 20)


async def test_without_translation_nothing_is_asked_twice() -> None:
    async with scene(ALL) as it:
        it.server = Both()
        await it.agent.modern("tools/call", name="odd")
        assert len(it.sent) == 1
