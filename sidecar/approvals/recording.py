"""The line of the record for what happens to a request, as every process that brings something about writes it."""

from openmcp.sidecar.approvals.values import Event, Kind
from openmcp.sidecar.state.records import Choice, Status
from openmcp.sidecar.telemetry.records import clip, encode, timestamp


def line_of(event: Event) -> bytes:
    """The whole line of a process that has no calls of its own; see docs/record.md."""
    head = {"time": timestamp(event.at * 1_000_000), "event": "approval", "direction": ""}
    return encode(head | fields_of(event))


def fields_of(event: Event) -> dict[str, object]:
    """What it says of the approval; of what it is for, the digest of the arguments alone."""
    record, kind = event.record, event.kind
    fields: dict[str, object] = {"approval": record.rid, "outcome": kind.value, "approval_status": record.status.value}
    fields |= {"agent": record.agent, "server": record.server, "method": record.method}
    if record.name:
        fields["name"] = clip(record.name)
    fields["rules"] = [{"policy": need.policy, "rule": need.rule} for need in record.needs]
    fields["arguments_sha256"] = record.arguments_digest
    if event.by:
        fields["by"] = clip(event.by)
    if kind is Kind.USED:
        fields["approved_by"] = [clip(vote.approver) for vote in record.votes if vote.choice is Choice.APPROVE]
    reason = record.end_reason or (record.votes[-1].reason if kind is Kind.VOTED and record.votes else "")
    if reason:
        fields["reason"] = clip(reason)
    fields["until"] = timestamp(record.until * 1_000_000)
    if record.status is Status.APPROVED:
        fields["uses_left"] = record.uses_left
    if record.used:
        fields["used"] = record.used
    return fields
