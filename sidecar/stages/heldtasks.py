"""Calls that wait for an approval as tasks: the client polls, and the call is made when a poll finds it approved.

Source: extension io.modelcontextprotocol/tasks (2026-07-28). The task is ours, not the server's: it is kept in memory
with the agent's request, which then goes through the whole pipeline once more, under the credential of the poll. Once
begun, a call runs to its end, as tasks do; what it brings is kept for further polls.
"""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Final

from openmcp.sidecar.errors import INTERNAL_ERROR, Refused
from openmcp.sidecar.mcp import answers, era, jsonrpc, sse
from openmcp.sidecar.mcp.values import Call, Event
from openmcp.sidecar.ports import Exchange, HttpRequest
from openmcp.sidecar.stages import answering, asking
from openmcp.sidecar.stages.context import Flow
from openmcp.sidecar.stages.desk import CALL, Desk
from openmcp.sidecar.stages.held import Holding
from openmcp.sidecar.stages.results import TASKS_EXTENSION, extensions
from openmcp.sidecar.state.lifecycle import Conflict
from openmcp.sidecar.state.records import ApprovalRecord, Status, UnknownSchema
from openmcp.sidecar.state.store import StoreUnavailable
from openmcp.sidecar.types import MODERN, JsonObject, MessageId

MOST: Final = 2000
MOST_PER_AGENT: Final = 100
"""Tasks kept at a time; further calls are held like those of other clients."""

LARGEST: Final = 64 * 1024
"""Bytes of a request that is kept."""
KEPT: Final = 10 * 60 * 1000
"""Milliseconds for which a task is kept after nobody can decide on it any more."""
POLL: Final = 1000
"""Milliseconds between polls; each of them waits a while itself."""

MISSING_CAPABILITY: Final = -32021
_METHODS: Final = frozenset(("tasks/get", "tasks/update", "tasks/cancel"))
_CREDENTIALS: Final = (b"authorization", b"x-api-key", b"x-forwarded-client-cert")
_MADE_ANEW: Final = (b"content-length", b"transfer-encoding")

Handle = Callable[[Exchange], Awaitable[None]]


class TaskRun:
    """The exchange of a call that is made as a task: keeps what is answered. `pending` is the approval it lacks."""

    def __init__(self, request: HttpRequest, limit: int) -> None:
        self.request = request
        self.pending: ApprovalRecord | None = None
        self._parser = sse.Parser(limit)
        self._last: JsonObject | None = None

    def respond(self, status: int, headers: bytes, body: bytes) -> None:
        """See `ports.Exchange`."""
        self._keep(body)

    async def respond_large(self, status: int, headers: bytes, pieces: Sequence[bytes]) -> None:
        """See `ports.Exchange`."""
        self._keep(b"".join(pieces))

    def start_stream(self, headers: bytes, keep_alive: bytes) -> None:
        """See `ports.Exchange`."""

    def write(self, data: bytes) -> None:
        """See `ports.Exchange`. A task tells of no progress: what counts is the response."""
        for event in self._parser.feed(data):
            if isinstance(event, Event):
                self._keep(event.data)
            else:
                self._keep(_data_of(event.pieces))

    async def write_large(self, pieces: Iterable[bytes]) -> None:
        """See `ports.Exchange`."""
        self.write(b"".join(pieces))

    def flush(self) -> None:
        """See `ports.Exchange`."""

    async def drain(self) -> None:
        """See `ports.Exchange`."""

    def finish(self) -> None:
        """See `ports.Exchange`."""

    def abort(self) -> None:
        """See `ports.Exchange`."""

    @property
    def response(self) -> JsonObject:
        """The JSON-RPC response that came; an error where none did."""
        return self._last or answers.error(None, INTERNAL_ERROR, "Internal error")

    def _keep(self, body: bytes) -> None:
        document: Any = jsonrpc.read_lenient(body)[0] if body else None
        if type(document) is dict and ("result" in document or "error" in document):
            self._last = document


