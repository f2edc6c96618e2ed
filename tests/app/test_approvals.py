"""An agent whose call needs an approval, on real sockets: what it is told, when, and what the server gets."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.approver import BRIEFLY, HOLD, approver, guarded, sqlite
from tests.support.gate import Gate, ask_modern, call, gate, message
from tests.support.hostile import Hostile, hostile
from tests.support.process import OPENMCP
from tests.support.raw import Answer, Connection

APPROVAL = "dev.openmcp/approval"
TASKS = {"extensions": {"io.modelcontextprotocol/tasks": {}}}


@pytest.fixture
async def server() -> AsyncIterator[Hostile]:
    async with hostile() as running:
        yield running


@pytest.fixture
def hold() -> str:
    return HOLD


nobody_decides = pytest.mark.parametrize("hold", [BRIEFLY])
"""For tests of calls that wait in vain."""


@pytest.fixture
async def sidecar(server: Hostile, tmp_path: Path, hold: str) -> AsyncIterator[Gate]:
    async with gate(tmp_path, guarded(server.url, approvals={"hold": hold})) as running:
        yield running


@pytest.fixture
async def agent(sidecar: Gate) -> AsyncIterator[Connection]:
    async with sidecar.connect() as connection:
        yield connection


def calls(server: Hostile) -> list[Any]:
    """What the server was asked to do."""
    asked = [one.json for one in server.requests if one.method == "POST"]
    return [one["params"] for one in asked if one["method"] in ("tools/call", "prompts/get", "resources/read")]


def text(answer: Any) -> str:
    assert answer["result"]["isError"] is True, answer
    (content,) = answer["result"]["content"]
    return str(content["text"])


async def test_a_call_is_held_and_made_when_a_human_approves(agent: Connection, sidecar: Gate, server: Hostile) -> None:
    waiting = asyncio.create_task(agent.ask(call("guarded", ticket=7)))
    human = approver(sidecar)
    record = await human.asked()
    assert calls(server) == []
    assert (record.agent, record.server, record.name, record.shown) == (
        "key:alice",
        "server",
        "guarded",
        (("$.ticket", "7"),),
    )
    await human.approve(record)
    answer = await waiting
    assert "isError" not in answer.json["result"], answer
    assert [one["arguments"] for one in calls(server)] == [{"ticket": 7}]
    again = await agent.ask(call("guarded", 2, ticket=7, more="unbound"))
    assert "isError" not in again.json["result"]
    assert len(calls(server)) == 2


@nobody_decides
async def test_what_nobody_decides_is_pending_and_a_repetition_finds_the_grant(
    agent: Connection, sidecar: Gate, server: Hostile
) -> None:
    answer = await agent.ask(call("guarded", ticket=7))
    record = await approver(sidecar).asked()
    said = text(answer.json)
    assert said.startswith(f"APPROVAL PENDING {record.rid}: a human must approve guarded(ticket=7).")
    assert "Repeat the identical call in 60 s" in said
    approval = answer.json["result"]["_meta"][APPROVAL]
    assert approval == {
        "id": record.rid,
        "status": "pending",
        "retryAfterMs": 60000,
        "expiresAt": approval["expiresAt"],
    }
    assert calls(server) == []
    await approver(sidecar).approve(record)
    assert "isError" not in (await agent.ask(call("guarded", 2, ticket=7))).json["result"]
    other = await agent.ask(call("guarded", 3, ticket=8))
    assert text(other.json).startswith("APPROVAL PENDING")
    assert [one["arguments"] for one in calls(server)] == [{"ticket": 7}]


async def test_a_denial_gives_the_reason_and_when_to_ask_again(
    agent: Connection, sidecar: Gate, server: Hostile
) -> None:
    waiting = asyncio.create_task(agent.ask(call("guarded", ticket=7)))
    record = await approver(sidecar).deny(reason="ask Li first")
    first, second = await waiting, await agent.ask(call("guarded", 2, ticket=7))
    for answer in (first, second):
        assert f"APPROVAL DENIED {record.rid}" in text(answer.json)
        assert "ask Li first" in text(answer.json)
        assert answer.json["result"]["_meta"][APPROVAL]["status"] == "denied"
        assert answer.json["result"]["_meta"][APPROVAL]["retryAfterMs"] > 290_000
    assert calls(server) == []


@nobody_decides
@pytest.mark.parametrize(
    ("method", "params"),
    [("prompts/get", {"name": "guarded"}), ("resources/read", {"uri": "file:///guarded/a"})],
)
async def test_prompts_and_resources_have_a_code(
    method: str, params: dict[str, Any], agent: Connection, sidecar: Gate, server: Hostile
) -> None:
    answer = await agent.ask(message(method, **params))
    record = await approver(sidecar).asked()
    error = answer.json["error"]
    assert (answer.status, error["code"]) == (200, 40301)
    assert error["message"].startswith(f"APPROVAL PENDING {record.rid}")
    assert error["data"][APPROVAL]["id"] == record.rid
    await approver(sidecar).deny(record)
    assert (await agent.ask(message(method, 2, **params))).code == 40300
    assert calls(server) == []


async def test_progress_is_told_while_a_client_waits_that_wants_to_hear(
    agent: Connection, sidecar: Gate, server: Hostile
) -> None:
    document = call("guarded", ticket=7)
    document["params"]["_meta"] = {"progressToken": "p"}

    async def answer(request: Any, reply: Any) -> None:
        await reply.stream()
        for value in (0, 1):
            await reply.event(message("notifications/progress", None, progressToken="p", progress=value))
        await reply.event({"jsonrpc": "2.0", "id": 1, "result": {"content": []}})
        await reply.end()

    server.handler = answer
    await agent.send(agent.request(document))
    status, headers = await agent.answer_head()
    assert (status, dict(headers)["content-type"]) == (200, "text/event-stream")
    told = await agent.event()
    record = await approver(sidecar).asked()
    assert told["method"] == "notifications/progress"
    assert told["params"]["progressToken"] == "p"
    assert record.rid in told["params"]["message"]
    await approver(sidecar).approve(record)
    rest = [one async for one in agent.events()]
    assert [one.get("params", {}).get("progress") for one in rest] == [1, None]
    assert rest[-1]["result"] == {"content": []}
    ended = await sidecar.recorded(event="stream-end", approval=record.rid)
    told_of = [line for line in await sidecar.records() if line["event"] == "notification"]
    assert [(line["stream"], line["call"]) for line in told_of] == [("post", ended["call"])] * 2


@nobody_decides
async def test_a_client_of_the_new_revision_comes_back_eight_times(
    agent: Connection, sidecar: Gate, server: Hostile, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = call("guarded", 0, ticket=7)
    states = []
    for identifier in range(8):
        answer = await ask_modern(agent, {**document, "id": identifier})
        result = answer.json["result"]
        assert set(result) == {"resultType", "requestState", "_meta"}
        assert result["resultType"] == "input_required"
        assert result["_meta"][APPROVAL]["status"] == "pending"
        states.append(result["requestState"])
        document["params"]["requestState"] = states[-1]
    assert len(set(states)) == 8
    last = await ask_modern(agent, {**document, "id": 9})
    assert text(last.json).startswith("APPROVAL PENDING")
    assert last.json["result"]["resultType"] == "complete"
    record = await approver(sidecar).approve()
    assert record.asked == 9
    document["params"]["requestState"] = states[3]
    answer = await ask_modern(agent, {**document, "id": 10})
    assert "isError" not in answer.json["result"]
    (made,) = calls(server)
    assert "requestState" not in made
    assert made["arguments"] == {"ticket": 7}


@nobody_decides
async def test_who_comes_back_puts_the_same_question(agent: Connection, sidecar: Gate, server: Hostile) -> None:
    document = message("resources/read", uri="file:///guarded/a")
    answer = await ask_modern(agent, document)
    document["params"]["requestState"] = answer.json["result"]["requestState"]
    assert (await ask_modern(agent, {**document, "id": 2})).json["result"]["resultType"] == "input_required"
    record = await approver(sidecar).asked()
    assert (record.asked, record.bound) == (2, None)
    await approver(sidecar).approve(record)
    assert "error" not in (await ask_modern(agent, {**document, "id": 3})).json
    assert [one["uri"] for one in calls(server)] == ["file:///guarded/a"]


@nobody_decides
async def test_a_round_is_for_its_agent_and_call_alone(agent: Connection, sidecar: Gate, server: Hostile) -> None:
    answer = await ask_modern(agent, call("guarded", ticket=7))
    state = answer.json["result"]["requestState"]
    stolen = call("guarded", 2, ticket=8)
    stolen["params"]["requestState"] = state
    assert (await ask_modern(agent, stolen)).code == -32602
    async with sidecar.connect("bob") as bob:
        theirs = call("guarded", 3, ticket=7)
        theirs["params"]["requestState"] = state
        assert (await ask_modern(bob, theirs)).code == -32602
    forged = call("guarded", 4, ticket=7)
    forged["params"]["requestState"] = state[:-2] + "AA"
    assert (await ask_modern(agent, forged)).code == -32602
    assert (await approver(sidecar).asked()).asked == 1
    assert calls(server) == []


async def poll(agent: Connection, task: Any, identifier: int = 100, method: str = "tasks/get") -> Answer:
    return await ask_modern(agent, message(method, identifier, taskId=task["taskId"]), **TASKS)


@nobody_decides
async def test_a_client_with_tasks_gets_a_task_and_polls_it(agent: Connection, sidecar: Gate, server: Hostile) -> None:
    created = (await ask_modern(agent, call("guarded", ticket=7), **TASKS)).json["result"]
    record = await approver(sidecar).asked()
    assert (created["resultType"], created["status"]) == ("task", "working")
    assert record.rid in created["statusMessage"]
    assert (created["ttlMs"] > 30 * 60_000, created["pollIntervalMs"]) == (True, 1000)
    working = (await poll(agent, created)).json["result"]
    assert working == {key: value for key, value in created.items() if key != "_meta"} | {"resultType": "complete"}
    sidecar.reload(guarded(server.url, approvals={"hold": HOLD}))
    waiting = asyncio.create_task(poll(agent, created))
    await approver(sidecar).approve(record)
    done = (await waiting).json["result"]
    assert (done["status"], done["resultType"], done["taskId"]) == ("completed", "complete", created["taskId"])
    assert "isError" not in done["result"]
    (made,) = calls(server)
    assert made["arguments"] == {"ticket": 7}
    assert made["_meta"]["io.modelcontextprotocol/clientCapabilities"] == {}
    assert (await poll(agent, created)).json["result"]["result"] == done["result"]
    assert len(calls(server)) == 1


async def test_a_task_is_its_agents_alone(agent: Connection, sidecar: Gate, server: Hostile) -> None:
    created = (await ask_modern(agent, call("guarded", ticket=7), **TASKS)).json["result"]
    async with sidecar.connect("bob") as bob:
        for method in ("tasks/get", "tasks/cancel", "tasks/update"):
            assert (await poll(bob, created, method=method)).code == -32602
    without = await ask_modern(agent, message("tasks/get", 5, taskId=created["taskId"]))
    assert without.code == -32021
    assert without.json["error"]["data"] == {
        "requiredCapabilities": {"extensions": {"io.modelcontextprotocol/tasks": {}}}
    }
    assert calls(server) == []


async def test_a_cancelled_task_is_not_made_and_nobody_is_asked_any_longer(
    agent: Connection, sidecar: Gate, server: Hostile
) -> None:
    created = (await ask_modern(agent, call("guarded", ticket=7), **TASKS)).json["result"]
    record = await approver(sidecar).asked()
    assert (await poll(agent, created, method="tasks/cancel")).json["result"] == {"resultType": "complete"}
    assert (await poll(agent, created)).json["result"]["status"] == "cancelled"
    line = await sidecar.recorded(event="approval", outcome="cancelled")
    assert (line["approval"], line["by"]) == (record.rid, "key:alice")
    assert calls(server) == []


async def test_a_denied_task_has_the_denial_as_its_result(agent: Connection, sidecar: Gate, server: Hostile) -> None:
    created = (await ask_modern(agent, call("guarded", ticket=7), **TASKS)).json["result"]
    waiting = asyncio.create_task(poll(agent, created))
    await approver(sidecar).deny(reason="no")
    done = (await waiting).json["result"]
    assert done["status"] == "completed"
    assert "APPROVAL DENIED" in text(done)
    assert done["result"]["resultType"] == "complete"
    assert calls(server) == []


async def test_a_server_with_guarded_tools_offers_tasks(agent: Connection, sidecar: Gate, server: Hostile) -> None:
    async def discover(request: Any, reply: Any) -> None:
        await reply.result(
            {"resultType": "complete", "supportedVersions": ["2026-07-28"], "capabilities": {"tools": {}}}
        )

    server.handler = discover
    answer = await ask_modern(agent, message("server/discover"))
    assert answer.json["result"]["capabilities"] == {"tools": {}, **TASKS}


async def test_the_record_tells_the_whole_story(agent: Connection, sidecar: Gate) -> None:
    waiting = asyncio.create_task(agent.ask(call("guarded", ticket=7)))
    record = await approver(sidecar).approve()
    await waiting
    end = await sidecar.recorded(event="response", approval=record.rid)
    lines = [line for line in await sidecar.records() if line["event"] == "approval"]
    assert [(line["outcome"], line["approval_status"], line.get("by")) for line in lines] == [
        ("opened", "pending", "key:alice"),
        ("voted", "approved", "token:ann"),
        ("approved", "approved", "token:ann"),
        ("used", "approved", "key:alice"),
    ]
    assert [line.get("call") for line in lines] == [end["call"], None, None, end["call"]]
    assert {line["approval"] for line in lines} == {record.rid}
    assert lines[-1]["approved_by"] == ["token:ann"]
    asked = await sidecar.recorded(event="request")
    assert (asked["decision"], asked["call"], end["outcome"]) == ("requireApproval", end["call"], "ok")
    page = await sidecar.page("/metrics")
    assert 'openmcp_approvals_total{event="used",server="server"} 1.0' in page
    assert '"store": "memory"' in await sidecar.page("/readyz")


async def test_policy_that_denies_meanwhile_wins(agent: Connection, sidecar: Gate, server: Hostile) -> None:
    waiting = asyncio.create_task(agent.ask(call("guarded", ticket=7)))
    record = await approver(sidecar).asked()
    changed = guarded(server.url)
    changed["policies"][0]["requests"].append(
        {"name": "off", "tools": ["guarded"], "action": "deny", "message": "is off"}
    )
    sidecar.reload(changed)
    await approver(sidecar).approve(record)
    assert "is off" in text((await waiting).json)
    assert calls(server) == []
    assert (await approver(sidecar).service.find(record.rid)).used == 0


@pytest.mark.parametrize(("required", "made"), [(1, 1), (2, 0)])
async def test_a_use_is_one_of_what_the_rule_wants_by_now(
    required: int, made: int, agent: Connection, sidecar: Gate, server: Hostile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rule keeps its name; while a use is taken its workflow comes to want so many people."""
    waiting = asyncio.create_task(agent.ask(call("guarded", ticket=7)))
    human = approver(sidecar)
    record = await human.asked()
    consume, taken = human.service.store.consume, asyncio.Event()

    async def reloaded(*asked: Any) -> Any:
        sidecar.reload(guarded(server.url, workflow={"required": required}))
        taken.set()
        return await consume(*asked)

    monkeypatch.setattr(human.service.store, "consume", reloaded)
    await human.approve(record)
    if not made:
        await taken.wait()
        await sidecar.app.stop(patience=5.0)  # else it waits on, for somebody else to agree
    answer = (await waiting).json
    assert len(calls(server)) == made
    assert ("isError" in answer["result"]) is not bool(made)
    assert (await human.service.find(record.rid)).used == 1


