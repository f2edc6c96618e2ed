"""The DynamoDB table: what it looks like, how a record is an item of it, and the conditions of every write.

An item holds the record as JSON (`doc`) beside the attributes that conditions, indexes and counters need; the counters
are newer than the JSON, since uses and repeated questions change nothing else. `ttl` is for clean-up alone: whether
something has ended is decided by `pexp`, `gexp` and `uses` in the conditions themselves.
"""

from collections.abc import Mapping
from typing import Any, Final

from openmcp.sidecar.state import columns
from openmcp.sidecar.state.records import SCHEMA, ApprovalRecord, Status, encode
from openmcp.sidecar.state.store import RETENTION

Item = Mapping[str, Any]
"""Attributes as DynamoDB writes them: `{"name": {"S": "text"}}`."""

PREFIX: Final = "approval#"
SECRET: Final = {"pk": {"S": "secret#hmac"}}
"""The key of the item that holds the fingerprints' key."""

BY_SHELF: Final = "by-shelf"
BY_RID: Final = "by-rid"
TTL_ATTRIBUTE: Final = "ttl"
_ENDS: Final = (Status.EXPIRED, Status.CANCELLED, Status.EXHAUSTED, Status.LAPSED, Status.REVOKED)

MAY_OPEN: Final = (
    "attribute_not_exists(pk) OR (#schema = :schema AND home = :home AND ("
    "(st = :pending AND pexp <= :now) OR (st = :approved AND (gexp <= :now OR uses < :one)) "
    f"OR (st = :denied AND cool <= :now) OR st IN ({', '.join(f':{one.value}' for one in _ENDS)})))"
)
MAY_JOIN: Final = "#schema = :schema AND home = :home AND rid = :rid AND st = :pending AND pexp > :now"
MAY_CONSUME: Final = (
    "#schema = :schema AND home = :home AND rid = :rid AND st = :approved AND gexp > :now AND uses >= :uses"
)
UNCHANGED: Final = "#schema = :schema AND home = :home AND rid = :rid AND version = :version"
NAMES: Final = {"#schema": "schema"}


def table(name: str) -> dict[str, Any]:
    """What `CreateTable` is asked for: on-demand billing; two sparse indexes, of which only records are part."""
    keys_only = {"ProjectionType": "KEYS_ONLY"}
    return {
        "TableName": name,
        "BillingMode": "PAY_PER_REQUEST",
        "AttributeDefinitions": [
            {"AttributeName": "pk", "AttributeType": "S"},
            {"AttributeName": "rid", "AttributeType": "S"},
            {"AttributeName": "shelf", "AttributeType": "S"},
            {"AttributeName": "until", "AttributeType": "N"},
        ],
        "KeySchema": [{"AttributeName": "pk", "KeyType": "HASH"}],
        "GlobalSecondaryIndexes": [
            {
                "IndexName": BY_SHELF,
                "KeySchema": [
                    {"AttributeName": "shelf", "KeyType": "HASH"},
                    {"AttributeName": "until", "KeyType": "RANGE"},
                ],
                "Projection": keys_only,
            },
            {
                "IndexName": BY_RID,
                "KeySchema": [{"AttributeName": "rid", "KeyType": "HASH"}],
                "Projection": keys_only,
            },
        ],
    }


def primary(key: str) -> dict[str, Any]:
    """The primary key of a record."""
    return {"pk": {"S": PREFIX + key}}


def item_of(record: ApprovalRecord) -> dict[str, Any]:
    """A record as an item."""
    times = {"until": record.until, TTL_ATTRIBUTE: (record.until + RETENTION) // 1000 + 1}
    texts = {
        "rid": record.rid,
        "st": record.status.value,
        "shelf": columns.shelf(record),
        "home": record.home_region,
    }
    return {
        **primary(record.key),
        **{name: {"N": str(value)} for name, value in (columns.numbers(record) | times).items()},
        **{name: {"S": text} for name, text in texts.items()},
        "doc": {"B": encode(record)},
    }


def record_of(item: Item) -> ApprovalRecord:
    """The record in an item. Raises `UnknownSchema`."""
    fields = {name: value["N"] for name, value in item.items() if "N" in value}
    return columns.merged(item.get("doc", {}).get("B", b""), fields)


def opening(request: ApprovalRecord, now: int) -> dict[str, Any]:
    """The parameters of the one write that makes a request."""
    states = {f":{one.value}": one.value for one in (Status.PENDING, Status.APPROVED, Status.DENIED, *_ENDS)}
    return {
        "Item": item_of(request),
        "ConditionExpression": MAY_OPEN,
        **_values(request.home_region, states, {":now": now, ":one": 1}),
    }


def joining(old: ApprovalRecord, now: int) -> dict[str, Any]:
    """Those of the write that counts a question that was asked once more."""
    return {
        "Key": primary(old.key),
        "UpdateExpression": "SET lastAsked = :now ADD asked :one, version :one",
        "ConditionExpression": MAY_JOIN,
        "ReturnValues": "ALL_NEW",
        **_values(old.home_region, {":rid": old.rid, ":pending": Status.PENDING.value}, {":now": now, ":one": 1}),
    }


def consuming(key: str, rid: str, home: str, now: int, uses: int) -> dict[str, Any]:
    """Those of the write that takes uses off a grant."""
    numbers = {":now": now, ":one": 1, ":uses": uses, ":less": -uses}
    return {
        "Key": primary(key),
        "UpdateExpression": "SET lastUsed = :now ADD version :one, used :uses, uses :less",
        "ConditionExpression": MAY_CONSUME,
        "ReturnValues": "ALL_NEW",
        **_values(home, {":rid": rid, ":approved": Status.APPROVED.value}, numbers),
    }


def replacing(old: ApprovalRecord, new: ApprovalRecord) -> dict[str, Any]:
    """Those of the write that puts a record in the place of what was read."""
    return {
        "Item": item_of(new),
        "ConditionExpression": UNCHANGED,
        **_values(old.home_region, {":rid": old.rid}, {":version": old.version}),
    }


def _values(home: str, texts: Mapping[str, str], numbers: Mapping[str, int]) -> dict[str, Any]:
    return {
        "ExpressionAttributeNames": NAMES,
        "ExpressionAttributeValues": {
            ":schema": {"N": str(SCHEMA)},
            ":home": {"S": home},
            **{name: {"S": text} for name, text in texts.items()},
            **{name: {"N": str(number)} for name, number in numbers.items()},
        },
        "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
    }
