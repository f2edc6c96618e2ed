"""The only ways of a record from one status to another; pure, and the same for every store.

    pending  -> approved | denied | expired | cancelled
    approved -> exhausted | lapsed | revoked

Everything else is a `Conflict`. What ends at a time has ended at that millisecond, whatever the store says: `current`
tells how a record stands now, and every function here begins with it.
"""

from typing import Final

import msgspec

from openmcp.sidecar.state.records import ApprovalRecord, Choice, Need, Notice, Status, Vote

NEXT: Final = {
    Status.PENDING: frozenset((Status.APPROVED, Status.DENIED, Status.EXPIRED, Status.CANCELLED)),
    Status.APPROVED: frozenset((Status.EXHAUSTED, Status.LAPSED, Status.REVOKED)),
}
LIVE: Final = frozenset(NEXT)
APPROVER_FORMS: Final = ("oidc:user:", "slack:", "email:", "token:")
"""Who may vote: people, by what vouches for them. A workload (`spiffe://`, `key:`, `jwt:`) never does."""

RESEND_AFTER: Final = 120_000
"""Milliseconds after which a message that nobody has confirmed may be sent by another process."""

_BY_MAIL: Final = "email:"
"""Who has proved to read a mailbox. A mail stays there, so what decided once must not be turned round by it."""


class Conflict(Exception):
    """The record does not allow this. `reason` is a fixed word, the text is for people; `record` is how it stands.

    Words: `unknown`, `stale` (an older generation), `ended`, `pending`, `uses`, `not_listed`, `self`, `reason`,
    `invalid`, `used` and `told`.
    """

    def __init__(self, reason: str, text: str, record: ApprovalRecord | None = None) -> None:
        super().__init__(text)
        self.reason = reason
        self.record = record


def current(record: ApprovalRecord, now: int) -> ApprovalRecord:
    """The record as it stands at this time: ended where its time or its uses have run out."""
    if record.status is Status.PENDING and now >= record.pending_until:
        return _ended(record, Status.EXPIRED, record.pending_until, "", "")
    if record.status is Status.APPROVED:
        if record.uses_left is not None and record.uses_left < 1:
            return _ended(record, Status.EXHAUSTED, record.last_used or now, "", "")
        assert record.grant_until is not None
        if now >= record.grant_until:
            return _ended(record, Status.LAPSED, record.grant_until, "", "")
    return record


def opened(old: ApprovalRecord | None, request: ApprovalRecord, now: int) -> tuple[ApprovalRecord, bool]:
    """What becomes of a question, given the record that its key has; True where it is a new request.

    It joins a pending one. A grant, and a denial that is still cooling down, are returned as they are.
    """
    if old is None:
        return request, True
    known = current(old, now)
    if known.status is Status.PENDING:
        return msgspec.structs.replace(known, asked=known.asked + 1, last_asked=now, version=known.version + 1), False
    if known.status is Status.APPROVED or _is_cooling(known, now):
        return known, False
    return request, True


def _is_cooling(record: ApprovalRecord, now: int) -> bool:
    """Whether it was denied so lately that the same question is not put again."""
    return record.cooldown_until is not None and now < record.cooldown_until


def voted(record: ApprovalRecord, rid: str, vote: Vote, now: int) -> ApprovalRecord:
    """The record with this vote, decided where that is enough. The same vote once more changes nothing.

    One denial ends it. An approval counts for every need that lists who gave it; all needs have to be met.
    """
    known = _generation(record, rid, now)
    _check_voter(known, vote)
    if any(one.approver == vote.approver and one.choice is vote.choice for one in known.votes):
        return known
    if known.status is not Status.PENDING:
        raise Conflict("ended", f"the request has ended already: it is {known.status}", known)
    if vote.approver.startswith(_BY_MAIL) and any(one.approver == vote.approver for one in known.votes):
        raise Conflict("used", f"{vote.approver} has decided by mail already: a mail decides once", known)
    kept = tuple(one for one in known.votes if one.approver != vote.approver)
    counted = msgspec.structs.replace(known, votes=(*kept, vote), version=known.version + 1)
    if vote.choice is Choice.DENY:
        ended = _ended(counted, Status.DENIED, now, vote.approver, vote.reason)
        return msgspec.structs.replace(ended, cooldown_until=now + known.cooldown)
    return _granted(counted, now) if all(_met(need, counted.votes) for need in counted.needs) else counted


def consumed(record: ApprovalRecord, rid: str, now: int, uses: int = 1) -> ApprovalRecord:
    """The record with so many uses taken off the grant."""
    known = _generation(record, rid, now)
    refuse_use(known, uses)
    left = None if known.uses_left is None else known.uses_left - uses
    taken = msgspec.structs.replace(
        known, uses_left=left, used=known.used + uses, last_used=now, version=known.version + 1
    )
    return current(taken, now)


