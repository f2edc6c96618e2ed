"""Using grants: one use for each claim, written down before the call is made.

A grant without a number of uses is written to once in a while: in between, this process trusts what it has seen, and
adds the uses that it owes to the next write.
"""

from contextlib import suppress
from typing import Final

from openmcp.sidecar.state.lifecycle import Conflict, current
from openmcp.sidecar.state.records import ApprovalRecord, Status, UnknownSchema
from openmcp.sidecar.state.store import StateStore, StoreUnavailable

_MOST: Final = 1000
"""Grants that are trusted at a time; for others the store is asked."""


class _Trusted:
    __slots__ = ("owed", "record", "since", "until")

    def __init__(self, record: ApprovalRecord, since: int, until: int) -> None:
        self.record = record
        self.since = since
        self.until = until
        self.owed = 0

    def holds(self, now: int) -> bool:
        """Whether it was seen a moment ago; not where the clock was put back since."""
        return self.since <= now < self.until


class Grants:
    """The uses of one process; `trust` in milliseconds, 0 to ask the store for every use."""

    def __init__(self, store: StateStore, trust: int) -> None:
        self._store = store
        self._trust = trust
        self._known: dict[str, _Trusted] = {}
        store.subscribe(self._seen)

    def trusted(self, key: str, now: int) -> ApprovalRecord | None:
        """A grant that needs no asking for: seen a moment ago, and still running."""
        known = self._known.get(key)
        if known is None or not known.holds(now):
            return None
        record = current(known.record, now)
        return record if record.status is Status.APPROVED else None

    async def take(self, grant: ApprovalRecord, now: int) -> ApprovalRecord:
        """One use. Raises `Conflict` where it is not to be had, and what the store raises."""
        known = self._known.get(grant.key)
        trusted = self.trusted(grant.key, now)
        if known is not None and trusted is not None and trusted.rid == grant.rid:
            known.owed += 1
            return trusted
        owed = self._give_up(grant)
        try:
            record = await self._store.consume(grant.key, grant.rid, now, 1 + owed)
        except StoreUnavailable:
            self._owe(grant, owed)
            raise
        if (record.key, record.rid) != (grant.key, grant.rid):
            raise UnknownSchema("the state store answers with another record than it was asked for")
        if record.uses_left is None and self._trust and len(self._known) < _MOST:
            self._known[grant.key] = _Trusted(record, now, now + self._trust)
        return record

    async def flush(self, now: int, *, everything: bool = False) -> None:
        """Forget what is not trusted any more (or all there is), and write down the uses that are owed to it.

        What cannot be written is in the record of calls all the same.
        """
        for key, known in list(self._known.items()):
            if known.holds(now) and not everything:
                continue
            self._known.pop(key, None)
            if known.owed:
                with suppress(Conflict, StoreUnavailable, UnknownSchema):
                    await self._store.consume(key, known.record.rid, now, known.owed)

    def _give_up(self, grant: ApprovalRecord) -> int:
        """Trust it no longer; the uses that are owed to this generation of it."""
        known = self._known.pop(grant.key, None)
        return known.owed if known is not None and known.record.rid == grant.rid else 0

    def _owe(self, grant: ApprovalRecord, owed: int) -> None:
        if owed and grant.key not in self._known:
            self._known[grant.key] = _Trusted(grant, 0, 0)
            self._known[grant.key].owed = owed

    def _seen(self, record: ApprovalRecord) -> None:
        """Forget what has ended in this process: a revocation here holds at once."""
        known = self._known.get(record.key)
        if known is not None and (record.rid != known.record.rid or record.status is not Status.APPROVED):
            del self._known[record.key]
