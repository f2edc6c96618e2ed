"""Records in the memory of one process: gone when it ends. For trying things out and for tests."""

import secrets
from collections.abc import Callable, Iterable, Mapping

from openmcp.sidecar.state import lifecycle
from openmcp.sidecar.state.records import ApprovalRecord, Status
from openmcp.sidecar.state.store import RETENTION, Page, Position, page, position
from openmcp.sidecar.state.verbs import Change, Verbs, unknown


class MemoryStore(Verbs):
    """A `StateStore` for one process."""

    shared = False

    def __init__(self) -> None:
        super().__init__()
        self._records: dict[str, ApprovalRecord] = {}
        self._rids: dict[str, str] = {}
        self._key = secrets.token_bytes(32)

    async def open(self, request: ApprovalRecord, now: int) -> tuple[ApprovalRecord, bool]:
        """See `StateStore`."""
        old = self._records.get(request.key)
        record, created = lifecycle.opened(old, request, now)
        if created:
            self._drop_old(now)
        if record is not old:
            self._put(record, old)
        return record, created

    async def get(self, key: str, now: int) -> ApprovalRecord | None:
        """See `StateStore`."""
        record = self._records.get(key)
        return None if record is None else lifecycle.current(record, now)

    async def get_many(self, keys: Iterable[str], now: int) -> Mapping[str, ApprovalRecord]:
        """See `StateStore`."""
        return {key: lifecycle.current(self._records[key], now) for key in keys if key in self._records}

    async def by_rid(self, rid: str, now: int) -> ApprovalRecord | None:
        """See `StateStore`."""
        key = self._rids.get(rid)
        return None if key is None else await self.get(key, now)

    async def list_pending(self, now: int, limit: int, cursor: str | None = None) -> Page:
        """See `StateStore`."""
        return page(self._sorted(self._standing(Status.PENDING, now), position(cursor)), limit)

    async def list_grants(self, now: int, limit: int, cursor: str | None = None) -> Page:
        """See `StateStore`."""
        return page(self._sorted(self._standing(Status.APPROVED, now), position(cursor)), limit)

    async def list_due(self, now: int, limit: int) -> tuple[ApprovalRecord, ...]:
        """See `StateStore`."""
        due = self._sorted(lambda record: record.status in lifecycle.LIVE and record.until <= now)
        return tuple(lifecycle.current(record, now) for record in due[:limit])

    async def history(self, now: int, limit: int, cursor: str | None = None) -> Page:
        """See `StateStore`."""
        self._drop_old(now)
        ended = self._sorted(lambda record: record.status not in lifecycle.LIVE)[::-1]
        after = position(cursor)
        return page([record for record in ended if after is None or _place(record) < after], limit)

    async def hmac_key(self) -> bytes:
        """See `StateStore`."""
        return self._key

    async def create(self) -> str:
        """See `StateStore`."""
        return "state is kept in memory: there is nothing to create"

    async def close(self) -> None:
        """See `StateStore`."""

    async def _change(self, key: str, change: Change) -> tuple[ApprovalRecord, bool]:
        old = self._records.get(key)
        if old is None:
            raise unknown()
        record = change(old)
        if record.version == old.version:
            return record, False
        self._records[key] = record
        return record, True

    def _put(self, record: ApprovalRecord, old: ApprovalRecord | None) -> None:
        if old is not None and old.rid != record.rid:
            self._rids.pop(old.rid, None)
        self._records[record.key] = record
        self._rids[record.rid] = record.key
        self._changed(record)

    def _standing(self, status: Status, now: int) -> Callable[[ApprovalRecord], bool]:
        return lambda record: lifecycle.current(record, now).status is status

    def _sorted(self, wanted: Callable[[ApprovalRecord], bool], after: Position | None = None) -> list[ApprovalRecord]:
        found = [one for one in self._records.values() if wanted(one) and (after is None or _place(one) > after)]
        return sorted(found, key=_place)

    def _drop_old(self, now: int) -> None:
        for record in [one for one in self._records.values() if one.until + RETENTION <= now]:
            del self._records[record.key]
            self._rids.pop(record.rid, None)


def _place(record: ApprovalRecord) -> Position:
    return record.until, record.key
