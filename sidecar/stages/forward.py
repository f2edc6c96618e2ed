"""A permitted call on its way to the server: the message as it was judged, under headers made from it.

Nothing of the agent's own headers goes on but the ones named here; its credential never does.
"""

import functools
import time
from collections.abc import Coroutine
from typing import Final

from openmcp.sidecar.errors import INVALID_REQUEST, Refused, UpstreamFailed
from openmcp.sidecar.mcp import headers as rules
from openmcp.sidecar.mcp import jsonrpc, methods
from openmcp.sidecar.mcp.values import Call
from openmcp.sidecar.net.endpoint import Endpoint
from openmcp.sidecar.net.response import UpstreamResponse
from openmcp.sidecar.net.values import Outgoing, Patience
from openmcp.sidecar.policy.engine import Permit
from openmcp.sidecar.stages.context import Flow
from openmcp.sidecar.stages.resend import Course, unreached
from openmcp.sidecar.stages.sessions import session_not_found
from openmcp.sidecar.telemetry import trace
from openmcp.sidecar.types import LEGACY, JsonObject, Notification, Request

JSON_LINES: Final = b"content-type: application/json\r\naccept: application/json, text/event-stream\r\n"
_STREAM: Final = b"accept: text/event-stream\r\n"
_REMEMBERED: Final = 256
"""Characters of a name up to which its header lines are kept."""
LISTEN: Final = "subscriptions/listen"
MAX_LISTEN: Final = 64 * 1024
"""Bytes of a request for a subscription, which is kept until that ends; there may be thousands."""


def send_call(flow: Flow, permit: Permit, params: JsonObject) -> Coroutine[None, None, UpstreamResponse]:
    """Send a permitted call; `params` are its own, or as the stages have unsealed them.

    Raises `UpstreamFailed`, and `Refused` (404) where the session's endpoint is gone.
    """
    call = permit.call
    message = call.message
    called = message.method
    unchanged = flow.canonical and params is message.params
    body = flow.request.body if unchanged else jsonrpc.encode(_document(call, params))
    headers = call_headers(flow, call)
    return dispatch(flow, called, headers, body)


def check_listening(flow: Flow) -> None:
    """Bound what is kept as long as a subscription lasts; raises `Refused` (413)."""
    if flow.bytes_in > MAX_LISTEN:
        size = MAX_LISTEN // 1024
        raise Refused(413, INVALID_REQUEST, f"a subscription may have at most {size} KiB", reason="too_large")


def dispatch(flow: Flow, called: str, headers: bytes, body: bytes) -> Coroutine[None, None, UpstreamResponse]:
    """Post a message of this method, with the time and the repeats that are its own."""
    patience = flow.upstream.stream_patience if called == LISTEN else flow.upstream.call_patience
    terms = flow.upstream.tool_terms
    if terms is not None and called == "tools/call":
        own = terms.of(flow.name)
        # A grant is for one call: what it was used for is not sent twice.
        return send(flow, b"POST", headers, body, own.patience, repeatable=own.repeatable and not flow.approval)
    return send(flow, b"POST", headers, body, patience, repeatable=called in methods.REPEATABLE)


async def send(
    flow: Flow, method: bytes, headers: bytes, body: bytes, patience: Patience, *, repeatable: bool
) -> UpstreamResponse:
    """Send to the endpoint the flow is pinned to, or to the least loaded one.

    Another endpoint is tried only where the first one got nothing, or where sending twice has no effect. `Course` does
    more where the configuration wants that.
    """
    limit = flow.upstream.server.limits.response_bytes
    request = Outgoing(method, headers, body, limit, repeatable, agent=flow.agent)
    flow.asked_at = flow.asked_at or time.perf_counter()
    resending = flow.upstream.resending
    if resending is not None:
        return await Course(flow, request, patience, resending).run()
    if flow.endpoint is not None:
        return await _pinned(flow, flow.endpoint, request, patience)
    tried: list[Endpoint] = []
    while True:
        endpoint = flow.upstream.choose(tried)
        assert endpoint is not None  # the loop ends before all are tried
        tried.append(endpoint)
        flow.endpoint = endpoint
        try:
            return await endpoint.send(request, patience)
        except UpstreamFailed as failure:
            again = unreached(failure) or (repeatable and failure.kind == "closed")
            if not again or len(tried) == len(flow.upstream.endpoints):
                raise


async def _pinned(flow: Flow, endpoint: Endpoint, request: Outgoing, patience: Patience) -> UpstreamResponse:
    try:
        return await endpoint.send(request, patience)
    except UpstreamFailed as failure:
        elsewhere = len(flow.upstream.endpoints) > 1
        if flow.session is not None and failure.kind == "connect" and elsewhere:
            raise session_not_found() from failure  # initialise anew, on another endpoint
        raise


def call_headers(flow: Flow, call: Call) -> bytes:
    """The header lines of a POST of this call."""
    if flow.era is LEGACY:
        return JSON_LINES + trace_lines(flow) + session_lines(flow)
    return modern_headers(flow, call.version, call.message)


def modern_headers(flow: Flow, version: str, message: Request | Notification) -> bytes:
    """The header lines of a POST of a modern message."""
    if not isinstance(message, Request):
        return b"%bmcp-protocol-version: %b\r\n%b" % (JSON_LINES, version.encode(), trace_lines(flow))
    method = message.method
    member = methods.HEADER_NAMED.get(method)
    named = message.params.get(member) if member is not None else None
    name = named if type(named) is str else ""
    mirrored = _mirrored if len(name) <= _REMEMBERED else _mirrored.__wrapped__
    return mirrored(version, method, name) + trace_lines(flow) + flow.parameters


@functools.lru_cache(maxsize=1024)
def _mirrored(version: str, method: str, name: str) -> bytes:
    """What is the same for all modern calls of one tool (or prompt, or resource)."""
    lines = b"%bmcp-protocol-version: %b\r\nmcp-method: %b\r\n" % (
        JSON_LINES,
        version.encode(),
        rules.encode_value(method),
    )
    return lines + b"mcp-name: %b\r\n" % rules.encode_value(name) if name else lines


def session_lines(flow: Flow) -> bytes:
    """The header lines of a legacy request: the declared version and the server's own session id."""
    lines = []
    version = flow.request.headers.get(b"mcp-protocol-version")
    if version is not None:
        lines.append(b"mcp-protocol-version: %b\r\n" % version)
    if flow.session is not None:
        lines.append(b"mcp-session-id: %b\r\n" % flow.session.upstream_id.encode())
    return b"".join(lines)


def trace_lines(flow: Flow) -> bytes:
    """The header lines of the trace context."""
    line = f"traceparent: {trace.traceparent(flow.onward)}\r\n".encode()
    return line + f"tracestate: {flow.tracestate}\r\n".encode() if flow.tracestate else line


def stream_headers(flow: Flow) -> bytes:
    """The header lines of a GET for the session's notification stream."""
    return _STREAM + trace_lines(flow) + session_lines(flow)


def _document(call: Call, params: JsonObject) -> JsonObject:
    if isinstance(call.message, Request):
        return {"jsonrpc": "2.0", "id": call.message.id, "method": call.method, "params": params}
    document: JsonObject = {"jsonrpc": "2.0", "method": call.method}
    if params:
        document["params"] = params
    return document
