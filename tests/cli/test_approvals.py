"""`openmcp approvals`: one process asks, another decides, over one SQLite file."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from openmcp.config import load
from openmcp.config.model import Workflow
from openmcp.sidecar.approvals.making import make_service, new_rid
from openmcp.sidecar.approvals.service import ApprovalService, Denied, Granted, Pending
from openmcp.sidecar.cli import main
from openmcp.sidecar.state.lifecycle import Conflict
from openmcp.sidecar.state.records import ApprovalRecord, Status
from openmcp.sidecar.state.sqlite import SqliteStore
from tests.approvals.scene import AGENT, question, spec

CONFIGURATION = """
apiVersion: openmcp.dev/v1alpha1
state: STATE
approvals:
  workflows:
    - {name: leads, approvers: ["token:ann"]}
    - {name: two, approvers: ["token:ann", "token:bob", "oidc:group:cfo"], required: 2}
    - {name: careful, approvers: ["token:ann"], requireReason: true}
"""


class Asking:
    """A sidecar's half: a service of this process on the file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.approvals = load(path).configuration.approvals
        self.store = SqliteStore(path.with_name("approvals.db"))
        self.service: ApprovalService = make_service(self.approvals, self.store, lambda event: None)

    def workflow(self, name: str) -> Workflow:
        return next(workflow for workflow in self.approvals.workflows if workflow.name == name)

    async def ask(self, workflow: str = "leads", **approval: Any) -> Any:
        """Ask for a call that this workflow decides on."""
        asked = spec(workflow=self.workflow(workflow), duration=1800.0, max_duration=3600.0, max_uses=5, **approval)
        return await self.service.ask(question(reason="please\x1b[2J"), [asked])

    async def pending(self, workflow: str = "leads") -> ApprovalRecord:
        answer = await self.ask(workflow)
        assert isinstance(answer, Pending)
        return answer.record


@pytest.fixture
def gateway(tmp_path: Path) -> Path:
    path = tmp_path / "gateway.yaml"
    path.write_text(CONFIGURATION.replace("STATE", "{type: sqlite, path: approvals.db}"))
    return path


@pytest.fixture
async def agent(gateway: Path) -> Any:
    asking = Asking(gateway)
    yield asking
    await asking.store.close()


def rewrite(gateway: Path, old: str, new: str) -> None:
    gateway.write_text(gateway.read_text().replace(old, new))


