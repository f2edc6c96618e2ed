"""What is asked of the approval service, and what it answers and tells. Times are Unix milliseconds."""

from enum import StrEnum

import msgspec

from openmcp.config.model import Approval, Workflow
from openmcp.sidecar.policy.decision import RuleRef
from openmcp.sidecar.state.records import ApprovalRecord


class Spec(msgspec.Struct, frozen=True):
    """A rule that requires an approval: what it asks, of whom, and why in its own words."""

    rule: RuleRef
    approval: Approval
    workflow: Workflow
    why: str = ""


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """A call that needs an approval. `arguments` are those that conditions see; `reason` is the agent's own word.

    `answers` are the `inputResponses` of a call that the server has asked for input (MRTR); None where there are none.
    """

    agent: str
    identified_by: str
    server: str
    method: str
    name: str
    arguments: object
    answers: object = None
    reason: str = ""


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What one agent may bring about, and how long things hold (milliseconds).

    `trust` is how long a grant without a number of uses is taken for granted without asking the store again: so long a
    revocation may take to be noticed in another process.
    """

    open_requests: int = 20
    notifications_per_hour: int = 60
    cooldown: int = 5 * 60_000
    trust: int = 2_000
    value_bytes: int = 64 * 1024
    reason_characters: int = 500


class Kind(StrEnum):
    """What happened, as the record names it."""

    OPENED = "opened"
    ASKED_AGAIN = "askedAgain"
    VOTED = "voted"
    APPROVED = "approved"
    DENIED = "denied"
    USED = "used"
    EXHAUSTED = "exhausted"
    EXPIRED = "expired"
    LAPSED = "lapsed"
    REVOKED = "revoked"
    CANCELLED = "cancelled"
    CAPPED = "capped"


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """Something that happened to a record, told once by the process that brought it about.

    `by` is who did it (an approver, the agent; empty: time). `notify` is False for a request that no channel is told
    of, since the agent has asked too often; the console shows it all the same.
    """

    kind: Kind
    record: ApprovalRecord
    at: int
    by: str = ""
    notify: bool = True
