"""The store in a file: the contract; restarts, other processes, a file that is damaged, away or somebody else's."""

import asyncio
import sqlite3
import stat
import subprocess
import sys

import pytest

from openmcp.sidecar.state.lifecycle import Conflict
from openmcp.sidecar.state.records import Status, UnknownSchema
from openmcp.sidecar.state.sqlite import SqliteStore
from openmcp.sidecar.state.store import RETENTION, StoreUnavailable
from tests.contracts.requests import HOUR, NOW, request, yes
from tests.contracts.store import StoreContract


class TestSqlite(StoreContract):
    @pytest.fixture
    def connect(self, tmp_path):
        async def connected():
            return SqliteStore(tmp_path / "state.db")

        return connected


@pytest.fixture
def path(tmp_path):
    return tmp_path / "state.db"


@pytest.fixture
async def store(path):
    made = SqliteStore(path)
    yield made
    await made.close()


async def test_what_was_pending_and_granted_survives_a_restart(path):
    store = SqliteStore(path)
    pending, _ = await store.open(request(), NOW)
    granted, _ = await store.open(request(), NOW)
    granted = await store.vote(granted.key, granted.rid, yes(uses=2), NOW)
    key = await store.hmac_key()
    await store.close()
    again = SqliteStore(path)
    assert await again.get(pending.key, NOW) == pending
    assert (await again.consume(granted.key, granted.rid, NOW)).uses_left == 1
    assert await again.hmac_key() == key
    await again.close()


KILLED = """
import asyncio, os, signal, sys
from pathlib import Path
from openmcp.sidecar.state.sqlite import SqliteStore
async def main():
    store = SqliteStore(Path(sys.argv[1]))
    await store.consume(sys.argv[2], sys.argv[3], int(sys.argv[4]))
    os.kill(os.getpid(), signal.SIGKILL)
asyncio.run(main())
"""


async def test_a_use_that_a_killed_process_took_is_taken(path, store):
    record, _ = await store.open(request(), NOW)
    await store.vote(record.key, record.rid, yes(uses=1), NOW)
    command = [sys.executable, "-c", KILLED, path, record.key, record.rid, str(NOW)]
    done = await asyncio.to_thread(subprocess.run, command, check=False)
    assert done.returncode == -9
    with pytest.raises(Conflict, match="exhausted"):
        await store.consume(record.key, record.rid, NOW)


async def test_nobody_else_may_read_the_file(path, store):
    await store.hmac_key()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


async def test_a_file_that_was_replaced_is_taken_up(path, store):
    record, _ = await store.open(request(), NOW)
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    assert await store.get(record.key, NOW) is None
    other = SqliteStore(path)
    again, created = await store.open(request(record.key), NOW)
    assert created
    assert await other.get(record.key, NOW) == again
    await other.close()


async def test_a_file_that_is_no_database_is_an_outage(path, store):
    path.write_bytes(b"not a database" * 100)
    with pytest.raises(StoreUnavailable, match="not a database"):
        await store.open(request(), NOW)
    path.unlink()
    assert (await store.open(request(), NOW))[1]


async def test_many_that_make_the_file_at_once_all_get_it(tmp_path):
    for n in range(60):
        stores = [SqliteStore(tmp_path / f"{n}.db") for _ in range(8)]
        keys = await asyncio.gather(*(store.hmac_key() for store in stores))
        assert len(set(keys)) == 1
        for store in stores:
            await store.close()


async def test_a_folder_that_is_not_there_is_an_outage(tmp_path):
    store = SqliteStore(tmp_path / "gone" / "state.db")
    with pytest.raises(StoreUnavailable, match="No such file"):
        await store.get("0" * 64, NOW)
    await store.close()


async def test_a_lock_that_is_held_is_an_outage_and_nothing_hangs(path, store, monkeypatch):
    monkeypatch.setattr("openmcp.sidecar.state.sqlite._WAIT", 0.05)
    record, _ = await store.open(request(), NOW)
    await store.vote(record.key, record.rid, yes(uses=1), NOW)
    other = sqlite3.connect(path, isolation_level=None)
    held = SqliteStore(path)
    assert await held.get(record.key, NOW) is not None
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreUnavailable, match="locked"):
        await held.consume(record.key, record.rid, NOW)
    other.execute("ROLLBACK")
    assert (await held.consume(record.key, record.rid, NOW)).status is Status.EXHAUSTED
    other.close()
    await held.close()


async def test_a_record_of_another_version_is_refused_and_kept(path, store):
    record, _ = await store.open(request(), NOW)
    await store.vote(record.key, record.rid, yes(), NOW)
    other = sqlite3.connect(path)
    other.execute("""UPDATE records SET document = replace(CAST(document AS TEXT), '"schema":1', '"schema":9')""")
    other.commit()
    for call in (
        store.get(record.key, NOW),
        store.consume(record.key, record.rid, NOW),
        store.open(request(record.key), NOW + 9 * HOUR),
        store.list_grants(NOW, 10),
    ):
        with pytest.raises(UnknownSchema, match="schema 9"):
            await call
    assert b'"schema":9' in bytes(other.execute("SELECT CAST(document AS BLOB) FROM records").fetchone()[0])
    other.close()


async def test_what_ended_long_ago_is_dropped(store):
    old, _ = await store.open(request(), NOW)
    later = NOW + RETENTION + HOUR
    await store.open(request(now=later), later)
    assert await store.get(old.key, later) is None


async def test_it_says_what_it_created(path, store):
    assert await store.create() == f"created {path}"
    assert await store.create() == f"{path} is there"


async def test_a_conflict_leaves_no_transaction_behind(store):
    record, _ = await store.open(request(), NOW)
    with pytest.raises(Conflict):
        await store.consume(record.key, record.rid, NOW)
    assert (await store.vote(record.key, record.rid, yes(), NOW)).status is Status.APPROVED
