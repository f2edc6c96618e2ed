"""What an approver sees of a request: the same on the console, in Slack, in e-mail and on the terminal.

Pure: made of a record and the time. All texts are safe to show (see `safetext`) and bounded; where a value, or a name
that the grant is bound to, had to be cut, `page_only` is set: then nobody approves from there, only on the page, which
shows the whole. Times are Unix milliseconds, durations milliseconds.
"""

import json
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from openmcp.sidecar.approvals.safetext import laid_out, readable, safe
from openmcp.sidecar.approvals.words import METHODS, PROOFS, STATUS, moment, span, times
from openmcp.sidecar.state.lifecycle import said_yes
from openmcp.sidecar.state.records import ANSWERS, WHOLE, ApprovalRecord, Choice, Need, Status, Vote

CHANNEL: Final = 300
"""Characters of one text in a message."""

_CHANNEL_WHOLE: Final = 2048
"""The same where that text is all arguments."""

PAGE: Final = 1_000_000
"""The same on the page: more than a request can hold (see `values.Limits.value_bytes`)."""

_WHOLES: Final = {WHOLE: "arguments", ANSWERS: "the agent's answers (inputResponses, not verified)"}

_ABSENT: Final = "(absent)"

_MINUTE: Final = 60_000
_HOUR: Final = 60 * _MINUTE
_LADDER: Final = tuple(n * _MINUTE for n in (5, 15, 30)) + tuple(n * _HOUR for n in (1, 2, 4, 8, 24, 72, 168))


class Value(msgspec.Struct, frozen=True):
    """A value of the arguments. `text` is JSON, or `(absent)`; `exact` its ASCII form where that looks different.

    `whole`: all arguments, or answers, whose `text` has a line for each member.
    """

    label: str
    text: str
    cut: bool = False
    exact: str = ""
    whole: bool = False

    @property
    def told(self) -> str:
        """The text, with its exact characters where they look different."""
        return f"{self.text} (exactly {self.exact})" if self.exact else self.text


class Duration(msgspec.Struct, frozen=True):
    """How long a grant may hold; `default` is what holds where the approver chooses nothing."""

    milliseconds: int
    text: str
    default: bool = False


class Grant(msgspec.Struct, frozen=True, kw_only=True):
    """What an approval lets happen, in words. `values` None: exactly the arguments that were asked about."""

    agent: str
    server: str
    subject: str
    arguments: str
    values: tuple[Value, ...] | None
    duration: str
    uses: str

    @property
    def sentence(self) -> str:
        """All of it as one line, values included."""
        values = "; ".join(f"{value.label} = {value.told}" for value in self.values or ())
        given = f"{self.arguments}: {values}" if values else self.arguments
        return f"{self.agent} may use {self.subject} of {self.server} with {given}, {self.duration}, {self.uses}"


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """One rule that wants an approval: whose, how many said yes, how many are missing."""

    rule: str
    workflow: str
    approvers: tuple[str, ...]
    required: int
    given: int
    missing: int


class Said(msgspec.Struct, frozen=True, kw_only=True):
    """One vote, in words."""

    approver: str
    choice: str
    at: int
    reason: str
    limits: str


class Card(msgspec.Struct, frozen=True, kw_only=True):
    """All that is shown. `reason` is the agent's own word, which nobody has verified: it is always marked so.

    `durations` and `most_uses` (None: any number) are what this approver may choose; nothing they choose is more than
    the rule, and those who approved before, allow. `granted` tells what an approval would cover, or what it covers.
    """

    rid: str
    status: Status
    status_text: str
    agent: str
    proof: str
    server: str
    kind: str
    name: str
    shown: tuple[Value, ...]
    digest: str
    wanted: tuple[Wanted, ...]
    why: tuple[str, ...]
    reason: str
    reason_cut: bool
    granted: Grant
    durations: tuple[Duration, ...]
    most_uses: int | None
    opened: int
    until: int
    ends: str
    asked: int
    asked_text: str
    votes: tuple[Said, ...]
    missing: str
    used: int
    ended_by: str
    end_reason: str
    page_only: bool

    @property
    def subject(self) -> str:
        """What is asked for: `tool refund`."""
        return f"{self.kind} {self.name}"


