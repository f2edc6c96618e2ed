"""Asking a human for a call, and using what they grant.

    answer = await service.ask(question, specs)      Granted | Pending | Denied | Refused
    record = await granted.claim()                   just before the call is sent: one use, once

`ask` and `claim` raise `StoreUnavailable` and `UnknownSchema`: the call is denied then.
"""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final

import msgspec

from openmcp.sidecar.approvals.asking import new_request
from openmcp.sidecar.approvals.caps import Caps
from openmcp.sidecar.approvals.fingerprint import Ambiguous
from openmcp.sidecar.approvals.grants import Grants
from openmcp.sidecar.approvals.lists import gone, unlisted
from openmcp.sidecar.approvals.values import Event, Kind, Limits, Question, Spec
from openmcp.sidecar.approvals.wakeup import Wakeup
from openmcp.sidecar.state.lifecycle import Conflict
from openmcp.sidecar.state.records import ApprovalRecord, Choice, Notice, Status, UnknownSchema, Vote
from openmcp.sidecar.state.store import Page, StateStore, StoreUnavailable

_RID: Final = re.compile("apr_[a-z0-9]{1,60}")
_SWEPT: Final = 100
"""Records that are settled at a time."""

_KEY_SERVES: Final = 60_000


class Granted(msgspec.Struct, frozen=True):
    """A human has approved this. `record` may be some seconds old: only what `claim` gives lets a call be made."""

    record: ApprovalRecord
    service: "ApprovalService"

    async def claim(self) -> ApprovalRecord:
        """Take one use: who gets the record back may make one call. Raises `Conflict` where it has ended meanwhile."""
        return await self.service.claim(self)


class Pending(msgspec.Struct, frozen=True):
    """Nobody has decided yet; `created` where this question was put just now."""

    record: ApprovalRecord
    created: bool


class Denied(msgspec.Struct, frozen=True):
    """A human has denied this a short while ago; it may be asked again at `until` (Unix milliseconds)."""

    record: ApprovalRecord
    until: int


class Refused(msgspec.Struct, frozen=True):
    """Not asked of anybody. `reason`: `cap`, `ambiguous` or `too_large`; the text may be shown to the agent."""

    reason: str
    text: str


Answer = Granted | Pending | Denied | Refused


