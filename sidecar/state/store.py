"""What a state store is. A further one passes `tests/contracts/store.py`; docs/state.md says how to write it.

`now` is Unix milliseconds, of the caller's clock. A record is returned as it stands at that time; whether something has
ended is never left to the store's own clean-up. Every change is one atomic write.
"""

import base64
import binascii
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Final, Protocol

import msgspec

from openmcp.sidecar.state.records import ApprovalRecord, Notice, Vote

RETENTION: Final = 30 * 24 * 3600 * 1000
"""Milliseconds after its end that a record is kept for the history; then the store may drop it."""

_KEY: Final = re.compile("[0-9a-f]{64}")

Position = tuple[int, str]
"""Where a page ends: the `until` and the key of its last record."""


class StoreUnavailable(Exception):
    """The store cannot be reached, does not answer in time, or refuses us: what needs an approval is denied.

    The text names the store and the remedy where there is one, never a password or key.
    """


class Page(msgspec.Struct, frozen=True):
    """Some records of a list, and what `cursor` to give for the next ones; None after the last."""

    records: tuple[ApprovalRecord, ...]
    cursor: str | None = None


class BadCursor(ValueError):
    """A cursor that no list of this store has given."""


class StateStore(Protocol):
    """One record for each key, and what all processes may do to it.

    All methods raise `StoreUnavailable` where it is away and `UnknownSchema` where a record is of another version;
    those that change one raise `lifecycle.Conflict` where it does not allow that, and nothing has changed then.
    """

    shared: bool
    """Whether other processes may change records; else `subscribe` tells of every change."""

    async def open(self, request: ApprovalRecord, now: int) -> tuple[ApprovalRecord, bool]:
        """The record of this question, and whether it was made now: see `lifecycle.opened`."""
        ...

    async def get(self, key: str, now: int) -> ApprovalRecord | None:
        """The record of a key, None where there is none; never an older state than a finished write left."""
        ...

    async def get_many(self, keys: Iterable[str], now: int) -> Mapping[str, ApprovalRecord]:
        """The same for up to `MANY` keys in one request; keys without a record are left out."""
        ...

    async def by_rid(self, rid: str, now: int) -> ApprovalRecord | None:
        """The record whose present generation this is. May not know yet what was opened less than a second ago."""
        ...

    async def vote(self, key: str, rid: str, vote: Vote, now: int) -> ApprovalRecord:
        """See `lifecycle.voted`."""
        ...

    async def consume(self, key: str, rid: str, now: int, uses: int = 1) -> ApprovalRecord:
        """Take uses off a grant: who gets a record back, and nobody else, may make that many calls.

        Where `StoreUnavailable` is raised the uses may have been taken; no call is made then.
        """
        ...

    async def revoke(self, key: str, rid: str, by: str, reason: str, now: int) -> ApprovalRecord:
        """See `lifecycle.revoked`."""
        ...

    async def cancel(self, key: str, rid: str, by: str, now: int) -> ApprovalRecord:
        """See `lifecycle.cancelled`."""
        ...

    async def settle(self, key: str, rid: str, now: int) -> tuple[ApprovalRecord, bool]:
        """Write down that a record has ended by time or use; True for the one caller who did."""
        ...

    async def note(self, key: str, rid: str, notice: Notice, now: int) -> ApprovalRecord:
        """See `lifecycle.noted`."""
        ...

    async def list_pending(self, now: int, limit: int, cursor: str | None = None) -> Page:
        """Pending requests, those that end first before others."""
        ...

    async def list_grants(self, now: int, limit: int, cursor: str | None = None) -> Page:
        """Grants that hold, those that end first before others."""
        ...

    async def list_due(self, now: int, limit: int) -> tuple[ApprovalRecord, ...]:
        """What has ended by time and is not settled yet, the oldest first."""
        ...

    async def history(self, now: int, limit: int, cursor: str | None = None) -> Page:
        """What has ended and is settled, the latest first."""
        ...

    async def hmac_key(self) -> bytes:
        """32 bytes for fingerprints: made by whoever asks first, the same for all from then on."""
        ...

    async def create(self) -> str:
        """Make what the store needs and does not have; says in words what was done."""
        ...

    async def close(self) -> None:
        """Let go of connections and threads; what is under way may fail."""
        ...

    def subscribe(self, callback: Callable[[ApprovalRecord], None]) -> None:
        """Call this, in the event loop, with every record that this process has changed."""
        ...


MANY: Final = 100
"""Keys in one `get_many`: what DynamoDB reads at once."""


def cursor_of(record: ApprovalRecord) -> str:
    """What continues a list after this record."""
    return base64.urlsafe_b64encode(f"{record.until}:{record.key}".encode()).decode()


def position(cursor: str | None) -> Position | None:
    """Where a list goes on. Raises `BadCursor`: cursors come back from browsers."""
    if cursor is None:
        return None
    try:
        until, _, key = base64.b64decode(cursor, altchars=b"-_", validate=True).decode("ascii").partition(":")
        if not until.isdigit() or len(until) > 18 or not _KEY.fullmatch(key):
            raise ValueError
        return int(until), key
    except (ValueError, binascii.Error):
        raise BadCursor("not a cursor of this list") from None


def page(found: list[ApprovalRecord], limit: int) -> Page:
    """A page of what was found when one more than `limit` was looked for."""
    shown = tuple(found[:limit])
    return Page(shown, cursor_of(shown[-1]) if len(found) > limit and shown else None)
