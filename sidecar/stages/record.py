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
        flow.common = _common(flow)
        call = flow.call
        assert call is not None
        own: dict[str, object] = {
            "identified_by": flow.identified_by,
            "era": flow.era,
            "protocol_version": call.version,
            "decision": decision.word,
            "policy": decision.policy,
            "rule": decision.rule,
            "bytes_in": flow.bytes_in,
        }
        if decision.reason:
            own["reason"] = clip(decision.reason)
        self._write(event, TO_SERVER, flow.common, encode(own))

    def answer(self, flow: Flow, event: str = "response") -> None:
        """How the exchange ended, with sizes and times."""
        total = time.perf_counter() - flow.started
        upstream = int(flow.upstream_seconds * 1e6)
        whole = int(total * 1e6)
        own: dict[str, object] = {
            "status": flow.status,
            "outcome": flow.outcome,
            "bytes_out": flow.bytes_out,
            "latency": {"total_us": whole, "upstream_us": upstream, "own_us": whole - upstream},
        }
        if flow.endpoint is not None:
            own["endpoint"] = flow.endpoint.url
        self._write(event, TO_AGENT, flow.common or _common(flow), encode(own))
        decision = flow.decision.word if flow.decision is not None else "refused"
        tool = flow.name if flow.method == "tools/call" else ""
        self.metrics.request(flow.server, flow.method, tool, decision, total, flow.upstream_seconds)
        if flow.outcome not in ("ok", "denied", "tool_error"):
            self.metrics.error(flow.server, flow.method, flow.outcome)

    def streamed(self, flow: Flow, message: Message, size: int) -> None:
        """A message of the server that was passed on within a stream, other than the response that ends it."""
        event = "server_request" if isinstance(message, Request) else "notification"
        line = _fields(flow)
        line["method"] = message.method if isinstance(message, Request | Notification) else ""
        if isinstance(message, Request):
            line["id"] = message.id
        line["bytes_out"] = size
        self._write(event, TO_AGENT, encode(line))
        self.metrics.stream_event(flow.server, event)

    def dropped(self, flow: Flow, reason: str, method: str = "") -> None:
        """A message of the server that was not passed on, and why."""
        line = _fields(flow)
        line["method"] = clip(method)
        line["reason"] = clip(reason)
        self._write("dropped", TO_AGENT, encode(line))
        self.metrics.stream_event(flow.server, "dropped")

    def client_response(self, flow: Flow) -> None:
        """The agent's answer to a request of the server."""
        line = _fields(flow)
        line["bytes_in"] = flow.bytes_in
        self._write("client_response", TO_SERVER, encode(line))

    def unreadable(self, status: int) -> None:
        """An HTTP request that could not even be read."""
        self._write("refused", TO_SERVER, encode({"status": status, "reason": "http"}))
        self.metrics.error("", "", "http")

    def reload(self, result: str, detail: str) -> None:
        """A new configuration that was taken (`ok`) or refused (`error`)."""
        self._write("reload", "", encode({"outcome": result, "reason": clip(detail)}))
        self.metrics.reload(result)

    def _write(self, event: str, direction: str, *objects: bytes) -> None:
        """One line: time, event and direction, then the members of these encoded objects."""
        head = f'{{"time":"{timestamp(time.time_ns())}","event":"{event}","direction":"{direction}",'
        self._audit.write(head.encode() + b",".join([encoded[1:-1] for encoded in objects]) + b"}")


def _common(flow: Flow) -> bytes:
    """The fields that the lines of a flow share, encoded once."""
    return encode(_fields(flow))


def _fields(flow: Flow) -> dict[str, object]:
    line: dict[str, object] = {
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
