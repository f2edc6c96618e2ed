"""A server's stream, event by event: each one parsed, judged under its rule, and written anew.

Source: basic/transports of each revision, 2026-07-28 basic/patterns/subscriptions and progress.
"""

import time
from collections.abc import Callable, Sequence
from typing import Final

from openmcp.sidecar.errors import Malformed, Refused, UpstreamFailed
from openmcp.sidecar.mcp import answers, capabilities, era, jsonrpc, methods, sse
from openmcp.sidecar.mcp.surface import subjects_of
from openmcp.sidecar.mcp.values import Event, LargeEvent
from openmcp.sidecar.net.response import UpstreamResponse
from openmcp.sidecar.stages.context import Flow
from openmcp.sidecar.stages.forward import LISTEN
from openmcp.sidecar.stages.large import Reading
from openmcp.sidecar.stages.record import Recorder
from openmcp.sidecar.stages.results import Results, may_require
from openmcp.sidecar.stages.sessions import Sessions
from openmcp.sidecar.types import MODERN, RESOURCE, JsonObject, Message, Notification, Request, Response

HEADERS: Final = (
    b"content-type: text/event-stream\r\ncache-control: no-cache, no-transform\r\nx-accel-buffering: no\r\n"
)
_LISTED: Final = {
    "notifications/tools/list_changed": "toolsListChanged",
    "notifications/prompts/list_changed": "promptsListChanged",
    "notifications/resources/list_changed": "resourcesListChanged",
    "notifications/resources/updated": "resourceSubscriptions",
    "notifications/tasks": "taskIds",
}
_OWN_MEMBERS: Final = {"notifications/progress": "progressToken", "notifications/cancelled": "requestId"}
"""Members that were checked to be the agent's own, or are sealed by us: nothing to inspect."""
_ACKNOWLEDGED: Final = "notifications/subscriptions/acknowledged"

Reject = Callable[[Flow, Request, int, str], None]
"""Tells the server that its request cannot be put to the client: JSON-RPC code and message."""


class Dropped(Exception):
    """A message that is not passed on; the text says why, for the record."""


def _same(given: object, expected: object) -> bool:
    """Equal in type and value: neither "1" nor 1.0 nor true is 1."""
    return type(given) is type(expected) and given == expected


