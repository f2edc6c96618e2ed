"""From gateway.yaml to the service of approvals."""

from __future__ import annotations

from pathlib import Path

import pytest

from openmcp.config import load
from openmcp.config.model import Approvals
from openmcp.sidecar.approvals.making import configure, limits, make_service
from openmcp.sidecar.approvals.service import Granted, Pending, Refused
from openmcp.sidecar.approvals.values import Event, Kind, Limits
from openmcp.sidecar.state.lifecycle import Conflict
from openmcp.sidecar.state.memory import MemoryStore
from openmcp.sidecar.state.records import Choice, Vote
from tests.approvals.scene import question, spec

TEXT = """
apiVersion: openmcp.dev/v1alpha1
approvals:
  maxOpen: 1
  notificationsPerHour: 7
  cooldown: 10m
  workflows: [{name: leads, approvers: ["token:ann"], requireReason: REASON}]
"""


def read(tmp_path: Path, text: str) -> Approvals:
    path = tmp_path / "gateway.yaml"
    path.write_text(text)
    return load(path).configuration.approvals


def test_limits_are_those_of_the_configuration(tmp_path: Path) -> None:
    found = limits(read(tmp_path, TEXT.replace("REASON", "false")))
    assert found == Limits(open_requests=1, notifications_per_hour=7, cooldown=600_000)
    assert limits(Approvals()) == Limits()


async def test_a_changed_configuration_holds_for_what_is_open_already(tmp_path: Path) -> None:
    approvals = read(tmp_path, TEXT.replace("REASON", "false"))
    events: list[Event] = []
    service = make_service(approvals, MemoryStore(), events.append)
    asked = [spec(workflow=approvals.workflows[0])]
    pending = await service.ask(question(), asked)
    assert isinstance(pending, Pending)
    refused = await service.ask(question(arguments={"ticket_id": "T-8"}), asked)
    assert isinstance(refused, Refused)
    assert [event.kind for event in events] == [Kind.OPENED, Kind.CAPPED]
    configure(service, read(tmp_path, TEXT.replace("REASON", "true")))
    vote = Vote(approver="token:ann", choice=Choice.APPROVE, at=0)
    with pytest.raises(Conflict, match="a reason is wanted"):
        await service.vote(pending.record, vote)
    configure(service, read(tmp_path, TEXT.replace("REASON", "false").replace("token:ann", "token:bob")))
    with pytest.raises(Conflict, match="not on the list of approvers any more"):
        await service.vote(pending.record, vote)
    configure(service, approvals)
    await service.vote(pending.record, vote)
    assert isinstance(await service.ask(question(), asked), Granted)