class ApprovalService:
    """All that agents and approvers do. `clock` tells Unix milliseconds, `ids` makes names of generations.

    `on_event` is called in the event loop for everything that this process brings about. `workflows` are the present
    lists of approvers by name: who is not on the list any more does not decide on older requests either. `need_reason`
    are the names of those whose decisions need a reason. While `recording` is False nothing is decided, since that
    could not be written into the record.
    """

    def __init__(
        self,
        store: StateStore,
        clock: Callable[[], int],
        ids: Callable[[], str],
        limits: Limits,
        on_event: Callable[[Event], None],
    ) -> None:
        self.store = store
        self.workflows: Mapping[str, Collection[str]] = {}
        self.need_reason: Collection[str] = ()
        self.recording: Callable[[], bool] = lambda: True
        self.wakeup = Wakeup(store, clock)
        self._clock = clock
        self._ids = ids
        self._limits = limits
        self._on_event = on_event
        self._grants = Grants(store, limits.trust)
        self._secret: tuple[bytes, int] | None = None
        self._caps = Caps(store, limits)

    async def ask(self, question: Question, specs: Sequence[Spec]) -> Answer:
        """Whether this call may be made; where nobody was asked yet, they are from now on."""
        now = self._clock()
        try:
            request = new_request(await self._key(now), question, specs, self._limits, now)
        except Ambiguous as error:
            return Refused("ambiguous", f"this call cannot be approved: {error}")
        if request is None:
            return Refused("too_large", "this call cannot be approved: what a human would have to read is too large")
        known = self._grants.trusted(request.key, now) or await self.store.get(request.key, now)
        if known is not None:
            _check_key(known, request)
            if known.status is Status.APPROVED:
                return Granted(known, self)
        return await self._open(request, known, now)

    async def _key(self, now: int) -> bytes:
        """The key of fingerprints; looked at again now and then, since a state may be replaced by a new one."""
        if self._secret is None or now >= self._secret[1]:
            self._secret = await self.store.hmac_key(), now + _KEY_SERVES
        return self._secret[0]

    async def _open(self, request: ApprovalRecord, known: ApprovalRecord | None, now: int) -> Answer:
        is_new = known is None or (known.status is not Status.PENDING and not _cooling(known, now))
        if is_new and not await self._caps.admit(request.agent, request.key, request.pending_until, now):
            self._tell(Kind.CAPPED, request, request.agent)
            return Refused("cap", "too many of your requests for approval are open: wait until they are decided")
        try:
            record, created = await self.store.open(msgspec.structs.replace(request, rid=self._ids()), now)
        except BaseException:
            self._caps.release(request.agent, request.key)
            raise
        _check_key(record, request)
        if record.status is Status.APPROVED:
            return Granted(record, self)
        if record.status is Status.DENIED:
            return Denied(record, record.cooldown_until or now)
        notify = created and self._caps.may_tell(record.agent, now)
        self._tell(Kind.OPENED if created else Kind.ASKED_AGAIN, record, record.agent, notify=notify)
        return Pending(record, created)

    async def claim(self, granted: Granted) -> ApprovalRecord:
        """See `Granted.claim`."""
        record = await self._grants.take(granted.record, self._clock())
        self._tell(Kind.USED, record, record.agent)
        if record.status is Status.EXHAUSTED:
            self._tell(Kind.EXHAUSTED, record)
        return record

    async def wait(self, pending: ApprovalRecord, seconds: float) -> ApprovalRecord | None:
        """The record once it is decided or over; None after so many seconds."""
        return await self.wakeup.wait(pending, seconds)

    async def look(self, record: ApprovalRecord) -> ApprovalRecord | None:
        """The record of the same question as it stands now; it may be of a newer generation."""
        return await self.store.get(record.key, self._clock())

    async def find(self, rid: str) -> ApprovalRecord | None:
        """A request by its id, as it stands now; the id comes out of a link or a form."""
        if not _RID.fullmatch(rid):
            return None
        return await self.store.by_rid(rid, self._clock())

    async def vote(self, record: ApprovalRecord, vote: Vote) -> ApprovalRecord:
        """Count what a person said of a request that they have seen; `at` is filled in. Raises `Conflict`."""
        now = self._clock()
        self._check_recording()
        self._check_listed(record, vote.approver, vote.groups)
        left = gone(record, self.workflows) if vote.choice is Choice.APPROVE else ""
        if left:
            raise Conflict("not_listed", left, record)
        if self.needs_reason(record) and not vote.reason.strip():
            raise Conflict("reason", "a reason is wanted", record)
        found = await self.store.vote(record.key, record.rid, msgspec.structs.replace(vote, at=now), now)
        if not any(one.at == now and one.approver == vote.approver for one in found.votes):
            return found  # said before
        self._tell(Kind.VOTED, found, vote.approver)
        if found.status is not Status.PENDING:
            self._tell(Kind.DENIED if vote.choice is Choice.DENY else Kind.APPROVED, found, vote.approver)
        return found

    async def revoke(self, record: ApprovalRecord, by: str, groups: tuple[str, ...], reason: str) -> ApprovalRecord:
        """Take a grant back; whoever could have approved it may. Raises `Conflict`."""
        now = self._clock()
        self._check_recording()
        self._check_listed(record, by, groups)
        found = await self.store.revoke(record.key, record.rid, by, reason, now)
        if found.ended_by == by and found.ended_at == now:
            self._tell(Kind.REVOKED, found, by)
        return found

    async def cancel(self, record: ApprovalRecord) -> ApprovalRecord:
        """Withdraw a request in the agent's name. Raises `Conflict`."""
        now = self._clock()
        found = await self.store.cancel(record.key, record.rid, record.agent, now)
        if found.ended_at == now:
            self._tell(Kind.CANCELLED, found, record.agent)
        return found

    async def note(self, record: ApprovalRecord, channel: str, reference: str = "") -> ApprovalRecord:
        """Claim to tell a channel (`Conflict` where another process has), or say how it calls what it was told."""
        now = self._clock()
        notice = Notice(channel=channel, at=now, reference=reference)
        return await self.store.note(record.key, record.rid, notice, now)

    async def pending(self, limit: int, cursor: str | None = None) -> Page:
        """Requests that wait for people, those that end first before others."""
        return await self.store.list_pending(self._clock(), limit, cursor)

    async def grants(self, limit: int, cursor: str | None = None) -> Page:
        """Grants that hold, those that end first before others."""
        return await self.store.list_grants(self._clock(), limit, cursor)

    async def history(self, limit: int, cursor: str | None = None) -> Page:
        """What has ended, the latest first. What has ended by time is written down first, the latest hundred of it."""
        await self.sweep()
        return await self.store.history(self._clock(), limit, cursor)

    async def sweep(self) -> int:
        """Write down, and tell of, what has ended by time; how many there were. One process tells of each."""
        now = self._clock()
        await self._grants.flush(now)
        done = 0
        for record in await self.store.list_due(now, _SWEPT):
            try:
                found, wrote = await self.store.settle(record.key, record.rid, now)
            except Conflict:
                continue  # somebody has asked anew
            if wrote:
                done += 1
                self._tell(Kind(found.status.value), found)
        return done

    async def close(self) -> None:
        """Write down the uses not yet written, and end what runs; the store stays open."""
        await self.wakeup.close()
        await self._grants.flush(self._clock(), everything=True)

    def needs_reason(self, record: ApprovalRecord) -> bool:
        """Whether who decides on this has to say why."""
        return any(need.workflow in self.need_reason for need in record.needs)

    def _check_recording(self) -> None:
        if not self.recording():
            raise StoreUnavailable("the record cannot be written")

    def _check_listed(self, record: ApprovalRecord, who: str, groups: tuple[str, ...]) -> None:
        """Raises `Conflict` for who does not decide on this, or not any more."""
        why = unlisted(record, (who, *groups), self.workflows)
        if why:
            raise Conflict("not_listed", f"{who} is {why}", record)

    def _tell(self, kind: Kind, record: ApprovalRecord, by: str = "", *, notify: bool = True) -> None:
        self._on_event(Event(kind=kind, record=record, at=self._clock(), by=by, notify=notify))


def _check_key(record: ApprovalRecord, request: ApprovalRecord) -> None:
    """Nothing is granted by the record of another question, however it came to be in the place of this one's."""
    if record.key != request.key:
        raise UnknownSchema("the state store answers with the record of another question")


def _cooling(record: ApprovalRecord, now: int) -> bool:
    return record.cooldown_until is not None and now < record.cooldown_until
