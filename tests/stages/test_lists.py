"""What lists show: what some call would be let through for, approvals marked; and completions, which are lists too."""

from typing import Any

import pytest

from openmcp.config.model import RequestRule
from tests.policy.rules import allow, ask, deny, when
from tests.stages.scene import Scene, reply, response, scene


def answering(it: Scene, **result: Any) -> None:
    it.server = lambda sent: reply(response(result, sent.json["id"]))


async def listed(it: Scene, *names: str) -> dict[str, str]:
    """The descriptions under which these tools are listed."""
    answering(it, tools=[{"name": name, "description": f"Does {name}", "inputSchema": {}} for name in names])
    shown = (await it.agent.ask("tools/list")).result["tools"]
    return {tool["name"]: tool["description"] for tool in shown}


BIG = [when("$.amount", "gt", 100)]


@pytest.mark.parametrize(
    ("rules", "description"),
    [
        ((), None),
        ((allow(tools=["pay"]),), "Does pay"),
        ((ask(tools=["pay"]),), "[requires approval] Does pay"),
        ((allow(tools=["pay"]), ask(tools=["pay"])), "[requires approval] Does pay"),
        ((allow(tools=["pay"]), ask(tools=["pay"], when=BIG)), "[may require approval] Does pay"),
        ((ask(tools=["pay"], when=BIG),), "[requires approval] Does pay"),
        ((allow(tools=["pay"]), deny(tools=["pay"])), None),
        ((ask(tools=["pay"]), deny(tools=["pay"])), None),
    ],
)
async def test_a_tool_is_listed_as_its_calls_are_decided(
    rules: tuple[RequestRule, ...], description: str | None
) -> None:
    async with scene(allow(tools=["other"]), *rules) as it:
        expected = {"other": "Does other"} | ({"pay": description} if description is not None else {})
        assert await listed(it, "pay", "other") == expected


async def test_a_tool_that_is_denied_for_some_arguments_is_listed() -> None:
    sometimes = deny(tools=["pay"], when=BIG)
    async with scene(allow(tools=["pay"]), sometimes) as it:
        assert await listed(it, "pay") == {"pay": "Does pay"}


async def test_a_mark_takes_the_place_of_a_description_that_is_not_there() -> None:
    async with scene(ask(tools=["pay"])) as it:
        answering(it, tools=[{"name": "pay"}, {"name": "pay", "description": 1}])
        shown = (await it.agent.ask("tools/list")).result["tools"]
        assert shown == [{"name": "pay", "description": "[requires approval]"}] * 2


async def test_a_resource_is_marked_by_its_strictest_form() -> None:
    async with scene(allow(resources=["file:///a/*", "file:///b"]), ask(resources=["file:///b"])) as it:
        answering(it, resources=[{"uri": "file:///a/../b"}, {"uri": "file:///a/x"}, {"uri": "file:///a/../c"}])
        shown = (await it.agent.ask("resources/list")).result["resources"]
        assert shown == [{"uri": "file:///a/../b", "description": "[requires approval]"}, {"uri": "file:///a/x"}]


async def complete(it: Scene, reference: dict[str, str], name: str, value: str, **known: str) -> Any:
    """Ask for completions of an argument."""
    argument = {"name": name, "value": value}
    return await it.agent.ask("completion/complete", ref=reference, argument=argument, context={"arguments": known})


async def test_completion_proposes_no_argument_that_policy_denies() -> None:
    secret = deny(prompts=["p"], when=[when("$.team", "glob", "secret-*")])
    async with scene(allow(prompts=["p"]), secret) as it:
        proposed = ["sales", "secret-m&a", 7, "support"]
        answering(it, completion={"values": proposed, "total": 4, "hasMore": False})
        result = (await complete(it, {"type": "ref/prompt", "name": "p"}, "team", "s")).result
        assert result == {"completion": {"values": ["sales", "support"], "hasMore": False}}
        denied = await complete(it, {"type": "ref/prompt", "name": "p"}, "team", "secret-")
        assert denied.code == (200, 40300)


async def test_a_completion_that_is_fine_is_passed_on_as_it_is() -> None:
    async with scene(allow(prompts=["p"])) as it:
        answering(it, completion={"values": ["a"], "total": 1})
        result = (await complete(it, {"type": "ref/prompt", "name": "p"}, "team", "")).result
        assert result == {"completion": {"values": ["a"], "total": 1}}


async def test_completion_of_a_template_proposes_no_uri_that_policy_denies() -> None:
    async with scene(allow(resources=["ticket://*"]), deny(resources=["ticket://9*"])) as it:
        answering(it, completion={"values": ["12", "90", "x/../../9"]})
        reference = {"type": "ref/resource", "uri": "ticket://{id}/{+part}"}
        assert (await complete(it, reference, "id", "")).result["completion"]["values"] == ["12", "90", "x/../../9"]
        known = await complete(it, reference, "id", "", part="comments")
        assert known.result["completion"]["values"] == ["12"]


@pytest.mark.parametrize("result", [{}, {"completion": []}, {"completion": {"values": "x"}}])
async def test_a_completion_that_is_none_is_an_error_of_the_server(result: dict[str, Any]) -> None:
    async with scene(allow(prompts=["p"])) as it:
        answering(it, **result)
        answer = await complete(it, {"type": "ref/prompt", "name": "p"}, "team", "")
        assert answer.code == (200, -32603)


EMBEDDED: dict[str, Any] = {"type": "resource", "resource": {"uri": "report://7", "text": "x"}}
LINK: dict[str, Any] = {"type": "resource_link", "uri": "report://7", "name": "x"}
WITHHELD: dict[str, Any] = {"type": "text", "text": "[withheld: no policy allows this resource]"}


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ([], [EMBEDDED, LINK]),
        ([deny(tools=["bad"])], [EMBEDDED, LINK]),
        ([allow(name="r", resources=["ticket://*"])], [WITHHELD, WITHHELD]),
        ([deny(resources=["report://*"])], [WITHHELD, WITHHELD]),
        ([ask(resources=["report://*"])], [WITHHELD, LINK]),
        ([allow(name="r", resources=["report://*"])], [EMBEDDED, LINK]),
    ],
)
async def test_what_a_tool_embeds_is_judged_where_rules_name_resources(
    rules: list[RequestRule], expected: list[dict[str, Any]]
) -> None:
    async with scene(allow(tools=["good"]), *rules) as it:
        answering(it, content=[EMBEDDED, LINK])
        assert (await it.agent.call("good")).result["content"] == expected
        # Also where a block that says it is a text holds them, or a member beside the content.
        for member in ("content", "messages", "result"):
            answering(it, content=[{"type": "text", "text": "x", member: [EMBEDDED, LINK]}])
            assert (await it.agent.call("good")).result["content"][0][member] == expected
            answering(it, **{"content": [], member: [EMBEDDED, LINK]})
            assert (await it.agent.call("good")).result[member] == expected
