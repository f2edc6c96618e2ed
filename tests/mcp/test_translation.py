"""What one era says in the words of the other."""

from typing import Any

import pytest

from openmcp.sidecar.mcp import translation
from openmcp.sidecar.mcp.era import META_CAPABILITIES, META_VERSION
from openmcp.sidecar.mcp.translation import META_INFO, META_LEVEL, META_SERVER

Json = dict[str, Any]
INFO = {"name": "client", "version": "1.2"}


def test_a_legacy_request_gets_what_each_modern_one_carries_and_loses_what_is_not_its_own() -> None:
    params = {
        "name": "t",
        "arguments": {"a": 1},
        "task": {"ttl": 1},
        "requestState": "forged",
        "inputResponses": {"k": {}},
        "_meta": {"progressToken": 7, META_VERSION: "forged", META_CAPABILITIES: {"sampling": {}}},
    }
    assert translation.modern_params(params, {"roots": {}}, INFO, "info") == {
        "name": "t",
        "arguments": {"a": 1},
        "_meta": {
            "progressToken": 7,
            META_VERSION: "2026-07-28",
            META_CAPABILITIES: {"roots": {}},
            META_INFO: INFO,
            META_LEVEL: "info",
        },
    }
    assert translation.modern_params({}, {}, None, "") == {"_meta": {META_VERSION: "2026-07-28", META_CAPABILITIES: {}}}


DISCOVERED = {
    "resultType": "complete",
    "supportedVersions": ["2026-07-28"],
    "capabilities": {
        "tools": {"listChanged": True},
        "logging": {},
        "extensions": {"io.modelcontextprotocol/tasks": {}},
    },
    "instructions": "be kind",
    "ttlMs": 5,
    "cacheScope": "public",
    "_meta": {META_SERVER: {"name": "s", "version": "2"}},
}


@pytest.mark.parametrize(
    ("asked", "got"),
    [("2025-06-18", "2025-06-18"), ("2024-11-05", "2025-11-25"), ("2026-07-28", "2025-11-25"), (None, "2025-11-25")],
)
def test_initialize_is_answered_from_discover_in_a_version_of_its_era(asked: object, got: str) -> None:
    assert translation.initialized(DISCOVERED, asked) == {
        "protocolVersion": got,
        "capabilities": {"tools": {"listChanged": True}, "logging": {}},
        "serverInfo": {"name": "s", "version": "2"},
        "instructions": "be kind",
    }


def test_discover_is_answered_from_initialize() -> None:
    initialized = {
        "protocolVersion": "2025-11-25",
        "capabilities": {"tools": {}, "tasks": {"list": {}}},
        "serverInfo": {"name": "s", "version": "2"},
        "instructions": "be kind",
    }
    assert translation.discovered(initialized) == {
        "resultType": "complete",
        "supportedVersions": ["2026-07-28"],
        "capabilities": {"tools": {}},
        "instructions": "be kind",
        "ttlMs": 0,
        "cacheScope": "private",
        "_meta": {META_SERVER: {"name": "s", "version": "2"}},
    }


def test_both_begin_with_servers_that_say_little_or_nonsense() -> None:
    bare = {"capabilities": [], "serverInfo": "x", "instructions": 1, "_meta": []}
    assert translation.initialized(bare, "2025-11-25")["serverInfo"] == {"name": "unknown", "version": "unknown"}
    assert translation.initialized(bare, "2025-11-25")["capabilities"] == {}
    assert set(translation.discovered(bare)) == {
        "resultType",
        "supportedVersions",
        "capabilities",
        "ttlMs",
        "cacheScope",
    }


def test_initialize_is_asked_with_what_a_modern_request_says_of_its_client() -> None:
    capabilities = {"elicitation": {"form": {}}, "roots": {"listChanged": True}, "extensions": {"x": {}}, "tasks": {}}
    meta = {META_CAPABILITIES: capabilities, META_INFO: INFO | {"icons": []}}
    assert translation.initialize_params(meta) == {
        "protocolVersion": "2025-11-25",
        "capabilities": {"elicitation": {"form": {}}, "roots": {}},
        "clientInfo": INFO,
    }
    assert translation.initialize_params({})["clientInfo"] == {"name": "openmcp", "version": "0"}


def test_what_a_client_says_of_itself_is_kept_short_and_of_the_right_type() -> None:
    assert translation.client_info({"name": "n" * 9999, "version": "1", "title": 4}) == {
        "name": "n" * 512,
        "version": "1",
    }
    assert translation.client_info({"name": "n", "version": 1}) is None
    assert translation.client_info("n") is None


RESULTS: dict[str, tuple[str, Json, Json]] = {
    "list": (
        "tools/list",
        {
            "resultType": "complete",
            "ttlMs": 1,
            "cacheScope": "public",
            "tools": [
                {"name": "object", "outputSchema": {"type": "object"}},
                {"name": "array", "outputSchema": {"type": "array"}},
                "nonsense",
            ],
            "_meta": {META_SERVER: {}, "own": 1},
        },
        {
            "tools": [{"name": "object", "outputSchema": {"type": "object"}}, {"name": "array"}, "nonsense"],
            "_meta": {"own": 1},
        },
    ),
    "structured object": (
        "tools/call",
        {"resultType": "complete", "content": [], "structuredContent": {"a": 1}},
        {"content": [], "structuredContent": {"a": 1}},
    ),
    "structured list": (
        "tools/call",
        {"resultType": "complete", "content": [], "structuredContent": [1], "_meta": {META_SERVER: {}}},
        {"content": []},
    ),
}


