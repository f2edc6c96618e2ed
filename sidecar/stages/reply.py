"""A server's complete answer: correlated, judged, and put into the form its agent expects.

Statuses are translated: a challenge (401, 403) or a redirect to the agent never passes, a dead session is a 404, and an
agent of the other era learns which versions the server speaks.
"""

import re
from typing import Final

from openmcp.sidecar.errors import (
    HEADER_MISMATCH,
    INVALID_PARAMS,
    METHOD_NOT_FOUND,
    UNSUPPORTED_VERSION,
    Malformed,
    Refused,
    UpstreamFailed,
)
from openmcp.sidecar.mcp import era, jsonrpc
from openmcp.sidecar.net.response import UpstreamResponse
from openmcp.sidecar.stages.context import Flow
from openmcp.sidecar.stages.large import Large, Reading
from openmcp.sidecar.stages.sessions import session_not_found
from openmcp.sidecar.types import MODERN, Message, Response

_MODERN_CODES: Final = frozenset((METHOD_NOT_FOUND, INVALID_PARAMS, HEADER_MISMATCH, -32021, UNSUPPORTED_VERSION))
"""Errors by which a modern server is recognised (2026-07-28, "Backward Compatibility")."""
_DATE: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
"""What a version of MCP looks like: nothing else gets out of an error that is written anew."""
_JSON: Final = b"application/json"
_PASSED_STATUS: Final = frozenset((200, 400, 404))


async def read_large(flow: Flow, response: UpstreamResponse, large: Large) -> Reading:
    """A large answer as the worker reads it. Raises `UpstreamFailed` for what cannot be one."""
    if response.media_type != _JSON:
        _refuse_by_status(flow, response, None)
        raise UpstreamFailed("protocol", "a large answer that is not JSON")
    return await large.read(flow, response.pieces)


def correlated(flow: Flow, response: UpstreamResponse, reading: Reading | None = None) -> tuple[int, Response, bool]:
    """The HTTP status and the response message for the flow's request, and whether the body is in canonical form.

    `reading` is a large answer as it was read.
    Raises `UpstreamFailed` for what is not its answer and `Refused` where the answer is one of HTTP or of the era.
    """
    status = response.status
    message, canonical = _message(response, reading)
    if message is not None and message.id is None and message.error is not None:
        canonical = False
        message = Response(flow.message_id, None, message.error)  # servers refuse without an id what they did not read
    _refuse_by_status(flow, response, message)
    if message is None:
        raise UpstreamFailed("protocol", f"HTTP {status} without a JSON-RPC response")
    if message.id != flow.message_id or type(message.id) is not type(flow.message_id):
        raise UpstreamFailed("protocol", "the server answered another request")
    return status if status in _PASSED_STATUS else 200, message, canonical


def _message(response: UpstreamResponse, reading: Reading | None) -> tuple[Response | None, bool]:
    if response.media_type != _JSON or not (response.body or reading):
        return None, False
    try:
        message, canonical = _read(response.body) if reading is None else (reading.message(), False)
    except Malformed as error:
        if response.status == 200:
            raise UpstreamFailed("protocol", error.message) from None
        return None, False
    return (message, canonical) if isinstance(message, Response) else (None, False)


def _read(body: bytes) -> tuple[Message, bool]:
    document, canonical = jsonrpc.read_lenient(body)
    return jsonrpc.classify(document), canonical


def _refuse_by_status(flow: Flow, response: UpstreamResponse, message: Response | None) -> None:
    status = response.status
    if status == 200:
        return
    if flow.session is not None and session_is_dead(response):
        raise session_not_found()
    code = message.error["code"] if message is not None and message.error is not None else None
    if flow.era is MODERN and 400 <= status < 407 and status not in (401, 403) and code not in _MODERN_CODES:
        raise era.unsupported(flow.call.version if flow.call else "", era.LEGACY_VERSIONS)
    if flow.method == "initialize" and code in (INVALID_PARAMS, HEADER_MISMATCH, UNSUPPORTED_VERSION):
        raise _modern_only(message)
    if message is None or status not in (400, 404, 500):
        raise UpstreamFailed("status", f"HTTP {status}")


def session_is_dead(response: UpstreamResponse) -> bool:
    """404 by the specification; some servers say 400 and name the session in their text."""
    return response.status == 404 or (response.status == 400 and b"session" in response.body[:1024].lower())


def _modern_only(message: Response | None) -> Refused:
    """The answer to an initialize that a modern-only server cannot serve; 200, so that clients show the error."""
    error = message.error if message is not None else None
    data = error.get("data") if error is not None else None
    named = data.get("supported") if type(data) is dict else None
    given = named if type(named) is list else []
    supported = tuple(version for version in given if type(version) is str and _DATE.fullmatch(version) is not None)
    refusal = era.unsupported("initialize", supported or era.MODERN_VERSIONS)
    refusal.status = 200
    return refusal
