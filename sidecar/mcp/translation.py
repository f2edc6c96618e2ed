"""What one era says in the words of the other: params, results, errors, capabilities, questions to the client.

Source: 2026-07-28 changelog, basic/index, basic/patterns/mrtr, server/discover, server/utilities/caching; schema of
2025-11-25. What the other era has no word for is left out; docs/translation.md lists it.
"""

from collections.abc import Iterator
from typing import Any, Final

from openmcp.sidecar.errors import INTERNAL_ERROR, INVALID_PARAMS
from openmcp.sidecar.mcp import era, headers, methods
from openmcp.sidecar.types import JsonObject

NEWEST_MODERN: Final = era.MODERN_VERSIONS[0]
NEWEST_LEGACY: Final = era.LEGACY_VERSIONS[0]
META_INFO: Final = "io.modelcontextprotocol/clientInfo"
META_LEVEL: Final = "io.modelcontextprotocol/logLevel"
META_SERVER: Final = "io.modelcontextprotocol/serverInfo"
LEVELS: Final = ("debug", "info", "notice", "warning", "error", "critical", "alert", "emergency")

CACHEABLE: Final = frozenset(("server/discover", "resources/read", *methods.LISTS))
"""Methods whose complete results have to say how long they stay good (2026-07-28, `CacheableResult`)."""
LOCAL: Final = frozenset(("ping", "logging/setLevel", "resources/subscribe", "resources/unsubscribe"))
"""Legacy requests that are answered here where the server is modern: they are about the session, which is ours."""
ASKED: Final = frozenset(("elicitation/create", "sampling/createMessage", "roots/list"))
"""Questions to the client that both eras have."""

_MODERN_MEMBERS: Final = frozenset(("resultType", "ttlMs", "cacheScope"))
_MODERN_META: Final = frozenset((era.META_VERSION, era.META_CAPABILITIES, META_INFO, META_LEVEL, META_SERVER))
_OF_A_RETRY: Final = frozenset(("inputResponses", "requestState"))
_CLIENT_CAPABILITIES: Final = ("experimental", "roots", "sampling", "elicitation")
_SERVER_CAPABILITIES: Final = ("experimental", "logging", "completions", "prompts", "resources", "tools")
_RESOURCE_NOT_FOUND: Final = -32002
"""What it was until 2025-11-25; -32602 since."""
_URL_REQUIRED: Final = -32042
"""2025-11-25 client/elicitation: the request can be made again when the user has been at these URLs. No server of
2026-07-28 may say so (basic/index, "Error Codes"): it asks (`InputRequiredResult`)."""
_LISTENED: Final = {"tools": "toolsListChanged", "prompts": "promptsListChanged", "resources": "resourcesListChanged"}
_CHANGED: Final = {f"notifications/{kind}/list_changed": name for kind, name in _LISTENED.items()}
_MIRRORS: Final = 4096
"""Characters of headers and paths that are kept of one tool."""
_SHORT: Final = 512
"""Characters of each text that is kept of what a client says of itself."""


def _chosen(given: object, names: tuple[str, ...]) -> JsonObject:
    return {name: given[name] for name in names if name in given} if type(given) is dict else {}


# for an agent of the legacy era


def client_capabilities(given: object) -> JsonObject:
    """What a client of either era can be asked for, in the words of both: their extensions and tasks differ."""
    chosen = _chosen(given, _CLIENT_CAPABILITIES)
    if "roots" in chosen:
        chosen["roots"] = {}  # nobody is told that they have changed
    return chosen


def client_info(given: object) -> JsonObject | None:
    """Name and version of a client, None where it says neither."""
    chosen = _chosen(given, ("name", "title", "version"))
    short = {name: text[:_SHORT] for name, text in chosen.items() if type(text) is str}
    return short if "name" in short and "version" in short else None


def modern_params(params: JsonObject, capabilities: JsonObject, info: JsonObject | None, level: str) -> JsonObject:
    """The params of a legacy request with what each modern one carries; `level` is empty where no logs are wanted."""
    meta = {key: value for key, value in era.meta_of(params).items() if key not in _MODERN_META}
    meta[era.META_VERSION] = NEWEST_MODERN
    meta[era.META_CAPABILITIES] = capabilities
    if info is not None:
        meta[META_INFO] = info
    if level:
        meta[META_LEVEL] = level
    return {key: value for key, value in params.items() if key != "task" and key not in _OF_A_RETRY} | {"_meta": meta}


