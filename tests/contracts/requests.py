"""Requests and votes for tests, at a clock of their own."""

from __future__ import annotations

import itertools
import secrets
import time
from typing import Any

from openmcp.sidecar.state.records import ApprovalRecord, Choice, Need, Vote

NOW = int(time.time() * 1000)
"""When the tests take place: near the present, since some stores drop by their own clock what is long past."""

MINUTE = 60_000
HOUR = 60 * MINUTE
LEADS = Need(policy="tickets", rule="refunds", workflow="leads", approvers=("token:ann", "token:bob"))
_number = itertools.count(1)


def new_key() -> str:
    """A fingerprint that nothing else has, also in a store that is used again."""
    return secrets.token_hex(32)


def new_rid() -> str:
    """A name of a generation."""
    return f"apr_{secrets.token_hex(8)}{next(_number):010}"


def request(key: str | None = None, **changes: Any) -> ApprovalRecord:
    """A request for approval, pending for half an hour, for a grant of an hour."""
    now = changes.pop("now", NOW)
    fields: dict[str, Any] = {
        "key": key or new_key(),
        "rid": new_rid(),
        "agent": "spiffe://acme.example/ns/support/sa/agent",
        "identified_by": "mtls",
        "server": "tickets",
        "method": "tools/call",
        "name": "refund",
        "needs": (LEADS,),
        "why": ("refunds need a human",),
        "shown": (("$.ticket_id", '"T-7"'),),
        "bound": (("$.ticket_id", '["T-7"]'),),
        "arguments_digest": "0" * 64,
        "opened": now,
        "pending_until": now + 30 * MINUTE,
        "last_asked": now,
        "duration": HOUR,
        "cooldown": 5 * MINUTE,
    }
    return ApprovalRecord(**{**fields, **changes})


def yes(approver: str = "token:ann", **changes: Any) -> Vote:
    """An approval."""
    return Vote(**{"approver": approver, "choice": Choice.APPROVE, "at": NOW, **changes})


def no(approver: str = "token:bob", **changes: Any) -> Vote:
    """A denial."""
    return Vote(**{"approver": approver, "choice": Choice.DENY, "at": NOW, **changes})
