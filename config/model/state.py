"""Where requests for approval and grants are kept: `state`."""

from typing import Literal

import msgspec

from openmcp.config.model.basics import Secret


class MemoryState(msgspec.Struct, frozen=True, kw_only=True, tag="memory", tag_field="type"):
    """In the sidecar itself: gone when it ends, seen by nobody else."""


class SqliteState(msgspec.Struct, frozen=True, kw_only=True, tag="sqlite", tag_field="type"):
    """In a file, shared by the processes of one machine."""

    path: str


class RedisState(msgspec.Struct, frozen=True, kw_only=True, tag="redis", tag_field="type"):
    """In Redis at `url` (`redis://` or, with TLS, `rediss://`); `ca` are roots in PEM, absent: the system's."""

    url: str
    password: Secret | None = None
    ca: Secret | None = None


class DynamodbState(msgspec.Struct, frozen=True, kw_only=True, tag="dynamodb", tag_field="type"):
    """In a DynamoDB table. With `credentials: spiffe` the role `role_arn` is taken by a JWT-SVID.

    `home_region` is where all reads and writes go where the table's replicas are eventually consistent.
    """

    table: str
    region: str
    endpoint: str | None = None
    credentials: Literal["default", "spiffe"] = "default"
    role_arn: str | None = None
    home_region: str | None = None


State = MemoryState | SqliteState | RedisState | DynamodbState