@pytest.mark.parametrize(("method", "modern", "legacy"), RESULTS.values(), ids=RESULTS)
def test_a_modern_result_for_a_legacy_client(method: str, modern: Json, legacy: Json) -> None:
    assert translation.legacy_result(method, modern) == legacy


def test_a_legacy_result_for_a_modern_client() -> None:
    tools = {"tools": [{"name": "t", "execution": {"taskSupport": "optional"}}], "nextCursor": "c"}
    assert translation.modern_result("tools/list", tools) == {
        "resultType": "complete",
        "tools": [{"name": "t"}],
        "nextCursor": "c",
        "ttlMs": 0,
        "cacheScope": "private",
    }
    # A legacy server cannot pose as one that asks for input.
    posing = {"content": [], "resultType": "input_required", "_meta": {"own": 1}}
    assert translation.modern_result("tools/call", posing) == {
        "resultType": "complete",
        "content": [],
        "_meta": {"own": 1},
    }


def test_a_resource_that_is_not_there_has_another_code() -> None:
    error = {"code": -32002, "message": "Resource not found", "data": {"uri": "u"}}
    assert translation.modern_error("resources/read", error) == error | {"code": -32602}
    assert translation.modern_error("tools/call", error) == error


def test_a_modern_request_without_what_a_legacy_server_does_not_know() -> None:
    meta = {META_VERSION: "2026-07-28", META_CAPABILITIES: {}, META_INFO: INFO, META_LEVEL: "info"}
    params = {"name": "t", "inputResponses": {}, "requestState": "s", "_meta": meta}
    assert translation.legacy_params(params) == {"name": "t"}
    assert translation.legacy_params({"_meta": meta | {"progressToken": 1}}) == {"_meta": {"progressToken": 1}}


def test_questions_go_both_ways() -> None:
    url = {"mode": "url", "url": "https://x", "message": "m"}
    assert translation.legacy_question("elicitation/create", url, "e1") == url | {"elicitationId": "e1"}
    form = {"mode": "form", "message": "m", "requestedSchema": {}}
    assert translation.legacy_question("elicitation/create", form, "e1") == form
    assert translation.modern_question("elicitation/create", url | {"elicitationId": "e1", "task": {}}) == {
        "method": "elicitation/create",
        "params": url,
    }


CAPABILITIES = {"tools": {"listChanged": True}, "prompts": {"listChanged": False}, "resources": {"subscribe": True}}


def test_a_session_listens_to_all_that_is_offered() -> None:
    assert translation.listened(CAPABILITIES, []) == {"toolsListChanged": True}
    assert translation.listened(CAPABILITIES, ["file:///a"]) == {
        "toolsListChanged": True,
        "resourceSubscriptions": ["file:///a"],
    }
    assert translation.listened(None, []) == {}


def test_a_subscription_gets_what_it_asked_for_and_the_server_offers() -> None:
    wanted = {"toolsListChanged": True, "promptsListChanged": True, "resourceSubscriptions": ["file:///a", 4]}
    honoured = translation.honoured(wanted, CAPABILITIES)
    assert honoured == {"toolsListChanged": True, "resourceSubscriptions": ["file:///a"]}
    assert translation.honoured({"resourceSubscriptions": ["file:///a"]}, {"resources": {}}) == {}
    assert translation.honoured([], CAPABILITIES) == {}

    def belongs(method: str, **params: object) -> bool:
        return translation.is_listened(method, params, honoured)

    assert belongs("notifications/tools/list_changed")
    assert not belongs("notifications/prompts/list_changed")
    assert belongs("notifications/resources/updated", uri="file:///a")
    assert not belongs("notifications/resources/updated", uri="file:///b")
    assert not belongs("notifications/message")


SCHEMA = {
    "type": "object",
    "properties": {
        "region": {"type": "string", "x-mcp-header": "Region"},
        "deep": {"type": "object", "properties": {"count": {"type": "integer", "x-mcp-header": "Count"}}},
        "bad": {"type": "string", "x-mcp-header": "a\r\nb"},
        "list": {"type": "array", "items": {"properties": {"x": {"x-mcp-header": "Item"}}}},
        "nonsense": 4,
    },
}


def test_arguments_are_mirrored_as_the_schema_says() -> None:
    mirrors = translation.mirrored(SCHEMA)
    assert mirrors == {"Region": ("region",), "Count": ("deep", "count")}
    lines = translation.parameter_lines(mirrors, {"region": "zürich", "deep": {"count": 3.0}, "bad": "x"})
    assert lines == b"mcp-param-region: =?base64?esO8cmljaA==?=\r\nmcp-param-count: 3\r\n"
    assert translation.parameter_lines(mirrors, {"region": None, "deep": "x"}) == b""
    assert translation.parameter_lines(mirrors, None) == b""
    assert translation.mirrored("nonsense") == {}


def test_what_is_kept_of_a_schema_is_bounded() -> None:
    properties = {f"p{number}": {"x-mcp-header": f"H{number}"} for number in range(10_000)}
    found = translation.mirrored({"properties": properties})
    assert found["H7"] == ("p7",)
    assert sum(len(header) + sum(map(len, path)) for header, path in found.items()) <= 4096
    assert translation.mirrored({"properties": {"x" * 10_000: {"x-mcp-header": "H"}}}) == {}
