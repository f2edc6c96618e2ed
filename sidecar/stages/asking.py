"""What an agent is told about approvals, in the forms that clients of both eras handle well.

Everything ends in "repeat the same call": the grant answers it then. Times are Unix milliseconds.
"""

from datetime import UTC, datetime
from typing import Final

import msgspec

from openmcp.sidecar.errors import APPROVAL_PENDING, DENIED
from openmcp.sidecar.mcp import answers
from openmcp.sidecar.state.records import WHOLE, ApprovalRecord, Status
from openmcp.sidecar.types import JsonObject

RETRY_AFTER: Final = 60_000
"""Milliseconds after which an agent may repeat a call that nobody has decided on."""
_SHOWN: Final = 200
"""Characters of arguments that are repeated to the agent."""
_ROOT: Final = "$."

_ENDED: Final = {
    Status.EXPIRED: "nobody decided in time",
    Status.CANCELLED: "the request was withdrawn",
    Status.REVOKED: "the approval was taken back",
    Status.LAPSED: "the approval has ended",
    Status.EXHAUSTED: "the approval is used up",
}


class Said(msgspec.Struct, frozen=True):
    """What to tell: a word for the record's outcome, the text, the code where it is an error, and the data."""

    outcome: str
    text: str
    code: int
    data: JsonObject


def pending(record: ApprovalRecord, now: int) -> Said:
    """Nobody has decided yet."""
    left = max(record.pending_until - now, 0)
    after = min(RETRY_AFTER, left)
    text = (
        f"APPROVAL PENDING {record.rid}: a human must approve {_call(record)}. It was not carried out. Repeat the "
        f"identical call in {max(after // 1000, 1)} s; do not try another way to the same end. "
        f"Expires {_moment(record.pending_until)}."
    )
    return Said("pending", text, APPROVAL_PENDING, _data(record, "pending", after, record.pending_until))


def denied(record: ApprovalRecord, now: int) -> Said:
    """A human has said no, a moment ago or within the cool-down."""
    until = record.cooldown_until or now
    why = f": {record.end_reason}" if record.end_reason else ""
    text = (
        f"APPROVAL DENIED {record.rid}: a human has denied {_call(record)}{why}. It was not carried out; do not try "
        f"another way to the same end. The same call is not put to anybody before {_moment(until)}."
    )
    return Said("denied", text, DENIED, _data(record, "denied", max(until - now, 0), None))


def over(found: ApprovalRecord | None, asked: ApprovalRecord, now: int) -> Said:
    """What became of a request that is pending no longer, and not approved either: the same call asks anew.

    `found` is None, or of another generation than `asked`, where that is known no more.
    """
    status = Status.EXPIRED if found is None or found.rid != asked.rid else found.status
    if found is not None and status is Status.DENIED:
        return denied(found, now)
    text = (
        f"APPROVAL {status.value.upper()} {asked.rid}: {_ENDED[status]}, for {_call(asked)}. It was not carried out. "
        "Repeat the identical call to ask again."
    )
    return Said("pending", text, APPROVAL_PENDING, _data(asked, status.value, 0, None))


def refused(text: str) -> Said:
    """Nobody is asked, for a reason that may be told."""
    return Said("denied", f"Denied: {text}", DENIED, {answers.APPROVAL_KEY: {"status": "refused"}})


def _data(record: ApprovalRecord, status: str, after: int, expires: int | None) -> JsonObject:
    approval: JsonObject = {"id": record.rid, "status": status, "retryAfterMs": after}
    if expires is not None:
        approval["expiresAt"] = rfc3339(expires)
    return {answers.APPROVAL_KEY: approval}


def _call(record: ApprovalRecord) -> str:
    """`get_ticket(ticket_id=123)`: as far as the rules show the arguments."""
    name = record.name or record.method
    given = ((label, text) for label, text in record.shown if text)
    shown = ", ".join(text if label == WHOLE else f"{label.removeprefix(_ROOT)}={text}" for label, text in given)
    called = f"{name}({shown})" if shown and record.method != "resources/read" else name
    return called if len(called) <= _SHOWN else f"{called[:_SHOWN]}…"


def _moment(at: int) -> str:
    """`2026-11-21 14:30:00Z`."""
    return datetime.fromtimestamp(at / 1000, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def rfc3339(at: int) -> str:
    """`2026-11-21T14:30:00.000Z`."""
    return datetime.fromtimestamp(at / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
