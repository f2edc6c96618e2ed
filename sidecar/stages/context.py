"""What one exchange knows about itself."""

import time

from openmcp.identity.principal import ANONYMOUS, Principal
from openmcp.sidecar.inspection.findings import Examiner, Finding
from openmcp.sidecar.mcp.values import Call
from openmcp.sidecar.net.endpoint import Endpoint
from openmcp.sidecar.policy.decision import Decision
from openmcp.sidecar.ports import Exchange
from openmcp.sidecar.stages.snapshot import Route, Snapshot
from openmcp.sidecar.telemetry.trace import SAMPLED, onward
from openmcp.sidecar.telemetry.values import TraceContext
from openmcp.sidecar.types import LEGACY, JsonObject, MessageId, Session


class Flow:
    """One HTTP exchange on its way through the stages. Each stage fills in what it finds out; the record reads it.

    `route` and `upstream`, the server's endpoints, are there once it is known which server this is for.
    `agent` is the principal's name, `server` the server's, `method` and `name` what is called: empty until known.
    `id` joins the lines of its records: the span under which it began. `traced`: the agent's own trace is followed, and
    `parent` is its span there. `exported`: there is a collector that gets the spans of sampled traces.
    `answer`: the JSON-RPC document that was answered; None within streams, and where it is too large to be kept.
    `asked_at`: when (`time.perf_counter`) the server was asked first; `attempts`: how often, where that is counted.
    `error`: the JSON-RPC error that was answered.
    `findings`: what response rules found in the message that is recorded next. `examiner`: who has inspected the
    message under way, where that was not done here.
    `unidentified`: the word for why the caller is not identified. `why`: the reason of that, or of a failure, in words,
    for the record. `undecided`: how its message counts where policy was not asked.
    `ending` is the event that its last record is. `canonical`: the request's body is what we would write ourselves.
    `approval`: the approval that the call waits for, or was made under. `progress`: what we told of it ourselves.
    `kept`: the name that the record has instead of `name`, where something was redacted in that.
    `client`: what a session that begins here remembers for a server that knows no sessions (`Session.client`).
    `older`: it comes from an agent of 2024-11-05, over HTTP+SSE.
    `parameters`: the `Mcp-Param-*` header lines to pass on. `common`: the encoded fields that its records share.
    """

    # What most flows never set are defaults of the class: cheaper than storing them in each flow.
    principal = ANONYMOUS
    agent = ""
    identified_by = ""
    server = ""
    era = LEGACY
    call: Call | None = None
    method = ""
    name = ""
    canonical = False
    parameters = b""
    common = b""
    session: Session | None = None
    session_ref = ""
    endpoint: Endpoint | None = None
    decision: Decision | None = None
    traced = False
    tracestate: str | None = None
    parent = ""
    exported = False
    bytes_out = 0
    status = 0
    outcome = "ok"
    ending = "refused"
    stream = ""
    upstream_seconds = 0.0
    asked_at = 0.0
    attempts = 0
    unidentified = ""
    why = ""
    undecided = "refused"
    approval = ""
    kept = ""
    progress = 0.0
    error: JsonObject | None = None
    answer: JsonObject | None = None
    findings: tuple[Finding, ...] = ()
    examiner: Examiner | None = None
    client: JsonObject | None = None
    older = False

    def __init__(self, exchange: Exchange, snapshot: Snapshot, trace: TraceContext) -> None:
        self.id = trace.span_id
        self.exchange = exchange
        self.request = exchange.request
        self.snapshot = snapshot
        self.trace = trace
        self.message_id: MessageId | None = None
        self.started = time.perf_counter()
        self.bytes_in = len(self.request.body)

    @property
    def onward(self) -> TraceContext:
        """The place in the trace that the server is told: the span of the call to it, where such a span is exported."""
        return onward(self.trace) if self.exported and self.trace.flags & SAMPLED else self.trace

    def directed(self, route: Route) -> None:
        """It is known which server this is for."""
        self.route = route
        self.upstream = route.upstream
        self.server = route.server.name

    def streamed(self, kind: str) -> None:
        """The answer is a stream: of a POST, the session's own (`get`), or a subscription (`listen`)."""
        self.stream = kind
        self.ending = "stream-end"

    def identified(self, principal: Principal) -> None:
        """It is known who is calling."""
        self.principal = principal
        self.agent = principal.name
        self.identified_by = principal.method

    def until(self) -> float:
        """When what identified the agent ends, in Unix seconds; 0 where it does not any more."""
        request = self.exchange.request
        return self.snapshot.identifier.until(self.principal, request.headers, request.peer)

    def asked(self, call: Call) -> None:
        """It is known what the agent wants."""
        self.call = call
        self.method = call.message.method
        self.name = call.name
        self.ending = "response"
