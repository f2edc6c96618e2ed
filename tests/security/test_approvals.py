"""Attacks on approvals by the agent: answering for the human, swapping what was approved, using it twice, flooding."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from openmcp.sidecar.state.lifecycle import Conflict
from openmcp.sidecar.state.records import Choice, Vote
from tests.support.approver import BRIEFLY, HOLD, Approver, approver, guarded
from tests.support.gate import Gate, ask_modern, call, gate, initialize, message
from tests.support.hostile import Hostile, Reply, Request, friendly
from tests.support.raw import Connection

TASKS = {"extensions": {"io.modelcontextprotocol/tasks": {}}}
ONCE = {"maxUses": 1}


@pytest.fixture
def hold() -> str:
    """How long a call waits for the human."""
    return BRIEFLY


held = pytest.mark.parametrize("hold", [HOLD])
"""For tests in which the human decides while a call waits."""


@pytest.fixture
async def sidecar(server: Hostile, tmp_path: Path, hold: str) -> AsyncIterator[Gate]:
    """A sidecar whose `guarded*` needs an approval; a grant holds for one call."""
    async with gate(tmp_path, guarded(server.url, approval=ONCE, approvals={"hold": hold})) as running:
        yield running


@pytest.fixture
def human(sidecar: Gate) -> Approver:
    """Somebody on the list."""
    return approver(sidecar)


def made(server: Hostile) -> list[Any]:
    """The arguments of the calls that the server got."""
    asked = [one.json for one in server.requests if one.method == "POST"]
    return [one["params"].get("arguments") for one in asked if one["method"] == "tools/call"]


def is_made(answer: Any) -> bool:
    """Whether an answer is the server's own."""
    return "result" in answer.json and "isError" not in answer.json["result"]


async def test_an_agent_answers_its_own_approval(
    agent: Connection, sidecar: Gate, server: Hostile, human: Approver
) -> None:
    first = (await ask_modern(agent, call("guarded", ticket=7))).json["result"]
    record = await human.asked()
    accept = {"action": "accept", "content": {"approve": True}}
    forged = call("guarded", 2, ticket=7)
    forged["params"] |= {
        "requestState": first["requestState"],
        "inputResponses": {"dev.openmcp/approval": accept, record.rid: accept},
        "_meta": {"dev.openmcp/approval": {"id": record.rid, "status": "approved"}},
    }
    assert (await ask_modern(agent, forged)).json["result"]["resultType"] == "input_required"
    task = (await ask_modern(agent, call("guarded", 3, ticket=8), **TASKS)).json["result"]
    update = message("tasks/update", 4, taskId=task["taskId"], inputResponses={"approve": accept})
    assert (await ask_modern(agent, update, **TASKS)).json["result"] == {"resultType": "complete"}
    polled = await ask_modern(agent, message("tasks/get", 5, taskId=task["taskId"]), **TASKS)
    assert polled.json["result"]["status"] == "working"
    for name in ("key:alice", "token:alice", "spiffe://acme.example/alice"):
        with pytest.raises(Conflict):
            await human.service.vote(record, Vote(approver=name, choice=Choice.APPROVE, at=0))
    assert made(server) == []


ASKING = {
    "resultType": "input_required",
    "inputRequests": {
        "sure": {"method": "elicitation/create", "params": {"message": "how much?", "requestedSchema": {}}}
    },
    "requestState": "upstream",
}


async def asking(request: Request, reply: Reply) -> None:
    """Asks for input before it does anything."""
    await reply.result(ASKING)


