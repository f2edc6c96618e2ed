"""What other processes than sidecars decide is in a record of theirs, chained and signed as that of a sidecar."""

from __future__ import annotations

import asyncio
import fcntl
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from openmcp.sidecar.approvals.making import make_service, wall_clock
from openmcp.sidecar.approvals.service import Granted, Pending
from openmcp.sidecar.commands import approvalrecord
from openmcp.sidecar.commands.approvalrecord import beside
from openmcp.sidecar.state.records import Status
from tests.approvals.console.site import Browser
from tests.approvals.scene import question, spec
from tests.cli.test_approvals import CONFIGURATION, Asking, elsewhere, invoke, rewrite, run
from tests.cli.test_approvals_serve import LEADS, Serving
from tests.cli.test_audit import openmcp
from tests.telemetry.recording import keys

TELEMETRY = (
    "telemetry: {audit: {output: {file: FOLDER/audit.jsonl}, signingKey: {file: FOLDER/audit.pem}, onFailure: deny}}\n"
)


def telemetry(folder: Path) -> str:
    private, public = keys()
    (folder / "audit.pem").write_bytes(private)
    (folder / "audit.pub").write_bytes(public)
    return TELEMETRY.replace("FOLDER", str(folder))


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def told(file: Path) -> list[tuple[str, str | None]]:
    """What happened, and by whom."""
    return [(line["outcome"], line.get("by")) for line in lines(file) if line["event"] == "approval"]


@pytest.fixture
def gateway(tmp_path: Path) -> Path:
    path = tmp_path / "gateway.yaml"
    path.write_text(CONFIGURATION.replace("STATE", "{type: sqlite, path: approvals.db}") + telemetry(tmp_path))
    return path


@pytest.fixture
async def agent(gateway: Path) -> AsyncIterator[Asking]:
    asking = Asking(gateway)
    yield asking
    await asking.store.close()


async def test_commands_continue_one_signed_chain(gateway: Path, agent: Asking) -> None:
    record = await agent.pending()
    assert elsewhere(gateway, "list").stderr == ""
    file = gateway.with_name("audit.approvals-cli.jsonl")
    assert not file.exists(), "who only looks writes nothing"
    done = elsewhere(gateway, "approve", record.rid, "--reason", "the customer asked")
    assert (done.returncode, done.stderr) == (0, "")
    assert elsewhere(gateway, "revoke", record.rid).returncode == 0
    assert told(file) == [("voted", "token:ann"), ("approved", "token:ann"), ("revoked", "token:ann")]
    voted = next(line for line in lines(file) if line["event"] == "approval")
    assert (voted["approval"], voted["reason"], voted["agent"]) == (record.rid, "the customer asked", record.agent)
    code, said, wrong = openmcp("audit", "verify", file, "--key", gateway.with_name("audit.pub"))
    assert (code, wrong) == (0, "")
    assert "all 4 checkpoints are signed" in said


async def test_nothing_is_decided_that_cannot_be_recorded(
    gateway: Path, agent: Asking, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(approvalrecord, "PATIENCE", 0.3)
    record = await agent.pending()
    file = gateway.with_name("audit.approvals-cli.jsonl")
    with file.open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        done = await run(gateway, "approve", record.rid)
        assert done.exit_code == 3
        assert (
            done.stderr
            == f"nothing was done, for the record {file} cannot be written: another process writes this file\n"
        )
        assert isinstance(await agent.ask(), Pending)
    monkeypatch.setattr(approvalrecord, "PATIENCE", 30.0)
    assert (await run(gateway, "approve", record.rid)).exit_code == 0
    assert isinstance(await agent.ask(), Granted)


async def test_two_commands_at_once_take_turns(gateway: Path, agent: Asking) -> None:
    record = await agent.pending("two")
    both = (
        asyncio.to_thread(elsewhere, gateway, "approve", record.rid, "--as", f"token:{who}") for who in ("ann", "bob")
    )
    assert [done.returncode for done in await asyncio.gather(*both)] == [0, 0]
    file = gateway.with_name("audit.approvals-cli.jsonl")
    assert sorted(what for what, _ in told(file)) == ["approved", "voted", "voted"]
    assert openmcp("audit", "verify", file)[0] == 0


async def test_beside_a_record_on_standard_output_a_command_writes_none(gateway: Path, agent: Asking) -> None:
    rewrite(gateway, "telemetry:", "# telemetry:")
    done = await asyncio.to_thread(invoke, gateway, "deny", (await agent.pending()).rid)
    assert done.stdout.startswith("denied apr_")
    assert done.stderr == ""
    (told,) = json.loads(elsewhere(gateway, "list", "--json", "--history").stdout)
    assert [(vote["approver"], vote["choice"]) for vote in told["votes"]] == [("token:ann", "deny")]


async def test_who_only_looks_sees_what_has_ended_and_leaves_it_to_be_recorded(gateway: Path, agent: Asking) -> None:
    past = make_service(agent.approvals, agent.store, lambda event: None, lambda: wall_clock() - 3_600_000)
    asked = await past.ask(question(), [spec(workflow=agent.workflow("leads"))])
    assert isinstance(asked, Pending)
    assert asked.record.pending_until < wall_clock(), "it has expired"
    done = await run(gateway, "list", "--history", "--json")
    assert [(one["id"], one["status"]) for one in json.loads(done.stdout)] == [(asked.record.rid, "expired")]
    assert await agent.service.sweep() == 1, "whoever has a record writes it down"


async def test_the_console_of_its_own_writes_its_own_record(tmp_path: Path) -> None:
    serving = Serving(tmp_path)
    serving.path.write_text(serving.path.read_text() + telemetry(tmp_path))
    await asyncio.to_thread(serving.start)
    asking = Asking(serving.path)
    asked = await asking.service.ask(question(), [spec(workflow=LEADS)])
    assert isinstance(asked, Pending)
    ann = Browser(serving)
    await ann.log_in("ann", f"/requests/{asked.record.rid}")
    assert (await ann.decide(asked.record.rid, "approve", reason="fine")).status == 303
    await ann.close()
    assert await asyncio.to_thread(serving.process.stop) == 0
    found = await asking.service.find(asked.record.rid)
    assert found is not None
    assert found.status is Status.APPROVED
    await asking.store.close()
    await serving.store.close()
    await asyncio.to_thread(serving.close)
    file = tmp_path / "audit.approvals.jsonl"
    assert told(file) == [("voted", "token:ann"), ("approved", "token:ann")]
    assert openmcp("audit", "verify", file, "--key", tmp_path / "audit.pub")[0] == 0


def test_each_process_has_a_file_of_its_own() -> None:
    assert beside("/var/log/audit.jsonl", "approvals") == "/var/log/audit.approvals.jsonl"
    assert beside("audit", "approvals-cli") == "audit.approvals-cli"
