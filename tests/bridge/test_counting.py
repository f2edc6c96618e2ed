"""What operators see of processes, and how many of them one agent may have."""

from __future__ import annotations

import re

import pytest

from openmcp.sidecar.bridge import process
from tests.bridge.conftest import Behind
from tests.bridge.test_sessions import said
from tests.support.gate import Gate, ask_modern, call, initialize, message

BEGIN = message("initialize", protocolVersion="2025-11-25", capabilities={}, clientInfo={"name": "t", "version": "1"})


async def counts(sidecar: Gate) -> dict[str, float]:
    """The metrics of stdio servers, without what they have in common."""
    found = re.findall(
        r'^openmcp_stdio_(\w+)\{(?:(?:result|reason)="(\w+)",)?server="server"\} (\S+)$',
        await sidecar.page("/metrics"),
        re.M,
    )
    return {" ".join(filter(None, (name, label))): float(value) for name, label, value in found}


async def test_one_agent_leaves_processes_for_the_others(behind: Behind) -> None:
    async with (
        behind.gate(processes=4, perAgent=2) as sidecar,
        sidecar.connect() as alice,
        sidecar.connect("bob") as bob,
    ):
        statuses = [(await alice.ask(BEGIN)).status for _ in range(3)]
        assert statuses == [200, 200, 429]
        assert [(await bob.ask(BEGIN)).status for _ in range(3)] == [200, 200, 429]
        assert len(behind.processes()) == 4


async def test_a_session_that_ended_makes_room_once_nothing_is_left_of_it(behind: Behind) -> None:
    async with behind.gate(perAgent=1) as sidecar, sidecar.connect() as agent:
        session = await initialize(agent)
        assert (await agent.ask(BEGIN, mcp_session_id=None)).status == 429
        assert (await agent.ask(method="DELETE", mcp_session_id=session)).status == 200
        await behind.left(0)
        del agent.headers["mcp-session-id"]
        assert (await agent.ask(BEGIN)).status == 200
        assert len(behind.processes()) == 1


async def test_the_modern_era_s_process_is_nobody_s_own(behind: Behind) -> None:
    async with behind.gate("--modern", perAgent=1) as sidecar, sidecar.connect() as agent:
        for _ in range(3):
            said(await ask_modern(agent, call("allowed_echo")))


async def test_processes_are_counted(behind: Behind, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "PATIENCE", 0.3)
    async with behind.gate() as sidecar, sidecar.connect() as one, sidecar.connect("bob") as other:
        await initialize(one)
        await initialize(other)
        said(await other.ask(call("allowed_grumble")))
        during = await counts(sidecar)
        assert (during["processes"], during["starts_total ok"]) == (2, 2)
        assert during["stderr_lines_total logged"] > 0
        assert during["stderr_lines_total logged"] + during["stderr_lines_total dropped"] <= 8 * 1024 + 2
        await one.ask(method="DELETE")
        await other.ask(call("allowed_crash"))
        await behind.left(0)
        after = await counts(sidecar)
        assert (after["ends_total session"], after["ends_total signal"]) == (1, 1)
        assert after["processes"] == 0


@pytest.mark.parametrize(("tool", "reason"), [("allowed_flood", "killed"), ("allowed_leave", "exited")])
async def test_the_end_of_a_process_is_counted_by_its_reason(behind: Behind, tool: str, reason: str) -> None:
    async with behind.gate() as sidecar, sidecar.connect() as agent:
        await initialize(agent)
        await agent.ask(call(tool))
        await behind.left(0)
        assert (await counts(sidecar))[f"ends_total {reason}"] == 1


async def test_a_program_that_is_not_there_is_counted(behind: Behind) -> None:
    async with behind.gate(command="/no/such/program") as sidecar, sidecar.connect() as agent:
        await agent.ask(BEGIN)
        assert (await counts(sidecar))["starts_total failed"] == 1
