"""Batches of 2025-03-26: nothing hides in one, and no other revision has them."""

import json
from typing import Any

import pytest

from openmcp.sidecar.stages.batch import MAX_MESSAGES, VERSION
from tests.support.gate import Gate, call, initialize, message
from tests.support.hostile import Hostile, Reply, Request, friendly
from tests.support.raw import Answer, Connection


def events(answer: Answer) -> list[dict[str, Any]]:
    """The messages of a stream."""
    return [json.loads(line[6:]) for line in answer.body.decode().splitlines() if line.startswith("data: ")]


def asked(server: Hostile) -> list[tuple[str, Any]]:
    """What the server was asked: methods and tool names."""
    documents = [json.loads(request.body) for request in server.requests if request.method == "POST"]
    return sorted((each["method"], each.get("params", {}).get("name")) for each in documents)


async def test_each_message_of_a_batch_is_judged_by_itself(agent: Connection, sidecar: Gate, server: Hostile) -> None:
    await initialize(agent, VERSION)
    server.requests.clear()
    batch = [message("ping", 1), call("forbidden", 2), call("allowed", "3"), message("notifications/cancelled", None)]
    answer = await agent.ask(batch)
    assert (answer.status, answer.header("content-type")) == (200, "text/event-stream")
    answered = {each["id"]: each["result"].get("isError", False) for each in events(answer)}
    assert answered == {1: False, 2: True, "3": False}
    assert asked(server) == [("notifications/cancelled", None), ("ping", None), ("tools/call", "allowed")]
    denied = await sidecar.recorded(event="request", name="forbidden")
    assert denied["decision"] == "deny"
    assert (await agent.ask(call())).status == 200, "the connection lives on"


async def test_what_is_no_request_of_a_batch_has_no_answer(agent: Connection, server: Hostile) -> None:
    """JSON-RPC 2.0, 6: also where it is refused, or the server fails; an error without an id would be nobody's."""
    await initialize(agent, VERSION)

    async def refusing(request: Request, reply: Reply) -> None:
        if "id" in request.json:
            await friendly(request, reply)
        else:
            await reply.respond(status=500)

    server.handler = refusing
    forged = {"jsonrpc": "2.0", "id": "forged", "result": {}}
    answer = await agent.ask([message("notifications/cancelled", None), forged, message("ping", 1), {"jsonrpc": "2.0"}])
    (malformed, pong) = sorted(events(answer), key=lambda each: each["id"] or 0)
    assert (malformed["id"], malformed["error"]["code"]) == (None, -32600)
    assert pong["id"] == 1
    assert "result" in pong


async def test_a_batch_without_requests_is_accepted(agent: Connection, server: Hostile) -> None:
    await initialize(agent, VERSION)
    server.requests.clear()
    answer = await agent.ask([message("notifications/initialized", None), message("notifications/cancelled", None)])
    assert (answer.status, answer.body) == (202, b"")
    assert asked(server) == [("notifications/cancelled", None), ("notifications/initialized", None)]


@pytest.mark.parametrize(
    "batch",
    [
        [],
        [call("allowed", number) for number in range(MAX_MESSAGES + 1)],
        [call("allowed", 1), message("initialize", 2)],
        [call("allowed", 1), call("allowed", 1)],
        [call("allowed", 1), [call("allowed", 2)]],
        [call("allowed", 1), 7],
    ],
    ids=["empty", "too many", "initialize", "the same id", "a batch in a batch", "a number"],
)
async def test_what_is_no_batch_is_refused_whole(agent: Connection, server: Hostile, batch: list[Any]) -> None:
    await initialize(agent, VERSION)
    server.requests.clear()
    answer = await agent.ask(batch)
    assert (answer.status, answer.code) == (400, -32600)
    assert server.requests == []


@pytest.mark.parametrize("version", ["2025-06-18", "2025-11-25"])
async def test_other_revisions_have_no_batches(agent: Connection, server: Hostile, version: str) -> None:
    await initialize(agent, version)
    server.requests.clear()
    for declared in (version, VERSION):
        answer = await agent.ask([call()], mcp_protocol_version=declared)
        assert (answer.status, answer.code) == (400, -32600)
    assert server.requests == []


async def test_a_stolen_session_in_a_batch(agent: Connection, sidecar: Gate, server: Hostile) -> None:
    session = await initialize(agent, VERSION)
    server.requests.clear()
    async with sidecar.connect("bob") as thief:
        answer = await thief.ask([call()], mcp_session_id=session, mcp_protocol_version=VERSION)
    assert (answer.status, answer.code) == (404, 40400)
    assert server.requests == []