def initialized(discovered: JsonObject, requested: object) -> JsonObject:
    """The result of initialize, from that of server/discover and the version that the client asked for."""
    version = requested if requested in era.LEGACY_VERSIONS else NEWEST_LEGACY
    info = era.meta_of(discovered).get(META_SERVER)
    result: JsonObject = {
        "protocolVersion": version,
        "capabilities": _chosen(discovered.get("capabilities"), _SERVER_CAPABILITIES),
        "serverInfo": info if type(info) is dict else {"name": "unknown", "version": "unknown"},
    }
    if type(discovered.get("instructions")) is str:
        result["instructions"] = discovered["instructions"]
    return result


def legacy_result(method: str, result: JsonObject) -> JsonObject:
    """A complete modern result for a legacy client."""
    found = {key: value for key, value in result.items() if key not in _MODERN_MEMBERS}
    found = _without_meta(found)
    if method == "tools/list" and type(found.get("tools")) is list:
        found["tools"] = [_legacy_tool(tool) for tool in found["tools"]]
    if method == "tools/call" and type(found.get("structuredContent", {})) is not dict:
        del found["structuredContent"]  # which is also in the content, as text
    return found


def _legacy_tool(tool: Any) -> Any:
    """Until 2025-11-25 an output is an object; an output schema of anything else is not understood."""
    if type(tool) is not dict or type(tool.get("outputSchema")) is not dict:
        return tool
    if tool["outputSchema"].get("type") == "object":
        return tool
    return {key: value for key, value in tool.items() if key != "outputSchema"}


def listened(capabilities: object, uris: list[str]) -> JsonObject:
    """What to listen to for a legacy session's stream: what the server's capabilities offer, and these resources."""
    wanted: JsonObject = {}
    for kind, name in _LISTENED.items():
        offered = capabilities.get(kind) if type(capabilities) is dict else None
        if type(offered) is dict and offered.get("listChanged") is True:
            wanted[name] = True
    if uris:
        wanted["resourceSubscriptions"] = uris
    return wanted


def legacy_question(method: str, params: JsonObject, identifier: str) -> JsonObject:
    """The params of an input request as a legacy server would ask; `identifier` is what 2025-11-25 wants of a URL."""
    params = _without_meta(params)
    return params | {"elicitationId": identifier} if params.get("mode") == "url" else params


# for an agent of the modern era


def initialize_params(meta: JsonObject) -> JsonObject:
    """The params of initialize, from the `_meta` of a modern request."""
    info = client_info(meta.get(META_INFO)) or {"name": "openmcp", "version": "0"}
    return {
        "protocolVersion": NEWEST_LEGACY,
        "capabilities": client_capabilities(meta.get(era.META_CAPABILITIES)),
        "clientInfo": info,
    }


def discovered(result: JsonObject) -> JsonObject:
    """The result of server/discover, from that of initialize."""
    found: JsonObject = {
        "resultType": "complete",
        "supportedVersions": list(era.MODERN_VERSIONS),
        "capabilities": _chosen(result.get("capabilities"), _SERVER_CAPABILITIES),
        "ttlMs": 0,
        "cacheScope": "private",
    }
    if type(result.get("instructions")) is str:
        found["instructions"] = result["instructions"]
    if type(result.get("serverInfo")) is dict:
        found["_meta"] = {META_SERVER: result["serverInfo"]}
    return found


def legacy_params(params: JsonObject) -> JsonObject:
    """The params of a modern request for a legacy server. What means something in its era alone was never judged as
    that: `task` would make a call run on unseen."""
    return _without_meta({key: value for key, value in params.items() if key != "task" and key not in _OF_A_RETRY})


def modern_result(method: str, result: JsonObject) -> JsonObject:
    """A legacy result for a modern client."""
    found = {"resultType": "complete"} | {key: value for key, value in result.items() if key not in _MODERN_MEMBERS}
    if method in CACHEABLE:
        found |= {"ttlMs": 0, "cacheScope": "private"}
    if method == "tools/list" and type(found.get("tools")) is list:
        found["tools"] = [_modern_tool(tool) for tool in found["tools"]]
    return found


def _modern_tool(tool: Any) -> Any:
    """Without `execution`: whether it can run as a task of 2025-11-25."""
    if type(tool) is not dict or "execution" not in tool:
        return tool
    return {key: value for key, value in tool.items() if key != "execution"}


