"""What an agent's request carries for its server, unsealed; and messages that go to a server outside a call."""

import time
from collections.abc import Callable

from openmcp.sidecar.errors import INVALID_PARAMS, Refused
from openmcp.sidecar.mcp import jsonrpc, methods
from openmcp.sidecar.mcp.era import meta_of
from openmcp.sidecar.mcp.values import Call
from openmcp.sidecar.net.response import UpstreamResponse
from openmcp.sidecar.stages import forward, tasks
from openmcp.sidecar.stages.context import Flow
from openmcp.sidecar.stages.tasks import Tasks
from openmcp.sidecar.stages.tokens import Tokens, digest
from openmcp.sidecar.telemetry import trace
from openmcp.sidecar.types import MODERN, JsonObject, Response

_OF_A_RETRY = ("requestState", "inputResponses")
_TRACE_KEYS = frozenset(("traceparent", "tracestate", "baggage"))


class Requests:
    """Turns a call's params into what the server gets, and pins the flow where a token says so.

    `now` gives Unix seconds; `held` says whether a task (of a server and an agent, by its id) is one of ours.
    """

    def __init__(
        self,
        tokens: Tokens,
        owned: Tasks,
        now: Callable[[], float] = time.time,
        held: Callable[[str, str, object], bool] = lambda server, agent, identifier: False,
    ) -> None:
        self._tokens = tokens
        self._tasks = owned
        self._held = held
        self._now = now

    def unseal(self, flow: Flow, call: Call) -> JsonObject:
        """The params to forward; raises `Refused` (-32602) for a token that is not this agent's or not for this."""
        method, params = flow.method, call.message.params
        if "cursor" in params and (method in methods.LISTS or method == "tasks/list"):
            params = self._cursor(flow, call, params)
        elif "requestState" in params:
            params = self._state(flow, call, params)
        elif method == forward.LISTEN:
            params = self._listened_tasks(flow, params)
        elif method == "initialize":
            params = _without_tasks(params)
        elif method in tasks.METHODS:
            owner = self._tasks.owner(flow.server, flow.agent, params)
            self._pin(flow, owner.endpoint)
        return _traced(flow, params)

    def _listened_tasks(self, flow: Flow, params: JsonObject) -> JsonObject:
        """Who listens to tasks listens to its own (extension tasks, "taskIds"); those that are held here are polled."""
        listened = params.get("notifications", {})
        wanted = listened.get("taskIds", [])
        if type(wanted) is not list:
            raise Refused(400, INVALID_PARAMS, "params.notifications.taskIds must be a list", reason="malformed")
        others = [identifier for identifier in wanted if not self._held(flow.server, flow.agent, identifier)]
        for identifier in others:
            self._pin(flow, self._tasks.owner(flow.server, flow.agent, {"taskId": identifier}).endpoint)
        if len(others) == len(wanted):
            return params
        return params | {"notifications": listened | {"taskIds": others}}

    def _cursor(self, flow: Flow, call: Call, params: JsonObject) -> JsonObject:
        token = params["cursor"]
        if token is None:
            return params
        if type(token) is not str:
            raise Refused(400, INVALID_PARAMS, "params.cursor must be a string", reason="malformed")
        cursor, endpoint = self._tokens.open_cursor(flow.agent, flow.server, call.method, token)
        self._pin(flow, endpoint)
        return params | {"cursor": cursor}

    def _state(self, flow: Flow, call: Call, params: JsonObject) -> JsonObject:
        asked = digest(call.method, params)
        if self._tokens.round(flow.agent, flow.server, asked, params["requestState"], self._now()):
            return {key: value for key, value in params.items() if key not in _OF_A_RETRY}  # only we asked to come back
        state, endpoint = self._tokens.open_state(flow.agent, flow.server, asked, params["requestState"], self._now())
        self._pin(flow, endpoint)
        if state is None:
            return {key: value for key, value in params.items() if key != "requestState"}
        return params | {"requestState": state}

    def _pin(self, flow: Flow, endpoint: str) -> None:
        """Send this to the endpoint that knows about it; where it is gone, the token is worth nothing."""
        pinned = flow.upstream.by_key(endpoint)
        if pinned is None or (flow.endpoint is not None and flow.endpoint is not pinned):
            raise Refused(400, INVALID_PARAMS, "this belongs to an endpoint that is gone", reason="foreign_token")
        flow.endpoint = pinned


def _without_tasks(params: JsonObject) -> JsonObject:
    """The params of initialize without tasks of the client, which a server asks for by requests that do not pass."""
    declared = params.get("capabilities")
    if type(declared) is not dict or "tasks" not in declared:
        return params
    return params | {"capabilities": {name: value for name, value in declared.items() if name != "tasks"}}


def _traced(flow: Flow, params: JsonObject) -> JsonObject:
    """The params with the trace context in `_meta`, where the agent has put it there or in a header of this revision.

    A trace that begins here goes to the server in its header alone: the message stays as the agent wrote it.
    """
    meta = meta_of(params)
    if _TRACE_KEYS.isdisjoint(meta) and not (flow.era is MODERN and flow.traced):
        return params
    kept = {key: value for key, value in meta.items() if key not in _TRACE_KEYS}  # baggage goes no further
    kept["traceparent"] = trace.traceparent(flow.onward)
    if flow.tracestate:
        kept["tracestate"] = flow.tracestate
    return params | {"_meta": kept}


async def backward(flow: Flow, document: JsonObject) -> UpstreamResponse:
    """Post a message to the server of the flow's session: the answer to one of its requests."""
    translator = flow.route.translator
    if translator is not None and flow.session is not None and flow.session.client is not None:
        return translator.answer(flow, Response(document["id"], document.get("result"), document.get("error")))
    lines = forward.JSON_LINES + forward.trace_lines(flow) + forward.session_lines(flow)
    patience = flow.upstream.call_patience
    return await forward.send(flow, b"POST", lines, jsonrpc.encode(document), patience, repeatable=False)
