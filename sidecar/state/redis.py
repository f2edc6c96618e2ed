"""Records in Redis: shared by all who reach it, as lasting as Redis is told to be (append-only file, `noeviction`).

A record is a hash, changed by scripts, which Redis runs one at a time. All keys are in one slot, so a cluster will do.
A primary that fails over to a replica may forget its last writes, a use among them: DynamoDB does not.
"""

import secrets
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Final, TypeVar

from redis.exceptions import RedisError

from openmcp.sidecar.state import columns, lifecycle
from openmcp.sidecar.state.lifecycle import Conflict
from openmcp.sidecar.state.records import SCHEMA, ApprovalRecord, Status, encode
from openmcp.sidecar.state.redisclient import connected, leave_replica
from openmcp.sidecar.state.store import RETENTION, Page, StoreUnavailable, page, position
from openmcp.sidecar.state.verbs import Change, Verbs, unknown

T = TypeVar("T")

_SECONDS: Final = 2.0
_CONNECTIONS: Final = 32
_ATTEMPTS: Final = 50
_PREFIX: Final = "{openmcp}:"
_COUNTERS: Final = ("schema", "version", "uses", "used", "lastUsed", "asked", "lastAsked")
"""What is read of a record beside its document."""

_FIELDS: Final = ", ".join(f"'{name}'" for name in ("doc", *_COUNTERS))
_SHELVES: Final = (Status.PENDING.value, Status.APPROVED.value, columns.ENDED)

# KEYS: record, its id, shelves. ARGV: id and version that must be there (or empty), key, shelf (1 to 3),
# until, when to drop it, what to drop from the shelves, fields and values.
_REPLACE: Final = """
local found = redis.call('HMGET', KEYS[1], 'rid', 'version')
if (found[1] or '') ~= ARGV[1] or (found[2] or '') ~= ARGV[2] then return 0 end
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], unpack(ARGV, 8))
redis.call('SET', KEYS[2], ARGV[3])
redis.call('PEXPIREAT', KEYS[1], ARGV[6])
redis.call('PEXPIREAT', KEYS[2], ARGV[6])
for shelf = 3, 5 do
  redis.call('ZREM', KEYS[shelf], ARGV[3])
  redis.call('ZREMRANGEBYSCORE', KEYS[shelf], '-inf', ARGV[7])
end
redis.call('ZADD', KEYS[2 + tonumber(ARGV[4])], ARGV[5], ARGV[3])
return 1
"""

# KEYS: record. ARGV: schema, id, now.
_JOIN: Final = f"""
local found = redis.call('HMGET', KEYS[1], 'schema', 'rid', 'st', 'pexp')
if found[1] ~= ARGV[1] or found[2] ~= ARGV[2] or found[3] ~= 'pending' or tonumber(found[4]) <= tonumber(ARGV[3]) then
  return {{0, {{}}}}
end
redis.call('HINCRBY', KEYS[1], 'asked', 1)
redis.call('HINCRBY', KEYS[1], 'version', 1)
redis.call('HSET', KEYS[1], 'lastAsked', ARGV[3])
return {{1, redis.call('HMGET', KEYS[1], {_FIELDS})}}
"""

# KEYS: record. ARGV: schema, id, now, uses.
_CONSUME: Final = f"""
local found = redis.call('HMGET', KEYS[1], 'schema', 'rid', 'st', 'gexp', 'uses')
if found[1] ~= ARGV[1] or found[2] ~= ARGV[2] or found[3] ~= 'approved'
    or tonumber(found[4]) <= tonumber(ARGV[3]) or tonumber(found[5]) < tonumber(ARGV[4]) then
  return {{0, redis.call('HMGET', KEYS[1], {_FIELDS})}}
end
redis.call('HINCRBY', KEYS[1], 'uses', '-' .. ARGV[4])
redis.call('HINCRBY', KEYS[1], 'used', ARGV[4])
redis.call('HINCRBY', KEYS[1], 'version', 1)
redis.call('HSET', KEYS[1], 'lastUsed', ARGV[3])
return {{1, redis.call('HMGET', KEYS[1], {_FIELDS})}}
"""