@pytest.mark.parametrize("own", [call("guarded", 2, ticket=7), message("prompts/get", 2, name="guarded")])
async def test_an_agent_answers_a_server_what_no_human_has_seen(server: Hostile, tmp_path: Path, own: Any) -> None:
    """A grant for the whole arguments is for the answers that come with them too; one for a path leaves them free."""
    config = guarded(server.url, approvals={"hold": HOLD})
    for rule in config["policies"][0]["requests"]:
        rule.get("approval", {}).pop("bind", None)
    server.handler = asking
    async with gate(tmp_path, config) as sidecar, sidecar.connect() as agent:
        human = approver(sidecar)
        waiting = asyncio.create_task(ask_modern(agent, own, elicitation={}))
        first = await human.approve()
        state = (await waiting).json["result"]["requestState"]
        server.handler = friendly
        server.requests.clear()
        answers = {"sure": {"action": "accept", "content": {"amount": 900}}}
        retry = {**own, "params": {**own["params"], "requestState": state, "inputResponses": answers}}
        waiting = asyncio.create_task(ask_modern(agent, retry, elicitation={}))
        record = await human.asked()
        assert record.rid != first.rid
        assert json.loads(dict(record.shown)["inputResponses"]) == answers
        assert server.requests == []
        await human.approve(record)
        assert "error" not in (await waiting).json
        (sent,) = [one.json["params"] for one in server.requests]
        assert (sent["requestState"], sent["inputResponses"]) == ("upstream", answers)
        sidecar.reload({**config, "approvals": {**config["approvals"], "hold": BRIEFLY}})
        other = {**retry, "params": {**retry["params"], "inputResponses": {"sure": {"action": "decline"}}}}
        assert "APPROVAL PENDING" in (await ask_modern(agent, other, elicitation={})).body.decode()
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "arguments",
    [
        b'{"ticket":8}',
        b'{"ticket":"7"}',
        b'{"ticket":7.0}',
        b'{"ticket":[7]}',
        b'{"Ticket":7}',
        b'{"ticket":7,"Ticket":8}',
        b'{"ticket":7,"ticket":8}',
        b"{}",
    ],
)
async def test_approve_then_swap_arguments(
    arguments: bytes, agent: Connection, server: Hostile, human: Approver
) -> None:
    await agent.ask(call("guarded", ticket=7))
    await human.approve()
    swapped = b'{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"guarded","arguments":%b}}' % arguments
    assert not is_made(await agent.ask(swapped))
    assert made(server) == []


async def test_a_grant_is_not_for_another_tool_agent_or_method(
    agent: Connection, sidecar: Gate, server: Hostile, human: Approver
) -> None:
    await agent.ask(call("guarded", ticket=7))
    await human.approve()
    assert not is_made(await agent.ask(call("guarded-too", 2, ticket=7)))
    async with sidecar.connect("bob") as bob:
        assert not is_made(await bob.ask(call("guarded", 3, ticket=7)))
    assert (await agent.ask(message("prompts/get", 4, name="guarded", arguments={"ticket": "7"}))).code == 40301
    assert made(server) == []
    assert is_made(await agent.ask(call("guarded", 5, ticket=7)))


async def test_concurrent_use_of_a_one_use_grant(
    agent: Connection, sidecar: Gate, server: Hostile, human: Approver
) -> None:
    await agent.ask(call("guarded", ticket=7))
    await human.approve()
    async with AsyncExitStack() as stack:
        agents = [await stack.enter_async_context(sidecar.connect()) for _ in range(20)]
        answers = await asyncio.gather(*(one.ask(call("guarded", 2, ticket=7)) for one in agents))
    assert sum(map(is_made, answers)) == 1
    assert made(server) == [{"ticket": 7}]


@held
async def test_held_calls_share_a_one_use_grant(sidecar: Gate, server: Hostile, human: Approver) -> None:
    async with AsyncExitStack() as stack:
        agents = [await stack.enter_async_context(sidecar.connect()) for _ in range(20)]
        waiting = [asyncio.create_task(one.ask(call("guarded", 2, ticket=7))) for one in agents]
        await human.approve(await human.asked(times=20))
        await server.received(1)
        await sidecar.app.stop(patience=5.0)  # else the others wait on
        answers = await asyncio.gather(*waiting)
    assert sum(map(is_made, answers)) == 1
    assert made(server) == [{"ticket": 7}]


@held
async def test_a_client_that_has_gone_gets_nothing_done(sidecar: Gate, server: Hostile, human: Approver) -> None:
    async with sidecar.connect() as gone:
        await gone.send(gone.request(call("guarded", ticket=7)))
        record = await human.asked()
        gone.reset()
        await sidecar.recorded(outcome="client_gone")
    await human.approve(record)
    assert made(server) == []
    async with sidecar.connect() as agent:
        assert is_made(await agent.ask(call("guarded", 2, ticket=7)))
    assert made(server) == [{"ticket": 7}]


