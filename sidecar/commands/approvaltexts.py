"""Requests for approval as `openmcp approvals list` tells them, to machines and to people."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from openmcp.sidecar.approvals.card import Card
from openmcp.sidecar.approvals.words import moment
from openmcp.sidecar.state.records import ApprovalRecord, Vote


def as_json(record: ApprovalRecord) -> dict[str, Any]:
    """A record; values as they are, times in RFC 3339, durations in seconds."""
    return {
        "id": record.rid,
        "status": record.status.value,
        "agent": record.agent,
        "identifiedBy": record.identified_by,
        "server": record.server,
        "method": record.method,
        "name": record.name,
        "shown": {path: json.loads(document) for path, document in record.shown if document},
        "bound": None if record.bound is None else {path: json.loads(document) for path, document in record.bound},
        "argumentsSha256": record.arguments_digest,
        "why": list(record.why),
        "rules": [
            {
                "policy": need.policy,
                "rule": need.rule,
                "workflow": need.workflow,
                "approvers": list(need.approvers),
                "required": need.required,
            }
            for need in record.needs
        ],
        "agentReason": record.agent_reason,
        "opened": _time(record.opened),
        "asked": record.asked,
        "lastAsked": _time(record.last_asked or record.opened),
        "until": _time(record.until),
        "duration": record.duration / 1000,
        "maxDuration": None if record.max_duration is None else record.max_duration / 1000,
        "maxUses": record.max_uses,
        "votes": [_vote(vote) for vote in record.votes],
        "usesLeft": record.uses_left,
        "used": record.used,
        "endedBy": record.ended_by,
        "endReason": record.end_reason,
    }


def _vote(vote: Vote) -> dict[str, Any]:
    return {
        "approver": vote.approver,
        "choice": vote.choice.value,
        "at": _time(vote.at),
        "reason": vote.reason,
        "duration": None if vote.duration is None else vote.duration / 1000,
        "uses": vote.uses,
    }


def _time(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def as_text(card: Card) -> Iterator[str]:
    """A card, line by line."""
    yield f"{card.rid}  {card.status_text}"
    yield f"  {card.agent} ({card.proof}) asks for {card.subject} of {card.server}"
    for value in card.shown:
        text = value.text.replace("\n", "\n  ")  # lines of ours: a text has none
        yield f"  {value.label} = {text}{f'  (exactly {value.exact})' if value.exact else ''}"
    yield f"  arguments SHA-256 {card.digest}"
    for one in card.wanted:
        yield f"  rule {one.rule}: {one.required} of {', '.join(one.approvers)} ({one.given} so far)"
    for text in card.why:
        yield f"  why: {text}"
    if card.reason:
        yield f"  the agent says (not verified): {card.reason}"
    for said in card.votes:
        more = ", ".join(text for text in (said.limits, said.reason) if text)
        yield f"  {said.approver} {said.choice} at {moment(said.at)}{f': {more}' if more else ''}"
    yield f"  covers: {card.granted.sentence}"
    yield f"  until {card.ends}, asked {card.asked_text}"
