"""From the tree of a source to `state` of the model: where requests for approval and grants are kept."""

import re
from urllib.parse import SplitResult, urlsplit

from openmcp.config import model
from openmcp.config.cursor import At, Reading, Shape, choice, shortened, string, tagged
from openmcp.config.values import file_name, secret, url
from openmcp.identity.addresses import is_this_machine

_TYPE = ("type",)
_TABLE = re.compile(r"[A-Za-z0-9_.-]{3,255}")
_REGION = re.compile(r"[a-z]{2,}(?:-[a-z]+)+-[0-9]{1,2}")
_ROLE = re.compile(r"arn:aws[a-z-]*:iam::[0-9]{12}:role/[\x21-\x7e]{1,512}")
_DATABASE = re.compile(r"/?|/[0-9]{1,5}")
_FORM = "write redis://HOST:PORT, or rediss://HOST:PORT for TLS"


def _redis_url(at: At) -> str | None:
    value = string(at)
    if value is None:
        return None
    fault = _redis_fault(value)
    if fault is not None:
        shown = "" if "@" in value else f': "{shortened(value)}"'  # what stands before @ may be a password
        at.error(f"not the URL of a Redis server{shown}", fault)
        return None
    parts = urlsplit(value)
    if parts.scheme == "redis" and not is_this_machine(parts.hostname or ""):
        at.warn(
            "redis:// to another machine: who is on the way can read requests, and grant them",
            "write rediss://, which is TLS",
        )
    return value


def _redis_fault(value: str) -> str | None:
    try:
        parts = urlsplit(value)
        _ = parts.port
    except ValueError:
        return _FORM
    if not re.fullmatch("[!-~]+", value) or parts.scheme not in ("redis", "rediss") or not parts.hostname:
        return _FORM
    return _redis_surplus(parts)


def _redis_surplus(parts: SplitResult) -> str | None:
    if parts.password is not None:
        return "a password is never written here: write password: {file: PATH} or {env: NAME}"
    if parts.query or parts.fragment:
        return "it ends with the number of the database, if one is wanted"
    return None if _DATABASE.fullmatch(parts.path) else "after the / stands the number of a database: redis://HOST/0"


def _redis(at: At) -> model.RedisState | None:
    value = _redis_shape(at)
    ca = at.key("ca")
    if value is not None and ca is not None and value.url.startswith("redis:"):
        ca.error("`ca` has no meaning without TLS", "write rediss:// in the url or remove `ca`")
    return value


_redis_shape: Reading[model.RedisState] = Shape(
    model.RedisState, {"url": _redis_url, "password": secret, "ca": secret}, required=("url",), ignored=_TYPE
)


def _matching(expression: re.Pattern[str], what: str, hint: str) -> Reading[str]:
    def read(at: At) -> str | None:
        value = string(at)
        if value is not None and not expression.fullmatch(value):
            at.error(f'not {what}: "{shortened(value)}"', hint)
            return None
        return value

    return read


_region = _matching(_REGION, "a region of AWS", "such as eu-central-1")


def _dynamodb(at: At) -> model.DynamodbState | None:
    value = _dynamodb_shape(at)
    if value is None:
        return None
    role = at.key("roleArn")
    if value.credentials == "spiffe" and role is None:
        at.error("`roleArn` is required with `credentials: spiffe`", "the role that trusts our JWT-SVIDs")
    elif value.credentials != "spiffe" and role is not None:
        role.error(
            f"`roleArn` has no meaning with `credentials: {value.credentials}`",
            "those of the environment say which role it is: remove it, or write credentials: spiffe",
        )
    return value


_dynamodb_shape: Reading[model.DynamodbState] = Shape(
    model.DynamodbState,
    {
        "table": _matching(_TABLE, "the name of a table", "3 to 255 letters, digits, . _ and -"),
        "region": _region,
        "endpoint": url("DynamoDB"),
        "credentials": choice(("default", "spiffe")),
        "roleArn": _matching(_ROLE, "the ARN of a role", "such as arn:aws:iam::123456789012:role/openmcp"),
        "homeRegion": _region,
    },
    required=("table", "region"),
    ignored=_TYPE,
)

state: Reading[model.State] = tagged(
    {
        "memory": Shape(model.MemoryState, {}, ignored=_TYPE),
        "sqlite": Shape(model.SqliteState, {"path": file_name}, required=("path",), ignored=_TYPE),
        "redis": _redis,
        "dynamodb": _dynamodb,
    }
)
"""The section `state`."""
