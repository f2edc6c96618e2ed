"""Which members of MCP's messages may be rewritten, and which mean something to the protocol.

Source: schema of 2025-03-26 to 2026-07-28. A result, an error and the params of a server's message are walked alike:
what a member is follows from its name and from where it stands.
"""

from typing import Any, Final

PROTOCOL: Final = 0
"""The protocol's own structure: members have meanings, some may not be rewritten."""
FREE: Final = 1
"""The server's own data: everything may be rewritten, keys as well."""
META: Final = 2
"""`_meta`: the server's own data, but for a few keys of the protocol."""
SCHEMA: Final = 3
"""A JSON Schema: the texts for readers may be rewritten, nothing else."""

_FREE_MEMBERS: Final = frozenset(
    ("structuredContent", "toolResult", "metadata", "input", "experimental", "extensions", "data")
)
FREE_KEYS: Final = _FREE_MEMBERS | {"_meta"}
"""Under which a server's own data begins."""
_SCHEMA_MEMBERS: Final = frozenset(("inputSchema", "outputSchema", "requestedSchema"))
_SCHEMA_TEXTS: Final = frozenset(("description", "title", "$comment"))
_SCHEMA_DATA: Final = frozenset(("default", "examples", "example"))
_PROTECTED: Final = frozenset(
    (
        *("action", "audience", "cacheScope", "code", "completedAt", "createdAt", "elicitationId", "href", "id"),
        *("includeContext", "isError", "jsonrpc", "lastModified", "lastUpdatedAt", "level", "method", "mimeType"),
        *("mode", "name", "nextCursor", "pollInterval", "pollIntervalMs", "priority", "progress", "progressToken"),
        *("protocolVersion", "ref", "requestId", "requestState", "resultType", "role", "size", "sizes", "src"),
        *("status", "stopReason", "supportedVersions", "taskId", "theme", "toolUseId", "total", "ttl", "ttlMs"),
        *("type", "uri", "uriTemplate", "url", "version", "websiteUrl"),
    )
)
"""What would no longer be valid, or no longer name the same thing, if it were rewritten."""
_META_PROTECTED: Final = frozenset(
    ("progressToken", "taskId", "io.modelcontextprotocol/subscriptionId", "io.modelcontextprotocol/protocolVersion")
)

KNOWN_KEYS: Final = _PROTECTED | frozenset(
    (
        *("_meta", "annotations", "arguments", "blob", "capabilities", "completion", "completions", "content"),
        *("contents", "contextArguments", "costPriority", "data", "default", "description", "destructiveHint", "enum"),
        *("error", "execution", "experimental", "extensions", "form", "hasMore", "hints", "icons", "idempotentHint"),
        *("input", "inputRequests", "inputSchema", "instructions", "intelligencePriority", "items", "listChanged"),
        *("logger", "logging", "maxItems", "maxLength", "maxTokens", "maximum", "message", "messages", "metadata"),
        *("minItems", "minLength", "minimum", "model", "modelPreferences", "openWorldHint", "outputSchema", "params"),
        *("prompts", "properties", "readOnlyHint", "reason", "requestedSchema", "required", "resource"),
        *("resourceTemplates", "resources", "result", "serverInfo", "speedPriority", "statusMessage"),
        *("stopSequences", "structuredContent", "subscribe", "systemPrompt", "task", "taskSupport", "tasks"),
        *("temperature", "text", "title", "toolChoice", "tools", "values", "additionalProperties", "$schema"),
        *("io.modelcontextprotocol/subscriptionId", "io.modelcontextprotocol/related-task"),
        *("io.modelcontextprotocol/serverInfo",),
    )
)
"""Keys that carry nothing: each message of MCP has some of them."""

KNOWN_VALUES: Final = {
    "type": frozenset(
        (
            *("text", "image", "audio", "resource", "resource_link", "tool_use", "tool_result"),
            *("object", "array", "string", "number", "integer", "boolean", "null"),
        )
    ),
    "role": frozenset(("user", "assistant")),
    "resultType": frozenset(("complete", "input_required", "task")),
    "cacheScope": frozenset(("public", "private")),
    "mimeType": frozenset(
        ("text/plain", "text/markdown", "text/html", "text/csv", "application/json", "image/png", "image/jpeg")
    ),
    "method": frozenset(("elicitation/create", "sampling/createMessage", "roots/list")),
    "level": frozenset(("debug", "info", "notice", "warning", "error", "critical", "alert", "emergency")),
    "status": frozenset(("working", "input_required", "completed", "failed", "cancelled")),
}
"""Values of the protocol's own vocabulary, which carry nothing either."""

SHORTEST_NUMBER: Final = 10_000_000
"""Numbers from eight digits on are looked at as text."""


def zone_of(zone: int, key: str, value: Any) -> int:
    """The zone of what stands under `key` in an object of `zone`; `value` is the member itself."""
    if key == "_meta" and zone == PROTOCOL:
        return META
    if zone == SCHEMA:
        return FREE if key in _SCHEMA_DATA and type(value) is not dict else SCHEMA
    if zone != PROTOCOL:
        return zone
    if key in _SCHEMA_MEMBERS:
        return SCHEMA
    return FREE if key in _FREE_MEMBERS else PROTOCOL


def is_protected(zone: int, key: str) -> bool:
    """Whether a text or number under `key` in an object of `zone` may not be rewritten."""
    if zone == PROTOCOL:
        return key in _PROTECTED
    if zone == SCHEMA:
        return key not in _SCHEMA_TEXTS and key not in _SCHEMA_DATA
    return zone == META and key in _META_PROTECTED


def is_known(key: str, value: str) -> bool:
    """Whether this is a word of the protocol's own vocabulary in its place."""
    words = KNOWN_VALUES.get(key)
    return words is not None and value in words


def is_blob(holder: dict[str, Any], key: str) -> bool:
    """Whether the text under `key` is binary content in base64: of an image, audio, or a resource."""
    return key == "blob" or (key == "data" and holder.get("type") in ("image", "audio"))


def number_text(value: int | float) -> str:
    """A number as its digits, or empty where it has fewer than eight before the point and none that matter after."""
    if isinstance(value, int):
        return str(value) if not -SHORTEST_NUMBER < value < SHORTEST_NUMBER else ""
    whole = value.is_integer() and abs(value) < 1e22
    text = str(int(value)) if whole else repr(value)
    return text if sum(map(str.isdigit, text)) >= 8 else ""


def pieces(items: list[Any]) -> list[tuple[tuple[str | int, ...], str]]:
    """The texts that follow each other in a list of content, messages or contents, and where each stands in it."""
    found: list[tuple[tuple[str | int, ...], str]] = []
    for index, item in enumerate(items):
        if type(item) is not dict:
            continue
        if type(item.get("text")) is str:
            found.append(((index, "text"), item["text"]))
            continue
        for holder in ("content", "resource"):
            inner = item.get(holder)
            if type(inner) is dict and type(inner.get("text")) is str:
                found.append(((index, holder, "text"), inner["text"]))
    return found if len(found) > 1 else []