class RedisStore(Verbs):
    """A `StateStore` at `url` (`redis://` or `rediss://`); `ca` are roots in PEM.

    The password goes in as an argument: what is in the URL would be in messages.
    """

    def __init__(self, url: str, *, password: str | None = None, ca: str | None = None) -> None:
        super().__init__()
        self._name = f"Redis at {url.rpartition('@')[2].removeprefix('redis://').removeprefix('rediss://')}"
        self._redis = connected(url, password=password, ca=ca, connections=_CONNECTIONS, seconds=_SECONDS)
        self._replace = self._redis.register_script(_REPLACE)
        self._join = self._redis.register_script(_JOIN)
        self._consume = self._redis.register_script(_CONSUME)

    async def open(self, request: ApprovalRecord, now: int) -> tuple[ApprovalRecord, bool]:
        """See `StateStore`."""
        for _ in range(_ATTEMPTS):
            old = await self._read(request.key)
            record, created = lifecycle.opened(old, request, now)
            if created and await self._put(record, old):
                self._changed(record)
                return record, True
            if not created and record.status is not Status.PENDING:
                return record, False
            joined = None if created or old is None else await self._count(self._join, old.key, old.rid, now)
            if joined is not None and joined[0]:
                self._changed(joined[1])
                return joined[1], False
        raise self._busy()

    async def get(self, key: str, now: int) -> ApprovalRecord | None:
        """See `StateStore`."""
        record = await self._read(key)
        return None if record is None else lifecycle.current(record, now)

    async def get_many(self, keys: Iterable[str], now: int) -> Mapping[str, ApprovalRecord]:
        """See `StateStore`."""
        return {record.key: lifecycle.current(record, now) for record in await self._read_many(list(keys))}

    async def by_rid(self, rid: str, now: int) -> ApprovalRecord | None:
        """See `StateStore`."""
        key = await self._asked(lambda: self._redis.get(f"{_PREFIX}rid:{rid}"))
        record = None if key is None else await self.get(key.decode(), now)
        return record if record is not None and record.rid == rid else None

    async def consume(self, key: str, rid: str, now: int, uses: int = 1) -> ApprovalRecord:
        """See `StateStore`."""
        if uses < 1:
            raise Conflict("uses", "no use is asked for")
        taken, record = await self._count(self._consume, key, rid, now, uses) or (False, None)
        if record is None:
            raise unknown()
        if not taken:
            lifecycle.consumed(record, rid, now, uses)
            raise Conflict("ended", "the grant has ended", record)
        known = await self._after_use(record, now)
        self._changed(known)
        return known

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
        return await self._standing(Status.PENDING, now, limit, cursor)

    async def list_grants(self, now: int, limit: int, cursor: str | None = None) -> Page:
        """See `StateStore`."""
        return await self._standing(Status.APPROVED, now, limit, cursor)

    async def list_due(self, now: int, limit: int) -> tuple[ApprovalRecord, ...]:
        """See `StateStore`."""
        keys: list[str] = []
        for shelf in lifecycle.LIVE:
            keys += await self._range("zrangebyscore", shelf.value, "-inf", now, 0, limit)
        found = (lifecycle.current(record, now) for record in await self._read_many(keys))
        due = [record for record in found if record.status not in lifecycle.LIVE]
        return tuple(sorted(due, key=lambda record: (record.until, record.key))[:limit])

    async def history(self, now: int, limit: int, cursor: str | None = None) -> Page:
        """See `StateStore`."""
        after = position(cursor)
        most = "+inf" if after is None else after[0]
        return await self._page(
            lambda offset: self._range("zrevrangebyscore", columns.ENDED, most, now - RETENTION, offset, limit + 1),
            lambda record: after is None or (record.until, record.key) < after,
            limit,
        )

    async def hmac_key(self) -> bytes:
        """See `StateStore`."""
        name = f"{_PREFIX}hmac"
        await self._asked(lambda: self._redis.set(name, secrets.token_bytes(32), nx=True))
        return bytes(await self._asked(lambda: self._redis.get(name)))

    async def create(self) -> str:
        """See `StateStore`."""
        told = await self._asked(lambda: self._redis.info("persistence"))
        lasting = "" if told.get("aof_enabled") else "; it keeps no append-only file: a restart forgets approvals"
        return f"{self._name} answers, there is nothing to create{lasting}"

    async def close(self) -> None:
        """See `StateStore`."""
        await self._redis.aclose(close_connection_pool=True)

    async def _change(self, key: str, change: Change) -> tuple[ApprovalRecord, bool]:
        for _ in range(_ATTEMPTS):
            old = await self._read(key)
            if old is None:
                raise unknown()
            record = change(old)
            if record.version == old.version:
                return record, False
            if await self._put(record, old):
                return record, True
        raise self._busy()

    async def _standing(self, status: Status, now: int, limit: int, cursor: str | None) -> Page:
        after = position(cursor)
        least = f"({now}" if after is None or after[0] <= now else after[0]
        return await self._page(
            lambda offset: self._range("zrangebyscore", status.value, least, "+inf", offset, limit + 1),
            lambda record: after is None or (record.until, record.key) > after,
            limit,
            lambda record: lifecycle.current(record, now).status is status,
        )

    async def _page(
        self,
        read: Callable[[int], Awaitable[list[str]]],
        beyond: Callable[[ApprovalRecord], bool],
        limit: int,
        wanted: Callable[[ApprovalRecord], bool] = lambda record: True,
    ) -> Page:
        """A page of what lies beyond the cursor; several records may have its very millisecond."""
        found: list[ApprovalRecord] = []
        offset = 0
        while len(found) <= limit:
            keys = await read(offset)
            found += [one for one in await self._read_many(keys) if beyond(one) and wanted(one)]
            offset += len(keys)
            if len(keys) <= limit:
                break
        return page(found, limit)

    async def _range(
        self, command: str, shelf: str, first: int | str, last: int | str, offset: int, limit: int
    ) -> list[str]:
        read = getattr(self._redis, command)
        keys = await self._asked(lambda: read(f"{_PREFIX}shelf:{shelf}", first, last, start=offset, num=limit))
        return [key.decode() for key in keys]

    async def _read(self, key: str) -> ApprovalRecord | None:
        found = await self._read_many([key])
        return found[0] if found else None

    async def _read_many(self, keys: Sequence[str]) -> list[ApprovalRecord]:
        """Those records that are there, in this order, in one request."""
        if not keys:
            return []

        async def read() -> list[list[bytes | None]]:
            async with self._redis.pipeline(transaction=False) as pipe:
                for key in keys:
                    pipe.hmget(_name(key), "doc", *_COUNTERS)
                return list(await pipe.execute())

        return [record for record in map(_record, await self._asked(read)) if record is not None]

    async def _put(self, record: ApprovalRecord, old: ApprovalRecord | None) -> bool:
        """Write a record where `old`, or nothing, still is; False where that is no longer so."""
        keys = [_name(record.key), f"{_PREFIX}rid:{record.rid}"]
        keys += [f"{_PREFIX}shelf:{shelf}" for shelf in _SHELVES]
        drop_at = record.until + RETENTION
        arguments: list[str | int | bytes] = ["", ""] if old is None else [old.rid, old.version]
        arguments += [record.key, _SHELVES.index(columns.shelf(record)) + 1, record.until, drop_at]
        arguments += [record.opened - RETENTION]
        fields = {**columns.numbers(record), "rid": record.rid, "st": record.status.value, "doc": encode(record)}
        for name, value in fields.items():
            arguments += [name, value]
        return bool(await self._asked(lambda: self._replace(keys=keys, args=arguments)))

    async def _count(self, script: Any, key: str, rid: str, now: int, *more: int) -> tuple[bool, ApprovalRecord] | None:
        """Run a counting script: whether it did it, and the record; None where there is none to tell of."""
        arguments = [SCHEMA, rid, now, *more]
        done, values = await self._asked(lambda: script(keys=[_name(key)], args=arguments))
        record = _record(values)
        return None if record is None else (bool(done), record)

    async def _asked(self, ask: Callable[[], Awaitable[T]]) -> T:
        try:
            return await ask()
        except (RedisError, OSError) as error:
            await leave_replica(self._redis, error)
            raise StoreUnavailable(f"{self._name}: {error}") from error

    def _busy(self) -> StoreUnavailable:
        return StoreUnavailable(f"{self._name}: too many writes on one record at once")


def _name(key: str) -> str:
    return f"{_PREFIX}approval:{key}"


def _record(values: Sequence[bytes | None]) -> ApprovalRecord | None:
    """The record in what was read of its hash, None where there is none."""
    if not any(values):
        return None
    counters = zip(_COUNTERS, values[1:], strict=True)
    return columns.merged(values[0] or b"", {name: value.decode() for name, value in counters if value is not None})
