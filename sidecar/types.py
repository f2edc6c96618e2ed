"""Values that travel through the whole sidecar: frozen, and valid by construction."""

from enum import StrEnum
from typing import Any, Final

import msgspec

JsonObject = dict[str, Any]
"""A decoded JSON object; only parsers and the code that edits messages look inside."""

MessageId = str | int


class Era(StrEnum):
    """The two families of protocol revisions: sessions (legacy) and per-request metadata (modern)."""

    LEGACY = "legacy"
    MODERN = "modern"


LEGACY: Final = Era.LEGACY
MODERN: Final = Era.MODERN
"""For the hot path: looking a member up in its class costs 0.1 us in Python 3.11."""


class Kind(StrEnum):
    """What a request is about, as policy selects it."""

    TOOL = "tool"
    PROMPT = "prompt"
    RESOURCE = "resource"
    METHOD = "method"


TOOL: Final = Kind.TOOL
PROMPT: Final = Kind.PROMPT
RESOURCE: Final = Kind.RESOURCE
METHOD: Final = Kind.METHOD


class Subject(msgspec.Struct, frozen=True):
    """One thing that a request touches: a tool, prompt or resource by name, or a method."""

    kind: Kind
    name: str


class Request(msgspec.Struct, frozen=True):
    """A JSON-RPC request; `params` is never absent here (an absent one is empty)."""

    id: MessageId
    method: str
    params: JsonObject


class Notification(msgspec.Struct, frozen=True):
    """A JSON-RPC notification."""

    method: str
    params: JsonObject


class Response(msgspec.Struct, frozen=True):
    """A JSON-RPC response: exactly one of `result` and `error` is set. `id` is None in errors without one."""

    id: MessageId | None
    result: JsonObject | None
    error: JsonObject | None


Message = Request | Notification | Response


class Session(msgspec.Struct, frozen=True, array_like=True):
    """A legacy session as it is sealed into the id that the client holds; nothing is stored.

    `principal` began it and proved itself by `method`. `upstream_id` is the MCP server's own session id, `endpoint` the
    key of the endpoint that made it, `capabilities` what the client declared (`elicitation`, `sampling`, `roots`),
    `expires` Unix seconds. `client` is there where the server knows no sessions: what it is told of the client each
    time.
    """

    principal: str
    method: str
    server: str
    endpoint: str
    upstream_id: str
    version: str
    capabilities: tuple[str, ...]
    expires: int
    client: JsonObject | None = None