class _Task:
    __slots__ = ("answer", "cancelled", "created", "id", "record", "request", "run", "updated", "until")

    def __init__(self, identifier: str, request: HttpRequest, record: ApprovalRecord, now: int) -> None:
        self.id = identifier
        self.request = request
        self.record = record
        self.created = self.updated = now
        self.until = record.pending_until + KEPT
        self.run: asyncio.Task[None] | None = None
        self.answer: JsonObject | None = None
        self.cancelled = False

    @property
    def waits(self) -> bool:
        """Whether nothing has been done yet."""
        return self.run is None and self.answer is None and not self.cancelled

    def shown(self) -> JsonObject:
        """The task as the extension writes it."""
        status, more = "working", {}
        if self.cancelled:
            status = "cancelled"
        elif self.answer is not None and "result" in self.answer:
            status, more = "completed", {"result": self.answer["result"]}
        elif self.answer is not None:
            status, more = "failed", {"error": self.answer["error"]}
        elif self.run is None:
            more = {"statusMessage": f"waiting for a human to approve {self.record.rid}"}
        else:
            more = {"statusMessage": f"approved ({self.record.rid}), under way"}
        return {
            "taskId": self.id,
            "status": status,
            "createdAt": asking.rfc3339(self.created),
            "lastUpdatedAt": asking.rfc3339(self.updated),
            "ttlMs": self.until - self.created,
            "pollIntervalMs": POLL,
            **more,
        }


