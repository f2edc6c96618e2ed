"""Stdio servers as agents find them: a process for each session, one for the modern era, policy before both."""

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.bridge.conftest import Behind
from tests.support.gate import ask_modern, call, initialize, message, modern, modern_headers
from tests.support.raw import Answer


def said(answer: Answer) -> str:
    """What a tool's answer says, as JSON or at the end of a stream."""
    assert answer.status == 200, answer
    document: Any = answer.events[-1] if "event-stream" in (answer.header("content-type") or "") else answer.json
    text: str = document["result"]["content"][0]["text"]
    return text


async def test_each_session_has_a_process_that_ends_with_it(behind: Behind) -> None:
    async with behind.gate() as sidecar, sidecar.connect() as one, sidecar.connect("bob") as other:
        assert behind.processes() == []
        await initialize(one)
        await initialize(other)
        first, second = said(await one.ask(call("allowed_echo", text="a"))), said(await other.ask(call("allowed_echo")))
        assert first.startswith("a ")
        assert sorted([int(first.split()[-1]), int(second.split()[-1])]) == behind.processes()
        assert (await one.ask(method="DELETE")).status == 200
        assert (await one.ask(call("allowed_echo"))).status == 404
        assert await behind.left(1) == [int(second.split()[-1])]


async def test_a_session_is_its_own_agents_alone(behind: Behind) -> None:
    async with behind.gate() as sidecar, sidecar.connect() as alice, sidecar.connect("bob") as bob:
        session = await initialize(alice)
        answer = await bob.ask(call("allowed_echo"), mcp_session_id=session)
        assert (answer.status, answer.code) == (404, 40400)
        assert (await bob.ask(call("allowed_echo"), mcp_session_id=None)).code == -32600


async def test_policy_and_the_record_are_those_of_every_server(behind: Behind) -> None:
    async with behind.gate() as sidecar, sidecar.connect() as agent:
        await initialize(agent)
        denied = await agent.ask(call("forbidden_echo"))
        assert denied.json["result"]["isError"] is True
        said(await agent.ask(call("allowed_echo", 2)))
        record = await sidecar.recorded(event="response", id=2)
        assert (record["endpoint"], record["outcome"]) == (
            f"stdio:{behind.config()['servers'][0]['stdio']['command']}",
            "ok",
        )
        assert (await sidecar.recorded(event="request", id=1))["decision"] == "deny"


