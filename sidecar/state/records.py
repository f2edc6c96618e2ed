"""The record of one request for approval and of the grant it became. Times are Unix milliseconds, durations too."""

from enum import StrEnum
from typing import Final

import msgspec

SCHEMA: Final = 1
"""Of the record below: a store refuses a record of another one, since it cannot know what that means."""
WHOLE: Final = "$"
"""The label of the arguments as a whole among what is shown."""
ANSWERS: Final = "inputResponses"
"""The label of what the agent answers to a server's questions (MRTR); labels of paths begin with `$`."""


class Status(StrEnum):
    """How a record stands; `lifecycle` holds the only ways from one to another."""

    PENDING = "pending"
    APPROVED = "approved"
    DENIED = "denied"
    EXPIRED = "expired"
    CANCELLED = "cancelled"
    EXHAUSTED = "exhausted"
    LAPSED = "lapsed"
    REVOKED = "revoked"


class Choice(StrEnum):
    """What an approver says."""

    APPROVE = "approve"
    DENY = "deny"


class Need(msgspec.Struct, frozen=True, kw_only=True):
    """One rule's demand: `required` different people of those on the workflow's list say yes."""

    policy: str
    rule: str
    workflow: str
    approvers: tuple[str, ...]
    required: int = 1


class Vote(msgspec.Struct, frozen=True, kw_only=True):
    """What one person said: `approver` is who (`token:oncall`, `oidc:user:ann`), `groups` what else they are listed as
    (`oidc:group:leads`). `duration` and `uses` are what they chose for the grant; None: what the rule says."""

    approver: str
    choice: Choice
    at: int
    groups: tuple[str, ...] = ()
    reason: str = ""
    duration: int | None = None
    uses: int | None = None


class Notice(msgspec.Struct, frozen=True, kw_only=True):
    """A channel that was told, when, and what it calls its message (empty: not known, or still being sent)."""

    channel: str
    at: int
    reference: str = ""


class ApprovalRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A request and the grant that it may become. There is one record for each `key`; `rid` names its generation.

    `key` is the fingerprint of what is asked: the same question has the same key in every process. `shown` are the
    values that the rules let approvers see, as (label, JSON text), a label being a path or one of those above, the text
    empty where there is nothing; `bound` those that the grant holds for, None where it holds for the whole arguments,
    whose canonical form has the digest `arguments_digest` (SHA-256, hex), and for the answers among `shown`.
    `uses_left` None is any number of uses.
    `version` counts the writes.
    """

    key: str
    rid: str
    status: Status = Status.PENDING
    agent: str
    identified_by: str
    server: str
    method: str
    name: str
    needs: tuple[Need, ...]
    why: tuple[str, ...] = ()
    shown: tuple[tuple[str, str], ...] = ()
    bound: tuple[tuple[str, str], ...] | None = None
    arguments_digest: str
    agent_reason: str = ""
    opened: int
    pending_until: int
    asked: int = 1
    last_asked: int = 0
    duration: int
    max_duration: int | None = None
    max_uses: int | None = None
    cooldown: int = 0
    votes: tuple[Vote, ...] = ()
    granted_at: int | None = None
    grant_until: int | None = None
    uses_left: int | None = None
    used: int = 0
    last_used: int | None = None
    ended_at: int | None = None
    ended_by: str = ""
    end_reason: str = ""
    cooldown_until: int | None = None
    home_region: str = ""
    notified: tuple[Notice, ...] = ()
    version: int = 1
    schema: int = SCHEMA

    @property
    def until(self) -> int:
        """When it ends by itself, or when it ended."""
        if self.status is Status.PENDING:
            return self.pending_until
        if self.status is Status.APPROVED:
            assert self.grant_until is not None
            return self.grant_until
        assert self.ended_at is not None
        return self.ended_at


class UnknownSchema(Exception):
    """A record that another version of openmcp wrote: nothing in it is believed, nothing is granted by it."""


class _Head(msgspec.Struct):
    schema: int


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(ApprovalRecord)
_head = msgspec.json.Decoder(_Head)


def encode(record: ApprovalRecord) -> bytes:
    """A record as JSON, as stores keep it."""
    return _encoder.encode(record)


def decode(document: bytes | str) -> ApprovalRecord:
    """What `encode` made. Raises `UnknownSchema`, also for what is no record at all."""
    try:
        schema = _head.decode(document).schema
        if schema == SCHEMA:
            return _decoder.decode(document)
    except msgspec.DecodeError as error:
        raise UnknownSchema(f"a record in the state store cannot be read: {error}") from None
    raise UnknownSchema(
        f"a record in the state store has schema {schema}, this openmcp knows {SCHEMA}: run the same version everywhere"
    )
