"""A tool, a prompt or a read hands out a resource that policy denies, or a link to it."""

from typing import Any

import pytest

from tests.security.test_streams import as_stream
from tests.support.gate import Gate, call, message
from tests.support.hostile import Hostile, Reply, Request
from tests.support.raw import Connection

ALLOWED = "file:///public/x"
DENIED = ["file:///secret", "file:///public/../secret", "file:///public/%2e%2e/secret", "ticket://1", "\n", "", 1, None]
WITHHELD = {"type": "text", "text": "[withheld: no policy allows this resource]"}


def link(uri: Any) -> dict[str, Any]:
    return {"type": "resource_link", "uri": uri, "name": "x", "description": "the secret is 42"}


def embedded(uri: Any) -> dict[str, Any]:
    return {"type": "resource", "resource": {"uri": uri, "text": "the secret is 42"}}


def resulting(result: dict[str, Any]) -> Any:
    """A handler that answers with this result."""

    async def handler(request: Request, reply: Reply) -> None:
        await reply.result(result)

    return handler


@pytest.mark.parametrize("uri", DENIED)
@pytest.mark.parametrize("kind", [link, embedded])
async def test_resource_link_or_embedded_resource_with_a_denied_uri(
    agent: Connection, server: Hostile, kind: Any, uri: Any
) -> None:
    text = {"type": "text", "text": "x"}
    result = {"content": [text, kind(uri), kind(ALLOWED), text]}
    expected = {"content": [text, WITHHELD, kind(ALLOWED), text]}
    server.handler = resulting(result)
    assert (await agent.ask(call())).json["result"] == expected
    server.handler = as_stream({"jsonrpc": "2.0", "id": 1, "result": result})
    (response,) = (await agent.ask(call())).events
    assert response["result"] == expected


@pytest.mark.parametrize(
    "block", [{"type": "resource"}, {"type": "resource", "resource": "x"}, {"type": "resource_link"}]
)
async def test_a_resource_without_a_uri(agent: Connection, server: Hostile, block: dict[str, Any]) -> None:
    server.handler = resulting({"content": [block]})
    assert (await agent.ask(call())).json["result"] == {"content": [WITHHELD]}


async def test_a_denied_resource_in_a_prompt(agent: Connection, server: Hostile) -> None:
    server.handler = resulting({"messages": [{"role": "user", "content": embedded("file:///secret")}]})
    answer = await agent.ask(message("prompts/get", 1, name="allowed"))
    assert answer.json["result"] == {"messages": [{"role": "user", "content": WITHHELD}]}


async def test_a_denied_resource_in_a_task(agent: Connection, sidecar: Gate, server: Hostile) -> None:
    server.handler = resulting({"task": {"taskId": "t", "status": "working"}})
    await agent.ask(call())
    for method, result, expected in (
        ("tasks/result", {"content": [embedded("file:///secret")]}, {"content": [WITHHELD]}),
        ("tasks/get", {"result": {"content": [link("file:///secret")]}}, {"result": {"content": [WITHHELD]}}),
    ):
        server.handler = resulting(result)
        assert (await agent.ask(message(method, 1, taskId="t"))).json["result"] == expected


async def test_a_read_that_brings_other_resources(agent: Connection, server: Hostile) -> None:
    given = [{"uri": uri, "text": "x"} for uri in (*DENIED, ALLOWED)]
    server.handler = resulting({"contents": [*given, "x", {"text": "x"}]})
    answer = await agent.ask(message("resources/read", 1, uri="file:///public/folder"))
    assert answer.json["result"] == {"contents": [{"uri": ALLOWED, "text": "x"}]}


async def test_what_is_withheld_is_on_record(agent: Connection, sidecar: Gate, server: Hostile) -> None:
    server.handler = resulting(
        {"content": [{"type": "text", "text": "x"}, embedded("file:///secret"), link("file:///x")]}
    )
    await agent.ask(call())
    line = await sidecar.recorded(ends=True)
    (found,) = line["findings"]
    assert {"action": "withhold", "what": "resource", "path": "$.content[1]", "count": 2}.items() <= found.items()
    assert "file:///secret" not in sidecar.record.read_text()


async def test_a_flood_of_resources(agent: Connection, server: Hostile) -> None:
    """So many that judging them all would keep others waiting: what is not judged is withheld."""
    content = [{"type": "resource_link", "uri": ALLOWED, "name": "x"}] * 2_500
    server.handler = resulting({"content": content})
    result = (await agent.ask(call())).json["result"]
    assert result["content"] == content[:2_000] + [WITHHELD] * 500


async def test_denied_resources_in_a_large_result(agent: Connection, server: Hostile) -> None:
    """One that is read in a process of its own is judged all the same."""
    text = {"type": "text", "text": "x" * 2_000_000}
    content = [text, *([embedded("file:///secret"), link("file:///secret"), link(ALLOWED)] * 3_000)]
    server.handler = resulting({"content": content})
    result = (await agent.ask(call())).json["result"]
    assert result["content"] == [text, *([WITHHELD, WITHHELD, link(ALLOWED)] * 3_000)]
