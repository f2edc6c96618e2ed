"""What is written down: one line per message, in the fields of docs/record.md, and the metrics beside it."""

import functools
import time
from typing import TYPE_CHECKING, Final

from msgspec import structs

from openmcp.sidecar.inspection.findings import Finding
from openmcp.sidecar.mcp import jsonrpc
from openmcp.sidecar.policy.decision import Decision, RuleRef
from openmcp.sidecar.stages.context import Flow
from openmcp.sidecar.stages.desk import CALL
from openmcp.sidecar.stages.payloads import Payloads
from openmcp.sidecar.stages.spans import ended as ended_exchange
from openmcp.sidecar.telemetry.audit import AuditLog
from openmcp.sidecar.telemetry.metrics import Metrics
from openmcp.sidecar.telemetry.records import clip, encode, timestamp
from openmcp.sidecar.telemetry.spans import Sink
from openmcp.sidecar.types import Era, JsonObject, Message, Notification, Request, Response

if TYPE_CHECKING:
    from openmcp.sidecar.approvals.values import Event

TO_SERVER: Final = "agent-to-server"
TO_AGENT: Final = "server-to-agent"
_KINDS: Final = {
    (event, direction): f'","event":"{event}","direction":"{direction}",'.encode()
    for event in (
        *("request", "notification", "client-response", "response", "server-request", "dropped"),
        *("stream-end", "session-end", "refused", "metadata", "reload", "tool-changed", "approval"),
    )
    for direction in (TO_SERVER, TO_AGENT, "")
}
_REMEMBERED: Final = 256
"""Characters of a name up to which its encoded form is kept."""


