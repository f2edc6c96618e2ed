"""The store in Redis: the contract on a real server; outages, restarts, and what it says of itself."""

import asyncio

import pytest
import trustme
from redis.asyncio import Redis

from openmcp.sidecar.state.records import Status, UnknownSchema
from openmcp.sidecar.state.redis import RedisStore
from openmcp.sidecar.state.store import RETENTION, StoreUnavailable
from tests.contracts.requests import HOUR, NOW, request, yes
from tests.contracts.store import StoreContract
from tests.support.process import free_ports
from tests.support.stores import PASSWORD, failed_over, redis_server

pytestmark = pytest.mark.real


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    with redis_server(tmp_path_factory.mktemp("redis"), "--requirepass", PASSWORD) as started:
        yield started


class TestRedis(StoreContract):
    @pytest.fixture
    def connect(self, server):
        async def connected():
            return RedisStore(server.url, password=PASSWORD)

        return connected


@pytest.fixture
async def store(server):
    made = RedisStore(server.url, password=PASSWORD)
    yield made
    await made.close()


async def test_what_was_pending_and_granted_survives_a_kill(tmp_path):
    with redis_server(tmp_path) as server:
        store = RedisStore(server.url)
        pending, _ = await store.open(request(), NOW)
        granted, _ = await store.open(request(), NOW)
        await store.vote(granted.key, granted.rid, yes(uses=2), NOW)
        await store.consume(granted.key, granted.rid, NOW)
        key = await store.hmac_key()
        server.kill()
        for call in (store.get(pending.key, NOW), store.consume(granted.key, granted.rid, NOW), store.hmac_key()):
            with pytest.raises(StoreUnavailable, match="Redis at 127.0.0.1"):
                await call
        server.start()
        assert await store.get(pending.key, NOW) == pending
        assert (await store.consume(granted.key, granted.rid, NOW)).status is Status.EXHAUSTED
        assert await store.hmac_key() == key
        await store.close()


async def test_a_server_that_does_not_answer_is_an_outage_and_nothing_hangs(monkeypatch):
    monkeypatch.setattr("openmcp.sidecar.state.redis._SECONDS", 0.1)
    kept = []  # a connection that nobody holds is closed
    silent = await asyncio.start_server(lambda *streams: kept.append(streams), "127.0.0.1", 0)
    store = RedisStore(f"redis://127.0.0.1:{silent.sockets[0].getsockname()[1]}")
    with pytest.raises(StoreUnavailable, match="[Tt]imeout"):
        await store.get("0" * 64, NOW)
    await store.close()
    silent.close()


async def test_a_use_is_not_taken_again_after_its_answer_was_lost(server, monkeypatch):
    """A retry by the client library would take a second one."""
    monkeypatch.setattr("openmcp.sidecar.state.redis._SECONDS", 0.5)
    direct = RedisStore(server.url, password=PASSWORD)
    record, _ = await direct.open(request(), NOW)
    await direct.vote(record.key, record.rid, yes(uses=5), NOW)
    await direct.consume(record.key, record.rid, NOW)
    lost = 0

    async def deaf(reader, writer):
        nonlocal lost
        answers, out = await asyncio.open_connection("127.0.0.1", server.port)
        while data := await reader.read(65536):
            out.write(data)
            if b"EVALSHA" in data:
                lost += 1
            else:
                writer.write(await answers.read(65536))
        out.close()

    relay = await asyncio.start_server(deaf, "127.0.0.1", 0)
    lossy = RedisStore(f"redis://127.0.0.1:{relay.sockets[0].getsockname()[1]}", password=PASSWORD)
    while not lost:  # a machine that stalls may keep it from asking at all
        with pytest.raises(StoreUnavailable):
            await lossy.consume(record.key, record.rid, NOW)
    assert lost == 1
    await lossy.close()
    known = await direct.get(record.key, NOW)
    assert known is not None
    assert known.used == 2
    await direct.close()
    relay.close()


async def test_a_server_that_has_become_a_replica_is_left(tmp_path):
    """Else all calls that need an approval are denied until the sidecar is started again."""
    async with failed_over(tmp_path) as (url, fail_over):
        store = RedisStore(url)
        await store.open(request(), NOW)
        await fail_over()
        with pytest.raises(StoreUnavailable, match="read only replica"):
            await store.open(request(), NOW)
        _, created = await store.open(request(), NOW)
        assert created
        await store.close()


async def test_a_wrong_password_is_an_outage_and_is_not_told(server):
    store = RedisStore(f"redis://{server.url.removeprefix('redis://')}", password="hunter2")
    with pytest.raises(StoreUnavailable, match="password") as refused:
        await store.get("0" * 64, NOW)
    assert "hunter2" not in str(refused.value)
    await store.close()


async def test_over_tls_the_server_has_to_be_the_one(tmp_path):
    authority, other = trustme.CA(), trustme.CA()
    certificate = authority.issue_cert("localhost")
    paths = {name: tmp_path / f"{name}.pem" for name in ("chain", "key", "ca", "other")}
    certificate.cert_chain_pems[0].write_to_path(paths["chain"])
    certificate.private_key_pem.write_to_path(paths["key"])
    authority.cert_pem.write_to_path(paths["ca"])
    other.cert_pem.write_to_path(paths["other"])
    (port,) = free_ports(1)
    tls = ("--tls-port", str(port), "--tls-cert-file", paths["chain"], "--tls-key-file", paths["key"])
    with redis_server(tmp_path, *map(str, tls), "--tls-auth-clients", "no"):
        good = RedisStore(f"rediss://localhost:{port}", ca=paths["ca"].read_text())
        assert (await good.open(request(), NOW))[1]
        await good.close()
        for host, ca in (("localhost", "other"), ("127.0.0.1", "ca")):
            bad = RedisStore(f"rediss://{host}:{port}", ca=paths[ca].read_text())
            with pytest.raises(StoreUnavailable, match="certificate"):
                await bad.get("0" * 64, NOW)
            await bad.close()


async def test_a_record_of_another_version_is_refused_and_kept(server, store):
    record, _ = await store.open(request(), NOW)
    await store.vote(record.key, record.rid, yes(), NOW)
    name = f"{{openmcp}}:approval:{record.key}"
    direct = Redis.from_url(server.url, password=PASSWORD)
    await direct.hset(name, "schema", "9")
    for call in (
        store.get(record.key, NOW),
        store.consume(record.key, record.rid, NOW),
        store.open(request(record.key), NOW + 9 * HOUR),
        store.revoke(record.key, record.rid, "token:ann", "", NOW),
    ):
        with pytest.raises(UnknownSchema, match="schema 9"):
            await call
    assert await direct.hget(name, "used") == b"0"
    await direct.delete(name)
    await direct.aclose()


async def test_it_says_where_nothing_is_kept(tmp_path, store):
    assert (await store.create()).endswith("there is nothing to create")
    with redis_server(tmp_path, "--appendonly", "no") as server:
        forgetful = RedisStore(server.url)
        assert "keeps no append-only file" in await forgetful.create()
        await forgetful.close()


async def test_the_store_drops_what_ended_long_ago(server, store):
    record, _ = await store.open(request(), NOW)
    direct = Redis.from_url(server.url, password=PASSWORD)
    for name in (f"{{openmcp}}:approval:{record.key}", f"{{openmcp}}:rid:{record.rid}"):
        assert await direct.pexpiretime(name) == record.pending_until + RETENTION
    later = NOW + RETENTION + HOUR
    await store.open(request(now=later), later)
    assert await direct.zscore("{openmcp}:shelf:pending", record.key) is None
    await direct.aclose()
