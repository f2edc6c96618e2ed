"""The story of one message, from the agent's request to its answer. Every path ends in a record.

locate     which server the path names; browsers and foreign names are refused
identify   who is calling
read       one message, parsed once and strictly; its era, session and what it touches
authorize  policy makes a Permit, or the call is denied
forward    the permitted call goes to its endpoint
relay      the answer is correlated, edited and passed on, whole or event by event
"""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Final

from openmcp.sidecar.errors import INTERNAL_ERROR, INVALID_REQUEST, TOO_MANY, Refused, UpstreamFailed
from openmcp.sidecar.mcp import answers, era, headers, jsonrpc
from openmcp.sidecar.mcp.surface import call_of
from openmcp.sidecar.mcp.values import Call
from openmcp.sidecar.net.upstream import UpstreamResponse
from openmcp.sidecar.policy.decision import Decision
from openmcp.sidecar.policy.engine import Permit
from openmcp.sidecar.ports import Exchange
from openmcp.sidecar.stages import admit, batch, forward, reply
from openmcp.sidecar.stages.context import Flow
from openmcp.sidecar.stages.record import Recorder
from openmcp.sidecar.stages.requests import Requests, backward
from openmcp.sidecar.stages.results import Results
from openmcp.sidecar.stages.sessions import Sessions, checked_upstream_id, declared_capabilities, session_not_found
from openmcp.sidecar.stages.snapshot import Snapshot
from openmcp.sidecar.stages.streams import Relay
from openmcp.sidecar.telemetry import trace
from openmcp.sidecar.types import LEGACY, METHOD, MODERN, JsonObject, Request, Response, Session, Subject

_JSON: Final = b"content-type: application/json\r\n"
_CHALLENGE: Final = b'www-authenticate: Bearer realm="openmcp"\r\n'
_CONNECTING: Final = (Subject(METHOD, "initialize"),)
_ANSWERED: Final = frozenset(("unknown_method", "foreign_task", "foreign_token"))
"""What a legacy server answers with 200: its clients take any other status for a broken transport (measured)."""
_log = logging.getLogger("openmcp.pipeline")


