"""What belongs to a legacy session rather than to one call: its begin and end, its stream, answers to the server.

Source: basic/transports "Session Management" and "Listening for Messages from the Server" of the legacy revisions.
"""

import asyncio
import time
from typing import Final

from openmcp.sidecar.errors import DENIED, INVALID_REQUEST, MethodNotAllowed, Refused, UpstreamFailed
from openmcp.sidecar.mcp import answers, era, headers, jsonrpc
from openmcp.sidecar.mcp.surface import call_of
from openmcp.sidecar.mcp.values import Call
from openmcp.sidecar.net.response import UpstreamResponse
from openmcp.sidecar.policy.decision import HIDDEN
from openmcp.sidecar.stages import answering, forward
from openmcp.sidecar.stages.context import Flow
from openmcp.sidecar.stages.record import Recorder
from openmcp.sidecar.stages.relays import Relays
from openmcp.sidecar.stages.requests import backward
from openmcp.sidecar.stages.sessions import Sessions, checked_upstream_id, declared_capabilities, session_not_found
from openmcp.sidecar.types import LEGACY, METHOD, MODERN, Request, Response, Session, Subject

_CONNECTING: Final = (Subject(METHOD, "initialize"),)
_CROWDED: Final = 409
"""A server that keeps one stream for each session (the official Python SDK) answers this as long as it has not noticed
the end of the one before, which a client that comes back at once is faster than."""
_CROWDED_AGAIN: Final = (0.1, 0.3, 0.6)
"""Seconds to wait before each further attempt."""


class Connections:
    """Handles what sessions are about, under the snapshot of each flow."""

    def __init__(self, sessions: Sessions, relays: Relays, recorder: Recorder) -> None:
        self._sessions = sessions
        self._relays = relays
        self._recorder = recorder

    def attach(self, flow: Flow) -> None:
        """The legacy session that the request names, if it names one; modern requests have none (2026-07-28)."""
        token = flow.request.headers.get(b"mcp-session-id")
        if token is None or flow.era is MODERN:
            return
        text = token.decode("latin-1")
        session, flow.session_ref = self._sessions.open(text, flow.principal, flow.server, time.time())
        flow.session = session
        flow.endpoint = flow.upstream.by_key(session.endpoint)
        if flow.endpoint is None or (session.client is not None and flow.route.translator is None):
            raise session_not_found()  # its server is gone, or is not translated for any more and knows no such session

    def begin(self, flow: Flow, call: Call, response: UpstreamResponse, version: str) -> bytes:
        """The header line with our id for the session that the server began, or nothing where it began none."""
        upstream_id = response.headers.get(b"mcp-session-id")
        if upstream_id is None or flow.endpoint is None:
            return b""
        session = Session(
            flow.agent,
            flow.identified_by,
            flow.server,
            flow.endpoint.key,
            checked_upstream_id(upstream_id),
            version,
            declared_capabilities(call.message.params),
            self._sessions.expiry(time.time()),
            flow.client,
        )
        token = self._sessions.issue(session)
        flow.session, flow.session_ref = self._sessions.open(token, flow.principal, flow.server, time.time())
        flow.common = b""  # from here on the records of this exchange name the session
        self._recorder.metrics.session(flow.server, "opened")
        return b"mcp-session-id: %b\r\n" % token.encode()

    async def client_response(self, flow: Flow, message: Response) -> None:
        """The agent answers a request of the server: only one that was put to it, on its session, once."""
        if flow.session is None:
            raise Refused(400, INVALID_REQUEST, "a response needs a session", reason="forged_response")
        if not may_connect(flow):
            raise session_not_found()
        identifier = self._sessions.answered_id(flow.session, message.id)
        said = message.result if message.result is not None else message.error
        decision = flow.snapshot.policies.decide(flow.principal, flow.server, _CONNECTING, said)
        self._recorder.client_response(flow, Response(identifier, message.result, message.error), decision)
        flow.ending = "response"
        if decision.allowed:
            document = jsonrpc.response_document(Response(identifier, message.result, message.error))
        else:  # the server is waiting; what it asked for may not leave
            flow.outcome = "denied"
            document = answers.error(identifier, DENIED, f"Denied: {decision.reason}")
        asked = time.perf_counter()
        response = await backward(flow, document)
        flow.upstream_seconds = time.perf_counter() - asked
        response.close()
        answering.accepted(flow, response)

    async def serve(self, flow: Flow) -> None:
        """GET opens the session's notification stream or resumes one, DELETE ends the session; legacy alone."""
        request = flow.request
        declared = headers.protocol_version(request.headers)
        if declared in era.MODERN_VERSIONS:
            raise MethodNotAllowed("this revision has POST alone", "POST")
        era.legacy_version(declared)
        self.attach(flow)
        if not may_connect(flow):
            raise MethodNotAllowed("this agent may not use this server", "POST")
        if request.method == "GET":
            await self._open_stream(flow)
        else:
            await self._end_session(flow)

    async def _open_stream(self, flow: Flow) -> None:
        given = flow.request.headers
        if not headers.accepts(given, b"text/event-stream"):
            raise Refused(406, INVALID_REQUEST, "Accept must cover text/event-stream", reason="accept")
        lines = forward.stream_headers(flow)
        last = given.get(b"last-event-id")
        if last is not None:
            lines += self._resume(flow, last.decode("latin-1"))
        with flow.upstream.long_lived.place(flow.agent):
            response = await _listen(flow, lines)
            if response.streaming:
                await self._relays.carry(flow, response)
            else:
                self._no_stream(flow, response)

    def _resume(self, flow: Flow, token: str) -> bytes:
        """Take up a stream where it broke off: the request it belongs to is judged and correlated as at first."""
        if flow.session is None:
            raise session_not_found()
        upstream_id, description = self._sessions.resume(flow.session, token)
        if description:
            message = Request(description["id"], description["method"], description["params"])
            call = call_of(message, LEGACY, flow.session.version)
            rules = flow.snapshot.policies.rules_for(flow.principal, flow.server)
            if any(rules.shows(subject) is HIDDEN for subject in call.subjects):  # its arguments are not known any more
                raise session_not_found()
            flow.asked(call)
            flow.message_id = message.id
        return b"last-event-id: %b\r\n" % upstream_id.encode("latin-1")

    def _no_stream(self, flow: Flow, response: UpstreamResponse) -> None:
        response.close()
        if flow.session is not None and response.status in (400, 404):
            raise session_not_found()
        if response.status in (400, 405, 406):
            raise MethodNotAllowed("the server offers no stream", "POST, DELETE")
        raise UpstreamFailed("status", f"HTTP {response.status}")

    async def _end_session(self, flow: Flow) -> None:
        if flow.session is None:
            raise Refused(400, INVALID_REQUEST, "DELETE needs a session", reason="session")
        translator = flow.route.translator
        if translator is not None and flow.session.client is not None:
            translator.end(flow)
        else:
            await _delete(flow)
        flow.ending = "session-end"
        self._recorder.metrics.session(flow.server, "ended")
        answering.respond(flow, 200, b"", b"")


