"""What one exchange knows about itself, and the configuration it runs under from beginning to end."""

import time
from collections.abc import Mapping

import msgspec

from openmcp.config.model import Configuration, Server
from openmcp.identity.agents import Identifier
from openmcp.identity.principal import Principal
from openmcp.sidecar.mcp.surface import Call
from openmcp.sidecar.net.pool import Endpoint, Upstream
from openmcp.sidecar.policy.engine import Decision, PolicySet
from openmcp.sidecar.ports import Exchange
from openmcp.sidecar.telemetry.trace import TraceContext
from openmcp.sidecar.types import Era, MessageId, Session


class Route(msgspec.Struct, frozen=True):
    """A server as requests find it."""

    server: Server
    upstream: Upstream


class Snapshot(msgspec.Struct, frozen=True):
    """One configuration, compiled: swapped as a whole on reload; an exchange keeps the one it began with."""

    configuration: Configuration
    routes: Mapping[str, Route]
    policies: PolicySet
    identifier: Identifier
    hosts: frozenset[str]
    origins: frozenset[str]


class Flow:
    """One HTTP exchange on its way through the stages. Each stage fills in what it finds out; the record reads it."""

    __slots__ = (
        "bytes_in",
        "bytes_out",
        "call",
        "decision",
        "endpoint",
        "era",
        "exchange",
        "id",
        "message_id",
        "outcome",
        "principal",
        "route",
        "session",
        "session_ref",
        "snapshot",
        "started",
        "status",
        "trace",
        "tracestate",
        "upstream_seconds",
    )

    def __init__(self, flow_id: str, exchange: Exchange, snapshot: Snapshot, trace: TraceContext) -> None:
        self.id = flow_id
        self.exchange = exchange
        self.snapshot = snapshot
        self.trace = trace
        self.tracestate: str | None = None
        self.started = time.perf_counter()
        self.route: Route | None = None
        self.principal: Principal | None = None
        self.era = Era.LEGACY
        self.message_id: MessageId | None = None
        self.call: Call | None = None
        self.session: Session | None = None
        self.session_ref = ""
        self.endpoint: Endpoint | None = None
        self.decision: Decision | None = None
        self.bytes_in = len(exchange.request.body)
        self.bytes_out = 0
        self.status = 0
        self.outcome = "ok"
        self.upstream_seconds = 0.0

    @property
    def upstream(self) -> Upstream:
        """The server's endpoints; only where the flow is routed."""
        assert self.route is not None
        return self.route.upstream

    @property
    def agent(self) -> str:
        """The principal's name, or empty before it is known."""
        return self.principal.name if self.principal is not None else ""

    @property
    def server(self) -> str:
        """The server's name, or empty before it is known."""
        return self.route.server.name if self.route is not None else ""

    @property
    def method(self) -> str:
        """The JSON-RPC method, or empty where there is none (yet)."""
        return self.call.method if self.call is not None else ""

    @property
    def name(self) -> str:
        """The tool, prompt or URI, or empty."""
        return self.call.name if self.call is not None else ""
