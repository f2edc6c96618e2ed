"""Results on their way back: lists filtered, cursors, states and tasks bound, and what a server may not say refused.

Source: schema of each revision; 2026-07-28 basic/index "ResultType", basic/patterns/mrtr, server/utilities/caching.
"""

import time
from collections.abc import Callable
from typing import Any, Final

from openmcp.sidecar.errors import UpstreamFailed
from openmcp.sidecar.mcp import capabilities, era, methods
from openmcp.sidecar.stages import completions, embedded
from openmcp.sidecar.stages.context import Flow
from openmcp.sidecar.stages.inspect import Inspection
from openmcp.sidecar.stages.large import Large
from openmcp.sidecar.stages.lists import Lists
from openmcp.sidecar.stages.pins import Pins
from openmcp.sidecar.stages.tasks import Tasks
from openmcp.sidecar.stages.tokens import Tokens, digest
from openmcp.sidecar.types import MODERN, JsonObject
from openmcp.sidecar.worker.process import Worker

LIST_TTL: Final = 60_000
"""Milliseconds for which a client may go on showing a list after the policy changed."""
OWN_PREFIX: Final = "dev.openmcp/"
TASKS_EXTENSION: Final = "io.modelcontextprotocol/tasks"
_NOT_OFFERED: Final = "the server asks for input that the client did not offer"


class Results:
    """Edits results; `now` gives Unix seconds. `large` reads the messages that are too large to be read here."""

    def __init__(
        self,
        tokens: Tokens,
        tasks: Tasks,
        pins: Pins,
        now: Callable[[], float] = time.time,
        worker: Worker | None = None,
    ) -> None:
        self.inspection = Inspection(tasks)
        self.large = Large(worker or Worker(), self.inspection)
        self._tokens = tokens
        self._tasks = tasks
        self._pins = pins
        self._lists = Lists(pins)
        self._now = now

    def withheld(self, flow: Flow) -> bool:
        """Whether the tool that the flow calls is withheld, since its definition was seen changed."""
        return self._pins.withheld(flow.route.server, flow.name)

    def edit(self, flow: Flow, result: JsonObject) -> JsonObject:
        """The result as the agent may see it: the same object where nothing had to change, else another.

        Raises `UpstreamFailed` (protocol) for a result that is not valid, and `Refused` for one that a rule blocks.
        """
        return self.inspection.result(flow, self._edited(flow, result))

    def _edited(self, flow: Flow, result: JsonObject) -> JsonObject:
        method = flow.method
        if flow.era is MODERN:
            result = self._typed(flow, result)
            if result.get("cacheScope") == "public":  # it was let through for this agent, not for everybody
                result = result | {"cacheScope": "private"}
        if method in methods.LISTS:
            return self._list(flow, result)
        if method == "server/discover":
            return _discovered(flow, result)
        if method == "completion/complete":
            return completions.permitted(flow, result)
        if method == "tools/call":
            endpoint = flow.endpoint.key if flow.endpoint is not None else ""
            self._tasks.remember(flow.server, result, flow.agent, flow.name, endpoint)
        elif method == "tasks/list":
            return self._own_tasks(flow, result)
        return embedded.judged(flow, result)

    def _typed(self, flow: Flow, result: JsonObject) -> JsonObject:
        """An absent resultType is "complete" (servers of the legacy era omit it); an unknown one is invalid."""
        kind = result.get("resultType")
        if flow.method == "tasks/get" and not may_require(flow, result):
            raise UpstreamFailed("protocol", _NOT_OFFERED)
        if kind == "complete":
            return result
        if kind is None:
            return result | {"resultType": "complete"}
        if kind == "input_required" and flow.method in methods.INPUT_REQUIRED:
            return self._seal_input_required(flow, result)
        if kind == "task" and TASKS_EXTENSION in extensions(flow):
            return result
        raise UpstreamFailed("protocol", f"the server's resultType {str(kind)[:40]!r} is not valid here")

    def _seal_input_required(self, flow: Flow, result: JsonObject) -> JsonObject:
        if not may_require(flow, result):
            raise UpstreamFailed("protocol", _NOT_OFFERED)
        state = result.get("requestState")
        if state is None and not result.get("inputRequests"):
            raise UpstreamFailed("protocol", "the server requires input and asks for none")
        if state is not None and type(state) is not str:
            raise UpstreamFailed("protocol", "the server's requestState is not a string")
        assert flow.call is not None
        assert flow.endpoint is not None
        named = digest(flow.method, flow.call.message.params)
        sealed = self._tokens.seal_state(flow.agent, flow.server, flow.endpoint.key, named, state, self._now())
        return result | {"requestState": sealed}

    def _list(self, flow: Flow, result: JsonObject) -> JsonObject:
        member, kind, key = methods.LISTS[flow.method]
        entries = result.get(member)
        if type(entries) is not list:
            raise UpstreamFailed("protocol", f"the server's {flow.method} result has no list {member}")
        changes: JsonObject = self._bound_cursor(flow, result)
        changes[member] = self._lists.permitted(flow, kind, key, entries)
        if flow.era is MODERN:
            lifetime = result.get("ttlMs")
            changes["cacheScope"] = "private"
            changes["ttlMs"] = min(lifetime, LIST_TTL) if type(lifetime) is int and lifetime >= 0 else 0
        return result | changes

    def _bound_cursor(self, flow: Flow, result: JsonObject) -> JsonObject:
        """The change that a cursor needs, if there is one."""
        cursor = result.get("nextCursor")
        if cursor is None:
            return {}
        if type(cursor) is not str or flow.endpoint is None:
            raise UpstreamFailed("protocol", "the server's nextCursor is not a string")
        sealed = self._tokens.seal_cursor(flow.agent, flow.server, flow.method, flow.endpoint.key, cursor)
        return {"nextCursor": sealed}

    def _own_tasks(self, flow: Flow, result: JsonObject) -> JsonObject:
        entries = result.get("tasks")
        if type(entries) is not list:
            raise UpstreamFailed("protocol", "the server's tasks/list result has no list tasks")
        changes = self._bound_cursor(flow, result)
        changes["tasks"] = [
            entry
            for entry in entries
            if type(entry) is dict and self._tasks.owned(flow.server, flow.agent, entry.get("taskId"))
        ]
        return result | changes