def elsewhere(gateway: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a process of its own."""
    command = [str(Path(sys.executable).with_name("openmcp")), "approvals", *arguments, "-c", str(gateway)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def invoke(gateway: Path, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["approvals", *arguments, "-c", str(gateway)])


async def run(gateway: Path, *arguments: str) -> Result:
    """The command, beside the event loop of the test."""
    return await asyncio.to_thread(invoke, gateway, *arguments)


async def test_another_process_approves_and_revokes(gateway: Path, agent: Asking) -> None:
    record = await agent.pending()
    done = elsewhere(
        gateway, "approve", record.rid, "--duration", "10m", "--uses", "2", "--reason", "the customer asked"
    )
    assert done.returncode == 0
    assert done.stdout.startswith(f"approved {record.rid} until ")
    assert done.stdout.endswith(" UTC, 2 calls\n")
    granted = await agent.ask()
    assert isinstance(granted, Granted)
    used = await granted.claim()
    assert (used.uses_left, used.votes[0].approver, used.votes[0].reason) == (1, "token:ann", "the customer asked")
    assert used.grant_until is not None
    assert used.grant_until - (used.granted_at or 0) == 600_000
    done = elsewhere(gateway, "revoke", record.rid, "--reason", "a mistake")
    assert (done.returncode, done.stdout) == (0, f"revoked {record.rid}\n")
    with pytest.raises(Conflict):
        await granted.claim()


async def test_another_process_denies(gateway: Path, agent: Asking) -> None:
    record = await agent.pending()
    done = elsewhere(gateway, "deny", record.rid, "--reason", "no")
    assert (done.returncode, done.stdout) == (0, f"denied {record.rid}\n")
    answer = await agent.ask()
    assert isinstance(answer, Denied)
    assert (answer.record.ended_by, answer.record.end_reason) == ("token:ann", "no")


async def test_a_list_for_machines(gateway: Path, agent: Asking) -> None:
    assert json.loads(elsewhere(gateway, "list", "--json").stdout) == []
    record = await agent.pending()
    (told,) = json.loads(elsewhere(gateway, "list", "--json").stdout)
    times = {key: told.pop(key) for key in ("opened", "lastAsked", "until", "argumentsSha256")}
    assert all(times.values())
    assert times["opened"].endswith("Z")
    assert told == {
        "id": record.rid,
        "status": "pending",
        "agent": AGENT,
        "identifiedBy": "mtls",
        "server": "tickets",
        "method": "tools/call",
        "name": "refund",
        "shown": {"$.ticket_id": "T-7"},
        "bound": {"$.ticket_id": ["T-7"]},
        "why": [],
        "rules": [
            {"policy": "tickets", "rule": "refunds", "workflow": "leads", "approvers": ["token:ann"], "required": 1}
        ],
        "agentReason": "please\x1b[2J",
        "asked": 1,
        "duration": 1800.0,
        "maxDuration": 3600.0,
        "maxUses": 5,
        "votes": [],
        "usesLeft": None,
        "used": 0,
        "endedBy": "",
        "endReason": "",
    }


async def test_a_list_for_people_holds_nothing_that_acts_on_the_terminal(gateway: Path, agent: Asking) -> None:
    record = await agent.pending()
    told = await run(gateway, "list")
    assert told.exit_code == 0
    assert f"{record.rid}  waits for a decision\n" in told.stdout
    assert '  $.ticket_id = "T-7"\n' in told.stdout
    assert "  the agent says (not verified): please\\u001b[2J\n" in told.stdout
    assert "\x1b" not in told.stdout


async def test_what_has_ended_is_listed_when_it_is_asked_for(gateway: Path, agent: Asking) -> None:
    record = await agent.pending()
    assert (await run(gateway, "deny", record.rid)).exit_code == 0
    assert json.loads((await run(gateway, "list", "--json")).stdout) == []
    (told,) = json.loads((await run(gateway, "list", "--json", "--history")).stdout)
    assert (told["id"], told["status"], told["endedBy"]) == (record.rid, "denied", "token:ann")
    assert told["votes"][0]["choice"] == "deny"


async def test_several_have_to_agree_and_each_says_who_they_are(gateway: Path, agent: Asking) -> None:
    record = await agent.pending("two")
    done = await run(gateway, "approve", record.rid)
    assert done.exit_code == 1
    assert done.stderr == "say who decides: --as APPROVER (on the list: token:ann, token:bob)\n"
    done = await run(gateway, "approve", record.rid, "--as", "token:bob")
    assert (done.exit_code, done.stdout) == (0, f"counted for {record.rid}; 1 more approval of two wanted\n")
    done = await run(gateway, "approve", record.rid, "--as", "token:bob")
    assert (done.exit_code, done.stderr) == (1, f"{record.rid}: you have approved this already\n")
    assert (await run(gateway, "approve", record.rid, "--as", "token:ann")).exit_code == 0
    assert isinstance(await agent.ask("two"), Granted)


@pytest.mark.parametrize("who", ["token:eve", "oidc:group:cfo", "spiffe://acme.example/ns/support/sa/agent", "ann"])
async def test_who_is_not_on_the_list_decides_nothing(gateway: Path, agent: Asking, who: str) -> None:
    record = await agent.pending("two")
    for verb in ("approve", "deny", "revoke"):
        done = await run(gateway, verb, record.rid, "--as", who)
        assert done.exit_code == 1
        assert "is not on the list of approvers" in done.stderr or "not a person who can approve" in done.stderr
    assert (await agent.pending("two")).votes == ()


async def test_who_has_left_the_list_decides_nothing(gateway: Path, agent: Asking) -> None:
    record = await agent.pending()
    rewrite(gateway, 'leads, approvers: ["token:ann"]', 'leads, approvers: ["token:bob"]')
    done = await run(gateway, "approve", record.rid, "--as", "token:ann")
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr == f"{record.rid}: you are not on the list of approvers any more\n"


async def test_no_more_than_the_rule_allows(gateway: Path, agent: Asking) -> None:
    record = await agent.pending()
    done = await run(gateway, "approve", record.rid, "--duration", "2h")
    assert (done.exit_code, done.stderr) == (1, "--duration: the grant may hold for 1 hour at most\n")
    done = await run(gateway, "approve", record.rid, "--uses", "6")
    assert (done.exit_code, done.stderr) == (1, "--uses: the grant may be good for 5 calls at most\n")
    for wrong in (["--duration", "15"], ["--duration", "0m"], ["--uses", "0"]):
        assert (await run(gateway, "approve", record.rid, *wrong)).exit_code == 2
    assert (await agent.pending()).status is Status.PENDING


async def test_a_reason_where_one_is_wanted(gateway: Path, agent: Asking) -> None:
    record = await agent.pending("careful")
    done = await run(gateway, "deny", record.rid)
    assert (done.exit_code, done.stderr) == (1, "A reason is required here. Write --reason TEXT\n")
    assert (await run(gateway, "approve", record.rid, "--reason", "seen")).exit_code == 0


async def test_only_what_stands_so_can_be_decided(gateway: Path, agent: Asking) -> None:
    done = await run(gateway, "approve", "apr_\x1b[2J")
    assert done.exit_code == 1
    assert done.stderr.startswith("there is no request apr_\\x1b[2J: see ")
    record = await agent.pending()
    done = await run(gateway, "revoke", record.rid)
    assert (done.exit_code, done.stderr) == (1, "there is no grant to revoke: the request is pending\n")
    assert (await run(gateway, "deny", record.rid)).exit_code == 0
    done = await run(gateway, "approve", record.rid)
    assert (done.exit_code, done.stderr) == (1, f"{record.rid}: the request has ended already: it is denied\n")


def test_what_is_in_the_memory_of_another_process_cannot_be_seen(gateway: Path) -> None:
    gateway.write_text(CONFIGURATION.replace("STATE", "{type: memory}"))
    done = invoke(gateway, "list")
    assert done.exit_code == 1
    assert done.stderr == (
        f"{gateway}: requests are kept in the memory of the sidecar, which no other process sees: decide in its "
        "console, or write state: {type: sqlite, path: approvals.db}\n"
    )


def test_a_store_that_cannot_be_used_is_an_outside_failure(gateway: Path) -> None:
    gateway.with_name("approvals.db").write_text("this is no database" * 100)
    done = invoke(gateway, "list", "--json")
    assert (done.exit_code, done.stdout) == (3, "")
    assert "approvals.db" in done.stderr


def test_a_configuration_that_is_wrong_is_told(gateway: Path) -> None:
    gateway.write_text("apiVersion: openmcp.dev/v1alpha1\napprovals: {hold: 1}\n")
    done = invoke(gateway, "list")
    assert done.exit_code == 1
    assert "approvals.hold: a duration needs a unit" in done.stderr


def test_ids_are_not_guessed() -> None:
    made = {new_rid() for _ in range(100)}
    assert len(made) == 100
    assert all(len(rid) == 30 and rid.startswith("apr_") and rid[4:].isalnum() and rid.islower() for rid in made)
