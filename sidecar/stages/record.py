"""What is written down: one line per message, in the fields of docs/record.md, and the metrics beside it."""

import time
from typing import Final

from openmcp.sidecar.policy.engine import Decision
from openmcp.sidecar.stages.context import Flow
from openmcp.sidecar.telemetry.audit import AuditLog
from openmcp.sidecar.telemetry.metrics import Metrics
from openmcp.sidecar.telemetry.records import clip, encode, timestamp
from openmcp.sidecar.types import Message, Notification, Request

TO_SERVER: Final = "agent-to-server"
TO_AGENT: Final = "server-to-agent"


class Recorder:
    """Writes records of flows; every exchange ends in one, also the failing ones."""

    def __init__(self, audit: AuditLog, metrics: Metrics) -> None:
        self._audit = audit
        self.metrics = metrics

    @property
    def accepting(self) -> bool:
        """False where a call must be denied since its record could not be written."""
        return self._audit.accepting

    def call(self, flow: Flow, event: str, decision: Decision) -> None:
        """The agent's request or notification, with what was decided; written before it goes on."""
        flow.decision = decision
        line = _line(event, TO_SERVER, flow)
        principal, call = flow.principal, flow.call
        line["identified_by"] = principal.method if principal is not None else ""
        line["era"] = flow.era
        line["protocol_version"] = call.version if call is not None else ""
        line["decision"] = decision.word
        line["policy"], line["rule"] = decision.policy, decision.rule
        if decision.reason:
            line["reason"] = clip(decision.reason)
        line["bytes_in"] = flow.bytes_in
        self._audit.write(encode(line))

    def answer(self, flow: Flow, event: str = "response") -> None:
        """How the exchange ended, with sizes and times."""
        total = time.perf_counter() - flow.started
        line = _line(event, TO_AGENT, flow)
        if flow.endpoint is not None:
            line["endpoint"] = flow.endpoint.url
        line["status"] = flow.status
        line["outcome"] = flow.outcome
        line["bytes_out"] = flow.bytes_out
        upstream = int(flow.upstream_seconds * 1e6)
        whole = int(total * 1e6)
        line["latency"] = {"total_us": whole, "upstream_us": upstream, "own_us": whole - upstream}
        self._audit.write(encode(line))
        decision = flow.decision.word if flow.decision is not None else "refused"
        tool = flow.name if flow.method == "tools/call" else ""
        self.metrics.request(flow.server, flow.method, tool, decision, total, flow.upstream_seconds)
        if flow.outcome not in ("ok", "denied", "tool_error"):
            self.metrics.error(flow.server, flow.method, flow.outcome)

    def streamed(self, flow: Flow, message: Message, size: int) -> None:
        """A message of the server that was passed on within a stream, other than the response that ends it."""
        event = "server_request" if isinstance(message, Request) else "notification"
        line = _line(event, TO_AGENT, flow)
        line["method"] = message.method if isinstance(message, Request | Notification) else ""
        if isinstance(message, Request):
            line["id"] = message.id
        line["bytes_out"] = size
        self._audit.write(encode(line))
        self.metrics.stream_event(flow.server, event)

    def dropped(self, flow: Flow, reason: str, method: str = "") -> None:
        """A message of the server that was not passed on, and why."""
        line = _line("dropped", TO_AGENT, flow)
        line["method"] = clip(method)
        line["reason"] = clip(reason)
        self._audit.write(encode(line))
        self.metrics.stream_event(flow.server, "dropped")

    def client_response(self, flow: Flow) -> None:
        """The agent's answer to a request of the server."""
        line = _line("client_response", TO_SERVER, flow)
        line["bytes_in"] = flow.bytes_in
        self._audit.write(encode(line))

    def unreadable(self, status: int) -> None:
        """An HTTP request that could not even be read."""
        now = timestamp(time.time_ns())
        self._audit.write(encode({"time": now, "event": "refused", "status": status, "reason": "http"}))
        self.metrics.error("", "", "http")

    def reload(self, result: str, detail: str) -> None:
        """A new configuration that was taken (`ok`) or refused (`error`)."""
        now = timestamp(time.time_ns())
        self._audit.write(encode({"time": now, "event": "reload", "outcome": result, "reason": clip(detail)}))
        self.metrics.reload(result)


def _line(event: str, direction: str, flow: Flow) -> dict[str, object]:
    """The fields that every line of a flow has."""
    line: dict[str, object] = {
        "time": timestamp(time.time_ns()),
        "event": event,
        "direction": direction,
        "call": flow.id,
        "trace": flow.trace.trace_id,
        "span": flow.trace.span_id,
        "agent": flow.agent,
        "server": flow.server,
        "method": flow.method,
    }
    if flow.session_ref:
        line["session"] = flow.session_ref
    if flow.name:
        line["name"] = clip(flow.name)
    if flow.message_id is not None:
        line["id"] = flow.message_id
    return line