class Pipeline:
    """Handles exchanges under the current snapshot; `snapshot` may be replaced between any two of them."""

    def __init__(
        self,
        snapshot: Snapshot,
        sessions: Sessions,
        requests: Requests,
        results: Results,
        recorder: Recorder,
        random64: Callable[[], int],
    ) -> None:
        self.snapshot = snapshot
        self.relays: set[Relay] = set()
        self.draining = False
        self._sessions = sessions
        self._requests = requests
        self._results = results
        self._recorder = recorder
        self._random64 = random64
        self._background: set[asyncio.Task[None]] = set()

    async def __call__(self, exchange: Exchange) -> None:
        """Handle one HTTP exchange to its end."""
        flow = self._begin(exchange)
        try:
            await self._serve(flow)
        except Refused as refusal:
            self._refuse(flow, refusal)
        except UpstreamFailed as failure:
            self._fail(flow, failure)
        except asyncio.CancelledError:
            flow.outcome = "drained" if self.draining else "client_gone"
            raise
        except Exception:
            _log.exception("call %s failed inside the sidecar", flow.id)
            flow.outcome = "internal_error"
            if flow.status:  # a stream has begun: cut off, it cannot be taken for complete
                exchange.abort()
                return
            self._send(flow, 500, answers.error(flow.message_id, INTERNAL_ERROR, "Internal error"))
        finally:
            self._recorder.end(flow)

    def _begin(self, exchange: Exchange) -> Flow:
        given = exchange.request.headers
        parent = given.get(b"traceparent")
        context = trace.parse(parent.decode("latin-1")) if parent is not None else None
        if context is None:
            return Flow(exchange, self.snapshot, trace.new(self._random64))
        flow = Flow(exchange, self.snapshot, context.child(self._random64))
        flow.traced = True
        state = given.get(b"tracestate")
        if state is not None:
            flow.tracestate = trace.tracestate(state.decode("latin-1"))
        return flow

    async def _serve(self, flow: Flow) -> None:
        request = flow.exchange.request
        route = admit.locate(flow.snapshot, request)
        flow.directed(route)
        flow.identified(admit.identify(flow.snapshot, route, request))
        if not self._recorder.accepting:
            raise Refused(503, INTERNAL_ERROR, "the record cannot be written: nothing is let through", reason="record")
        if request.method == "POST":
            admit.check_media_types(request)
            await self._post(flow)
        elif request.method in ("GET", "DELETE"):
            await self._session_request(flow)
        else:
            raise Refused(405, INVALID_REQUEST, "only POST, GET and DELETE are served", reason="method")

    async def _post(self, flow: Flow) -> None:
        if batch.is_batch(flow.exchange.request.body):
            self._attach_session(flow)
            await batch.serve(flow, self)
            return
        message = admit.read(flow)
        self._attach_session(flow)
        if isinstance(message, Response):
            await self._client_response(flow, message)
        else:
            await self._call(flow, message)

    def _attach_session(self, flow: Flow) -> None:
        """The legacy session that the request names, if it names one; modern requests have none (2026-07-28)."""
        token = flow.exchange.request.headers.get(b"mcp-session-id")
        if token is None or flow.era is MODERN:
            return
        text = token.decode("latin-1")
        flow.session, flow.session_ref = self._sessions.open(text, flow.agent, flow.server, time.time())
        flow.endpoint = flow.upstream.by_key(flow.session.endpoint)
        if flow.endpoint is None:
            raise session_not_found()

    async def _call(self, flow: Flow, call: Call) -> None:
        flow.asked(call)
        self._adopt_trace(flow, call)
        verdict = flow.snapshot.policies.authorize(flow.principal, flow.server, call)
        event = "request" if isinstance(call.message, Request) else "notification"
        if isinstance(verdict, Decision):
            self._recorder.call(flow, event, verdict)
            self._deny(flow, verdict)
            return
        params = self._requests.unseal(flow, call)
        self._recorder.call(flow, event, verdict.decision)
        await self._forward(flow, verdict, params)

    def _adopt_trace(self, flow: Flow, call: Call) -> None:
        """Where no header named a parent, the trace context in `_meta` does (basic/index, "OpenTelemetry")."""
        meta = era.meta_of(call.message.params)
        parent, state = meta.get("traceparent"), meta.get("tracestate")
        if type(parent) is not str or b"traceparent" in flow.exchange.request.headers:
            return
        context = trace.parse(parent)
        if context is not None:
            flow.trace = context.child(self._random64)
            flow.traced = True
            flow.tracestate = trace.tracestate(state) if type(state) is str else None

    async def _forward(self, flow: Flow, permit: Permit, params: JsonObject) -> None:
        stream = permit.call.method == forward.LISTEN
        flow.upstream.begin(stream=stream)
        asked = time.perf_counter()
        try:
            try:
                response = await forward.send_call(flow, permit, params)
            finally:
                flow.upstream_seconds = time.perf_counter() - asked
            if response.streaming and isinstance(permit.call.message, Request):
                await self._relay(flow, response)
            else:
                self._answer(flow, permit.call, response)
        finally:
            flow.upstream.end(stream=stream)

    def _answer(self, flow: Flow, call: Call, response: UpstreamResponse) -> None:
        """A complete answer: to a notification the status alone, to a request the response that belongs to it."""
        response.close()
        if not isinstance(call.message, Request):
            self._accepted(flow, response)
            return
        status, message, canonical = reply.correlated(flow, response)
        lines = _JSON
        if message.result is None:
            flow.outcome = "rpc_error"
            document = jsonrpc.response_document(message)
        else:
            result = self._results.edit(flow, message.result)
            if result.get("isError") is True:
                flow.outcome = "tool_error"
            if canonical and result is message.result and call.method != "initialize":
                self._respond(flow, status, lines, response.body)
                return
            document = {"jsonrpc": "2.0", "id": message.id, "result": result}
            if call.method == "initialize":
                lines += self._open_session(flow, call, response, str(result.get("protocolVersion", "")))
        self._send(flow, status, document, lines)

    def _accepted(self, flow: Flow, response: UpstreamResponse) -> None:
        if flow.session is not None and reply.session_is_dead(response):
            raise session_not_found()
        if response.status >= 300:
            raise UpstreamFailed("status", f"HTTP {response.status}")
        self._respond(flow, 202, b"", b"")

    def _open_session(self, flow: Flow, call: Call, response: UpstreamResponse, version: str) -> bytes:
        """The header line with our id for the session that the server began, or nothing where it began none."""
        upstream_id = response.headers.get(b"mcp-session-id")
        if upstream_id is None or flow.endpoint is None:
            return b""
        session = Session(
            flow.agent,
            flow.server,
            flow.endpoint.key,
            checked_upstream_id(upstream_id),
            version,
            declared_capabilities(call.message.params),
            self._sessions.expiry(time.time()),
        )
        token = self._sessions.issue(session)
        flow.session, flow.session_ref = self._sessions.open(token, flow.agent, flow.server, time.time())
        flow.common = b""  # from here on the records of this exchange name the session
        flow.common = b""  # from here on its records name the session
        self._recorder.metrics.session(flow.server, "opened")
        return b"mcp-session-id: %b\r\n" % token.encode()

    async def _relay(self, flow: Flow, response: UpstreamResponse) -> None:
        lines = b""
        call = flow.call
        if call is not None and call.method == "initialize":
            version = call.message.params.get("protocolVersion")
            try:
                lines = self._open_session(flow, call, response, str(version))
            except UpstreamFailed:
                response.close()
                raise
        flow.streamed(_stream_kind(flow))
        relay = Relay(flow, self._sessions, self._results, self._recorder, self._reject)
        self.relays.add(relay)
        if self.draining and relay.idle:
            relay.stop()
        try:
            await relay.run(response, lines)
        finally:
            self.relays.discard(relay)

    async def _client_response(self, flow: Flow, message: Response) -> None:
        """The agent answers a request of the server: only one that was put to it, on its session, once."""
        if flow.session is None:
            raise Refused(400, INVALID_REQUEST, "a response needs a session", reason="forged_response")
        if not _may_connect(flow):
            raise session_not_found()
        identifier = self._sessions.answered_id(flow.session, message.id)
        self._recorder.client_response(flow)
        flow.ending = "response"
        document = jsonrpc.response_document(Response(identifier, message.result, message.error))
        asked = time.perf_counter()
        response = await backward(flow, document)
        flow.upstream_seconds = time.perf_counter() - asked
        self._accepted(flow, response)

    async def _session_request(self, flow: Flow) -> None:
        """GET opens the session's notification stream or resumes one, DELETE ends the session; legacy alone."""
        request = flow.exchange.request
        declared = headers.protocol_version(request.headers)
        if declared in era.MODERN_VERSIONS:
            raise Refused(405, INVALID_REQUEST, "this revision has POST alone", reason="method")
        era.legacy_version(declared)
        self._attach_session(flow)
        if not _may_connect(flow):
            raise Refused(405, INVALID_REQUEST, "this agent may not use this server", reason="method")
        if request.method == "GET":
            await self._open_stream(flow)
        else:
            await self._end_session(flow)

    async def _open_stream(self, flow: Flow) -> None:
        given = flow.exchange.request.headers
        if not headers.accepts(given, b"text/event-stream"):
            raise Refused(406, INVALID_REQUEST, "Accept must cover text/event-stream", reason="accept")
        lines = forward.stream_headers(flow)
        last = given.get(b"last-event-id")
        if last is not None:
            lines += self._resume(flow, last.decode("latin-1"))
        flow.upstream.begin(stream=True)
        try:
            patience = flow.upstream.stream_patience
            response = await forward.send(flow, b"GET", lines, b"", patience, repeatable=True)
            if response.streaming:
                await self._relay(flow, response)
            else:
                self._no_stream(flow, response)
        finally:
            flow.upstream.end(stream=True)

    def _resume(self, flow: Flow, token: str) -> bytes:
        """Take up a stream where it broke off: the request it belongs to is judged and correlated as at first."""
        if flow.session is None:
            raise session_not_found()
        upstream_id, description = self._sessions.resume(flow.session, token)
        if description:
            message = Request(description["id"], description["method"], description["params"])
            call = call_of(message, LEGACY, flow.session.version)
            if isinstance(flow.snapshot.policies.authorize(flow.principal, flow.server, call), Decision):
                raise session_not_found()
            flow.asked(call)
            flow.message_id = message.id
        return b"last-event-id: %b\r\n" % upstream_id.encode("latin-1")

    def _no_stream(self, flow: Flow, response: UpstreamResponse) -> None:
        response.close()
        if flow.session is not None and response.status in (400, 404):
            raise session_not_found()
        if response.status in (400, 405, 406):
            raise Refused(405, INVALID_REQUEST, "the server offers no stream", reason="method")
        raise UpstreamFailed("status", f"HTTP {response.status}")

    async def _end_session(self, flow: Flow) -> None:
        if flow.session is None:
            raise Refused(400, INVALID_REQUEST, "DELETE needs a session", reason="session")
        lines = forward.trace_lines(flow) + forward.session_lines(flow)
        patience = flow.upstream.call_patience
        response = await forward.send(flow, b"DELETE", lines, b"", patience, repeatable=True)
        response.close()
        if response.status in (404, 405):
            raise Refused(response.status, INVALID_REQUEST, "the server did not end the session", reason="session")
        if response.status >= 300:
            raise UpstreamFailed("status", f"HTTP {response.status}")
        flow.ending = "session-end"
        self._recorder.metrics.session(flow.server, "ended")
        self._respond(flow, 200, b"", b"")

    def _reject(self, flow: Flow, request: Request, code: int, message: str) -> None:
        """Answer a server's request in the agent's place, so that the server does not wait for it."""
        task = asyncio.create_task(self._send_rejection(flow, answers.error(request.id, code, message)))
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _send_rejection(self, flow: Flow, document: JsonObject) -> None:
        try:
            (await backward(flow, document)).close()
        except (UpstreamFailed, Refused) as error:
            _log.info("call %s: a server request could not be rejected: %s", flow.id, error)

    def _deny(self, flow: Flow, decision: Decision) -> None:
        flow.outcome = "denied"
        call = flow.call
        assert call is not None
        if not isinstance(call.message, Request):
            self._respond(flow, 202, b"", b"")  # a notification has no answer; it goes no further
        elif call.method == "tools/call":
            document = answers.denied_call(call.message.id, flow.era, decision.reason, flow.id)
            self._send(flow, 200, document)
        else:
            self._send(flow, 200, answers.denied(call.message.id, decision.reason, flow.id))

    def _refuse(self, flow: Flow, refusal: Refused) -> None:
        flow.outcome = refusal.reason
        if refusal.status == 202:  # an unknown notification: dropped, and recorded by its outcome
            self._respond(flow, 202, b"", b"")
            return
        status = refusal.status
        if refusal.reason in _ANSWERED and flow.era is LEGACY:
            status = 200
        lines = _JSON + _CHALLENGE if status == 401 else _JSON
        self._send(flow, status, answers.refused(flow.message_id, refusal), lines)

    def _fail(self, flow: Flow, failure: UpstreamFailed) -> None:
        flow.outcome = failure.kind
        _log.debug("call %s to %s failed: %s", flow.id, flow.server, failure)
        document = answers.failed(flow.message_id, failure)
        if failure.kind == "overloaded":
            document["error"]["code"] = TOO_MANY
            self._send(flow, 429, document, _JSON + b"retry-after: 1\r\n")
        else:  # a request gets its error in a 200, since clients take other statuses for a broken transport
            self._send(flow, 200 if flow.message_id is not None else 502, document)

    def _send(self, flow: Flow, status: int, document: JsonObject, lines: bytes = _JSON) -> None:
        self._respond(flow, status, lines, jsonrpc.encode(document))

    def _respond(self, flow: Flow, status: int, lines: bytes, body: bytes) -> None:
        flow.status = status
        flow.bytes_out = len(body)
        flow.exchange.respond(status, lines, body)


def _may_connect(flow: Flow) -> bool:
    """Whether policy would let the agent begin a session now: what a session carries by itself depends on that."""
    return flow.snapshot.policies.decide(flow.principal, flow.server, _CONNECTING).allowed


def _stream_kind(flow: Flow) -> str:
    """How the record and the metrics call the stream of this exchange."""
    if flow.exchange.request.method == "GET":
        return "get"
    return "listen" if flow.method == forward.LISTEN else "post"
