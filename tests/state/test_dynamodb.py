"""The store in DynamoDB: the contract on moto and on DynamoDB Local, regions, and its own ways to fail."""

import asyncio
import secrets
import threading

import botocore.session
import msgspec
import pytest
from botocore.awsrequest import AWSResponse
from botocore.exceptions import ClientError
from moto.dynamodb.responses import DynamoHandler
from moto.server import ThreadedMotoServer

from openmcp.sidecar.state import dynamoitems as items
from openmcp.sidecar.state import dynamotable
from openmcp.sidecar.state.dynamodb import DynamoStore
from openmcp.sidecar.state.lifecycle import Conflict
from openmcp.sidecar.state.memory import MemoryStore
from openmcp.sidecar.state.records import Status, UnknownSchema
from openmcp.sidecar.state.store import RETENTION, StoreUnavailable
from tests.contracts.requests import HOUR, NOW, request, yes
from tests.contracts.store import StoreContract, outcomes
from tests.support.stores import dynamodb_local

REGION = "eu-west-1"


SESSION = botocore.session.Session()
SESSION.set_credentials("testing", "testing")
"""One for all, since it remembers what it has read of how AWS works; that takes most of the time of a connection."""


@pytest.fixture(scope="session")
def moto_url():
    with pytest.MonkeyPatch.context() as patch:
        one_at_a_time(patch)
        yield from served()


def one_at_a_time(patch: pytest.MonkeyPatch) -> None:
    """Have moto look and write at once, as DynamoDB does: its threads come between a condition and its update."""
    lock, call = threading.Lock(), DynamoHandler.call_action

    def locked(self):
        with lock:
            return call(self)

    patch.setattr(DynamoHandler, "call_action", locked)


def served():
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


def store_of(endpoint, table, **options):
    options = {"endpoint": endpoint, "session": SESSION, **options}
    return DynamoStore(table, options.pop("region", REGION), **options)


async def new_table(endpoint, **options):
    name = f"t{secrets.token_hex(6)}"
    store = store_of(endpoint, name, **options)
    await store.create()
    await store.close()
    return name


TABLES: dict[str, str] = {}


def connector(endpoint):
    """Connections to one table, which the first of them makes."""

    async def connected():
        if endpoint not in TABLES:
            TABLES[endpoint] = await new_table(endpoint)
        return store_of(endpoint, TABLES[endpoint])

    return connected


class TestMoto(StoreContract):
    examples = 3

    @pytest.fixture
    def connect(self, moto_url):
        return connector(moto_url)


@pytest.fixture(scope="session")
def local():
    with dynamodb_local() as server:
        yield server.url


@pytest.mark.real
class TestDynamoDbLocal(StoreContract):
    @pytest.fixture
    def connect(self, local):
        return connector(local)


@pytest.fixture
async def store(local):
    made = await connector(local)()
    yield made
    await made.close()


def raw(endpoint, region=REGION):
    return SESSION.create_client("dynamodb", region_name=region, endpoint_url=endpoint)


async def grant(store, **changes):
    record, _ = await store.open(request(**changes), NOW)
    return await store.vote(record.key, record.rid, yes(), NOW)


async def test_the_table_is_made_once_with_all_that_it_needs(moto_url):
    name = f"t{secrets.token_hex(6)}"
    store = store_of(moto_url, name)
    said = await store.create()
    assert said == f"created table {name}; time to live switched on; point-in-time recovery switched on"
    client = raw(moto_url)
    found = client.describe_table(TableName=name)["Table"]
    assert found["BillingModeSummary"]["BillingMode"] == "PAY_PER_REQUEST"
    told = client.describe_time_to_live(TableName=name)["TimeToLiveDescription"]
    assert told == {"TimeToLiveStatus": "ENABLED", "AttributeName": "ttl"}
    backups = client.describe_continuous_backups(TableName=name)["ContinuousBackupsDescription"]
    assert backups["PointInTimeRecoveryDescription"]["PointInTimeRecoveryStatus"] == "ENABLED"
    assert await store.create() == f"table {name} is there"
    await store.close()


async def test_several_may_make_the_table_at_once(local):
    """As replicas do that each begin with `openmcp state create`."""
    name = f"t{secrets.token_hex(6)}"
    stores = [store_of(local, name) for _ in range(5)]
    said = await asyncio.gather(*(store.create() for store in stores))
    there = [one for one in said if one.startswith(f"table {name} is there")]
    assert (len(there), len(said)) == (4, 5)
    assert len({await store.hmac_key() for store in stores}) == 1
    for store in stores:
        await store.close()


