"""The store in DynamoDB: the contract on moto and on DynamoDB Local, regions, and its own ways to fail."""

import secrets

import boto3
import pytest
from moto.server import ThreadedMotoServer

from openmcp.sidecar.state.dynamodb import DynamoStore
from tests.contracts.store import StoreContract
from tests.support.stores import dynamodb_local

REGION = "eu-west-1"


SESSION = boto3.Session(aws_access_key_id="testing", aws_secret_access_key="testing")
"""One for all, since it remembers what it has read of how AWS works; that takes most of the time of a connection."""


@pytest.fixture(scope="session")
def moto_url():
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


def store_of(endpoint, table, **options):
    options = {"endpoint": endpoint, "session": lambda: SESSION, **options}
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
