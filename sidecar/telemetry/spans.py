"""What an exchange leaves behind for traces and for the durations of operations, before anybody encodes it."""

from typing import Protocol

import msgspec

from openmcp.sidecar.telemetry.values import TraceContext


class Shape(msgspec.Struct, frozen=True, gc=False):
    """What exchanges often have in common: their encoded form is made once and kept.

    `http_method` is the request's; `name` a tool, prompt or URI, clipped; `endpoint` the URL that was asked, or "";
    `code` the JSON-RPC error that the agent got, or 0; `status` the HTTP status.
    """

    http_method: str
    server: str
    method: str
    name: str
    version: str
    agent: str
    identified_by: str
    decision: str
    policy: str
    rule: str
    outcome: str
    code: int
    status: int
    endpoint: str


class Ended(msgspec.Struct, frozen=True, gc=False):
    """An exchange that has ended; times are seconds since its begin, but `end_ns`, which is since 1970.

    `trace` is its own span, `parent` the id of the agent's span or "", `call` the id that the record has for it.
    `asked` is when the MCP server was asked (-1: it was not), `answered` when its answer was complete. `message` is the
    error's, where it is one of ours. `session_seconds` is how long the session lived that this exchange ended, or 0.
    """

    shape: Shape
    trace: TraceContext
    parent: str
    tracestate: str | None
    call: str
    session: str
    request_id: str | None
    message: str
    end_ns: int
    seconds: float
    asked: float
    answered: float
    session_seconds: float


class Sink(Protocol):
    """Where ended exchanges go; called on the event loop's thread."""

    @property
    def threshold(self) -> int:
        """Which of the traces that begin here are exported (see `trace.new`)."""

    def take(self, ended: Ended) -> None:
        """Take one. Returns at once and never raises."""
