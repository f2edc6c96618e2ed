"""The answers that OpenMCP gives by itself, in the forms that clients of both eras handle well (measured)."""

from typing import Final

from openmcp.sidecar.errors import DENIED, INTERNAL_ERROR, METHOD_NOT_FOUND, Refused, UpstreamFailed
from openmcp.sidecar.types import MODERN, Era, JsonObject, MessageId

DECISION_KEY: Final = "dev.openmcp/decision"
APPROVAL_KEY: Final = "dev.openmcp/approval"

_FAILURES: Final = {
    "connect": "the MCP server cannot be reached",
    "timeout": "the MCP server did not answer in time",
    "closed": "the MCP server closed the connection before it answered",
    "protocol": "the MCP server's answer is not valid MCP",
    "too_large": "the MCP server's answer is too large",
    "status": "the MCP server refused the request",
    "credential": "the gateway cannot prove itself to the MCP server",
    "ejected": "the MCP server has failed again and again and is left alone for a while",
    "overloaded": "too many calls to this MCP server are under way",
    "share": "this agent has too much under way at this MCP server: the rest is for others",
    "untrusted": "the MCP server is not trusted",
    "identity": "the gateway has no identity to show the MCP server",
}
EXPLAINED: Final = frozenset(("untrusted", "identity"))
"""Failures whose details are told to the caller too: names of workloads and what is wrong with a certificate."""


def error(identifier: MessageId | None, code: int, message: str, data: object = None) -> JsonObject:
    """A JSON-RPC error response; without `data` where it is None."""
    body: JsonObject = {"code": code, "message": message}
    if data is not None:
        body["data"] = data
    return {"jsonrpc": "2.0", "id": identifier, "error": body}


def refused(identifier: MessageId | None, refusal: Refused) -> JsonObject:
    """The error response for a message that is not let through."""
    return error(identifier, refusal.code, refusal.message, refusal.data)


def failed(identifier: MessageId | None, failure: UpstreamFailed) -> JsonObject:
    """The error response where the server failed: the class of the reason, and details of `EXPLAINED` ones alone."""
    message = _FAILURES.get(failure.kind, "the MCP server failed")
    if failure.kind in EXPLAINED:
        message = f"{message}: {failure.detail}"
    return error(identifier, INTERNAL_ERROR, message)


def denied_call(identifier: MessageId, era: Era, reason: str, decision_id: str) -> JsonObject:
    """A denied tools/call: a result that the agent's model can read, not a protocol error."""
    result = tool_error(f"Denied: {reason} (decision {decision_id})", era, {DECISION_KEY: decision_id})
    return {"jsonrpc": "2.0", "id": identifier, "result": result}


def tool_error(text: str, era: Era, meta: JsonObject) -> JsonObject:
    """A tool's result that says what went wrong, so that the agent's model can read it."""
    result: JsonObject = {"content": [{"type": "text", "text": text}], "isError": True, "_meta": meta}
    if era is MODERN:
        result["resultType"] = "complete"
    return result


def denied(identifier: MessageId, reason: str, decision_id: str) -> JsonObject:
    """Any other denied request. It goes out as HTTP 200: 403 would start an OAuth step-up in clients."""
    return error(identifier, DENIED, f"Denied: {reason}", {DECISION_KEY: decision_id})


def unknown_method(method: str) -> Refused:
    """-32601, which 2026-07-28 wants as HTTP 404 and the legacy revisions as 200."""
    return Refused(404, METHOD_NOT_FOUND, f"Method not found: {method[:100]}", reason="unknown_method")
