"""Records in a DynamoDB table: shared by all clusters that can reach it.

Every verb is one conditional write on one item, every read of a record is consistent. Indexes are for lists and for
finding a record by its id alone; what they name is read anew before it is shown or decided.

Global tables. Where replicas are strongly consistent, nothing has to be set. Where they are eventually consistent,
conditions are judged by the region that is asked and the last writer wins: `home_region` then names the region where
all reads and writes go, the same in every cluster; a record that names another one is decided there.
"""

import asyncio
import base64
import random
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec

from openmcp.sidecar.state import dynamoitems as items
from openmcp.sidecar.state import lifecycle
from openmcp.sidecar.state.columns import ENDED
from openmcp.sidecar.state.dynamoclient import DynamoClient, Refused
from openmcp.sidecar.state.dynamotable import TableMaker
from openmcp.sidecar.state.lifecycle import Conflict
from openmcp.sidecar.state.records import ApprovalRecord, Status
from openmcp.sidecar.state.store import MANY, Page, StoreUnavailable, position
from openmcp.sidecar.state.verbs import Change, Verbs, unknown

_ATTEMPTS: Final = 30
"""Of an optimistic write, before the store counts as too busy."""


class DynamoStore(Verbs):
    """A `StateStore` in one table; `session` is botocore's, absent: one with the credentials of the environment.

    `endpoint` is for DynamoDB Local and the like.
    """

    def __init__(
        self,
        table: str,
        region: str,
        *,
        endpoint: str | None = None,
        home_region: str = "",
        session: Any = None,
    ) -> None:
        super().__init__()
        self._table = table
        self._home = home_region
        self._client = DynamoClient(table, region, home_region, endpoint, session)

    async def open(self, request: ApprovalRecord, now: int) -> tuple[ApprovalRecord, bool]:
        """See `StateStore`."""
        home = self._home
        for attempt in range(_ATTEMPTS):
            asked = msgspec.structs.replace(request, home_region=home)
            done = await self._client.attempt("put_item", home, items.opening(asked, now))
            if not isinstance(done, Refused):
                self._changed(asked)
                return asked, True
            if done.old is not None:
                home = done.old.home_region
                found = await self._join(done.old, now)
                if found is not None:
                    return found, False
            await _pause(attempt)
        raise self._busy()

    async def _join(self, old: ApprovalRecord, now: int) -> ApprovalRecord | None:
        """A live record, counting that it was asked for once more; None where it has ended."""
        record, ended = lifecycle.opened(old, old, now)
        if ended:
            return None
        if record.status is not Status.PENDING:
            return record
        done = await self._client.attempt("update_item", old.home_region, items.joining(old, now))
        if isinstance(done, Refused):
            return None
        joined = items.record_of(done["Attributes"])
        self._changed(joined)
        return joined

    async def get(self, key: str, now: int) -> ApprovalRecord | None:
        """See `StateStore`."""
        record = await self._read(key)
        return None if record is None else lifecycle.current(record, now)

    async def get_many(self, keys: Iterable[str], now: int) -> Mapping[str, ApprovalRecord]:
        """See `StateStore`."""
        return {key: lifecycle.current(record, now) for key, record in (await self._read_many(keys)).items()}

    async def by_rid(self, rid: str, now: int) -> ApprovalRecord | None:
        """See `StateStore`."""
        entries = await self._query(items.BY_RID, "rid = :rid", {":rid": {"S": rid}}, limit=2)
        found = await self.get_many(map(_key, entries), now)
        return next((record for record in found.values() if record.rid == rid), None)

    async def consume(self, key: str, rid: str, now: int, uses: int = 1) -> ApprovalRecord:
        """See `StateStore`."""
        if uses < 1:
            raise Conflict("uses", "no use is asked for")
        home = self._home
        for attempt in range(_ATTEMPTS):
            done = await self._client.attempt("update_item", home, items.consuming(key, rid, home, now, uses))
            if not isinstance(done, Refused):
                known = await self._after_use(items.record_of(done["Attributes"]), now)
                self._changed(known)
                return known
            if done.old is None:
                raise unknown()
            lifecycle.consumed(done.old, rid, now, uses)  # says why not, unless it is at home in another region
            home = done.old.home_region
            await _pause(attempt)
        raise self._busy()

    async def _after_use(self, record: ApprovalRecord, now: int) -> ApprovalRecord:
        """Write down that the last use is gone; it is so without that."""
        known = lifecycle.current(record, now)
        if known.status is not Status.EXHAUSTED:
            return known
        try:
            return (await self._change(record.key, lambda old: lifecycle.settled(old, record.rid, now)))[0]
        except (Conflict, StoreUnavailable):
            return known

    async def list_pending(self, now: int, limit: int, cursor: str | None = None) -> Page:
        """See `StateStore`."""
        return await self._shelf(Status.PENDING, now, limit, cursor)

    async def list_grants(self, now: int, limit: int, cursor: str | None = None) -> Page:
        """See `StateStore`."""
        return await self._shelf(Status.APPROVED, now, limit, cursor)

    async def list_due(self, now: int, limit: int) -> tuple[ApprovalRecord, ...]:
        """See `StateStore`."""
        entries: list[items.Item] = []
        for status in lifecycle.LIVE:
            values = {":shelf": {"S": status.value}, ":now": {"N": str(now)}}
            entries += await self._query(items.BY_SHELF, "shelf = :shelf AND #until <= :now", values, limit=limit)
        live = [one for one in (await self._read_many(map(_key, entries))).values() if one.status in lifecycle.LIVE]
        due = [one for one in (lifecycle.current(record, now) for record in live) if one.status not in lifecycle.LIVE]
        return tuple(sorted(due, key=lambda record: (record.until, record.key))[:limit])

    async def history(self, now: int, limit: int, cursor: str | None = None) -> Page:
        """See `StateStore`."""
        values = {":shelf": {"S": ENDED}}
        after = _start(ENDED, cursor)
        entries = await self._query(items.BY_SHELF, "shelf = :shelf", values, limit=limit + 1, after=after, latest=True)
        return await self._page(entries, limit, now, lambda record: record.status not in lifecycle.LIVE)

    async def hmac_key(self) -> bytes:
        """See `StateStore`."""
        asked = {"Key": items.SECRET, "ConsistentRead": True}
        found = (await self._client.call("get_item", self._home, asked)).get("Item")
        if found is None:
            made = {**items.SECRET, "value": {"B": secrets.token_bytes(32)}}
            once = {"Item": made, "ConditionExpression": "attribute_not_exists(pk)"}
            await self._client.attempt("put_item", self._home, once)  # who is refused takes the key of who was faster
            found = (await self._client.call("get_item", self._home, asked))["Item"]
        return bytes(found["value"]["B"])

    async def create(self) -> str:
        """See `StateStore`."""
        return await self._client.on_client(lambda client: TableMaker(client, self._table).make())

    async def close(self) -> None:
        """See `StateStore`."""
        await self._client.close()

    async def _change(self, key: str, change: Change) -> tuple[ApprovalRecord, bool]:
        for attempt in range(_ATTEMPTS):
            old = await self._read(key)
            if old is None:
                raise unknown()
            record = change(old)
            if record.version == old.version:
                return record, False
            done = await self._client.attempt("put_item", old.home_region, items.replacing(old, record))
            if not isinstance(done, Refused):
                return record, True
            await _pause(attempt)
        raise self._busy()

    async def _shelf(self, status: Status, now: int, limit: int, cursor: str | None) -> Page:
        condition = "shelf = :shelf AND #until > :now"
        values = {":shelf": {"S": status.value}, ":now": {"N": str(now)}}
        place = position(cursor)
        begun = place is not None and place[0] > now  # else the condition begins further on than the last page ended
        after = _start(status.value, cursor) if begun else None
        entries = await self._query(items.BY_SHELF, condition, values, limit=limit + 1, after=after)
        return await self._page(entries, limit, now, lambda record: record.status is status)

    async def _page(
        self, entries: Sequence[items.Item], limit: int, now: int, wanted: Callable[[ApprovalRecord], bool]
    ) -> Page:
        """The records that an index tells of, as they are now: it may be behind."""
        shown = entries[:limit]
        found = await self.get_many(map(_key, shown), now)
        records = (found[key] for key in map(_key, shown) if key in found)
        more = len(entries) > limit and shown
        return Page(tuple(filter(wanted, records)), _cursor(shown[-1]) if more else None)

    async def _query(
        self,
        index: str,
        condition: str,
        values: Mapping[str, Any],
        *,
        limit: int,
        after: Mapping[str, Any] | None = None,
        latest: bool = False,
    ) -> list[items.Item]:
        asked: dict[str, Any] = {"IndexName": index, "KeyConditionExpression": condition, "Limit": limit}
        asked |= {"ExpressionAttributeValues": values, "ScanIndexForward": not latest}
        asked |= {"ExpressionAttributeNames": {"#until": "until"}} if "#until" in condition else {}
        asked |= {"ExclusiveStartKey": after} if after is not None else {}
        return list((await self._client.call("query", self._home, asked))["Items"])

    async def _read(self, key: str, home: str | None = None) -> ApprovalRecord | None:
        asked = {"Key": items.primary(key), "ConsistentRead": True}
        region = self._home if home is None else home
        found = (await self._client.call("get_item", region, asked)).get("Item")
        return None if found is None else await self._at_home(items.record_of(found), region)

    async def _read_many(self, keys: Iterable[str]) -> dict[str, ApprovalRecord]:
        wanted = list(dict.fromkeys(keys))
        found: dict[str, ApprovalRecord] = {}
        for start in range(0, len(wanted), MANY):
            for item in await self._client.batch_get(wanted[start : start + MANY]):
                record = items.record_of(item)
                found[record.key] = await self._at_home(record, self._home)
        return found

    async def _at_home(self, record: ApprovalRecord, region: str) -> ApprovalRecord:
        """A record as its own region knows it, unless that is where it was read."""
        if record.home_region in (region, ""):
            return record
        return await self._read(record.key, record.home_region) or record

    def _busy(self) -> StoreUnavailable:
        return StoreUnavailable(f"{self._client.name}: too many writes on one record at once")


async def _pause(attempt: int) -> None:
    await asyncio.sleep(random.uniform(0, 0.005) * min(attempt, 10))  # noqa: S311 - spreads retries


def _key(entry: items.Item) -> str:
    return str(entry["pk"]["S"]).removeprefix(items.PREFIX)


def _cursor(entry: items.Item) -> str:
    return base64.urlsafe_b64encode(f"{entry['until']['N']}:{_key(entry)}".encode()).decode()


def _start(shelf: str, cursor: str | None) -> dict[str, Any] | None:
    place = position(cursor)
    if place is None:
        return None
    return {**items.primary(place[1]), "shelf": {"S": shelf}, "until": {"N": str(place[0])}}