class HeldTasks:
    """The tasks of agents, by server, agent and id. `handle` is the pipeline; `now` gives Unix seconds."""

    def __init__(self, desk: Desk, holding: Holding, now: Callable[[], float]) -> None:
        self.handle: Handle | None = None
        self._desk = desk
        self._holding = holding
        self._now = now
        self._tasks: dict[tuple[str, str, str], _Task] = {}

    def __len__(self) -> int:
        return len(self._tasks)

    def takes(self, flow: Flow) -> bool:
        """Whether a call that has to wait becomes a task."""
        if flow.era is not MODERN or flow.method != "tools/call" or TASKS_EXTENSION not in extensions(flow):
            return False
        assert flow.call is not None
        params = flow.call.message.params
        if "requestState" in params or "inputResponses" in params or len(flow.request.body) > LARGEST:
            return False
        self._forget_old()
        mine = sum(server == flow.server and agent == flow.agent for server, agent, _ in self._tasks)
        return len(self._tasks) < MOST and mine < MOST_PER_AGENT

    def owns(self, server: str, agent: str, identifier: object) -> bool:
        """Whether this is a task of ours, for this agent."""
        return type(identifier) is str and (server, agent, identifier) in self._tasks

    def create(self, flow: Flow, record: ApprovalRecord) -> JsonObject:
        """The result that says that the call is a task from now on."""
        identifier = secrets.token_urlsafe(24)
        task = _Task(identifier, _kept(flow), record, self._milliseconds())
        self._tasks[flow.server, flow.agent, identifier] = task
        return {"resultType": "task", **task.shown()}

    async def serve(self, flow: Flow, call: Call) -> bool:
        """Answer a request about one of these tasks; False where it is about none of them."""
        identifier = call.message.params.get("taskId")
        if flow.era is not MODERN or call.method not in _METHODS or type(identifier) is not str:
            return False
        self._forget_old()
        task = self._tasks.get((flow.server, flow.agent, identifier))
        if task is None:
            return False
        if TASKS_EXTENSION not in extensions(flow):
            data: JsonObject = {"requiredCapabilities": {"extensions": {TASKS_EXTENSION: {}}}}
            raise Refused(400, MISSING_CAPABILITY, "Missing required client capability", reason="capability", data=data)
        flow.approval = task.record.rid
        result: JsonObject = {"resultType": "complete"}
        if call.method == "tasks/cancel":
            await self._cancel(flow, task)
        elif call.method == "tasks/get":
            await self._poll(flow, task)
            result |= task.shown()
        answering.send(flow, 200, {"jsonrpc": "2.0", "id": flow.message_id, "result": result})
        return True

    async def close(self, patience: float) -> None:
        """Let the calls that are under way finish within so many seconds, then cut them off."""
        running = [task.run for task in self._tasks.values() if task.run is not None]
        if not running:
            return
        await asyncio.wait(running, timeout=patience)
        for run in running:
            run.cancel()
        await asyncio.wait(running)

    async def _poll(self, flow: Flow, task: _Task) -> None:
        """See how it stands, and wait a while for that to change."""
        loop = asyncio.get_running_loop()
        room = self._holding.has_room(flow)
        patience = flow.snapshot.configuration.approvals.hold if room else 0.0
        deadline = loop.time() + patience
        with self._holding.hold(flow, loop.time()) as one:
            try:
                async with one.scope:
                    if task.waits:
                        await self._advance(flow, task, patience)
                    run = task.run
                    if run is not None:
                        await asyncio.wait([run], timeout=max(deadline - loop.time(), 0))
            except TimeoutError:
                pass  # the sidecar stops: it is told how it stands
            except (StoreUnavailable, UnknownSchema) as error:
                flow.why = str(error)  # a task goes on; a later poll may find out

    async def _advance(self, flow: Flow, task: _Task, patience: float) -> None:
        service, desk = self._desk.service, self._desk
        if service is None:
            return
        found = await desk.reach(service.look(task.record))
        if found is not None and found.rid == task.record.rid and found.status is Status.PENDING:
            found = await service.wait(found, patience)
            if found is None:
                return
        if not task.waits:
            return  # another poll was faster
        task.updated = self._milliseconds()
        if found is not None and found.status is Status.APPROVED:
            self._begin(flow, task)
        elif found is not None and found.status is Status.PENDING:
            task.record = found  # asked anew, by another call
        else:
            said = asking.over(found, task.record, task.updated)
            task.answer = {"result": answers.tool_error(said.text, MODERN, said.data)}

    def _begin(self, flow: Flow, task: _Task) -> None:
        given = {name: value for name, value in flow.request.headers.items() if name in _CREDENTIALS}
        mine = task.request
        request = HttpRequest(mine.method, mine.path, mine.headers | given, mine.repeated, mine.body, flow.request.peer)
        limit = flow.route.server.limits.response_bytes
        task.run = asyncio.create_task(self._carry_out(task, TaskRun(request, 4 * limit)))

    async def _carry_out(self, task: _Task, exchange: TaskRun) -> None:
        assert self.handle is not None
        try:
            await self.handle(exchange)
            if exchange.pending is not None:  # another call was faster to take the last use
                task.record = exchange.pending
                task.until = exchange.pending.pending_until + KEPT
            else:
                task.answer = exchange.response
        finally:
            task.run = None
            task.updated = self._milliseconds()

    async def _cancel(self, flow: Flow, task: _Task) -> None:
        """Not carried out any more; and nobody is asked any longer, unless another call has put the same question."""
        if task.answer is not None or task.cancelled:
            return
        waited = task.waits
        task.cancelled = True
        task.updated = self._milliseconds()
        if task.run is not None:
            task.run.cancel()
        service = self._desk.service
        if service is None or not waited:
            return
        token = CALL.set(flow.id)
        try:
            found = await self._desk.reach(service.look(task.record))
            if found is not None and found.rid == task.record.rid and found.asked == 1:
                await self._desk.reach(service.cancel(found))
        except (Conflict, StoreUnavailable, UnknownSchema) as error:
            flow.why = str(error)
        finally:
            CALL.reset(token)

    def _forget_old(self) -> None:
        now = self._milliseconds()
        for key in [key for key, task in self._tasks.items() if task.until <= now and task.run is None]:
            del self._tasks[key]

    def _milliseconds(self) -> int:
        return int(self._now() * 1000)


def _kept(flow: Flow) -> HttpRequest:
    """The request to make later: without what its client can do only now, and without its credential."""
    assert flow.call is not None
    message = flow.call.message
    meta = {key: value for key, value in era.meta_of(message.params).items() if key != "progressToken"}
    meta[era.META_CAPABILITIES] = {}
    identifier: MessageId | None = flow.message_id
    params = message.params | {"_meta": meta}
    body = jsonrpc.encode({"jsonrpc": "2.0", "id": identifier, "method": message.method, "params": params})
    request = flow.request
    left_out = (*_CREDENTIALS, *_MADE_ANEW)
    headers = {name: value for name, value in request.headers.items() if name not in left_out}
    return HttpRequest(request.method, request.path, headers, request.repeated - set(left_out), body)


def _data_of(pieces: Iterable[bytes]) -> bytes:
    event = sse.event(b"".join(pieces).rstrip(b"\n"))
    return event.data if event is not None else b""
