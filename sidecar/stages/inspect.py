"""What servers say, inspected before an agent reads it: results, errors, notifications and questions."""

from typing import Final

from openmcp.sidecar.errors import DENIED, Refused
from openmcp.sidecar.inspection.findings import Examined, Examiner, Finding
from openmcp.sidecar.inspection.unseen import visible
from openmcp.sidecar.mcp import answers, era, methods
from openmcp.sidecar.stages import tasks
from openmcp.sidecar.stages.context import Flow
from openmcp.sidecar.stages.schemas import Schemas, fits
from openmcp.sidecar.types import METHOD, MODERN, TOOL, JsonObject, Subject

LISTED: Final = {method: member for method, (member, _, _) in methods.LISTS.items()} | {"tasks/list": "tasks"}
_TOOL_RESULTS: Final = frozenset(("tools/call", "tasks/result"))
"""Methods whose result is that of a tool: blocked, it becomes one that says so to the agent's model."""
_RELATED: Final = "io.modelcontextprotocol/related-task"
UNFIT: Final = "what policy left of the result does not fit the tool's output schema"


class Inspection:
    """Applies the response rules of an agent on a server, and notes what they found in its flow."""

    def __init__(self, known: tasks.Tasks) -> None:
        self._tasks = known
        self._schemas = Schemas()

    def result(self, flow: Flow, result: JsonObject) -> JsonObject:
        """The result as the agent may read it: the same object where nothing was found.

        Raises `Refused` where it is blocked, unless it is a tool's: that becomes one that names the rule.
        """
        if flow.method in methods.LISTS:
            result = self._shown(flow, result)
        inspector = _examiner(flow)
        if inspector is None:
            return result
        sealed = _sealed(flow, result)
        open_part = {key: value for key, value in result.items() if key not in sealed} if sealed else result
        subjects = self.subjects(flow, {})
        if flow.method == "tasks/list":
            subjects += self._makers(flow, result)
        examined = inspector.examine(subjects, open_part, LISTED.get(flow.method, ""))
        flow.findings += examined.findings
        if examined.blocked is not None:
            return _blocked_result(flow, examined.blocked)
        if examined.unfit:
            return _tool_error(flow, UNFIT)
        if examined.document is open_part:
            return result
        edited = examined.document | sealed
        return edited if self._fits(flow, result, edited) else _tool_error(flow, UNFIT)

    def error(self, flow: Flow, error: JsonObject) -> JsonObject:
        """The server's error as the agent may read it; raises `Refused` where it is blocked."""
        inspector = _examiner(flow)
        if inspector is None:
            return error
        return _passed(flow, inspector.examine(self.subjects(flow, {}), error))

    def params(self, flow: Flow, method: str, params: JsonObject, known: str = "") -> JsonObject:
        """The params of a notification or a request of the server; raises `Refused` where they are blocked.

        `known` is a member that was checked to be the agent's own: it is not looked at.
        """
        inspector = _examiner(flow)
        if inspector is None:
            return params
        subjects = (*self.subjects(flow, params), Subject(METHOD, method))
        own = {known: params[known]} if known in params else {}
        meta = params.get("_meta")
        if type(meta) is dict and era.META_SUBSCRIPTION in meta and flow.stream == "listen":
            own["_meta"] = meta
        return self._rest(flow, inspector, subjects, params, own)

    def _rest(
        self, flow: Flow, inspector: Examiner, subjects: tuple[Subject, ...], params: JsonObject, own: JsonObject
    ) -> JsonObject:
        """The params without what is the agent's own: its progress token, the id of its subscription."""
        if not own:
            return _passed(flow, inspector.examine(subjects, params))
        looked = {key: value for key, value in params.items() if key not in own}
        if "_meta" in own:
            looked["_meta"] = {key: value for key, value in own["_meta"].items() if key != era.META_SUBSCRIPTION}
        passed = _passed(flow, inspector.examine(subjects, looked))
        if passed is looked:
            return params
        if "_meta" in own:
            own = own | {"_meta": passed["_meta"] | {era.META_SUBSCRIPTION: own["_meta"][era.META_SUBSCRIPTION]}}
        return passed | own

    def subjects(self, flow: Flow, params: JsonObject) -> tuple[Subject, ...]:
        """What is answered: the call's subjects; of a task, and what is about one, the tool that made it."""
        subjects = flow.call.subjects if flow.call is not None else ()
        if flow.call is not None and flow.method in tasks.METHODS:
            params = flow.call.message.params
        elif not params:
            return subjects
        tool = self._tasks.tool(flow.server, flow.agent, _task_id(params))
        return (Subject(TOOL, tool), *subjects) if tool else subjects

    def _makers(self, flow: Flow, result: JsonObject) -> tuple[Subject, ...]:
        """The tools that made the tasks of a list: what it says of them is said under the rules of each."""
        entries = result.get("tasks")
        given = entries if type(entries) is list else []
        tools = {self._tasks.tool(flow.server, flow.agent, _task_id(one)) for one in given if type(one) is dict}
        return tuple(Subject(TOOL, tool) for tool in sorted(tools) if tool)

    def promised(self, flow: Flow) -> tuple[bytes, ...]:
        """The output schemas (JSON; empty: none that could be followed) of the tools whose result is answered."""
        if flow.method not in _TOOL_RESULTS:
            return ()
        names = [subject.name for subject in self.subjects(flow, {}) if subject.kind is TOOL]
        schemas = [self._schemas.known(flow.server, name) for name in names]
        return tuple(schema for schema in schemas if schema is not None)

    def _shown(self, flow: Flow, result: JsonObject) -> JsonObject:
        """A list without hidden characters; what its tools promise to return is kept in mind."""
        member, kind, key = methods.LISTS[flow.method]
        entries = result.get(member)
        if type(entries) is not list:
            return result
        shown = visible(entries, key)
        if kind is TOOL:
            self._schemas.remember(flow.server, shown)
        return result if shown is entries else result | {member: shown}

    def _fits(self, flow: Flow, result: JsonObject, edited: JsonObject) -> bool:
        """Whether a tool's result still is what the tool promises."""
        structured = edited.get("structuredContent")
        if flow.method not in _TOOL_RESULTS or structured is result.get("structuredContent"):
            return True
        return all(fits(schema, structured) for schema in self.promised(flow))


