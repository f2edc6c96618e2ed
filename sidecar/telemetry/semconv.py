"""The names under which traces and metrics are exported: OpenTelemetry's conventions for MCP.

Source: docs/gen-ai/mcp.md of open-telemetry/semantic-conventions-genai, version 1.42.0-dev (in development, like all
of its versions so far), which builds on version 1.44.0 of the core conventions. docs/telemetry.md says what of it is
there. Names that begin with `openmcp.` are our own.
"""

from typing import Final
from urllib.parse import urlsplit

SCHEMA_URL: Final = "https://opentelemetry.io/schemas/gen-ai-dev/1.42.0-dev"
BUCKETS: Final = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
"""Seconds: what the conventions give for every duration of MCP."""
SERVER_OPERATION: Final = "mcp.server.operation.duration"
CLIENT_OPERATION: Final = "mcp.client.operation.duration"
SERVER_SESSION: Final = "mcp.server.session.duration"
CLIENT_SESSION: Final = "mcp.client.session.duration"
OTHER: Final = "_OTHER"

_CALLERS_FAULT: Final = frozenset((-32700, -32600, -32601, -32602, -32002))
"""JSON-RPC codes by which a server says that the request was wrong: no errors of the server's own."""
_TOOL_ERRORS: Final = frozenset(("tool_error", "denied", "pending", "blocked"))
"""Outcomes in which the agent got a tool's result with `isError`, where it got no JSON-RPC error."""
_FAILURES: Final = frozenset(
    ("connect", "timeout", "closed", "protocol", "too_large", "status", "credential", "untrusted", "identity")
    + ("client_gone", "drained", "internal_error")
)
"""Outcomes in which the MCP server's answer did not come, or not as it must."""
_URI_METHODS: Final = frozenset(("resources/read", "resources/subscribe", "resources/unsubscribe"))


def server_error(method: str, outcome: str, code: int, status: int) -> str:
    """`error.type` of what the agent was answered; "" where it went well. `code` is the JSON-RPC error's, or 0."""
    if code:
        return "" if code in _CALLERS_FAULT else str(code)
    if outcome in _TOOL_ERRORS:
        return "tool_error" if method == "tools/call" else ""
    return "" if outcome == "ok" or status == 202 else outcome


def client_error(outcome: str, code: int) -> str:
    """`error.type` of what the MCP server answered; "" where it went well, whatever was made of its answer."""
    if outcome == "rpc_error":
        return str(code)
    return outcome if outcome == "tool_error" or outcome in _FAILURES else ""


def target(method: str, name: str) -> dict[str, str]:
    """The attributes that say what a method was about; empty for methods without such a thing."""
    if method == "tools/call":
        return {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": name}
    if method == "prompts/get":
        return {"gen_ai.prompt.name": name}
    return {"mcp.resource.uri": name} if method in _URI_METHODS else {}


def address(endpoint: str) -> dict[str, str | int]:
    """`server.address` and `server.port` of an endpoint's URL; empty where none was asked."""
    if not endpoint:
        return {}
    parts = urlsplit(endpoint)
    return {
        "server.address": parts.hostname or "",
        "server.port": parts.port or (443 if parts.scheme == "https" else 80),
    }