async def test_recovery_is_switched_on_once_a_new_table_has_backups(moto_url, monkeypatch):
    """At AWS they take some seconds."""
    monkeypatch.setattr(dynamotable, "_PAUSE", 0)
    name, refused, client = f"t{secrets.token_hex(6)}", [], raw(moto_url)

    def not_yet(**asked):
        if len(refused) == 3:
            return None
        refused.append(asked)
        error = {"Code": "ContinuousBackupsUnavailableException", "Message": "Backups are being enabled for the table"}
        return AWSResponse("", 400, {}, None), {"Error": error, "ResponseMetadata": {}}

    client.meta.events.register("before-call.dynamodb.UpdateContinuousBackups", not_yet)
    said = await asyncio.to_thread(dynamotable.TableMaker(client, name).make)
    assert said == f"created table {name}; time to live switched on; point-in-time recovery switched on"
    assert len(refused) == 3


async def test_a_table_of_somebody_else_is_left_alone(moto_url):
    name = f"t{secrets.token_hex(6)}"
    raw(moto_url).create_table(
        TableName=name,
        BillingMode="PAY_PER_REQUEST",
        AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
        KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
    )
    store = store_of(moto_url, name)
    with pytest.raises(StoreUnavailable, match="not one of ours: it lacks the key pk, by-shelf, by-rid"):
        await store.create()
    await store.close()


async def test_without_a_table_it_says_what_to_do(local):
    store = store_of(local, "nowhere")
    with pytest.raises(StoreUnavailable, match="table nowhere in eu-west-1: it does not exist: make it with `openmcp"):
        await store.get("0" * 64, NOW)
    await store.close()


async def test_without_credentials_it_is_an_outage(local, monkeypatch):
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    nobody = botocore.session.Session()
    nobody.set_config_variable("credentials_file", "/nonexistent")
    store = store_of(local, "t", session=nobody)
    with pytest.raises(StoreUnavailable, match="Unable to locate credentials"):
        await store.get("0" * 64, NOW)
    await store.close()


async def test_what_was_pending_and_granted_survives_a_kill(tmp_path):
    with dynamodb_local(tmp_path) as server:
        table = await new_table(server.url)
        store = store_of(server.url, table)
        pending, _ = await store.open(request(), NOW)
        granted = await grant(store, max_uses=2)
        await store.consume(granted.key, granted.rid, NOW)
        key = await store.hmac_key()
        server.kill()
        for call in (store.get(pending.key, NOW), store.consume(granted.key, granted.rid, NOW), store.list_due(NOW, 9)):
            with pytest.raises(StoreUnavailable, match=f"DynamoDB table {table}"):
                await call
        server.start()
        assert await store.get(pending.key, NOW) == pending
        assert (await store.consume(granted.key, granted.rid, NOW)).status is Status.EXHAUSTED
        assert await store.hmac_key() == key
        await store.close()


async def test_a_closed_store_is_an_outage(local):
    store = await connector(local)()
    await store.close()
    with pytest.raises(StoreUnavailable, match="closed"):
        await store.get("0" * 64, NOW)


async def test_a_record_of_another_version_is_refused_and_kept(local, store):
    record = await grant(store)
    place = {"TableName": TABLES[local], "Key": items.primary(record.key)}
    item = raw(local).get_item(**place)["Item"]
    raw(local).put_item(TableName=TABLES[local], Item={**item, "schema": {"N": "9"}})
    for call in (
        store.get(record.key, NOW),
        store.get_many([record.key], NOW),
        store.consume(record.key, record.rid, NOW),
        store.open(request(record.key), NOW + 9 * HOUR),
        store.revoke(record.key, record.rid, "token:ann", "", NOW),
    ):
        with pytest.raises(UnknownSchema, match="schema 9"):
            await call
    assert raw(local).get_item(**place)["Item"]["used"] == {"N": "0"}
    raw(local).delete_item(**place)


async def test_clean_up_comes_long_after_the_end(local, store):
    record = await grant(store)
    item = raw(local).get_item(TableName=TABLES[local], Key=items.primary(record.key))["Item"]
    assert int(item["ttl"]["N"]) == (NOW + HOUR + RETENTION) // 1000 + 1


async def test_with_a_home_region_all_is_decided_there(local):
    """DynamoDB Local keeps regions apart and copies nothing: what is found in Frankfurt was written there."""
    table = f"t{secrets.token_hex(6)}"
    stores = [store_of(local, table, region=one, home_region="eu-central-1") for one in (REGION, "us-east-1")]
    await stores[0].create()
    record = await grant(stores[0], max_uses=1)
    assert record.home_region == "eu-central-1"
    assert await stores[0].hmac_key() == await stores[1].hmac_key()
    assert (await stores[1].open(request(record.key), NOW)) == (record, False)
    found = await outcomes(*(stores[n % 2].consume(record.key, record.rid, NOW) for n in range(10)))
    assert found["exhausted"] == 1
    assert table not in raw(local, REGION).list_tables()["TableNames"]
    for one in stores:
        await one.close()