async def test_the_environment_is_what_is_listed(
    behind: Behind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_OF_THE_GATEWAY", "not for servers")
    monkeypatch.setenv("TOKEN_OF_THE_SERVER", "t-1")
    env = {"PLAIN": "a b", "TOKEN": {"env": "TOKEN_OF_THE_SERVER"}}
    async with behind.gate("an argument; $HOME", env=env, cwd=str(tmp_path)) as sidecar, sidecar.connect() as agent:
        await initialize(agent)
        environment, folder, arguments = json.loads(said(await agent.ask(call("allowed_environment"))))
        assert environment.pop("OPENMCP_PROCESS")
        assert environment.pop("LC_CTYPE", "C.UTF-8") == "C.UTF-8"  # Python's own doing (PEP 538)
        assert environment.pop("TEST_RUN")
        assert environment == {"PATH": os.environ["PATH"], "PLAIN": "a b", "TOKEN": "t-1"}
        assert (folder, arguments) == (str(tmp_path), ["an argument; $HOME"])


async def test_ids_and_tokens_of_clients_stay_theirs(behind: Behind) -> None:
    async with behind.gate() as sidecar, sidecar.connect() as agent:
        await initialize(agent)
        wanted = call("allowed_progress", "same", _meta={}) | {}
        wanted["params"]["_meta"] = {"progressToken": "mine"}
        answer = await agent.ask(wanted)
        *reports, last = answer.events
        assert [report["params"]["progressToken"] for report in reports] == ["mine", "mine"]
        assert last["id"] == "same"
        assert said(answer).startswith("int ")


async def test_large_answers_come_whole(behind: Behind) -> None:
    async with behind.gate() as sidecar, sidecar.connect() as agent:
        await initialize(agent)
        for size in (70_000, 300_000, 3_000_000):
            assert said(await agent.ask(call("allowed_large", bytes=size))) == "L" * size


async def test_a_server_asks_and_its_client_answers(behind: Behind) -> None:
    async with behind.gate() as sidecar, sidecar.connect() as agent, sidecar.connect() as beside:
        await initialize(agent, elicitation={})
        beside.headers |= agent.headers
        await agent.send(agent.request(call("allowed_asks", 7)))
        assert (await agent.answer_head())[0] == 200
        question = await agent.event()
        assert question["method"] == "elicitation/create"
        assert question["id"] != "q-1"
        reply = {"jsonrpc": "2.0", "id": question["id"], "result": {"action": "decline"}}
        assert (await beside.ask(reply)).status == 202
        last = await agent.event()
        assert (last["id"], last["result"]["content"][0]["text"]) == (7, '{"action": "decline"}')


async def test_what_belongs_to_no_request_comes_on_the_session_s_stream(behind: Behind) -> None:
    async with behind.gate() as sidecar, sidecar.connect() as agent, sidecar.connect() as stream:
        await initialize(agent)
        stream.headers |= agent.headers
        await agent.send(agent.request(call("allowed_chatter", 5)))
        status, _ = await agent.answer_head()
        assert status == 200
        assert (await agent.event())["method"] == "notifications/message"
        agent.reset()
        await stream.send(stream.request(method="GET"))
        assert (await stream.answer_head())[0] == 200
        assert (await stream.event())["method"] == "notifications/message"


async def test_the_modern_era_shares_a_process(behind: Behind) -> None:
    async with behind.gate("--modern") as sidecar, sidecar.connect() as alice, sidecar.connect("bob") as bob:
        answers = await asyncio.gather(
            *(ask_modern(agent, call("allowed_echo", 1, text=name)) for agent, name in ((alice, "a"), (bob, "b")))
        )
        (process,) = behind.processes()
        assert [said(answer) for answer in answers] == [f"a {process}", f"b {process}"]
        refused = await alice.ask(message("initialize", protocolVersion="2025-11-25", capabilities={}, clientInfo={}))
        assert refused.status != 200 or "error" in refused.json
        await behind.left(1)


async def test_a_subscription_is_told_of_under_its_own_id(behind: Behind) -> None:
    async with behind.gate("--modern") as sidecar, sidecar.connect() as agent:
        await ask_modern(agent, call("allowed_echo"))  # so that ids differ
        wanted = message("subscriptions/listen", "s", notifications={"toolsListChanged": True})
        await agent.send(agent.request(modern(wanted), **modern_headers(wanted)))
        assert (await agent.answer_head())[0] == 200
        for method in ("notifications/subscriptions/acknowledged", "notifications/tools/list_changed"):
            told = await agent.event()
            assert told["method"] == method
            assert told["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"] == "s"


async def test_a_legacy_server_is_told_from_a_modern_one_once(behind: Behind, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "openmcp.bridge")
    async with behind.gate() as sidecar, sidecar.connect() as agent:
        for _ in range(3):
            answer = await ask_modern(agent, call("allowed_echo"))
            assert (answer.status, answer.code) == (400, -32022)
            assert answer.json["error"]["data"]["supported"][0] == "2025-11-25"
        assert sum("has started" in line for line in caplog.messages) == 1
        await initialize(agent)
        said(await agent.ask(call("allowed_echo")))


@pytest.mark.parametrize(("share", "legacy"), [("session", True), ("server", False)])
async def test_share_says_which_era_is_served(behind: Behind, share: str, legacy: bool) -> None:
    async with behind.gate(*([] if legacy else ["--modern"]), share=share) as sidecar, sidecar.connect() as agent:
        first = await ask_modern(agent, call("allowed_echo"))
        assert first.code == (-32022 if legacy else None)
        wanted = message(
            "initialize", protocolVersion="2025-11-25", capabilities={}, clientInfo={"name": "t", "version": "1"}
        )
        second = await agent.ask(wanted, mcp_protocol_version=None)
        assert second.code == (None if legacy else -32022)


async def test_a_process_that_nobody_uses_ends(behind: Behind) -> None:
    async with behind.gate(idle="300ms") as sidecar, sidecar.connect() as agent:
        await initialize(agent)
        await behind.left(0)
        assert (await agent.ask(call("allowed_echo"))).status == 404


async def test_there_are_no_more_processes_than_allowed(behind: Behind) -> None:
    async with behind.gate(processes=2) as sidecar, sidecar.connect() as agent:
        wanted = message(
            "initialize", protocolVersion="2025-11-25", capabilities={}, clientInfo={"name": "t", "version": "1"}
        )
        answers = [await agent.ask(wanted) for _ in range(3)]
        assert [answer.status for answer in answers[:2]] == [200, 200]
        assert answers[2].status == 429
        assert len(behind.processes()) == 2


async def test_a_reload_ends_what_the_configuration_no_longer_has(behind: Behind) -> None:
    async with behind.gate() as sidecar, sidecar.connect() as agent:
        await initialize(agent)
        changed = behind.config(processes=3)
        sidecar.reload(changed)
        await behind.left(0)
        assert (await agent.ask(call("allowed_echo"))).status == 404