class Recorder:
    """Writes records of flows; every exchange ends in one, also the failing ones."""

    def __init__(
        self, audit: AuditLog, metrics: Metrics, spans: Sink | None = None, payloads: Payloads | None = None
    ) -> None:
        """`spans` is where exchanges go that have ended, if there is a collector that wants to know; `payloads` writes
        what messages say, if that is kept."""
        self._audit = audit
        self._payloads = payloads
        self.metrics = metrics
        self.spans = spans

    @property
    def accepting(self) -> bool:
        """False where a call must be denied since its record could not be written."""
        return self._audit.accepting

    def call(self, flow: Flow, event: str, decision: Decision) -> None:
        """The agent's request or notification, with what was decided; written before it goes on."""
        flow.decision = decision
        call = flow.call
        assert call is not None
        said = self._payloads.sent(flow, "params", call.message.params) if self._payloads is not None else b""
        flow.common = _common(flow)
        decided = _decided(flow.identified_by, flow.era, call.version, decision)
        members = [flow.common, decided, b'"bytes_in":%d' % flow.bytes_in]
        if said:
            members.append(said)
        self._write(event, TO_SERVER, members)

    def end(self, flow: Flow) -> None:
        """How the exchange ended, with sizes and times; the event says what it was (`flow.ending`)."""
        total = time.perf_counter() - flow.started
        upstream = int(flow.upstream_seconds * 1e6)
        whole = int(total * 1e6)
        ended = _ended(flow.endpoint.url if flow.endpoint is not None else "", flow.outcome, flow.status)
        sizes = b'"bytes_out":%d,"latency":{"total_us":%d,"upstream_us":%d,"own_us":%d}' % (
            flow.bytes_out,
            whole,
            upstream,
            whole - upstream,
        )
        members = [flow.common or _common(flow), ended, sizes]
        if self._payloads is not None:
            self._add_said(members, flow, flow.answer, flow.bytes_out if flow.ending == "response" else 0)
        if flow.findings:
            self._add_findings(members, flow)
        if flow.why or flow.approval or flow.attempts > 1:
            members.append(_members(_beside(flow)))
        if flow.unidentified:
            self.metrics.unidentified(flow.unidentified)
        self._write(flow.ending, TO_AGENT, members)
        decision = flow.decision.verdict if flow.decision is not None else flow.undecided
        tool = flow.name if flow.method == "tools/call" else ""
        self.metrics.request(flow.server, flow.method, tool, decision, total, flow.upstream_seconds)
        if flow.outcome not in ("ok", "denied", "pending", "tool_error", "cancelled"):
            self.metrics.error(flow.server, flow.method, flow.outcome)
        spans = self.spans
        if spans is not None:
            spans.take(ended_exchange(flow, total))

    def streamed(self, flow: Flow, message: Message, passed: JsonObject | None, size: int) -> None:
        """A message of the server that was passed on within a stream.

        `passed` is the document that went on, None where it is too large to be kept.
        """
        line = _fields(flow)
        line["stream"] = flow.stream
        if isinstance(message, Response):
            event = "response"
            line["outcome"] = flow.outcome
        else:
            event = "server-request" if isinstance(message, Request) else "notification"
            line["method"] = message.method
            line.pop("name", None)  # of the call; the two are joined by `call`
            line.pop("id", None)
        if isinstance(message, Request):
            line["id"] = message.id
        line["bytes_out"] = size
        members = [_members(line)]
        self._add_said(members, flow, _by_servers_id(message, passed), size)
        self._write(event, TO_AGENT, members)
        self.metrics.stream_event(flow.server, event)

    def dropped(self, flow: Flow, reason: str) -> None:
        """A message of the server that was not passed on, and why."""
        line = _fields(flow)
        line["stream"] = flow.stream
        line["reason"] = clip(reason)
        members = [_members(line)]
        self._add_findings(members, flow)
        self._write("dropped", TO_AGENT, members)
        self.metrics.stream_event(flow.server, "dropped")

    def client_response(self, flow: Flow, message: Response, decision: Decision) -> None:
        """The agent's answer to a request of the server (by the server's id), with what was decided about what it
        says."""
        flow.decision = decision
        line = _fields(flow)
        line["id"] = message.id
        line |= {"decision": decision.word, "policy": decision.policy, "rule": decision.rule}
        line["bytes_in"] = flow.bytes_in
        members = [_members(line)]
        if self._payloads is not None:
            member, said = _said(jsonrpc.response_document(message))
            members.append(self._payloads.sent(flow, member, said))
        self._write("client-response", TO_SERVER, members)

    def _add_said(self, members: list[bytes], flow: Flow, document: JsonObject | None, size: int) -> None:
        """What was passed on to the agent, and what was found in it."""
        if self._payloads is not None and (document is not None or size):
            member, said = _said(document) if document is not None else ("message", None)
            members.append(self._payloads.passed(flow, member, said, size))
        self._add_findings(members, flow)

    def _add_findings(self, members: list[bytes], flow: Flow) -> None:
        """What the response rules found in the message that this line is about: each rule once, with how often it did,
        and where first."""
        if not flow.findings:
            return
        told: dict[Finding, tuple[int, str]] = {}
        for finding in flow.findings:
            kind = structs.replace(finding, path="", removed="")
            count, path = told.get(kind, (0, finding.path))
            told[kind] = (count + 1, path)
            self.metrics.finding(flow.server, kind.policy, kind.rule, "shadow" if kind.shadow else kind.action)
        flow.findings = ()
        members.append(_members({"findings": [_found(kind, *found) for kind, found in told.items()]}))

    def unreadable(self, status: int) -> None:
        """An HTTP request that could not even be read."""
        self._write("refused", TO_SERVER, [_members({"status": status, "reason": "http"})])
        self.metrics.error("", "", "http")

    def reload(self, result: str, detail: str) -> None:
        """A new configuration that was taken (`ok`) or refused (`error`), or that lets nothing pass (`closed`)."""
        self._write("reload", "", [_members({"outcome": result, "reason": clip(detail)})])
        self.metrics.reload(result)

    def tool_changed(self, server: str, tool: str, what: str) -> None:
        """A pinned tool that is not what it was, and is withheld."""
        line = _members({"server": server, "name": clip(tool), "reason": clip(what)})
        self._write("tool-changed", TO_AGENT, [line])

    def approval(self, event: "Event") -> None:
        """Something that happened to a request for approval, or to the grant that it has become."""
        from openmcp.sidecar.approvals.recording import fields_of  # here: who has none, has not loaded them

        call = CALL.get()
        fields: dict[str, object] = {"call": call} if call else {}
        self._write("approval", "", [_members(fields | fields_of(event))])
        self.metrics.approval(event.record.server, event.kind.value)

    def _write(self, event: str, direction: str, members: list[bytes]) -> None:
        """One line: time, event and direction, then these members."""
        stamp = timestamp(time.time_ns()).encode()
        self._audit.write(b'{"time":"' + stamp + _KINDS[event, direction] + b",".join(members) + b"}")