async def test_a_record_of_another_home_is_decided_at_its_own(local):
    """After the home has been changed: the copy that this region has must not be used."""
    table = f"t{secrets.token_hex(6)}"
    old, new = (store_of(local, table, home_region=one) for one in ("eu-central-1", "us-east-1"))
    await old.create()
    await new.create()
    record = await grant(old, max_uses=2)
    pending, _ = await old.open(request(), NOW)
    for one in (record, pending):
        raw(local, "us-east-1").put_item(TableName=table, Item=items.item_of(one))
    assert (await new.consume(record.key, record.rid, NOW)).uses_left == 1
    assert (await old.consume(record.key, record.rid, NOW)).status is Status.EXHAUSTED
    with pytest.raises(Conflict, match="exhausted"):
        await new.consume(record.key, record.rid, NOW)
    assert (await new.open(request(pending.key), NOW))[0].asked == 2
    assert (await new.vote(pending.key, pending.rid, yes(), NOW)).status is Status.APPROVED
    for store in (old, new):
        for found in (await store.get(pending.key, NOW), (await store.get_many([pending.key], NOW))[pending.key]):
            assert found is not None
            assert found.status is Status.APPROVED
        await store.close()


class Answers:
    """In the place of botocore's session and client, for what no local DynamoDB answers."""

    def __init__(self, **answers):
        self.answers = answers
        self.asked = []

    def create_client(self, name, **options):
        return self

    def close(self):
        pass

    def __getattr__(self, operation):
        def call(**parameters):
            self.asked.append(operation)
            answer = self.answers[operation].pop(0)
            if isinstance(answer, Exception):
                raise answer
            return answer

        return call


def failure(code):
    return ClientError({"Error": {"Code": code, "Message": "m"}}, "op")


@pytest.mark.parametrize(
    ("table", "home", "fine"),
    [
        ({}, "", True),
        ({"Replicas": [{"RegionName": "us-east-1"}]}, "", False),
        ({"Replicas": [{"RegionName": "us-east-1"}], "MultiRegionConsistency": "EVENTUAL"}, "", False),
        ({"Replicas": [{"RegionName": "us-east-1"}], "MultiRegionConsistency": "STRONG"}, "", True),
        ({"Replicas": [{"RegionName": "us-east-1"}]}, "eu-west-1", True),
    ],
)
async def test_replicas_that_decide_by_themselves_are_refused(table, home, fine):
    answers = Answers(describe_table=[{"Table": table}] * 2, get_item=[{}] * 2)
    store = store_of(None, "t", session=answers, home_region=home)
    if fine:
        assert await store.get("0" * 64, NOW) is None
        assert await store.get("0" * 64, NOW) is None
        assert answers.asked == ["describe_table", "get_item", "get_item"]
    else:
        with pytest.raises(StoreUnavailable, match=r"set state\.homeRegion"):
            await store.get("0" * 64, NOW)
    await store.close()


async def test_what_was_not_read_for_load_is_read_again():
    record = request()
    item = items.item_of(record)
    left = {"t": {"Keys": [items.primary(record.key)]}}
    answers = Answers(
        describe_table=[{"Table": {}}],
        batch_get_item=[
            {"Responses": {}, "UnprocessedKeys": left},
            {"Responses": {"t": [item]}, "UnprocessedKeys": {}},
            *[{"Responses": {}, "UnprocessedKeys": left}] * 4,
        ],
    )
    store = store_of(None, "t", session=answers)
    assert await store.get_many([record.key], NOW) == {record.key: record}
    with pytest.raises(StoreUnavailable, match="throttled"):
        await store.get_many([record.key], NOW)
    await store.close()


async def test_a_write_that_met_another_region_s_is_tried_again():
    record = msgspec.structs.replace(await grant(MemoryStore()), home_region="")
    answers = Answers(
        describe_table=[{"Table": {}}],
        update_item=[failure("ReplicatedWriteConflictException"), {"Attributes": items.item_of(record)}],
    )
    store = store_of(None, "t", session=answers)
    assert await store.consume(record.key, record.rid, NOW) == record
    await store.close()


async def test_what_is_forbidden_is_told():
    answers = Answers(describe_table=[failure("AccessDeniedException")])
    store = store_of(None, "t", session=answers)
    with pytest.raises(StoreUnavailable, match="AccessDeniedException: m"):
        await store.get("0" * 64, NOW)
    await store.close()


async def test_what_takes_too_long_is_an_outage(monkeypatch):
    monkeypatch.setattr("openmcp.sidecar.state.dynamoclient._PATIENCE", 0.01)
    released = threading.Event()
    answers = Answers(describe_table=[{"Table": {}}])
    answers.get_item = lambda **asked: released.wait(10) and {}
    store = store_of(None, "t", session=answers)
    with pytest.raises(StoreUnavailable, match="no answer within 0.01 s"):
        await store.get("0" * 64, NOW)
    released.set()
    await store.close()