async def test_an_agent_that_is_not_known_any_more_gets_nothing(
    agent: Connection, sidecar: Gate, server: Hostile
) -> None:
    waiting = asyncio.create_task(agent.ask(call("guarded", ticket=7)))
    record = await approver(sidecar).asked()
    changed = guarded(server.url)
    del changed["identity"]["agents"][0]["keys"][0]
    sidecar.reload(changed)
    await approver(sidecar).approve(record)
    assert (await waiting).status == 401
    assert calls(server) == []


async def test_a_sidecar_that_stops_lets_its_calls_go(server: Hostile, tmp_path: Path) -> None:
    async with gate(tmp_path, guarded(server.url, approvals={"hold": "60s"})) as sidecar, sidecar.connect() as agent:
        waiting = asyncio.create_task(agent.ask(call("guarded", ticket=7)))
        await approver(sidecar).asked()
        await sidecar.app.stop(patience=5.0)
        assert text((await waiting).json).startswith("APPROVAL PENDING")
    assert calls(server) == []


async def test_a_long_wait_becomes_a_stream_that_is_kept_alive(
    server: Hostile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("openmcp.sidecar.stages.held.QUIET", 0.1)
    async with gate(tmp_path, guarded(server.url, approvals={"hold": "60s"})) as sidecar, sidecar.connect() as agent:
        await agent.send(agent.request(call("guarded", ticket=7)))
        status, headers = await agent.answer_head()
        assert (status, dict(headers)["content-type"]) == (200, "text/event-stream")
        await approver(sidecar).approve()
        rest = [one async for one in agent.events()]
        assert [set(one) for one in rest] == [{"jsonrpc", "id", "result"}]
    assert len(calls(server)) == 1


async def test_what_is_kept_in_a_file_is_decided_by_another_process(server: Hostile, tmp_path: Path) -> None:
    config = guarded(server.url, approvals={"hold": "30s"}, state=sqlite(tmp_path))
    async with gate(tmp_path, config) as sidecar, sidecar.connect() as agent:
        waiting = asyncio.create_task(agent.ask(call("guarded", ticket=7)))
        record = await approver(sidecar).asked()
        command = ("-m", "openmcp.sidecar.cli", "approvals", "approve", record.rid, "--as", "token:ann", "-c")
        done = await asyncio.create_subprocess_exec(sys.executable, *command, str(sidecar.file))
        assert await done.wait() == 0
        assert "isError" not in (await waiting).json["result"]
        words = ("explain", "-c", str(sidecar.file), "--agent", "key:alice", "--server", "server", "--tool", "guarded")
        for ticket, status in ((7, "approved"), (8, None)):
            asked = (*words, "--args", f'{{"ticket": {ticket}}}', "--grants", "--json")
            told = json.loads(await asyncio.to_thread(subprocess.check_output, [OPENMCP, *asked]))
            assert (told["decision"], (told["grant"] or {}).get("status")) == ("requireApproval", status)
    async with gate(tmp_path, config) as sidecar, sidecar.connect() as agent:
        assert "isError" not in (await agent.ask(call("guarded", 2, ticket=7))).json["result"]
    assert len(calls(server)) == 2


async def test_a_store_that_is_away_denies_and_holds_nobody(server: Hostile, tmp_path: Path) -> None:
    state = {"type": "redis", "url": "redis://127.0.0.1:1"}
    async with gate(tmp_path, guarded(server.url, state=state)) as sidecar, sidecar.connect() as agent:
        answer = await agent.ask(call("guarded", ticket=7))
        assert "approvals cannot be looked up now" in text(answer.json)
        assert "isError" not in (await agent.ask(call("allowed", 2))).json["result"]
        line = await sidecar.recorded(outcome="state")
        assert "127.0.0.1:1" in line["reason"]
        assert "127.0.0.1:1" in await sidecar.page("/readyz")
    assert [one.get("name") for one in calls(server)] == ["allowed"]


@nobody_decides
async def test_the_agents_own_reason_is_shown_to_the_human(agent: Connection, sidecar: Gate) -> None:
    document = call("guarded", ticket=7)
    document["params"]["_meta"] = {"dev.openmcp/reason": "the customer asks"}
    await agent.ask(document)
    assert (await approver(sidecar).asked()).agent_reason == "the customer asks"


async def test_who_listens_to_tasks_listens_to_the_servers(agent: Connection, sidecar: Gate, server: Hostile) -> None:
    """Those that are held here are polled; another agent's are unknown."""
    created = (await ask_modern(agent, call("guarded", ticket=7), **TASKS)).json["result"]
    listen = message("subscriptions/listen", 2, notifications={"taskIds": [created["taskId"]]})
    await ask_modern(agent, listen, **TASKS)
    (asked,) = [one.json for one in server.requests if one.method == "POST"]
    assert asked["params"]["notifications"] == {"taskIds": []}
    async with sidecar.connect("bob") as bob:
        assert (await ask_modern(bob, listen, **TASKS)).code == -32602


async def test_completions_of_what_is_guarded_ask_nobody(agent: Connection, sidecar: Gate, server: Hostile) -> None:
    asked = message(
        "completion/complete", ref={"type": "ref/prompt", "name": "guarded"}, argument={"name": "a", "value": ""}
    )
    assert (await agent.ask(asked)).code == 40300
    assert (await approver(sidecar).service.pending(5)).records == ()


PLAIN = """
import asyncio, sys
from pathlib import Path
from openmcp.config import load
from openmcp.sidecar.app import App

async def main():
    app = App(load(Path(sys.argv[1])).configuration)
    await app.start()
    app._readiness()
    app.metrics.exposition()
    app.reload(app.snapshot.configuration)
    await app.stop(1.0)

asyncio.run(main())
parts = ("openmcp.sidecar.approvals", "openmcp.sidecar.state", "openmcp.sidecar.stages.held")
print(sorted(name for name in sys.modules if name.startswith(parts)))
"""


def test_who_asks_nobody_has_nothing_of_it_in_memory(tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    config = guarded("http://127.0.0.1:9/mcp")
    rules = config["policies"][0]["requests"]
    loaded = []
    for requests in ([rule for rule in rules if rule["action"] != "requireApproval"], rules):
        config["policies"][0]["requests"] = requests
        file.write_text(json.dumps(config))
        said = subprocess.check_output([sys.executable, "-c", PLAIN, str(file)], text=True)
        loaded.append(said.splitlines()[-1])
    assert loaded[0] == "[]"
    assert "openmcp.sidecar.stages.heldtasks" in loaded[1]


async def test_a_rule_that_comes_later_is_asked_for(server: Hostile, tmp_path: Path) -> None:
    config = guarded(server.url, approvals={"hold": HOLD})
    rules = config["policies"][0]["requests"]
    config["policies"][0]["requests"] = [rule for rule in rules if rule["action"] != "requireApproval"]
    async with gate(tmp_path, config) as sidecar, sidecar.connect() as agent:
        assert '"state": "none"' in await sidecar.page("/readyz")
        cancelled = message("notifications/cancelled", None, requestId=1)
        assert (await agent.ask(cancelled)).status == 202
        config["policies"][0]["requests"] = rules
        sidecar.reload(config)
        waiting = asyncio.create_task(agent.ask(call("guarded", ticket=7)))
        await approver(sidecar).approve()
        assert "isError" not in (await waiting).json["result"]
    assert len(calls(server)) == 1
