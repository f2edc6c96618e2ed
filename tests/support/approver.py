"""A person who decides on what agents ask for, in the process of the sidecar or with the same store."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openmcp.sidecar.approvals.service import ApprovalService
from openmcp.sidecar.state.records import ApprovalRecord, Choice, Status, Vote
from tests.support.gate import POLICY, Gate, configuration

PATIENCE = 10.0
HOLD = "60s"
"""How long a call waits where somebody decides: for longer than this machine stalls."""
BRIEFLY = "200ms"
"""The same where nobody does."""
ASKED: dict[str, Any] = {
    "workflow": "leads",
    "show": ["$.ticket"],
    "bind": ["$.ticket"],
    "duration": "10m",
    "maxDuration": "1h",
}


def guarded(*urls: str, approval: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    """A configuration like that of `gate.configuration` in which `guarded*` (tools, prompts, resources under
    `file:///guarded/`) needs an approval, of `leads`; keywords are further sections, `approvals` is merged in."""
    rule = {"name": "guard", "action": "requireApproval", "approval": {**ASKED, **(approval or {})}}
    rules = [
        {**rule, "tools": ["guarded*"]},
        {**rule, "name": "guard-prompts", "prompts": ["guarded*"], "approval": {"workflow": "leads"}},
        {**rule, "name": "guard-resources", "resources": ["file:///guarded/*"], "approval": {"workflow": "leads"}},
    ]
    workflow = {"name": "leads", "approvers": ["token:ann", "token:bob"], **more.pop("workflow", {})}
    approvals = {"hold": BRIEFLY, "holdWithProgress": HOLD, **more.pop("approvals", {}), "workflows": [workflow]}
    config = configuration(*urls, **more.pop("server", {}))
    return {
        **config,
        "policies": [{**POLICY, "requests": [*POLICY["requests"], *rules]}],
        "approvals": approvals,
        **more,
    }


def sqlite(folder: Path) -> dict[str, Any]:
    """The `state` of a file in this folder."""
    return {"type": "sqlite", "path": str(folder / "state.db")}


@dataclass
class Approver:
    """Somebody on the list."""

    service: ApprovalService
    name: str = "token:ann"

    async def asked(
        self, status: Status = Status.PENDING, count: int = 1, times: int = 1, patience: float = PATIENCE
    ) -> ApprovalRecord:
        """Wait for so many requests; the last of them, once it was asked so many times."""
        async with asyncio.timeout(patience):
            while True:
                page = await (self.service.pending(500) if status is Status.PENDING else self.service.grants(500))
                if len(page.records) >= count and page.records[-1].asked >= times:
                    return page.records[-1]
                await asyncio.sleep(0.005)

    async def approve(self, record: ApprovalRecord | None = None, **chosen: Any) -> ApprovalRecord:
        """Say yes, to the next request where none is given."""
        return await self._vote(Choice.APPROVE, record, **chosen)

    async def deny(self, record: ApprovalRecord | None = None, reason: str = "not today") -> ApprovalRecord:
        """Say no."""
        return await self._vote(Choice.DENY, record, reason=reason)

    async def revoke(self) -> ApprovalRecord:
        """Take back the only grant."""
        return await self.service.revoke(await self.asked(Status.APPROVED), self.name, (), "over")

    async def _vote(self, choice: Choice, record: ApprovalRecord | None, **chosen: Any) -> ApprovalRecord:
        record = record or await self.asked()
        return await self.service.vote(record, Vote(approver=self.name, choice=choice, at=0, **chosen))


def approver(gate: Gate, name: str = "token:ann") -> Approver:
    """Somebody in the sidecar's own process."""
    service = gate.app._builder.approving.desk.service
    assert service is not None
    return Approver(service, name)