def _discovered(flow: Flow, result: JsonObject) -> JsonObject:
    """The server's versions as far as they can pass through here; and tasks, as which calls may wait for people."""
    versions = result.get("supportedVersions")
    if type(versions) is not list:
        raise UpstreamFailed("protocol", "the server's discover result has no supportedVersions")
    result = result | {"supportedVersions": [version for version in versions if version in era.SUPPORTED_VERSIONS]}
    if not flow.snapshot.policies.rules_for(flow.principal, flow.server).asks:
        return result
    offered = result.get("capabilities", {})
    named = offered.get("extensions", {}) if type(offered) is dict else None
    if type(named) is not dict:
        raise UpstreamFailed("protocol", "the server's capabilities are not an object")
    return result | {"capabilities": offered | {"extensions": {TASKS_EXTENSION: {}} | named}}


def client_capabilities(flow: Flow) -> JsonObject:
    """What a modern client declared with its request."""
    assert flow.call is not None
    declared = era.meta_of(flow.call.message.params).get(era.META_CAPABILITIES)
    return declared if type(declared) is dict else {}


def extensions(flow: Flow) -> JsonObject:
    """The extensions that a modern client declared with its request."""
    extensions = client_capabilities(flow).get("extensions")
    return extensions if type(extensions) is dict else {}


def may_require(flow: Flow, asking: JsonObject) -> bool:
    """Whether a server may put the input requests of a result, or of a task, to the client of this flow."""
    asked = asking.get("inputRequests", {})
    return type(asked) is dict and all(_may_ask(flow, key, request) for key, request in asked.items())


def _may_ask(flow: Flow, key: str, request: Any) -> bool:
    """Whether a server may put this input request: known, declared by the client, and not under a key of ours."""
    if key.startswith(OWN_PREFIX) or type(request) is not dict:
        return False
    params = request.get("params", {})
    capability = capabilities.needed(request.get("method"), params) if type(params) is dict else None
    return bool(capability) and capability in capabilities.declared(client_capabilities(flow))
