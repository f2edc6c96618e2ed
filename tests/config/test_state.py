"""The section `state`: each kind as it is read, each mistake with a message of its own."""

import pytest

from openmcp.config import model
from openmcp.config.uses import workload_api_uses
from tests.config.sources import check, errors, good, warnings

ROLE = "arn:aws:iam::123456789012:role/openmcp"
DYNAMODB = "state: {type: dynamodb, table: approvals, region: eu-central-1"
FORM = "(write redis://HOST:PORT, or rediss://HOST:PORT for TLS)"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", model.MemoryState()),
        ("state: {type: memory}", model.MemoryState()),
        ("state: {type: sqlite, path: state.db}", model.SqliteState(path="state.db")),
        ("state: {type: redis, url: 'redis://localhost'}", model.RedisState(url="redis://localhost")),
        (
            "state: {type: redis, url: 'rediss://cache.acme.example:6380/3', password: {env: P}, ca: {file: ca.pem}}",
            model.RedisState(
                url="rediss://cache.acme.example:6380/3",
                password=model.Secret(env="P"),
                ca=model.Secret(file="ca.pem"),
            ),
        ),
        (DYNAMODB + "}", model.DynamodbState(table="approvals", region="eu-central-1")),
        (
            DYNAMODB + f", endpoint: 'http://127.0.0.1:8000', credentials: spiffe, roleArn: '{ROLE}', "
            "homeRegion: us-gov-east-1}",
            model.DynamodbState(
                table="approvals",
                region="eu-central-1",
                endpoint="http://127.0.0.1:8000",
                credentials="spiffe",
                role_arn=ROLE,
                home_region="us-gov-east-1",
            ),
        ),
    ],
)
def test_what_is_read(text, expected):
    found = good(text)
    assert found.configuration.state == expected
    assert found.warnings == ()


def redis(url: str) -> str:
    """A state in Redis whose URL is in question."""
    return f"state: {{type: redis, url: '{url}'}}"


@check(
    {
        "text": ("state: sqlite", '2: state: expected a mapping, found the text "sqlite" (write {type: sqlite})'),
        "no type": ("state: {path: x}", "2: state: `type` is required (one of: memory, sqlite, redis, dynamodb)"),
        "type": ("state: {type: sqllite}", '2: state.type: unknown type "sqllite" (did you mean "sqlite"?)'),
        "key of another": (
            "state: {type: memory, path: x}",
            '2: state: unknown key "path" (known here: type)',
        ),
        "no path": ("state: {type: sqlite}", "2: state: `path` is required"),
        "no url": ("state: {type: redis}", "2: state: `url` is required"),
        "http": (redis("http://h"), f'2: state.url: not the URL of a Redis server: "http://h" {FORM}'),
        "no host": (redis("redis://"), f'2: state.url: not the URL of a Redis server: "redis://" {FORM}'),
        "port": (redis("redis://h:x"), f'2: state.url: not the URL of a Redis server: "redis://h:x" {FORM}'),
        "password": (
            redis("redis://:hunter2@h"),
            "2: state.url: not the URL of a Redis server "
            "(a password is never written here: write password: {file: PATH} or {env: NAME})",
        ),
        "query": (
            redis("redis://h/0?db=1"),
            '2: state.url: not the URL of a Redis server: "redis://h/0?db=1" '
            "(it ends with the number of the database, if one is wanted)",
        ),
        "database": (
            redis("redis://h/main"),
            '2: state.url: not the URL of a Redis server: "redis://h/main" '
            "(after the / stands the number of a database: redis://HOST/0)",
        ),
        "ca without TLS": (
            "state: {type: redis, url: 'redis://localhost', ca: {file: ca.pem}}",
            "2: state.ca: `ca` has no meaning without TLS (write rediss:// in the url or remove `ca`)",
        ),
        "inline password": (
            "state: {type: redis, url: 'redis://localhost', password: hunter2}",
            "2: state.password: a secret is never written here (write {file: PATH} or {env: NAME})",
        ),
        "no table": ("state: {type: dynamodb, region: eu-west-1}", "2: state: `table` is required"),
        "table": (
            "state: {type: dynamodb, table: a b, region: eu-west-1}",
            '2: state.table: not the name of a table: "a b" (3 to 255 letters, digits, . _ and -)',
        ),
        "region": (
            "state: {type: dynamodb, table: abc, region: Frankfurt}",
            '2: state.region: not a region of AWS: "Frankfurt" (such as eu-central-1)',
        ),
        "home": (
            DYNAMODB + ", homeRegion: eu}",
            '2: state.homeRegion: not a region of AWS: "eu" (such as eu-central-1)',
        ),
        "role": (
            DYNAMODB + ", credentials: spiffe, roleArn: openmcp}",
            '2: state.roleArn: not the ARN of a role: "openmcp" (such as arn:aws:iam::123456789012:role/openmcp)',
        ),
        "spiffe without role": (
            DYNAMODB + ", credentials: spiffe}",
            "2: state: `roleArn` is required with `credentials: spiffe` (the role that trusts our JWT-SVIDs)",
        ),
        "role without spiffe": (
            DYNAMODB + f", roleArn: '{ROLE}'}}",
            "2: state.roleArn: `roleArn` has no meaning with `credentials: default` "
            "(those of the environment say which role it is: remove it, or write credentials: spiffe)",
        ),
        "spiffe without SVIDs": (
            f"identity: {{workloadApi: none}}\n{DYNAMODB}, credentials: spiffe, roleArn: '{ROLE}'}}",
            "3: state.credentials: the Workload API gives what this needs, and `identity.workloadApi` is none "
            "(write its address, or take another type here)",
        ),
    }
)
def test_mistakes(text, expected):
    assert errors(text) == expected


def test_in_the_clear_over_a_network_is_warned_of():
    (warning,) = warnings("state: {type: redis, url: 'redis://cache:6379'}")
    assert warning.startswith("2: state.url: redis:// to another machine")


def test_roles_are_taken_by_an_svid():
    made = good(f"{DYNAMODB}, credentials: spiffe, roleArn: '{ROLE}'}}").configuration
    assert [str(use) for use in workload_api_uses(made)] == ["state.credentials"]
