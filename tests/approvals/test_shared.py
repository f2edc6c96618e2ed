"""Two sidecars and an approver on every store that they can share; to the store each is a process of its own."""

import asyncio
import secrets
from contextlib import contextmanager

import botocore.session
import pytest

from openmcp.sidecar.approvals.service import Granted, Pending
from openmcp.sidecar.state.dynamodb import DynamoStore
from openmcp.sidecar.state.lifecycle import Conflict
from openmcp.sidecar.state.records import Status
from openmcp.sidecar.state.redis import RedisStore
from openmcp.sidecar.state.sqlite import SqliteStore
from openmcp.sidecar.state.store import StoreUnavailable
from tests.approvals.scene import Scene, spec
from tests.contracts.requests import HOUR, NOW
from tests.state.conftest import patient
from tests.support.stores import dynamodb_local, redis_server

__all__ = ["patient"]

SESSION = botocore.session.Session()
SESSION.set_credentials("testing", "testing")
OTHER = "spiffe://acme.example/ns/support/sa/other"


@pytest.fixture(scope="module")
def dynamodb(tmp_path_factory):
    """One for all, as Java takes seconds to start; each test has a table of its own."""
    with dynamodb_local(tmp_path_factory.mktemp("dynamodb")) as server:
        yield server


@contextmanager
def in_redis(folder, request):
    with redis_server(folder) as server:
        yield server, lambda: RedisStore(server.url)


@contextmanager
def in_dynamodb(folder, request):
    table, server = f"t{secrets.token_hex(6)}", request.getfixturevalue("dynamodb")
    yield server, lambda: DynamoStore(table, "eu-west-1", endpoint=server.url, session=SESSION)


@contextmanager
def in_sqlite(folder, request):
    yield None, lambda: SqliteStore(folder / "state.db")


@pytest.fixture(params=[in_sqlite, in_redis, in_dynamodb], ids=lambda one: one.__name__[3:])
async def place(request, tmp_path):
    """The server, if it is one that can be killed, and three processes on one store."""
    if request.param is not in_sqlite:
        request.applymarker(pytest.mark.real)
    with request.param(tmp_path, request) as (server, connect):
        stores = [connect() for _ in range(3)]
        await stores[0].create()
        scenes = [Scene(store) for store in stores]
        yield server, scenes
        for scene in scenes:
            await scene.service.close()
            await scene.store.close()


async def test_two_clusters_and_a_console(place):
    _, (one, two, console) = place
    pending = await one.ask()
    assert isinstance(pending, Pending)
    assert (await two.ask()).record.rid == pending.record.rid
    page = await console.service.pending(10)
    assert [record.rid for record in page.records] == [pending.record.rid]

    waits = [asyncio.create_task(scene.service.wait(pending.record, 60)) for scene in (one, two)]
    await console.approve(page.records[0])
    assert {record.status for record in await asyncio.gather(*waits) if record} == {Status.APPROVED}
    grants = [await scene.ask() for scene in (one, two)]
    for scene, granted in zip((one, two), grants, strict=True):
        assert isinstance(granted, Granted)
        await granted.claim()
        assert isinstance(await scene.ask(agent=OTHER), Pending)
        assert isinstance(await scene.ask(arguments={"ticket_id": "T-8"}), Pending)

    found = await console.service.grants(10)
    await console.service.revoke(found.records[0], "token:ann", (), "")
    for scene, granted in zip((one, two), grants, strict=True):
        scene.now += 2_000
        with pytest.raises(Conflict, match="revoked"):
            await granted.claim()
    assert isinstance(await two.ask(), Pending)


async def test_it_ends_to_the_millisecond_everywhere(place):
    _, (one, two, console) = place
    record = (await one.ask(spec(duration=60.0))).record
    await console.approve(record)
    granted = [await scene.ask(spec(duration=60.0)) for scene in (one, two)]
    for scene, grant in zip((one, two), granted, strict=True):
        scene.now = NOW + 59_999
        await grant.claim()
        scene.now = NOW + 60_000
        with pytest.raises(Conflict, match="lapsed"):
            await grant.claim()


async def test_while_the_store_is_away_calls_are_denied_and_nothing_hangs(place):
    server, (one, two, console) = place
    if server is None:
        pytest.skip("a file is away only with its machine; tests/state/test_sqlite.py takes it away")
    pending = (await one.ask(spec(max_uses=2))).record
    granted = await one.granted(spec(max_uses=2), arguments={"ticket_id": "T-8"})
    waiting = asyncio.create_task(two.service.wait(pending, 120))
    server.kill()
    for call in (granted.claim(), one.ask(), console.approve(pending), console.service.pending(10)):
        with pytest.raises(StoreUnavailable):
            await call
    server.start()
    await console.approve(pending)
    found = await waiting
    assert found is not None
    assert found.status is Status.APPROVED
    assert (await granted.claim()).uses_left == 1


async def test_uses_are_shared_out_and_expiry_is_told_once(place):
    _, (one, two, console) = place
    record = (await one.ask(spec(max_uses=5))).record
    await console.approve(record)
    answers = [await scene.ask(spec(max_uses=5)) for scene in (one, two)]
    results = await asyncio.gather(*(answers[n % 2].claim() for n in range(12)), return_exceptions=True)
    assert sum(not isinstance(result, Conflict) for result in results) == 5
    await one.ask(arguments={"ticket_id": "T-9"})
    for scene in (one, two, console):
        scene.kinds  # noqa: B018 - forgets what was told so far
        scene.now = NOW + HOUR
    await asyncio.gather(*(scene.service.sweep() for scene in (one, two, console)))
    assert sum(len(scene.kinds) for scene in (one, two, console)) == 1
