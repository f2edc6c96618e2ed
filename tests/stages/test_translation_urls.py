"""A legacy server wants the user to go somewhere first, and says so by an error (-32042) that is not modern."""

from typing import Any

import pytest

from tests.policy.rules import allow
from tests.stages.scene import Sent, failure, reply, response
from tests.stages.translating import LegacyOnly, complete, text, translated

ALL = allow()
URL = {"elicitation": {"url": {}}}
PLACE = {"mode": "url", "url": "https://login.test/connect?id=7", "message": "Log in"}


def refuses(**data: Any) -> Any:
    return lambda sent: reply(failure(-32042, sent.json["id"], "more is needed", **data))


def once(sent: Sent) -> Any:
    """What a tool answers that was called before."""
    if sent.json["id"] > 1:
        return reply(response(text("done"), sent.json["id"]))
    return refuses(elicitations=[PLACE | {"elicitationId": "7"}])(sent)


async def test_the_agent_is_asked_and_its_call_is_made_again_in_the_same_session() -> None:
    async with translated(ALL) as it:
        it.server = LegacyOnly(tools_call=once)
        asked = (await it.agent.modern("tools/call", 1, capabilities=URL, name="echo")).result
        assert asked["inputRequests"] == {"question 1": {"method": "elicitation/create", "params": PLACE}}
        given = {"requestState": asked["requestState"], "inputResponses": {"question 1": {"action": "accept"}}}
        last = await it.agent.modern("tools/call", 2, capabilities=URL, name="echo", **given)
        assert last.result == complete(**text("done"))
        calls = [one for one in it.sent if b'"tools/call"' in one.body and "mcp-session-id" in one.headers]
        assert [one.headers["mcp-session-id"] for one in calls] == ["upstream-1", "upstream-1"]
        assert calls[1].json["params"] == {"name": "echo"}


@pytest.mark.parametrize("action", ["decline", "cancel"])
async def test_a_user_who_will_not_go_there_is_not_asked_again(action: str) -> None:
    async with translated(ALL) as it:
        it.server = LegacyOnly(tools_call=once)
        asked = (await it.agent.modern("tools/call", 1, capabilities=URL, name="echo")).result
        sent = len(it.sent)
        given = {"requestState": asked["requestState"], "inputResponses": {"question 1": {"action": action}}}
        last = await it.agent.modern("tools/call", 2, capabilities=URL, name="echo", **given)
        assert last.code == (400, -32602)
        assert len(it.sent) == sent


async def test_an_agent_that_cannot_go_there_is_told_what_it_lacks() -> None:
    async with translated(ALL) as it:
        it.server = LegacyOnly(tools_call=refuses(elicitations=[PLACE | {"elicitationId": "7"}]))
        answer = await it.agent.modern("tools/call", capabilities={"elicitation": {}}, name="echo")
        assert answer.code == (400, -32021)
        assert answer.json["error"]["data"] == {"requiredCapabilities": URL}


@pytest.mark.parametrize("elicitations", [[], "x", [1], [{"mode": "form"}], [PLACE] * 17, None])
async def test_what_asks_for_nothing_is_a_plain_error(elicitations: Any) -> None:
    async with translated(ALL) as it:
        it.server = LegacyOnly(tools_call=refuses(elicitations=elicitations), tools_list=refuses(elicitations=[PLACE]))
        for method, params in (("tools/call", {"name": "echo"}), ("tools/list", {})):
            answer = await it.agent.modern(method, capabilities=URL, **params)
            assert answer.json["error"] == {"code": -32603, "message": "more is needed"}
