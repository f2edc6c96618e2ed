"""Records in one SQLite file: survives a restart, shared by the processes of one machine.

Every verb is one transaction, in a thread of its own. The file holds the key of fingerprints: nobody else may read it.
`synchronous=FULL`: a use that was taken is still taken after a power cut.
"""

import asyncio
import os
import random
import secrets
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, TypeVar

from openmcp.sidecar.state import lifecycle
from openmcp.sidecar.state.records import ApprovalRecord, decode, encode
from openmcp.sidecar.state.store import RETENTION, Page, StoreUnavailable, page, position
from openmcp.sidecar.state.verbs import Change, Verbs, unknown

T = TypeVar("T")

_WAIT: Final = 5.0
"""Seconds to wait for the transactions of other processes, which are not served in the order they came."""

_ENDED: Final = "ended"
_TABLES: Final = """
CREATE TABLE IF NOT EXISTS records (
  key TEXT PRIMARY KEY, rid TEXT NOT NULL UNIQUE, shelf TEXT NOT NULL, until INTEGER NOT NULL, document BLOB NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS shelves ON records (shelf, until, key);
CREATE TABLE IF NOT EXISTS secrets (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
"""


class SqliteStore(Verbs):
    """A `StateStore` in the file at `path`, which is made at the first use."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="state-sqlite")
        self._connection: sqlite3.Connection | None = None
        self._inode = 0

    async def open(self, request: ApprovalRecord, now: int) -> tuple[ApprovalRecord, bool]:
        """See `StateStore`."""

        def work(database: sqlite3.Connection) -> tuple[ApprovalRecord, bool, bool]:
            old = _read(database, request.key)
            record, created = lifecycle.opened(old, request, now)
            if created:
                database.execute("DELETE FROM records WHERE until <= ?", (now - RETENTION,))
            if record is not old:
                _write(database, record)
            return record, created, record is not old

        record, created, wrote = await self._run(work)
        if wrote:
            self._changed(record)
        return record, created

    async def get(self, key: str, now: int) -> ApprovalRecord | None:
        """See `StateStore`."""
        return (await self.get_many([key], now)).get(key)

    async def get_many(self, keys: Iterable[str], now: int) -> Mapping[str, ApprovalRecord]:
        """See `StateStore`."""
        wanted = list(keys)

        def work(database: sqlite3.Connection) -> dict[str, ApprovalRecord]:
            found = ((key, _read(database, key)) for key in wanted)
            return {key: lifecycle.current(record, now) for key, record in found if record is not None}

        return await self._run(work, write=False)

    async def by_rid(self, rid: str, now: int) -> ApprovalRecord | None:
        """See `StateStore`."""
        found = await self._select("rid = ?", rid)
        return lifecycle.current(found[0], now) if found else None

    async def list_pending(self, now: int, limit: int, cursor: str | None = None) -> Page:
        """See `StateStore`."""
        return await self._standing("pending", now, limit, cursor)

    async def list_grants(self, now: int, limit: int, cursor: str | None = None) -> Page:
        """See `StateStore`."""
        return await self._standing("approved", now, limit, cursor)

    async def list_due(self, now: int, limit: int) -> tuple[ApprovalRecord, ...]:
        """See `StateStore`."""
        where = "shelf IN ('pending', 'approved') AND until <= ? ORDER BY until, key LIMIT ?"
        return tuple(lifecycle.current(one, now) for one in await self._select(where, now, limit))

    async def history(self, now: int, limit: int, cursor: str | None = None) -> Page:
        """See `StateStore`."""
        until, key = position(cursor) or (1 << 62, "")
        where = "shelf = 'ended' AND until > ? AND (until, key) < (?, ?) ORDER BY until DESC, key DESC LIMIT ?"
        return page(await self._select(where, now - RETENTION, until, key, limit + 1), limit)

    async def hmac_key(self) -> bytes:
        """See `StateStore`."""

        def work(database: sqlite3.Connection) -> bytes:
            database.execute("INSERT OR IGNORE INTO secrets VALUES ('hmac', ?)", (secrets.token_bytes(32),))
            return bytes(database.execute("SELECT value FROM secrets WHERE name = 'hmac'").fetchone()[0])

        return await self._run(work)

    async def create(self) -> str:
        """See `StateStore`."""
        there = self._path.exists()
        await self._run(lambda database: None)
        return f"{self._path} is there" if there else f"created {self._path}"

    async def close(self) -> None:
        """See `StateStore`."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._disconnect)
        self._thread.shutdown(wait=False)

    async def _change(self, key: str, change: Change) -> tuple[ApprovalRecord, bool]:
        def work(database: sqlite3.Connection) -> tuple[ApprovalRecord, bool]:
            old = _read(database, key)
            if old is None:
                raise unknown()
            record = change(old)
            if record.version == old.version:
                return record, False
            _write(database, record)
            return record, True

        return await self._run(work)

    async def _standing(self, shelf: str, now: int, limit: int, cursor: str | None) -> Page:
        until, key = position(cursor) or (0, "")
        where = "shelf = ? AND until > ? AND (until, key) > (?, ?) ORDER BY until, key LIMIT ?"
        return page(await self._select(where, shelf, now, until, key, limit + 1), limit)

    async def _select(self, where: str, *values: int | str) -> list[ApprovalRecord]:
        statement = f"SELECT document FROM records WHERE {where}"  # noqa: S608 - made of the literals above

        def work(database: sqlite3.Connection) -> list[ApprovalRecord]:
            return [decode(document) for (document,) in database.execute(statement, values)]

        return await self._run(work, write=False)

    async def _run(self, work: Callable[[sqlite3.Connection], T], *, write: bool = True) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, self._transact, work, write)
        except (sqlite3.Error, OSError) as error:
            raise StoreUnavailable(f"state store {self._path}: {error}") from error

    def _transact(self, work: Callable[[sqlite3.Connection], T], write: bool) -> T:
        database = self._connected()
        with _transaction(database, write):
            return work(database)

    def _connected(self) -> sqlite3.Connection:
        """The connection; a new one where the file was replaced: others would not see what we write into the old."""
        if self._connection is not None:
            if self._inode == _inode(self._path):
                return self._connection
            self._disconnect()
        with suppress(FileExistsError):  # an existing file is not opened: closing it ends our locks (fcntl(2))
            os.close(os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))
        self._inode = _inode(self._path)
        database = sqlite3.connect(self._path, timeout=_WAIT, isolation_level=None)
        try:
            _write_ahead(database)
            database.execute("PRAGMA synchronous = FULL")
            database.executescript(_TABLES)
        except sqlite3.Error:
            database.close()
            raise
        self._connection = database
        return database

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


@contextmanager
def _transaction(database: sqlite3.Connection, write: bool) -> Iterator[None]:
    database.execute("BEGIN IMMEDIATE" if write else "BEGIN")
    try:
        yield
    except BaseException:
        database.execute("ROLLBACK")
        raise
    database.execute("COMMIT")


def _write_ahead(database: sqlite3.Connection) -> None:
    """Turn on the write-ahead log. Where two do so at once, SQLite does not wait but fails."""
    deadline = time.monotonic() + _WAIT
    while True:
        try:
            database.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
        time.sleep(random.uniform(0.001, 0.01))  # noqa: S311 - so that the two do not meet again


def _inode(path: Path) -> int:
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return 0


def _read(database: sqlite3.Connection, key: str) -> ApprovalRecord | None:
    row = database.execute("SELECT document FROM records WHERE key = ?", (key,)).fetchone()
    return None if row is None else decode(row[0])


def _write(database: sqlite3.Connection, record: ApprovalRecord) -> None:
    shelf = record.status.value if record.status in lifecycle.LIVE else _ENDED
    database.execute(
        "INSERT OR REPLACE INTO records VALUES (?, ?, ?, ?, ?)",
        (record.key, record.rid, shelf, record.until, encode(record)),
    )