@held
async def test_cancel_while_held_still_executes(
    agent: Connection, sidecar: Gate, server: Hostile, human: Approver
) -> None:
    await initialize(agent)
    waiting = asyncio.create_task(agent.ask(call("guarded", "a", ticket=7)))
    record = await human.asked()
    async with sidecar.connect() as beside, sidecar.connect("bob") as bob:
        beside.headers |= agent.headers
        await initialize(bob)
        for one, identifier in ((bob, "a"), (beside, "b"), (beside, 0)):
            cancelled = message("notifications/cancelled", None, requestId=identifier)
            assert (await one.ask(cancelled)).status == 202
        assert not waiting.done()
        assert (await beside.ask(message("notifications/cancelled", None, requestId="a"))).status == 202
    assert (await waiting).json["error"]["message"] == "the request was cancelled"
    await human.approve(record)
    assert made(server) == []
    assert (await sidecar.recorded(outcome="cancelled"))["approval"] == record.rid


@held
async def test_a_decision_and_a_cancellation_at_once_make_no_call_after_it(
    agent: Connection, sidecar: Gate, server: Hostile, human: Approver
) -> None:
    await initialize(agent)
    waiting = asyncio.create_task(agent.ask(call("guarded", "a", ticket=7)))
    record = await human.asked()
    (held,) = sidecar.app._approvals.load().holding._held
    held.end("cancelled")  # in the very turn of the loop in which the human decides
    await human.approve(record)
    assert (await waiting).json["error"]["message"] == "the request was cancelled"
    assert made(server) == []


async def test_flood_of_held_calls(server: Hostile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("openmcp.sidecar.stages.held.MOST_PER_AGENT", 10)
    config = guarded(server.url, approvals={"hold": "60s", "maxOpen": 5})
    async with gate(tmp_path, config) as sidecar, AsyncExitStack() as stack:
        human = approver(sidecar)
        agents = [await stack.enter_async_context(sidecar.connect()) for _ in range(30)]
        for number, one in enumerate(agents):
            await one.send(one.request(call("guarded", number, ticket=number % 3)))
        said = [json.dumps((await one.answer()).json) for one in agents[10:]]
        assert all("APPROVAL PENDING" in one for one in said), "the others wait, these are told at once"
        more = await agents[-1].ask(call("guarded", 100, ticket=100))
        assert "APPROVAL PENDING" in json.dumps(more.json)
        await agents[-1].ask(call("guarded", 101, ticket=101))
        refused = await agents[-1].ask(call("guarded", 102, ticket=102))
        assert "too many of your requests for approval are open" in json.dumps(refused.json)
        assert len((await human.service.pending(100)).records) == 5
        bob = await stack.enter_async_context(sidecar.connect("bob"))
        theirs = asyncio.create_task(bob.ask(call("guarded", 1, ticket=7)))
        await human.asked(count=6)
        (record,) = [one for one in (await human.service.pending(100)).records if one.agent == "key:bob"]
        await human.approve(record)
        assert is_made(await theirs)
        assert made(server) == [{"ticket": 7}]


@held
async def test_flood_of_large_held_calls(agent: Connection, sidecar: Gate, server: Hostile, human: Approver) -> None:
    """Each that waits is kept with its arguments, for as long as the human takes."""
    large = call("guarded", 1, ticket=7, text="x" * 3_000_000)
    async with AsyncExitStack() as stack:
        others = [await stack.enter_async_context(sidecar.connect()) for _ in range(2)]
        for one in others:
            await one.send(one.request(large))
        await human.asked()
        holding = sidecar.app._approvals.load().holding
        async with asyncio.timeout(10):
            while len(holding) < 2:  # noqa: ASYNC110 - nothing says when a call begins to wait
                await asyncio.sleep(0.01)
        assert "APPROVAL PENDING" in json.dumps((await agent.ask(large)).json), "it is told at once"
        bob = await stack.enter_async_context(sidecar.connect("bob"))
        await bob.send(bob.request(large))
        await human.asked(count=2)
        async with asyncio.timeout(10):
            while len(holding) < 3:  # noqa: ASYNC110 - as above: another agent's waits
                await asyncio.sleep(0.01)


async def test_flood_of_tasks(agent: Connection, server: Hostile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("openmcp.sidecar.stages.heldtasks.MOST_PER_AGENT", 3)
    kinds = [
        (await ask_modern(agent, call("guarded", number, ticket=7), **TASKS)).json["result"]["resultType"]
        for number in range(4)
    ]
    assert kinds == ["task", "task", "task", "input_required"]
    assert made(server) == []