class Relay:
    """Carries one stream from server to agent.

    A flow with a request in `call` expects exactly one response, which ends the stream; the session's notification
    stream (GET) expects none. `until` is when it has to end at the latest, in Unix seconds, as found
    out last; `review_at` is when that is to be found out again, by the loop's time.
    """

    def __init__(self, flow: Flow, sessions: Sessions, results: Results, recorder: Recorder, reject: Reject) -> None:
        self.flow = flow
        self._sessions = sessions
        self._results = results
        self._recorder = recorder
        self._reject = reject
        call = flow.call
        self._expects = call is not None and isinstance(call.message, Request)
        params = call.message.params if call is not None else {}
        token = era.meta_of(params).get("progressToken")
        self._token = token if jsonrpc.valid_id(token) else None  # "a string or integer value"
        self._progress: float | None = flow.progress or None
        self._listens = params.get("notifications", {}) if flow.method == LISTEN else None
        self._acknowledged = False
        self._answered = False
        self._resumable = False
        self.until = float("inf")
        self.review_at = 0.0
        self._stopping = False
        self._response: UpstreamResponse | None = None

    @property
    def idle(self) -> bool:
        """Whether this stream ends only when somebody ends it: a GET or a subscription."""
        return not self._expects or self._listens is not None

    async def run(self, response: UpstreamResponse, headers: bytes = b"") -> None:
        """Relay until the response was passed on or the stream ends; an open request always gets an answer."""
        self._begin(response, headers)
        try:
            await self._carry(response)
        except UpstreamFailed as failure:
            self._break(failure)
        except sse.EventTooLarge as error:
            self._break(UpstreamFailed("too_large", str(error)))
        except BaseException:
            response.close()
            raise
        self._end(response)

    async def _carry(self, response: UpstreamResponse) -> None:
        parser = sse.Parser(self.flow.upstream.server.limits.response_bytes)
        while not self._answered and (chunk := await self._next(response)):
            for event in parser.feed(chunk):
                if self._answered:
                    break
                if isinstance(event, LargeEvent):
                    await self._pass_large(event)
                else:
                    self._write(self._pass(event))
            await self.flow.exchange.drain()

    def _begin(self, response: UpstreamResponse, headers: bytes) -> None:
        self._response = response
        if self._stopping:
            response.stop()
        self.flow.exchange.start_stream(HEADERS + headers, sse.KEEP_ALIVE)
        self.flow.status = 200
        if self.idle:
            self.flow.exchange.flush()  # the agent learns now that it is connected, not with the first event

    async def _next(self, response: UpstreamResponse) -> bytes:
        asked = time.perf_counter()
        try:
            return await response.chunk()
        finally:
            self.flow.upstream_seconds += time.perf_counter() - asked

    def stop(self) -> None:
        """End the stream in good order, because the sidecar stops or the agent may no longer have it."""
        self._stopping = True
        if self._response is not None:
            self._response.stop()

    def announce_lists(self) -> None:
        """Tell the agent that its lists may have changed, since the policy has."""
        for method, wanted in _LISTED.items():
            if not method.endswith("/list_changed"):
                continue
            if self._listens is not None and not (self._acknowledged and self._listens.get(wanted)):
                continue
            params: JsonObject = {}
            if self._listens is not None:
                params = {"_meta": {era.META_SUBSCRIPTION: self.flow.message_id}}
            self._say(Notification(method, params))
        self.flow.exchange.flush()

    def _end(self, response: UpstreamResponse) -> None:
        self._stopping = self._stopping or response.stopped  # its connection came to its end
        if self._expects and not self._answered:
            self._close_open_request()
        self.flow.exchange.finish()
        if self._answered and not self._stopping:
            response.finish()
        else:
            response.close()

    def _close_open_request(self) -> None:
        if self._stopping and self._listens is not None:
            result = {"resultType": "complete", "_meta": {era.META_SUBSCRIPTION: self.flow.message_id}}
            self._say(Response(self.flow.message_id, result, None))
        elif not self._resumable:  # the client of a resumable stream comes back for the rest (2025-11-25)
            self._break(UpstreamFailed("closed", "the stream ended without a response"))

    def _break(self, failure: UpstreamFailed) -> None:
        self.flow.outcome = failure.kind
        if self._expects and not self._answered:
            document = answers.failed(self.flow.message_id, failure)
            self.flow.error = document["error"]
            self._answered = True
            self._say(Response(self.flow.message_id, None, document["error"]))

    def _say(self, message: Message) -> None:
        """Pass on a message of our own."""
        data = jsonrpc.encode(jsonrpc.document_of(message))
        self._passed(message, message, len(data))
        self._write(sse.encode_message(data))

    def _pass(self, event: Event) -> bytes:
        """The bytes that go to the agent for one event; empty where nothing does."""
        identifier = self._event_id(event)
        if not event.data:
            if identifier is None and event.retry is None:
                return b""
            return sse.encode(Event(b"", id=identifier, retry=event.retry))
        try:
            data = self._judge(event)
        except Dropped as drop:
            self._recorder.dropped(self.flow, str(drop))
            return b""
        return sse.encode(Event(data, id=identifier, retry=event.retry))

    async def _pass_large(self, event: LargeEvent) -> None:
        """The same for an event that is read by the worker."""
        try:
            reading = await self._results.large.read(self.flow, event.pieces, event=True)
            if reading.empty:
                self._write(self._pass(reading.event))
                return
            identifier = self._event_id(reading.event)
            pieces = await self._judge_large(reading)
        except Dropped as drop:
            self._recorder.dropped(self.flow, str(drop))
        else:
            frame = sse.encode(Event(b"\0", id=identifier, retry=reading.event.retry)).split(b"\0")
            await self.flow.exchange.write_large((frame[0], *pieces, frame[1]))
        finally:
            self.flow.examiner = None

    async def _judge_large(self, reading: Reading) -> Sequence[bytes]:
        try:
            message = reading.message()
        except Malformed as error:
            raise Dropped(f"malformed: {error.message}") from None
        if isinstance(message, Response) and self._is_expected(message):
            await self._edit_entries(reading)
        judged = self._judge_message(message)
        pieces = reading.original() if judged is message else None
        pieces = pieces or reading.written(jsonrpc.document_of(judged))
        self._passed(message, None, sum(map(len, pieces)))
        return pieces

    async def _edit_entries(self, reading: Reading) -> None:
        try:
            await reading.edit_entries(self.flow, self._results.edit)
        except Refused:
            return  # what a rule blocks in one part is blocked as a whole, when the rest is judged

    def _event_id(self, event: Event) -> bytes | None:
        session = self.flow.session
        if event.id is None or session is None or self.flow.older:
            return None  # HTTP+SSE has no streams that could be resumed
        identifier = self._sessions.event_id(session, event.id.decode("latin-1"), self._description())
        self._resumable = self._resumable or identifier is not None
        return identifier

    def _description(self) -> JsonObject:
        """What a resumed stream has to know of the request it belongs to."""
        call = self.flow.call
        if call is None or not isinstance(call.message, Request):
            return {}
        named = methods.NAMED.get(call.method)
        params: JsonObject = {named[1]: call.name} if named is not None else {}
        for member in ("ref", "argument", "context", "taskId"):  # what completions and tasks are judged by
            if member in call.message.params:
                params[member] = call.message.params[member]
        if self._token is not None:
            params["_meta"] = {"progressToken": self._token}
        return {"id": call.message.id, "method": call.method, "params": params}

    def _judge(self, event: Event) -> bytes:
        if event.name != b"message":
            raise Dropped("unknown SSE event")
        try:
            document, canonical = jsonrpc.read_lenient(event.data)
            message = jsonrpc.classify(document)
        except Malformed as error:
            raise Dropped(f"malformed: {error.message}") from None
        judged = self._judge_message(message)
        unchanged = canonical and judged is message
        data = event.data if unchanged else jsonrpc.encode(jsonrpc.document_of(judged))
        self._passed(message, judged, len(data))
        return data

    def _passed(self, message: Message, judged: Message | None, size: int) -> None:
        """A message went on as `judged`, None where it is large."""
        self.flow.bytes_out += size
        document = jsonrpc.document_of(judged) if judged is not None else None
        self._recorder.streamed(self.flow, message, document, size)

    def _judge_message(self, message: Message) -> Message:
        if isinstance(message, Response):
            return self._answer(message)
        return self._server_request(message) if isinstance(message, Request) else self._notification(message)

    def _is_expected(self, message: Response) -> bool:
        return self._expects and _same(message.id, self.flow.message_id)

    def _answer(self, message: Response) -> Response:
        if not self._is_expected(message):
            raise Dropped("a response to no request of this stream")
        try:
            message = self._edited(message)
        except Refused as refusal:
            self.flow.outcome = refusal.reason
            message = Response(message.id, None, answers.refused(None, refusal)["error"])
        self._answered = True
        self.flow.error = message.error
        if message.error is not None and self.flow.outcome == "ok":
            self.flow.outcome = "rpc_error"
        return message

    def _edited(self, message: Response) -> Response:
        result, error = message.result, message.error
        if result is None:
            said = self._results.inspection.error(self.flow, error or {})
            return message if said is error else Response(message.id, None, said)
        try:
            edited = self._results.edit(self.flow, result)
        except UpstreamFailed as failure:
            self.flow.outcome = failure.kind
            error = answers.failed(self.flow.message_id, failure)["error"]
            return Response(self.flow.message_id, None, error)
        if edited.get("isError") is True and self.flow.outcome == "ok":
            self.flow.outcome = "tool_error"
        return message if edited is result else Response(message.id, edited, None)

    def _server_request(self, message: Request) -> Request:
        """A server's question to the client: legacy sessions alone, and only what the client offered to answer."""
        flow, session = self.flow, self.flow.session
        if flow.era is MODERN or session is None:
            raise Dropped("a server request outside a legacy session")
        capability = capabilities.needed(message.method, message.params)
        if capability is None or (capability and capability not in session.capabilities):
            self._reject(flow, message, -32601, "Method not found")
            raise Dropped("a server request that the client did not offer to answer")
        try:
            params = self._results.inspection.params(flow, message.method, message.params)
        except Refused as refusal:
            self._reject(flow, message, refusal.code, refusal.message)
            raise Dropped(refusal.message) from None
        return Request(self._sessions.request_id(session, message.id), message.method, params)

    def _notification(self, message: Notification) -> Notification:
        known = methods.SERVER_NOTIFICATIONS[self.flow.era]
        if message.method not in (known if self._listens is None else methods.SUBSCRIBED_NOTIFICATIONS):
            raise Dropped("unknown notification")
        if self._listens is not None:
            self._check_subscription(message, self._listens)
        if message.method == "notifications/progress":
            self._check_progress(message.params)
        elif message.method == "notifications/resources/updated":
            self._check_uri(message.params.get("uri"))
        elif message.method == "notifications/cancelled":
            message = self._cancelled(message)
        return self._inspected(message)

    def _inspected(self, message: Notification) -> Notification:
        own = _OWN_MEMBERS.get(message.method, "")
        if own == "progressToken" and not self._expects:
            own = ""  # nobody has checked whose it is
        try:
            params = self._results.inspection.params(self.flow, message.method, message.params, own)
        except Refused as refusal:
            raise Dropped(refusal.message) from None
        return message if params is message.params else Notification(message.method, params)

    def _check_subscription(self, message: Notification, listens: JsonObject) -> None:
        """A subscription carries its own id, an acknowledgement first, and nothing that was not asked for."""
        if not _same(era.meta_of(message.params).get(era.META_SUBSCRIPTION), self.flow.message_id):
            raise Dropped("a notification of another subscription")
        if message.method == _ACKNOWLEDGED:
            self._acknowledged = True
            return
        wanted = _LISTED.get(message.method)
        if not self._acknowledged or (wanted is not None and not listens.get(wanted)):
            raise Dropped("a notification that was not subscribed to")
        if message.method == "notifications/tasks":
            self._check_task(message.params, listens["taskIds"])

    def _check_task(self, task: JsonObject, wanted: list[str]) -> None:
        if task.get("taskId") not in wanted:
            raise Dropped("news of a task that was not subscribed to")
        if not may_require(self.flow, task):
            raise Dropped("a task that asks for input that the client did not offer")

    def _check_progress(self, params: JsonObject) -> None:
        if not self._expects:
            return  # older servers report progress on the session's stream, whose requests are not known here
        token, value = params.get("progressToken"), params.get("progress", "")
        if self._token is None or not _same(token, self._token):
            raise Dropped("progress for a token that was not given")
        if type(value) not in (int, float) or (self._progress is not None and value <= self._progress):
            raise Dropped("progress that does not increase")
        self._progress = value

    def _check_uri(self, uri: object) -> None:
        if type(uri) is not str:
            raise Dropped("an update without a URI")
        try:
            subjects = subjects_of(RESOURCE, uri)
        except Refused:
            raise Dropped("an update of something that is not a URI") from None
        if not self.flow.snapshot.policies.decide(self.flow.principal, self.flow.server, subjects).allowed:
            raise Dropped("an update of a resource that policy denies")

    def _cancelled(self, message: Notification) -> Notification:
        """A server takes back its own request, which the client knows under our id."""
        session, identifier = self.flow.session, message.params.get("requestId")
        if self.flow.era is MODERN:
            if not _same(identifier, self.flow.message_id):
                raise Dropped("a cancellation of another request")
            return message
        if session is None or not isinstance(identifier, str | int):
            raise Dropped("a cancellation of no request of the server")
        params = message.params | {"requestId": self._sessions.request_id(session, identifier)}
        return Notification(message.method, params)

    def _write(self, data: bytes) -> None:
        self.flow.exchange.write(data)
