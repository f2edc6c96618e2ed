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

from openmcp.identity.refusal import KeysNeeded
from openmcp.sidecar.errors import INTERNAL_ERROR, MethodNotAllowed, Refused, UpstreamFailed
from openmcp.sidecar.mcp import answers, era, jsonrpc
from openmcp.sidecar.mcp.values import Call
from openmcp.sidecar.net.response import UpstreamResponse
from openmcp.sidecar.policy.decision import DENY, REQUIRE_APPROVAL, Decision
from openmcp.sidecar.policy.engine import Permit
from openmcp.sidecar.ports import Exchange
from openmcp.sidecar.stages import admit, answering, batch, forward, older, pins, reply
from openmcp.sidecar.stages.connections import Connections
from openmcp.sidecar.stages.context import Flow
from openmcp.sidecar.stages.guarded import Guarded
from openmcp.sidecar.stages.older import Letter, Older
from openmcp.sidecar.stages.relays import Relays
from openmcp.sidecar.stages.requests import Requests
from openmcp.sidecar.stages.results import Results
from openmcp.sidecar.stages.sessions import Sessions
from openmcp.sidecar.stages.snapshot import Snapshot
from openmcp.sidecar.telemetry import trace
from openmcp.sidecar.types import JsonObject, Request, Response

_ABOUT_HELD: Final = frozenset(("notifications/cancelled", "tasks/get", "tasks/update", "tasks/cancel"))
"""What may be about a call that is held here."""

_WITHHELD: Final = Decision(DENY, rule="pinTools", reason=pins.WITHHELD)
_log = logging.getLogger("openmcp.pipeline")