def modern_error(method: str, error: JsonObject) -> JsonObject:
    """A legacy error for a modern client."""
    if method == "resources/read" and error.get("code") == _RESOURCE_NOT_FOUND:
        return error | {"code": INVALID_PARAMS}
    if error.get("code") == _URL_REQUIRED:
        return {"code": INTERNAL_ERROR, "message": error["message"]}
    return error


def questions_of(error: JsonObject) -> list[JsonObject]:
    """The input requests that stand for a legacy error: to go to these URLs, before the request is made again."""
    data = error.get("data")
    named = data.get("elicitations") if error.get("code") == _URL_REQUIRED and type(data) is dict else None
    asked = [one for one in named if type(one) is dict and one.get("mode") == "url"] if type(named) is list else []
    return [modern_question("elicitation/create", one) for one in asked]


def modern_question(method: str, params: JsonObject) -> JsonObject:
    """A legacy server's question as an input request."""
    kept = {key: value for key, value in _without_meta(params).items() if key not in ("elicitationId", "task")}
    return {"method": method, "params": kept}


def honoured(wanted: object, capabilities: object) -> JsonObject:
    """What of a modern client's filter a legacy server offers by its capabilities."""
    if type(wanted) is not dict:
        return {}
    offered = listened(capabilities, [])
    found: JsonObject = {name: True for name in offered if wanted.get(name) is True}
    resources = capabilities.get("resources") if type(capabilities) is dict else None
    uris = wanted.get("resourceSubscriptions")
    if type(resources) is dict and resources.get("subscribe") is True and type(uris) is list:
        found["resourceSubscriptions"] = [uri for uri in uris if type(uri) is str]
    return found


def is_listened(method: str, params: JsonObject, honoured: JsonObject) -> bool:
    """Whether a legacy server's notification belongs to a subscription."""
    if method == "notifications/resources/updated":
        return params.get("uri") in honoured.get("resourceSubscriptions", ())
    name = _CHANGED.get(method)
    return name is not None and honoured.get(name) is True


def _without_meta(members: JsonObject) -> JsonObject:
    """Without the `_meta` of 2026-07-28, and without one that is empty then."""
    meta = members.get("_meta")
    if type(meta) is not dict or _MODERN_META.isdisjoint(meta):
        return members
    kept = {key: value for key, value in meta.items() if key not in _MODERN_META}
    rest = {key: value for key, value in members.items() if key != "_meta"}
    return rest | {"_meta": kept} if kept else rest


# Mcp-Param-*


def mirrored(schema: object) -> dict[str, tuple[str, ...]]:
    """The `x-mcp-header` names of a tool's input schema, and the path of the argument that each one mirrors. They are
    remembered: of a schema that has very many, the first.

    Source: 2026-07-28 basic/transports/streamable-http "Custom Headers from Tool Parameters": chains of `properties`.
    """
    found: dict[str, tuple[str, ...]] = {}
    room = _MIRRORS
    for header, path in _mirrored(schema, ()):
        room -= len(header) + sum(map(len, path))
        if room < 0:
            break
        found[header] = path
    return found


def _mirrored(schema: object, path: tuple[str, ...]) -> Iterator[tuple[str, tuple[str, ...]]]:
    properties = schema.get("properties") if type(schema) is dict else None
    if type(properties) is not dict or len(path) > 16:
        return
    for name, inner in properties.items():
        if type(inner) is not dict:
            continue
        header = inner.get("x-mcp-header")
        if type(header) is str and headers.is_token(header):
            yield header, (*path, name)
        yield from _mirrored(inner, (*path, name))


def parameter_lines(mirrors: dict[str, tuple[str, ...]], arguments: object) -> bytes:
    """The `Mcp-Param-*` header lines of a call with these arguments."""
    lines = b""
    for header, text in _mirrors(mirrors, arguments):
        lines += b"%b: %b\r\n" % (header, headers.encode_value(text))
    return lines


def unmirrored(mirrors: dict[str, tuple[str, ...]], arguments: object, lines: bytes) -> str | None:
    """The first header that a call with these arguments and `Mcp-Param-*` header lines lacks; None where it has all."""
    given = {line.partition(b":")[0] for line in lines.split(b"\r\n")}
    return next((header.decode() for header, _ in _mirrors(mirrors, arguments) if header not in given), None)


def _mirrors(mirrors: dict[str, tuple[str, ...]], arguments: object) -> Iterator[tuple[bytes, str]]:
    for header, path in mirrors.items():
        value: Any = arguments
        for name in path:
            value = value.get(name) if type(value) is dict else None
        text = headers.primitive(value)
        if text is not None:
            yield b"mcp-param-%b" % header.lower().encode(), text
