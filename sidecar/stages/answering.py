"""How an exchange is answered: by what the server said, by a denial, by a refusal, or by a failure."""

import logging
from collections.abc import Sequence
from typing import Final

from openmcp.sidecar.errors import TOO_MANY, MethodNotAllowed, RateLimited, Refused, Unidentified, UpstreamFailed
from openmcp.sidecar.mcp import answers, jsonrpc
from openmcp.sidecar.net.response import UpstreamResponse
from openmcp.sidecar.policy.decision import Decision
from openmcp.sidecar.stages import metadata, reply
from openmcp.sidecar.stages.context import Flow
from openmcp.sidecar.stages.sessions import session_not_found
from openmcp.sidecar.types import LEGACY, JsonObject, Request

JSON: Final = b"content-type: application/json\r\n"
_ANSWERED: Final = frozenset(("unknown_method", "foreign_task", "foreign_token"))
"""What a legacy server answers with 200: its clients take any other status for a broken transport (measured)."""
_REASONED: Final = answers.EXPLAINED | {"credential", "ejected", "overloaded", "share"}
"""Failures whose details go into the record: they are ours, and hold nothing that a server said."""
_CROWDED: Final = frozenset(("overloaded", "share"))
_log = logging.getLogger("openmcp.pipeline")


def respond(flow: Flow, status: int, lines: bytes, body: bytes) -> None:
    """Answer with these header lines and this body."""
    flow.status = status
    flow.bytes_out = len(body)
    flow.exchange.respond(status, lines, body)


async def respond_large(flow: Flow, status: int, lines: bytes, pieces: Sequence[bytes]) -> None:
    """The same with a large body in pieces."""
    flow.status = status
    flow.bytes_out = sum(map(len, pieces))
    await flow.exchange.respond_large(status, lines, pieces)


def send(flow: Flow, status: int, document: JsonObject, lines: bytes = JSON) -> None:
    """Answer with a JSON document."""
    flow.answer = document
    flow.error = document.get("error")
    respond(flow, status, lines, jsonrpc.encode(document))


def accepted(flow: Flow, response: UpstreamResponse) -> None:
    """Answer 202 where the server has taken a notification or a response; raises as the server failed."""
    if flow.session is not None and reply.session_is_dead(response):
        raise session_not_found()
    if response.status >= 300:
        raise UpstreamFailed("status", f"HTTP {response.status}")
    respond(flow, 202, b"", b"")


def deny(flow: Flow, decision: Decision) -> None:
    """Answer a call that policy does not let through."""
    flow.outcome = "denied"
    call = flow.call
    assert call is not None
    if not isinstance(call.message, Request):
        respond(flow, 202, b"", b"")  # a notification has no answer; it goes no further
    elif call.method == "tools/call":
        send(flow, 200, answers.denied_call(call.message.id, flow.era, decision.reason, flow.id))
    else:
        send(flow, 200, answers.denied(call.message.id, decision.reason, flow.id))


def refuse(flow: Flow, refusal: Refused) -> None:
    """Answer what is not even a call that could be decided on."""
    flow.outcome = refusal.reason
    if refusal.status == 202:  # an unknown notification: dropped, and recorded by its outcome
        respond(flow, 202, b"", b"")
        return
    status = refusal.status
    if refusal.reason in _ANSWERED and flow.era is LEGACY:
        status = 200
    lines = JSON
    if isinstance(refusal, Unidentified):
        flow.unidentified, flow.why = refusal.cause, refusal.why
        if status == 401:
            lines += metadata.challenge(flow.snapshot, flow.request, refusal)
    elif isinstance(refusal, RateLimited):
        flow.why = refusal.message
        lines += b"retry-after: %d\r\n" % refusal.retry_after
    elif isinstance(refusal, MethodNotAllowed):
        lines += b"allow: %b\r\n" % refusal.allow.encode("ascii")
    send(flow, status, answers.refused(flow.message_id, refusal), lines)


def describe(flow: Flow) -> None:
    """Answer what is about a server and not for it: where tokens for it come from. Raises `Refused`: mostly 404."""
    route, document = metadata.described(flow.snapshot, flow.request)
    flow.directed(route)
    flow.ending = flow.undecided = "metadata"
    respond(flow, 200, JSON, jsonrpc.encode(document))


def fail(flow: Flow, failure: UpstreamFailed) -> None:
    """Answer in the place of a server that failed."""
    flow.outcome = failure.kind
    _log.debug("call %s to %s failed: %s", flow.id, flow.server, failure)
    document = answers.failed(flow.message_id, failure)
    if failure.kind in _REASONED:
        flow.why = failure.detail
    if failure.kind in _CROWDED:
        document["error"]["code"] = TOO_MANY
        send(flow, 429, document, JSON + b"retry-after: 1\r\n")
        return
    if flow.message_id is not None and flow.request.method == "POST":
        # A request gets its error in a 200, since clients take other statuses for a broken transport.
        send(flow, 200, document)
        return
    document["id"] = None  # who comes back for the rest of a stream may do so again
    send(flow, 503 if failure.kind == "identity" else 502, document)
