"""Official clients, with the timeouts that they have by default, and calls that a human has to approve.

The human works in another process than the sidecar, on the same file.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from mcp.client.client import Client, ConnectMode
from mcp.shared.exceptions import MCPError

from openmcp.config.model import SqliteState
from openmcp.sidecar.approvals.making import new_rid, wall_clock
from openmcp.sidecar.approvals.service import ApprovalService
from openmcp.sidecar.approvals.values import Limits
from openmcp.sidecar.state.opening import open_store
from tests.interop.clients import NODE_SECONDS, Inspector, NodeClient
from tests.interop.plans import PYTHON, Step, said
from tests.support.approver import Approver, sqlite
from tests.support.parts import require
from tests.support.process import Sidecar, allow_all, mcp_server, sidecar

MODES: list[ConnectMode] = ["legacy", "auto"]
TYPESCRIPT = [("client-v1.mjs", "-"), ("client-v2.mjs", "legacy"), ("client-v2.mjs", "2026-07-28")]
FIVE = said("5")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("state")


@pytest.fixture(scope="module")
def gateway(folder: Path) -> Iterator[Sidecar]:
    """A server of which every tool, resource and prompt needs an approval; its sidecar holds calls for a second."""
    approval = {"workflow": "leads", "duration": "10m", "maxUses": 1}
    rules = [
        {"name": "all", "tools": ["*"], "resources": ["*"], "prompts": ["*"], "action": "requireApproval"}
        | {"approval": approval}
    ]
    config = {
        **allow_all(),
        "policies": [{"name": "ask", "servers": ["upstream"], "requests": rules}],
        "approvals": {
            "hold": "1s",
            "holdWithProgress": "20s",
            "maxOpen": 100,
            "workflows": [{"name": "leads", "approvers": ["token:ann"]}],
        },
        "state": sqlite(folder),
    }
    with mcp_server(PYTHON.name, PYTHON.command()) as server:
        config["servers"] = allow_all(upstream=server)["servers"]
        with sidecar(config) as running:
            yield running


@pytest.fixture(scope="module")
def url(gateway: Sidecar) -> str:
    return f"{gateway.url}/upstream"


@pytest.fixture
async def human(folder: Path) -> AsyncIterator[Approver]:
    """Somebody with the same file, with nothing open, and no grant, at first."""
    service = ApprovalService(
        open_store(SqliteState(path=str(folder / "state.db"))), wall_clock, new_rid, Limits(), lambda event: None
    )
    for record in (await service.pending(100)).records:
        await service.cancel(record)
    for record in (await service.grants(100)).records:
        await service.revoke(record, "token:ann", (), "left over")
    yield Approver(service)
    await service.close()
    await service.store.close()


async def add(client: Client, number: int, **more: Any) -> tuple[bool, str]:
    result = await client.call_tool("add", {"a": number, "b": 0}, **more)
    (content,) = result.content
    return bool(result.is_error), content.text


@pytest.mark.parametrize("mode", MODES)
async def test_the_python_client_gets_its_answer_when_somebody_approves(
    url: str, human: Approver, mode: ConnectMode
) -> None:
    async with Client(url, mode=mode) as client:
        waiting = asyncio.create_task(add(client, 1))
        await human.approve()
        failed, text = await waiting
        if mode == "legacy" and failed:  # decided within the hold or just after it
            failed, text = await add(client, 1)
        assert (failed, text) == (False, "1")


@pytest.mark.parametrize("mode", MODES)
async def test_the_python_client_is_told_to_repeat_and_does(url: str, human: Approver, mode: ConnectMode) -> None:
    async with Client(url, mode=mode) as client:
        failed, text = await add(client, 2)
        assert failed
        assert text.startswith("APPROVAL PENDING")
        await human.approve()
        assert await add(client, 2) == (False, "2")
        with pytest.raises(MCPError, match="APPROVAL PENDING") as raised:
            await client.read_resource("note://today")
        assert raised.value.error.code == 40301


@pytest.mark.parametrize("mode", MODES)
async def test_the_python_client_hears_of_progress_for_longer(url: str, human: Approver, mode: ConnectMode) -> None:
    told: list[str] = []
    heard = asyncio.Event()

    async def progressed(progress: float, total: float | None, message: str | None) -> None:
        told.append(message or "")
        heard.set()

    async with Client(url, mode=mode) as client:
        waiting = asyncio.create_task(add(client, 3, progress_callback=progressed))
        record = await human.asked()
        async with asyncio.timeout(10):
            await heard.wait()
        await human.approve(record)
        assert await waiting == (False, "3")
    assert told[0] == f"waiting for a human to approve {record.rid}"


@pytest.mark.parametrize("mode", MODES)
async def test_the_python_client_is_told_of_a_denial(url: str, human: Approver, mode: ConnectMode) -> None:
    async with Client(url, mode=mode) as client:
        waiting = asyncio.create_task(add(client, 40 + MODES.index(mode), progress_callback=_nothing))
        await human.deny(reason="ask Li")
        failed, text = await waiting
    assert failed
    assert text.startswith("APPROVAL DENIED")
    assert "ask Li" in text


async def _nothing(progress: float, total: float | None, message: str | None) -> None:
    """A client that listens and does not care."""


PLAN: list[Step] = [
    {"do": "call", "name": "add", "arguments": {"a": 2, "b": 3}},
    {"do": "read", "uri": "note://today"},
    {"do": "prompt", "name": "greet", "arguments": {"name": "Ann"}},
]


@pytest.mark.real
@pytest.mark.parametrize(("script", "mode"), TYPESCRIPT)
async def test_typescript_clients_get_their_answers(url: str, human: Approver, script: str, mode: str) -> None:
    require("node", "sdk")
    upstream = replace(PYTHON, plan=[step for step in PLAN for _ in range(2)])
    play = asyncio.create_task(asyncio.to_thread(asyncio.run, NodeClient(script, mode).play(url, upstream)))
    approvals = asyncio.create_task(_approving_all(human, play))
    report = (await play)[1:]
    await approvals
    assert json.dumps(FIVE) in [json.dumps(step.get("call")) for step in report], report
    assert any("contents" not in step and type(step.get("read")) is list for step in report), report
    assert any(type(step.get("prompt")) is list for step in report), report


async def _approving_all(human: Approver, until: asyncio.Task[Any]) -> None:
    while not until.done():
        for record in (await human.service.pending(10)).records:
            await human.approve(record)
        await asyncio.wait([until], timeout=0.1)


@pytest.mark.real
@pytest.mark.parametrize(("script", "mode"), TYPESCRIPT)
async def test_typescript_clients_are_told_to_repeat(url: str, human: Approver, script: str, mode: str) -> None:
    require("node", "sdk")
    step: Step = {"do": "call", "name": "add", "arguments": {"a": 20, "b": 30}}
    upstream = replace(PYTHON, plan=[step, PLAN[1]])
    report = await asyncio.to_thread(asyncio.run, NodeClient(script, mode).play(url, upstream))
    called, read = report[1]["call"], report[2]["read"]
    assert called["isError"]
    assert called["content"][0]["text"].startswith("APPROVAL PENDING")
    assert read["refused"] == 40301
    assert read["because"].startswith("APPROVAL PENDING")


@pytest.mark.real
async def test_a_client_with_tasks_polls_until_somebody_approves(gateway: Sidecar, url: str, human: Approver) -> None:
    """The inspector, which has the official library for the tasks extension."""
    require("node", "inspector")
    words = ("--method", "tools/call", "--tool-name", "add", "--tool-arg", "a=300", "--tool-arg", "b=1")
    asking = asyncio.create_task(asyncio.to_thread(Inspector("modern").ask, url, *words))
    record = await human.asked(patience=NODE_SECONDS)  # most of it is the client's start
    await asyncio.wait([asking], timeout=4)
    assert not asking.done(), "it polls"
    await human.approve(record)
    result = await asking
    assert result["content"] == said("301")["content"], result
    assert "tasks/get" in [line.get("method") for line in gateway.records()]