def _examiner(flow: Flow) -> Examiner | None:
    return flow.examiner or flow.snapshot.inspectors.find(flow.principal, flow.server)


def _task_id(params: JsonObject) -> object:
    """The task that params are about, by themselves or as related to one."""
    if "taskId" in params:
        return params["taskId"]
    related = era.meta_of(params).get(_RELATED)
    return related.get("taskId") if type(related) is dict else None


def _sealed(flow: Flow, result: JsonObject) -> JsonObject:
    """What of an edited result is our own seal, and tells the agent nothing."""
    if flow.method in LISTED and "nextCursor" in result:
        return {"nextCursor": result["nextCursor"]}
    if flow.era is MODERN and result.get("resultType") == "input_required" and "requestState" in result:
        return {"requestState": result["requestState"]}
    return {}


def _passed(flow: Flow, examined: Examined) -> JsonObject:
    flow.findings += examined.findings
    if examined.blocked is not None:
        raise _refused(flow, examined.blocked)
    return examined.document


def _blocked_result(flow: Flow, finding: Finding) -> JsonObject:
    if flow.method in _TOOL_RESULTS:
        return _tool_error(flow, _reason(finding))
    raise _refused(flow, finding)


def _tool_error(flow: Flow, reason: str) -> JsonObject:
    flow.outcome = "blocked"
    text = f"Blocked: {reason} (decision {flow.id})"
    return answers.tool_error(text, flow.era, {answers.DECISION_KEY: flow.id})


def _refused(flow: Flow, finding: Finding) -> Refused:
    text = f"Blocked: {_reason(finding)}"
    return Refused(200, DENIED, text, reason="blocked", data={answers.DECISION_KEY: flow.id})


def _reason(finding: Finding) -> str:
    return f"rule {finding.rule} of policy {finding.policy} does not let through what the server says"