class _Cutter:
    """Makes texts safe, and remembers whether one that matters was cut."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.cut = False

    def binding(self, text: str) -> str:
        """A name; beside one that is not all ASCII stand its exact characters, since letters look alike."""
        shown, cut = safe(text, self.most)
        if not shown.isascii() and not cut:
            exact, cut = safe(json.dumps(text)[1:-1], self.most)
            shown = f"{shown} (exactly {exact})"
        self.cut |= cut
        return shown

    def value(self, label: str, document: str) -> Value:
        name, label_cut = safe(label, self.most)
        text, cut = readable(document, self.most)
        self.cut |= cut or label_cut
        return Value(name, text, cut, "" if text.isascii() or cut else document)

    def shown(self, label: str, document: str) -> Value:
        """What is shown: one value, or all of them."""
        if not document:
            return Value(self.binding(label), _ABSENT)
        name = _WHOLES.get(label)
        if name is None:
            return self.value(label, document)
        most = max(self.most, _CHANNEL_WHOLE)
        text, cut = laid_out(document, most)
        exact = "" if text.isascii() or cut else document
        cut |= len(exact) > most
        self.cut |= cut
        return Value(name, text, cut, "" if cut else exact, whole=True)

    def bound(self, label: str, document: str) -> Value:
        """A bound value is kept as the list of all that its path finds."""
        try:
            found = msgspec.json.decode(document, type=list[msgspec.Raw])
        except (msgspec.DecodeError, RecursionError):
            return self.value(label, document)
        if not found:
            return Value(self.binding(label), _ABSENT)
        if len(found) == 1:
            return self.value(label, bytes(found[0]).decode())
        return self.value(f"{label} ({len(found)} values)", document)


def card_of(record: ApprovalRecord, now: int, most: int = CHANNEL) -> Card:
    """The card of a record as it stands at `now` (see `lifecycle.current`), each text in at most `most` characters."""
    cutter = _Cutter(most)
    granted = _grant(record, cutter)
    shown = tuple(cutter.shown(label, document) for label, document in record.shown)
    reason, reason_cut = safe(record.agent_reason, most)
    wanted = tuple(_wanted(need, record.votes, most) for need in record.needs)
    return Card(
        rid=record.rid,
        status=record.status,
        status_text=STATUS[record.status],
        agent=granted.agent,
        proof=PROOFS.get(record.identified_by) or safe(record.identified_by, most)[0],
        server=granted.server,
        kind=_kind(record.method),
        name=cutter.binding(record.name),
        shown=shown,
        digest=record.arguments_digest,
        wanted=wanted,
        why=tuple(safe(text, most)[0] for text in record.why),
        reason=reason,
        reason_cut=reason_cut,
        granted=granted,
        durations=_durations(record),
        most_uses=_most_uses(record),
        opened=record.opened,
        until=record.until,
        ends=_ends(record, now),
        asked=record.asked,
        asked_text=_asked(record),
        votes=tuple(_said(vote, most) for vote in record.votes),
        missing=_missing(record.status, wanted),
        used=record.used,
        ended_by=safe(record.ended_by, most)[0],
        end_reason=safe(record.end_reason, most)[0],
        page_only=cutter.cut,
    )


def _kind(method: str) -> str:
    return METHODS.get(method, safe(method, CHANNEL)[0])


def _grant(record: ApprovalRecord, cutter: _Cutter) -> Grant:
    if record.bound is None:
        answers = " and these answers" if any(label == ANSWERS for label, _ in record.shown) else ""
        values, arguments = None, f"exactly these arguments (SHA-256 {record.arguments_digest}){answers}"
    else:
        values = tuple(cutter.bound(path, document) for path, document in record.bound)
        arguments = "any arguments that have these values" if values else "any arguments"
    return Grant(
        agent=cutter.binding(record.agent),
        server=cutter.binding(record.server),
        subject=f"{_kind(record.method)} {cutter.binding(record.name)}",
        arguments=arguments,
        values=values,
        duration=_held(record),
        uses=_uses(record),
    )


def _held(record: ApprovalRecord) -> str:
    if record.grant_until is not None and record.granted_at is not None:
        return f"for {span(record.grant_until - record.granted_at)}, until {moment(record.grant_until)}"
    longest = _longest(record)
    chosen = min(record.duration, longest)
    return f"for {span(chosen)}" + (f" (up to {span(longest)} may be chosen)" if longest > chosen else "")


def _uses(record: ApprovalRecord) -> str:
    if record.granted_at is None:
        most = _most_uses(record)
        return "any number of times" if most is None else f"at most {times(most)}"
    if record.uses_left is None:
        return f"any number of times ({times(record.used)} so far)"
    return f"at most {times(record.used + record.uses_left)} ({record.uses_left} left)"


def _approvals(record: ApprovalRecord) -> Iterable[Vote]:
    return (vote for vote in record.votes if vote.choice is Choice.APPROVE)


def _longest(record: ApprovalRecord) -> int:
    """The most that may be chosen: what the rule allows, or less where somebody has approved for less."""
    longest = record.duration if record.max_duration is None else record.max_duration
    chosen = (record.duration if vote.duration is None else vote.duration for vote in _approvals(record))
    return min((longest, *chosen))


def _most_uses(record: ApprovalRecord) -> int | None:
    limits = [vote.uses for vote in _approvals(record) if vote.uses is not None]
    limits += [record.max_uses] if record.max_uses is not None else []
    return min(limits, default=None)


def _durations(record: ApprovalRecord) -> tuple[Duration, ...]:
    longest = _longest(record)
    default = min(record.duration, longest)
    choices = sorted({default, longest, *(step for step in _LADDER if step < longest)})
    return tuple(Duration(choice, span(choice), choice == default) for choice in choices)


def _wanted(need: Need, votes: tuple[Vote, ...], most: int) -> Wanted:
    given, required = len(said_yes(need, votes)), max(need.required, 1)
    return Wanted(
        rule=safe(f"{need.policy}/{need.rule}", most)[0],
        workflow=safe(need.workflow, most)[0],
        approvers=tuple(safe(approver, most)[0] for approver in need.approvers),
        required=required,
        given=given,
        missing=max(required - given, 0),
    )


def _missing(status: Status, wanted: Sequence[Wanted]) -> str:
    """`1 more approval for leads, 2 more approvals for security`; empty where none is waited for."""
    if status is not Status.PENDING:
        return ""
    lacking: dict[str, int] = {}
    for one in wanted:
        if one.missing:
            lacking[one.workflow] = max(lacking.get(one.workflow, 0), one.missing)
    return ", ".join(f"{n} more approval{'s' if n > 1 else ''} of {workflow}" for workflow, n in lacking.items())


def _said(vote: Vote, most: int) -> Said:
    limits = [f"for at most {span(vote.duration)}"] if vote.duration is not None else []
    limits += [f"at most {times(vote.uses)}"] if vote.uses is not None else []
    return Said(
        approver=safe(vote.approver, most)[0],
        choice="approved" if vote.choice is Choice.APPROVE else "denied",
        at=vote.at,
        reason=safe(vote.reason, most)[0],
        limits=", ".join(limits),
    )


def _ends(record: ApprovalRecord, now: int) -> str:
    left = record.until - now
    return f"{moment(record.until)} (in {span(left)})" if left > 0 else moment(record.until)


def _asked(record: ApprovalRecord) -> str:
    return "once" if record.asked == 1 else f"{times(record.asked)}, last at {moment(record.last_asked)}"
