"""What all stores do alike: each verb is a function of `lifecycle`, applied to one record in one atomic write."""

from abc import ABC, abstractmethod
from collections.abc import Callable

from openmcp.sidecar.state import lifecycle
from openmcp.sidecar.state.lifecycle import Conflict
from openmcp.sidecar.state.records import ApprovalRecord, Notice, Vote

Change = Callable[[ApprovalRecord], ApprovalRecord]
"""What a record becomes; the very same record where nothing changes. Raises `Conflict`."""


class Verbs(ABC):
    """The changing half of a `StateStore`."""

    shared = True

    def __init__(self) -> None:
        self._subscribers: list[Callable[[ApprovalRecord], None]] = []

    def subscribe(self, callback: Callable[[ApprovalRecord], None]) -> None:
        """See `StateStore`."""
        self._subscribers.append(callback)

    def _changed(self, record: ApprovalRecord) -> None:
        for callback in self._subscribers:
            callback(record)

    @abstractmethod
    async def _change(self, key: str, change: Change) -> tuple[ApprovalRecord, bool]:
        """Apply this to the record of `key` in one atomic write; True where that wrote anything.

        `change` is called again where another process was faster. Raises `Conflict` (`unknown`) without a record.
        """

    async def vote(self, key: str, rid: str, vote: Vote, now: int) -> ApprovalRecord:
        """See `StateStore`."""
        return await self._apply(key, lambda record: lifecycle.voted(record, rid, vote, now))

    async def consume(self, key: str, rid: str, now: int, uses: int = 1) -> ApprovalRecord:
        """See `StateStore`."""
        return await self._apply(key, lambda record: lifecycle.consumed(record, rid, now, uses))

    async def revoke(self, key: str, rid: str, by: str, reason: str, now: int) -> ApprovalRecord:
        """See `StateStore`."""
        return await self._apply(key, lambda record: lifecycle.revoked(record, rid, by, reason, now))

    async def cancel(self, key: str, rid: str, by: str, now: int) -> ApprovalRecord:
        """See `StateStore`."""
        return await self._apply(key, lambda record: lifecycle.cancelled(record, rid, by, now))

    async def note(self, key: str, rid: str, notice: Notice, now: int) -> ApprovalRecord:
        """See `StateStore`."""
        return await self._apply(key, lambda record: lifecycle.noted(record, rid, notice, now))

    async def settle(self, key: str, rid: str, now: int) -> tuple[ApprovalRecord, bool]:
        """See `StateStore`."""
        record, wrote = await self._change(key, lambda record: lifecycle.settled(record, rid, now))
        if wrote:
            self._changed(record)
        return record, wrote

    async def _apply(self, key: str, change: Change) -> ApprovalRecord:
        record, wrote = await self._change(key, change)
        if wrote:
            self._changed(record)
        return record


def unknown() -> Conflict:
    """There is no such record."""
    return Conflict("unknown", "there is no such request: it may have been dropped from the history")