async def _listen(flow: Flow, lines: bytes) -> UpstreamResponse:
    """What the server says to a GET with these header lines."""
    translator = flow.route.translator
    if translator is not None and flow.session is not None and flow.session.client is not None:
        return await translator.listen(flow)
    return await open_stream(flow, lines)


async def open_stream(flow: Flow, lines: bytes) -> UpstreamResponse:
    """Ask a server for the stream of a session, by a GET with these header lines."""
    patience = flow.upstream.stream_patience
    response = await forward.send(flow, b"GET", lines, b"", patience, repeatable=True)
    for pause in _CROWDED_AGAIN:
        if response.status != _CROWDED:
            break
        response.close()
        await asyncio.sleep(pause)
        response = await forward.send(flow, b"GET", lines, b"", patience, repeatable=True)
    return response


async def _delete(flow: Flow) -> None:
    lines = forward.trace_lines(flow) + forward.session_lines(flow)
    patience = flow.upstream.call_patience
    with flow.upstream.long_lived.place(flow.agent):  # there are more: what frees places should not wait for one
        response = await forward.send(flow, b"DELETE", lines, b"", patience, repeatable=True)
    response.close()
    if response.status == 405:
        raise MethodNotAllowed("the server ends no session on demand", "POST, GET")
    if response.status == 404:
        raise Refused(404, INVALID_REQUEST, "the server did not end the session", reason="session")
    if response.status >= 300:
        raise UpstreamFailed("status", f"HTTP {response.status}")


def may_connect(flow: Flow) -> bool:
    """Whether policy would let the agent begin a session now: what a session carries by itself depends on that."""
    beside = {"tracestate": flow.tracestate} if flow.tracestate else None
    return flow.snapshot.policies.decide(flow.principal, flow.server, _CONNECTING, beside).allowed
