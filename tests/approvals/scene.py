"""A question, rules that want it approved, and a service with a clock that tests turn."""

from __future__ import annotations

import itertools
from typing import Any

import msgspec

from openmcp.config.model import Approval, Workflow
from openmcp.sidecar.approvals.service import ApprovalService
from openmcp.sidecar.approvals.values import Event, Kind, Limits, Question, Spec
from openmcp.sidecar.policy.decision import RuleRef
from openmcp.sidecar.state.memory import MemoryStore
from openmcp.sidecar.state.records import ApprovalRecord, Choice, Vote
from openmcp.sidecar.state.store import StateStore
from tests.contracts.requests import NOW

AGENT = "spiffe://acme.example/ns/support/sa/agent"
LEADS = Workflow(name="leads", approvers=("token:ann", "token:bob"))


def spec(rule: str = "refunds", workflow: Workflow = LEADS, why: str = "", **approval: Any) -> Spec:
    """A rule that wants an approval; by default for this ticket alone."""
    fields = {"workflow": workflow.name, "show": ("$.ticket_id",), "bind": ("$.ticket_id",), **approval}
    return Spec(RuleRef("tickets", rule, "requireApproval"), Approval(**fields), workflow, why)


def question(**changes: Any) -> Question:
    """A refund for a ticket."""
    fields: dict[str, Any] = {
        "agent": AGENT,
        "identified_by": "mtls",
        "server": "tickets",
        "method": "tools/call",
        "name": "refund",
        "arguments": {"ticket_id": "T-7", "amount": 12},
    }
    return Question(**{**fields, **changes})


class Scene:
    """A service on a store; `now` is its clock, `events` what it told."""

    def __init__(self, store: StateStore | None = None, **limits: Any) -> None:
        self.store = store or MemoryStore()
        self.now = NOW
        self.events: list[Event] = []
        numbers = itertools.count()
        self.service = ApprovalService(
            self.store, lambda: self.now, lambda: f"apr_{next(numbers)}", Limits(**limits), self.events.append
        )

    @property
    def kinds(self) -> list[Kind]:
        """What was told so far, by kind; told only once."""
        kinds = [event.kind for event in self.events]
        self.events.clear()
        return kinds

    async def ask(self, *specs: Spec, **changes: Any) -> Any:
        """Ask for a call."""
        return await self.service.ask(question(**changes), specs or (spec(),))

    async def approve(self, record: ApprovalRecord, by: str = "token:ann", **vote: Any) -> ApprovalRecord:
        """Approve what was asked."""
        return await self.service.vote(record, Vote(approver=by, choice=Choice.APPROVE, at=0, **vote))

    async def deny(self, record: ApprovalRecord, by: str = "token:ann", **vote: Any) -> ApprovalRecord:
        """Deny what was asked."""
        return await self.service.vote(record, Vote(approver=by, choice=Choice.DENY, at=0, **vote))

    async def granted(self, *specs: Spec, **changes: Any) -> Any:
        """A grant for a call, not used yet."""
        pending = await self.ask(*specs, **changes)
        await self.approve(pending.record)
        return await self.ask(*specs, **changes)


def of(workflow: Workflow, **changes: Any) -> Workflow:
    """A workflow with changes."""
    return msgspec.structs.replace(workflow, **changes)