def refuse_use(record: ApprovalRecord, uses: int = 1) -> None:
    """Raises `Conflict` where the record, as it stands, has not that many uses to give."""
    if record.status is Status.PENDING:
        raise Conflict("pending", "nobody has approved this yet", record)
    if record.status is not Status.APPROVED:
        raise Conflict("ended", f"there is no grant: the request is {record.status}", record)
    if uses < 1 or (record.uses_left is not None and record.uses_left < uses):
        raise Conflict("uses", "the grant has not that many uses left", record)


def revoked(record: ApprovalRecord, rid: str, by: str, reason: str, now: int) -> ApprovalRecord:
    """The grant taken back; once more changes nothing."""
    known = _generation(record, rid, now)
    if known.status is Status.REVOKED:
        return known
    if known.status is not Status.APPROVED:
        raise Conflict("ended", f"there is no grant to revoke: the request is {known.status}", known)
    return _written(_ended(known, Status.REVOKED, now, by, reason))


def cancelled(record: ApprovalRecord, rid: str, by: str, now: int) -> ApprovalRecord:
    """The request withdrawn by who asked; once more changes nothing."""
    known = _generation(record, rid, now)
    if known.status is Status.CANCELLED:
        return known
    if known.status is not Status.PENDING:
        raise Conflict("ended", f"there is nothing to withdraw: the request is {known.status}", known)
    return _written(_ended(known, Status.CANCELLED, now, by, ""))


def settled(record: ApprovalRecord, rid: str, now: int) -> ApprovalRecord:
    """The record with the end that time or use has brought about written into it; unchanged where there is none."""
    known = _generation(record, rid, now)
    return known if known.status is record.status else _written(known)


def noted(record: ApprovalRecord, rid: str, notice: Notice, now: int) -> ApprovalRecord:
    """The record with a channel's notice: first without a reference, as a claim to send it, then with it.

    A claim on what is sent already, or is being sent, is a `Conflict` (`told`).
    """
    known = _generation(record, rid, now)
    before = next((one for one in known.notified if one.channel == notice.channel), None)
    if before is not None and not notice.reference and (before.reference or notice.at - before.at < RESEND_AFTER):
        raise Conflict("told", f"{notice.channel} has been told", known)
    others = tuple(one for one in known.notified if one.channel != notice.channel)
    return _written(msgspec.structs.replace(known, notified=(*others, notice)))


def _generation(record: ApprovalRecord, rid: str, now: int) -> ApprovalRecord:
    if record.rid != rid:
        raise Conflict("stale", "this is about an older request; the same question was asked anew since then", record)
    return current(record, now)


def _check_voter(record: ApprovalRecord, vote: Vote) -> None:
    if not vote.approver.startswith(APPROVER_FORMS):
        raise Conflict("not_listed", "this is not a person who can approve", record)
    addresses = (name for name in vote.groups if name.startswith("email:"))
    if any(is_same_person(record.agent, name) for name in (vote.approver, *addresses)):
        raise Conflict("self", "nobody approves their own request", record)
    if not any(_counts(vote, need) for need in record.needs):
        raise Conflict("not_listed", f"{vote.approver} is not on the list of approvers", record)
    if (vote.duration is not None and vote.duration < 1) or (vote.uses is not None and vote.uses < 1):
        raise Conflict("invalid", "the grant's duration and number of uses must be more than 0", record)


def is_same_person(agent: str, approver: str) -> bool:
    """A person may be known as an agent by a token of the same identity provider: `jwt:<issuer>#ann`."""
    subject, person = agent.partition("#")[2].casefold(), approver.split(":", 2)[-1].casefold()
    return agent == approver or (agent.startswith("jwt:") and subject == person)


def _counts(vote: Vote, need: Need) -> bool:
    return vote.approver in need.approvers or any(group in need.approvers for group in vote.groups)


def said_yes(need: Need, votes: tuple[Vote, ...]) -> frozenset[str]:
    """Who has approved as one of those that this need lists."""
    return frozenset(vote.approver for vote in votes if vote.choice is Choice.APPROVE and _counts(vote, need))


def _met(need: Need, votes: tuple[Vote, ...]) -> bool:
    return len(said_yes(need, votes)) >= max(need.required, 1)


def _granted(record: ApprovalRecord, now: int) -> ApprovalRecord:
    """As long, and as often, as the most careful of the approvers said; never more than the rule allows."""
    longest = record.duration if record.max_duration is None else record.max_duration
    chosen = [record.duration if vote.duration is None else vote.duration for vote in record.votes]
    limits = [vote.uses for vote in record.votes if vote.uses is not None]
    limits += [record.max_uses] if record.max_uses is not None else []
    return msgspec.structs.replace(
        record,
        status=Status.APPROVED,
        granted_at=now,
        grant_until=now + min(longest, *chosen),
        uses_left=min(limits, default=None),
    )


def _ended(record: ApprovalRecord, status: Status, at: int, by: str, reason: str) -> ApprovalRecord:
    assert status in NEXT.get(record.status, ())
    return msgspec.structs.replace(record, status=status, ended_at=at, ended_by=by, end_reason=reason)


def _written(record: ApprovalRecord) -> ApprovalRecord:
    return msgspec.structs.replace(record, version=record.version + 1)
