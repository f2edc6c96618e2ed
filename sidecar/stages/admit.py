"""Who is calling, for which server, with what: everything that is settled before policy is asked."""

import functools
from collections.abc import Mapping
from typing import Final
from urllib.parse import urlsplit

import msgspec

from openmcp.identity import refusal
from openmcp.identity.principal import ANONYMOUS, Principal
from openmcp.sidecar.errors import DENIED, INVALID_REQUEST, Malformed, Refused, Unidentified
from openmcp.sidecar.mcp import answers, era, headers, jsonrpc, methods
from openmcp.sidecar.mcp.surface import call_of
from openmcp.sidecar.mcp.values import Call
from openmcp.sidecar.ports import HttpRequest
from openmcp.sidecar.stages.context import Flow
from openmcp.sidecar.stages.snapshot import Route, Snapshot
from openmcp.sidecar.types import MODERN, Notification, Request, Response

_NOT_IN_A_HOST: Final = frozenset("/?#@\\")
"""What urlsplit would take for the end of the name (RFC 9110, 7.2: a Host is a name and a port)."""


def locate(snapshot: Snapshot, request: HttpRequest) -> Route | None:
    """The server that the path names, None where it names none. Browsers and rebound names are refused first (403)."""
    _refuse_foreign_host(snapshot, request.headers)
    origin = request.headers.get(b"origin")
    if origin is not None and origin.decode("latin-1").lower() not in snapshot.origins:
        raise Refused(403, DENIED, "this Origin is not allowed (listen.allowedOrigins)", reason="origin")
    headers.refuse_repeated(request.repeated)
    if snapshot.closed:
        raise Refused(503, DENIED, snapshot.closed, reason="no_configuration")
    return snapshot.routes.get(request.path)


def identify(snapshot: Snapshot, route: Route, request: HttpRequest) -> Principal:
    """The caller; 401 where what it presents is not good, and where it presents nothing to a server that demands it.

    Raises `KeysNeeded` where keys have to be asked for first.
    """
    try:
        principal = snapshot.identifier.identify(request.headers, request.peer)
    except refusal.Refused as refused:
        raise Unidentified(401, refused.reason, refused.why) from None
    except refusal.Unavailable as unavailable:
        raise Unidentified(503, unavailable.reason, unavailable.why) from None
    if principal is not None:
        return principal
    if route.server.require_auth:
        raise Unidentified(401, "nothing", "it presents nothing that identity.agents knows")
    return ANONYMOUS


async def identify_late(
    needed: refusal.KeysNeeded, snapshot: Snapshot, route: Route, request: HttpRequest
) -> Principal:
    """The same after the keys have been asked for, once."""
    await needed.source.refresh()
    try:
        return identify(snapshot, route, request)
    except refusal.KeysNeeded:
        raise Unidentified(503, "no_keys", "the keys of the token's issuer cannot be had") from None


def remains(snapshot: Snapshot, flow: Flow) -> bool:
    """Whether the agent of a stream would still get it under another configuration, from the same server."""
    request = flow.request
    route = snapshot.routes.get(request.path)
    if route is None or route.upstream is not flow.upstream:
        return False
    try:
        principal = identify(snapshot, route, request)
    except (Refused, refusal.KeysNeeded):
        return False
    same = principal.name == flow.agent and principal.method == flow.identified_by
    return same and snapshot.policies.rules_for(flow.principal, flow.server).usable


def check_media_types(request: HttpRequest) -> None:
    """Require a JSON body (415) from a client that can read both forms of an answer (406)."""
    headers.check_content(request.headers)
    if not headers.accepts(request.headers, b"application/json", b"text/event-stream"):
        raise Refused(406, INVALID_REQUEST, "Accept must cover application/json and text/event-stream", reason="accept")


def read(flow: Flow) -> Call | Response:
    """Parse the body of a POST and decide what it is; raises `Refused` for everything that is not one message."""
    request = flow.request
    document, flow.canonical = jsonrpc.read(request.body)
    try:
        message = jsonrpc.classify(document)
    except Malformed:
        flow.message_id = jsonrpc.message_id(document)
        raise
    declared = headers.protocol_version(request.headers)
    if isinstance(message, Request):
        flow.message_id = message.id
    elif isinstance(message, Response):
        return _client_response(message, declared)
    return _client_call(flow, message, declared)


def _client_call(flow: Flow, message: Request | Notification, declared: str | None) -> Call:
    flow.era, version = era.determine(message, declared)
    if flow.era is MODERN:
        headers.check_mirrored(message, flow.request.headers)
        arguments = message.params.get("arguments")
        flow.parameters = headers.parameter_lines(flow.request.headers, arguments)
    if isinstance(message, Request):
        if message.method not in methods.CLIENT_REQUESTS[flow.era]:
            raise answers.unknown_method(message.method)
    elif message.method not in methods.CLIENT_NOTIFICATIONS[flow.era]:
        raise Refused(202, INVALID_REQUEST, "unknown notification", reason="unknown_notification")
    call = call_of(message, flow.era, version)
    return msgspec.structs.replace(call, beside=flow.tracestate) if flow.tracestate else call


def _client_response(message: Response, declared: str | None) -> Response:
    if declared in era.MODERN_VERSIONS:
        raise Refused(400, INVALID_REQUEST, "a client sends no responses in this revision", reason="malformed")
    era.legacy_version(declared)
    return message


def _refuse_foreign_host(snapshot: Snapshot, given: Mapping[bytes, bytes]) -> None:
    """DNS rebinding: a page of another name that was made to resolve to this listener."""
    host = given.get(b"host", b"")
    if len(host) > 300 or _names_of(host).isdisjoint(snapshot.hosts):
        raise Refused(403, DENIED, "this Host is not allowed (listen.allowedHosts)", reason="host")


@functools.lru_cache(maxsize=256)
def _names_of(host: bytes) -> frozenset[str]:
    """A Host header as it is and without its port, in lower case."""
    text = host.decode("latin-1").lower()
    if not _NOT_IN_A_HOST.isdisjoint(text):
        return frozenset()
    try:
        name = urlsplit(f"//{text}").hostname
    except ValueError:
        return frozenset()
    return frozenset((text, name)) if name is not None else frozenset()