class Pipeline:
    """Handles exchanges under the current snapshot; `snapshot` may be replaced between any two of them."""

    def __init__(
        self,
        snapshot: Snapshot,
        sessions: Sessions,
        requests: Requests,
        results: Results,
        approvals: Guarded,
        random64: Callable[[], int],
    ) -> None:
        recorder = approvals.recorder
        self.snapshot = snapshot
        self.relays = Relays(sessions, results, recorder, lambda: self.snapshot)
        self._connections = Connections(sessions, self.relays, recorder)
        self.older = Older(self, self.relays)
        self._olders = self.older.streams
        self._requests = requests
        self._results = results
        self._approvals = approvals
        self._recorder = recorder
        self._random64 = random64
        self._exports = recorder.spans is not None
        self._threshold = recorder.spans.threshold if recorder.spans is not None else trace.NEVER

    async def __call__(self, exchange: Exchange) -> None:
        """Handle one HTTP exchange to its end."""
        olders = self._olders
        if olders and exchange.request.path in olders and exchange.request.method == "POST":
            await olders[exchange.request.path].take(exchange)
            return
        flow = self._begin(exchange)
        try:
            await self._serve(flow)
        except Refused as refusal:
            answering.refuse(flow, refusal)
        except UpstreamFailed as failure:
            answering.fail(flow, failure)
        except asyncio.CancelledError:
            flow.outcome = "drained" if self.relays.draining else "client_gone"
            raise
        except Exception:
            _log.exception("call %s failed inside the sidecar", flow.id)
            flow.outcome = "internal_error"
            if flow.status:  # a stream has begun: cut off, it cannot be taken for complete
                exchange.abort()
                return
            answering.send(flow, 500, answers.error(flow.message_id, INTERNAL_ERROR, "Internal error"))
        finally:
            self._recorder.end(flow)

    def _begin(self, exchange: Exchange) -> Flow:
        given = exchange.request.headers
        parent = given.get(b"traceparent")
        context = trace.parse(parent.decode("latin-1")) if parent is not None else None
        if context is None:
            flow = Flow(exchange, self.snapshot, trace.new(self._random64, self._threshold))
            flow.exported = self._exports
            return flow
        flow = Flow(exchange, self.snapshot, trace.child(context, self._random64))
        flow.exported = self._exports
        flow.traced = True
        flow.parent = context.span_id
        state = given.get(b"tracestate")
        if state is not None:
            flow.tracestate = trace.tracestate(state.decode("latin-1"))
        return flow

    async def _serve(self, flow: Flow) -> None:
        request = flow.request
        route = admit.locate(flow.snapshot, request)
        if route is None:
            answering.describe(flow)
            return
        flow.directed(route)
        try:
            principal = admit.identify(flow.snapshot, route, request)
        except KeysNeeded as needed:
            principal = await admit.identify_late(needed, flow.snapshot, route, request)
        flow.identified(principal)
        if isinstance(flow.exchange, Letter):
            flow.exchange.admit(flow)
        if not self._recorder.accepting:
            raise Refused(503, INTERNAL_ERROR, "the record cannot be written: nothing is let through", reason="record")
        if request.method == "POST":
            admit.check_media_types(request)
            await self._post(flow)
        elif request.method in ("GET", "DELETE"):
            if route.server.compat.sse and older.begins(request):
                await self.older.serve(flow)
            else:
                await self._connections.serve(flow)
        else:
            raise MethodNotAllowed("only POST, GET and DELETE are served", "POST, GET, DELETE")

    async def _post(self, flow: Flow) -> None:
        if batch.is_batch(flow.request.body) and not flow.older:
            self._connections.attach(flow)
            await batch.serve(flow, self)
            return
        message = admit.read(flow)
        if flow.older:
            older.check_era(flow)
        self._connections.attach(flow)
        if isinstance(message, Call):
            await self._call(flow, message)
        else:
            await self._connections.client_response(flow, message)

    async def _call(self, flow: Flow, call: Call) -> None:
        flow.asked(call)
        self._adopt_trace(flow, call)
        verdict = flow.snapshot.policies.authorize(flow.principal, flow.server, call)
        if flow.method == "tools/call" and self._results.withheld(flow):
            verdict = _WITHHELD
        event = "request" if isinstance(call.message, Request) else "notification"
        limits = flow.route.limits
        if not isinstance(verdict, Permit):
            self._recorder.call(flow, event, verdict)
            if verdict.verdict is REQUIRE_APPROVAL and isinstance(call.message, Request):
                if limits is not None:
                    await limits.take(flow.agent, flow.method, flow.name)
                await self._call_if_approved(flow, call, verdict)
            else:
                answering.deny(flow, verdict)
            return
        self._recorder.call(flow, event, verdict.decision)
        if limits is not None:
            await limits.take(flow.agent, flow.method, flow.name)
        if flow.method in _ABOUT_HELD and await self._approvals.intercept(flow, call):
            return
        params = self._requests.unseal(flow, call)
        await self._forward(flow, verdict, params)

    async def _call_if_approved(self, flow: Flow, call: Call, decision: Decision) -> None:
        params = self._requests.unseal(flow, call)  # first: a use is not taken for what cannot be sent
        permit = await self._approvals.settle(flow, call, decision)
        if permit is not None:
            await self._forward(flow, permit, params)

    def _adopt_trace(self, flow: Flow, call: Call) -> None:
        """Where no header named a parent, the trace context in `_meta` does (basic/index, "OpenTelemetry")."""
        meta = era.meta_of(call.message.params)
        parent, state = meta.get("traceparent"), meta.get("tracestate")
        if type(parent) is not str or b"traceparent" in flow.request.headers:
            return
        context = trace.parse(parent)
        if context is not None:
            flow.trace = trace.child(context, self._random64)
            flow.traced = True
            flow.parent = context.span_id
            flow.tracestate = trace.tracestate(state) if type(state) is str else None

    async def _forward(self, flow: Flow, permit: Permit, params: JsonObject) -> None:
        shares = flow.upstream.calls
        if flow.method == forward.LISTEN:
            shares = flow.upstream.long_lived
            forward.check_listening(flow)
        counted = shares.take(flow.agent)
        asked = time.perf_counter()
        try:
            try:
                translator = flow.route.translator
                if translator is None:
                    response = await forward.send_call(flow, permit, params)
                else:
                    response = await translator.send(flow, permit, params)
            finally:
                flow.upstream_seconds = time.perf_counter() - asked
            if response.streaming and isinstance(permit.call.message, Request):
                await self._relay(flow, permit.call, response)
            elif response.pieces:
                await self._answer_large(flow, permit.call, response)
            else:
                self._answer(flow, permit.call, response)
        finally:
            shares.give_back(flow.agent, counted=counted)

    def _answer(self, flow: Flow, call: Call, response: UpstreamResponse) -> None:
        """A complete answer: to a notification the status alone, to a request the response that belongs to it."""
        response.close()
        if not isinstance(call.message, Request):
            answering.accepted(flow, response)
            return
        status, message, canonical = reply.correlated(flow, response)
        document, lines = self._edited(flow, call, response, message)
        if document is None and canonical:
            flow.answer = {"result": message.result}
            answering.respond(flow, status, lines, response.body)
        else:
            answering.send(flow, status, document or jsonrpc.response_document(message), lines)

    async def _answer_large(self, flow: Flow, call: Call, response: UpstreamResponse) -> None:
        """The same for an answer that is read by the worker."""
        response.close()
        if not isinstance(call.message, Request):
            answering.accepted(flow, response)
            return
        reading = await reply.read_large(flow, response, self._results.large)
        status, message, _ = reply.correlated(flow, response, reading)
        if message.result is not None:
            await reading.edit_entries(flow, self._results.edit)
        document, lines = self._edited(flow, call, response, message)
        pieces = reading.original() if document is None else None
        pieces = pieces or reading.written(document or jsonrpc.response_document(message))
        await answering.respond_large(flow, status, lines, pieces)

    def _edited(
        self, flow: Flow, call: Call, response: UpstreamResponse, message: Response
    ) -> tuple[JsonObject | None, bytes]:
        """The answer as the agent gets it, None where nothing changed, and its header lines."""
        if message.result is None:
            flow.outcome = "rpc_error"
            flow.error = said = self._results.inspection.error(flow, message.error or {})
            return jsonrpc.response_document(Response(message.id, None, said)), answering.JSON
        result = self._results.edit(flow, message.result)
        if result.get("isError") is True and flow.outcome == "ok":
            flow.outcome = "tool_error"
        lines = answering.JSON
        if flow.method == "initialize":
            lines += self._connections.begin(flow, call, response, str(result.get("protocolVersion", "")))
        elif result is message.result:
            return None, lines
        return {"jsonrpc": "2.0", "id": message.id, "result": result}, lines

    async def _relay(self, flow: Flow, call: Call, response: UpstreamResponse) -> None:
        lines = b""
        if flow.method == "initialize":
            version = call.message.params.get("protocolVersion")
            try:
                lines = self._connections.begin(flow, call, response, str(version))
            except UpstreamFailed:
                response.close()
                raise
        await self.relays.carry(flow, response, lines)