def _members(fields: dict[str, object]) -> bytes:
    """Some fields as they stand inside a line."""
    return encode(fields)[1:-1]


def _said(document: JsonObject) -> tuple[str, JsonObject]:
    """What a message says beyond its envelope: the member's name, and what it holds."""
    for member in ("result", "error"):
        if member in document:
            return member, document[member]
    return "params", document.get("params", {})


def _beside(flow: Flow) -> dict[str, object]:
    """What is told of the few exchanges that have it."""
    fields: dict[str, object] = {"attempts": flow.attempts} if flow.attempts > 1 else {}
    if flow.why:
        fields["reason"] = clip(flow.why)
    if flow.approval:
        fields["approval"] = flow.approval
    return fields


def _by_servers_id(message: Message, passed: JsonObject | None) -> JsonObject | None:
    """A cancellation with the id that the server gave its request, as that has in its line: ours is a secret."""
    if isinstance(message, Notification) and passed is not None and "requestId" in message.params:
        return {"params": passed["params"] | {"requestId": message.params["requestId"]}}
    return passed


def _found(finding: Finding, count: int, path: str) -> dict[str, object]:
    fields: dict[str, object] = {"policy": finding.policy, "rule": finding.rule, "action": finding.action}
    fields |= {"what": finding.what, "count": count, "path": path}
    return fields | {"shadow": True} if finding.shadow else fields


def _common(flow: Flow) -> bytes:
    """The fields that all lines of a flow share, encoded once."""
    name = flow.kept or flow.name
    names = (flow.agent, flow.server, flow.method, flow.session_ref, name)
    shape = (_shape if len(name) <= _REMEMBERED and len(flow.agent) <= _REMEMBERED else _shape.__wrapped__)(*names)
    head = f'"call":"{flow.id}","trace":"{flow.trace.trace_id}","span":"{flow.trace.span_id}",'.encode() + shape
    identifier = flow.message_id
    if identifier is None:
        return head
    return head + (b',"id":%d' % identifier if type(identifier) is int else b"," + _members({"id": identifier}))


def _fields(flow: Flow) -> dict[str, object]:
    """The same, for lines in which some of them differ."""
    fields: dict[str, object] = {"call": flow.id, "trace": flow.trace.trace_id, "span": flow.trace.span_id}
    fields |= _named(flow.agent, flow.server, flow.method, flow.session_ref, flow.kept or flow.name)
    if flow.message_id is not None:
        fields["id"] = flow.message_id
    return fields


def _named(agent: str, server: str, method: str, session: str, name: str) -> dict[str, object]:
    fields: dict[str, object] = {"agent": agent, "server": server, "method": method}
    if session:
        fields["session"] = session
    if name:
        fields["name"] = clip(name)
    return fields


# Agents make the same few calls again and again: what does not differ from one to the next is encoded once.


@functools.lru_cache(maxsize=1024)
def _shape(agent: str, server: str, method: str, session: str, name: str) -> bytes:
    return _members(_named(agent, server, method, session, name))


@functools.lru_cache(maxsize=1024)
def _decided(identified_by: str, era: Era, version: str, decision: Decision) -> bytes:
    fields: dict[str, object] = {
        "identified_by": identified_by,
        "era": era.value,
        "protocol_version": version,
        "decision": decision.word,
        "policy": decision.policy,
        "rule": decision.rule,
    }
    if decision.reason:
        fields["reason"] = clip(decision.reason)
    if len(decision.matched) > 1 or (decision.matched and not decision.rule):
        fields["matched"] = [_rule(rule) for rule in decision.matched]
    if decision.approvals:
        fields["approvals"] = [_rule(rule) for rule in decision.approvals]
    if decision.shadow is not None:
        verdict, by = decision.shadow
        fields["shadow"] = {"decision": verdict.value} | (_rule(by) if by is not None else {})
    return _members(fields)


def _rule(rule: RuleRef) -> dict[str, object]:
    fields: dict[str, object] = {"policy": rule.policy, "rule": rule.rule, "action": rule.action}
    return fields | {"shadow": True} if rule.shadow else fields


@functools.lru_cache(maxsize=1024)
def _ended(endpoint: str, outcome: str, status: int) -> bytes:
    fields: dict[str, object] = {"status": status, "outcome": outcome}
    if endpoint:
        fields["endpoint"] = endpoint
    return _members(fields)
