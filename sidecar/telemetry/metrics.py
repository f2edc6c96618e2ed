"""The metrics, and the one door to `prometheus_client`.

Counting happens in plain Python numbers, from the event loop's thread alone, and takes well under a microsecond
per request; the client library only comes in when somebody scrapes. Label sets are bounded: methods are the
protocol's, and a server has at most `TOOLS_PER_SERVER` tool names, then `other`.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from openmcp.sidecar.telemetry.families import FAMILIES, Family
from openmcp.sidecar.telemetry.values import AuditStats

if TYPE_CHECKING:
    import prometheus_client

TOOLS_PER_SERVER = 200
UNALLOWED_TOOLS_PER_SERVER = 100
"""Of these, the names whose first call was not allowed: an agent cannot push real tools out by made-up names."""
OTHER = "other"
_TOOL_CHARACTERS = 128
"""The longest tool name MCP knows; longer ones are `other`."""
BUCKETS: Final[tuple[float, ...]] = (
    *(0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0, 30.0, 60.0),
)
"""Seconds. The first ones are for a proxy's own cost, the last for tools that work a while."""

METHODS = frozenset(
    {
        *("initialize", "ping", "server/discover", "subscriptions/listen"),
        *("tools/list", "tools/call", "prompts/list", "prompts/get", "completion/complete", "logging/setLevel"),
        *("resources/list", "resources/read", "resources/templates/list"),
        *("resources/subscribe", "resources/unsubscribe"),
        *("tasks/get", "tasks/result", "tasks/list", "tasks/cancel", "tasks/update"),
        *("sampling/createMessage", "roots/list", "elicitation/create"),
        *("notifications/initialized", "notifications/cancelled", "notifications/progress"),
        *("notifications/message", "notifications/roots/list_changed", "notifications/tools/list_changed"),
        *("notifications/prompts/list_changed", "notifications/resources/list_changed"),
        *(
            "notifications/resources/updated",
            "notifications/elicitation/complete",
            "notifications/tasks/status",
            "notifications/tasks",
        ),
    }
)
"""What may stand in the label `method`; the rest, and the empty string, is `other`."""

Labels = tuple[str, ...]


class Histogram:
    """Observations by bucket (not cumulated; the last is beyond all bounds) and their sum in seconds."""

    __slots__ = ("counts", "sum")

    def __init__(self, bounds: tuple[float, ...] = BUCKETS) -> None:
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0


class _Series:
    """What one (server, method, tool, decision) counts, and the histograms it shares with others."""

    __slots__ = ("count", "duration", "upstream")

    def __init__(self, duration: Histogram, upstream: Histogram) -> None:
        self.count = 0
        self.duration = duration
        self.upstream = upstream


class Names:
    """The names, of tools for example, of one server that have a label of their own."""

    __slots__ = ("_names", "_unallowed")

    def __init__(self) -> None:
        self._names = {""}
        self._unallowed = 0

    def label(self, tool: str, *, allowed: bool) -> str:
        if tool in self._names:
            return tool
        if len(self._names) > TOOLS_PER_SERVER or len(tool) > _TOOL_CHARACTERS or not tool.isprintable():
            return OTHER
        if not allowed:
            if self._unallowed >= UNALLOWED_TOOLS_PER_SERVER:
                return OTHER
            self._unallowed += 1
        self._names.add(tool)
        return tool


class Scrape:
    """Where callbacks of `Metrics.on_scrape` put what is read at the moment of the scrape."""

    def __init__(self) -> None:
        self.values: dict[tuple[str, Labels], float] = {}

    def in_flight(self, server: str, count: int) -> None:
        """Report the requests being worked on."""
        self.values["in_flight", (server,)] = count

    def tools_withheld(self, server: str, count: int) -> None:
        """Report the tools that are withheld since they changed."""
        self.values["tools_withheld", (server,)] = count

    def held(self, server: str, count: int) -> None:
        """Report the calls that wait for a human."""
        self.values["held", (server,)] = count

    def state_failing(self, *, failing: bool) -> None:
        """Report whether the store of approvals could not be reached when it was asked last."""
        self.values["state_failing", ()] = failing

    def streams(self, server: str, kind: str, count: int) -> None:
        """Report open streams; `kind` is for example `post`, `get` or `listen`."""
        self.values["streams", (server, kind)] = count

    def endpoint(self, server: str, endpoint: str, *, healthy: bool) -> None:
        """Report an endpoint's health."""
        self.values["healthy", (server, endpoint)] = healthy

    def retries(self, server: str, counts: Mapping[str, int]) -> None:
        """Report how often calls were tried again, by what was wrong before."""
        for reason, count in counts.items():
            self.values["retries", (server, reason)] = count

    def ejections(self, server: str, endpoint: str, count: int, *, ejected: bool) -> None:
        """Report how often an endpoint was left out, and whether it is."""
        self.values["ejections", (server, endpoint)] = count
        self.values["ejected", (server, endpoint)] = ejected

    def rate_limit(self, server: str, buckets: int) -> None:
        """Report the buckets of a server's limits that are not full."""
        self.values["rate_limit_buckets", (server,)] = buckets

    def rate_limit_unshared(self, *, failing: bool) -> None:
        """Report whether Redis does not answer, so that shared limits are counted here alone."""
        self.values["rate_limit_unshared", ()] = failing

    def pool(self, server: str, endpoint: str, *, idle: int, active: int) -> None:
        """Report the connections to an endpoint."""
        self.values["pool", (server, endpoint, "idle")] = idle
        self.values["pool", (server, endpoint, "active")] = active

    def connections(self, listener: str, count: int) -> None:
        """Report the connections of a listener."""
        self.values["connections", (listener,)] = count

    def svid(self, expires: float | None, rotations: int, failures: Iterable[tuple[str, int]]) -> None:
        """Report our SVID: its end in Unix seconds, how often it was replaced, what hindered the Workload API."""
        if expires is not None:
            self.values["svid_expires", ()] = expires
        self.values["svid_rotations", ()] = rotations
        for kind, count in failures:
            self.values["workload_api_failures", (kind,)] = count

    def config(self, *, digest: str, age: float) -> None:
        """Report the configuration in force and how many seconds ago it was loaded, or its origin last heard of."""
        self.values["config_info", (digest,)] = 1
        self.values["config_age", ()] = age

    def config_closed(self, *, closed: bool) -> None:
        """Report whether all is denied for want of a configuration."""
        self.values["config_closed", ()] = closed

    def objects(self, objects: Iterable[tuple[str, str, int]], watch_errors: Iterable[tuple[str, str, int]]) -> None:
        """Report objects of Kubernetes by kind and state, and failures to follow them by kind and reason."""
        for kind, state, count in objects:
            self.values["config_objects", (kind, state)] = count
        for kind, reason, count in watch_errors:
            self.values["kubernetes_watch_errors", (kind, reason)] = count

    def export(self, signal: str, *, exported: int, dropped: int, failures: int) -> None:
        """Report the export to a collector; `signal` is `traces`, `metrics` or `logs`."""
        self.values["otlp_exported", (signal,)] = exported
        self.values["otlp_dropped", (signal,)] = dropped
        self.values["otlp_failures", (signal,)] = failures

    def audit(self, stats: AuditStats) -> None:
        """Report the audit log's counters."""
        self.values["audit_lines", ()] = stats.lines
        self.values["audit_failures", ()] = stats.failures
        self.values["audit_dropped", ()] = stats.dropped
        self.values["audit_buffered", ()] = stats.buffered
        self.values["audit_failing", ()] = stats.failing_since is not None


class Metrics:
    """All metrics of one process. Everything is called from the event loop's thread."""

    def __init__(self, version: str, *, methods: Iterable[str] = METHODS) -> None:
        self._methods = frozenset(methods)
        self._requests: dict[tuple[str, str, str, str], _Series] = {}
        self._durations: dict[Labels, Histogram] = {}
        self._upstreams: dict[Labels, Histogram] = {}
        self._tools: dict[str, Names] = {}
        self._counts: dict[tuple[str, Labels], float] = {}
        self._callbacks: list[Callable[[Scrape], None]] = []
        self._registry: _Registry | None = None
        self._version = version

    def request(
        self, server: str, method: str, tool: str, decision: str, seconds: float, upstream_seconds: float
    ) -> None:
        """Count one message. `tool` is "" where none is named; `upstream_seconds` is 0 where no server was asked."""
        series = self._requests.get((server, method, tool, decision))
        if series is None:
            series = self._series(server, method, tool, decision)
        series.count += 1
        duration = series.duration
        duration.counts[bisect_left(BUCKETS, seconds)] += 1
        duration.sum += seconds
        if upstream_seconds:
            upstream = series.upstream
            upstream.counts[bisect_left(BUCKETS, upstream_seconds)] += 1
            upstream.sum += upstream_seconds

    def error(self, server: str, method: str, kind: str) -> None:
        """Count a message that ended in an error; `kind` is the class of the error, one of ours."""
        self._count("errors", (server, method if method in self._methods else OTHER, kind))

    def session(self, server: str, event: str) -> None:
        """Count a session that was `opened` or `ended`."""
        self._count("sessions", (server, event))

    def stream_event(self, server: str, kind: str) -> None:
        """Count an event that was passed on in a stream of this kind."""
        self._count("stream_events", (server, kind))

    def finding(self, server: str, policy: str, rule: str, action: str) -> None:
        """Count what a response rule found in a message of the server; `action` is what was done, or `shadow`."""
        self._count("findings", (server, policy, rule, action))

    def connect(self, server: str, endpoint: str, result: str) -> None:
        """Count an attempt to connect; `result` is `ok` or the class of the error."""
        self._count("connects", (server, endpoint, result))

    def process_started(self, server: str, result: str) -> None:
        """Count an attempt to start a process of a stdio server; `result` is `ok` or `failed`."""
        self._count("stdio_starts", (server, result))
        if result == "ok":
            self._count("stdio_processes", (server,))

    def process_ended(self, server: str, reason: str) -> None:
        """Count a process that ends; `reason` is one of `bridge.process.Reason`."""
        self._count("stdio_ends", (server, reason))

    def process_gone(self, server: str) -> None:
        """Nothing is left of a process."""
        self._count("stdio_processes", (server,), -1)

    def process_grumbled(self, server: str, logged: int, dropped: int) -> None:
        """Count lines on standard error, by what became of them."""
        self._count("stdio_lines", (server, "logged"), logged)
        self._count("stdio_lines", (server, "dropped"), dropped)

    def unidentified(self, reason: str) -> None:
        """Count a caller that was not identified; `reason` is one of a few fixed words."""
        self._count("unidentified", (reason,))

    def keys_fetched(self, issuer: str, result: str) -> None:
        """Count an attempt to get the keys of an issuer; `result` is `ok` or `error`."""
        self._count("keys_fetched", (issuer, result))

    def tls_refused(self, side: str, reason: str) -> None:
        """Count a TLS handshake that failed; `side` says who was refused: a `client` or a `server`."""
        self._count("tls_refused", (side, reason))

    def credential_fetched(self, server: str, result: str) -> None:
        """Count an attempt to get an access token for a server; `result` is `ok` or `failed`."""
        self._count("credential_fetches", (server, result))

    def approval_notice(self, channel: str, result: str) -> None:
        """Count an attempt to tell a channel of approvals; `result` is `sent`, `updated` or `failed`."""
        self._count("approval_notices", (channel, result))

    def approval_forged(self) -> None:
        """Count a request to the endpoint of a channel that was not signed as it has to be."""
        self._count("approval_forged", ())

    def approval(self, server: str, event: str) -> None:
        """Count what happened to a request for approval or a grant."""
        self._count("approvals", (server, event))

    def reload(self, result: str) -> None:
        """Count a reload of the configuration; `result` is `ok`, `error`, or `closed` where all is refused."""
        self._count("reloads", (result,))

    def on_scrape(self, callback: Callable[[Scrape], None]) -> None:
        """Call `callback` at every scrape, to report what is only read then."""
        self._callbacks.append(callback)

    def exposition(self) -> bytes:
        """Return everything in the text format, version 0.0.4 (`text/plain; version=0.0.4; charset=utf-8`)."""
        if self._registry is None:
            self._registry = _Registry(self.families)
        return self._registry.text()

    def _count(self, name: str, labels: Labels, by: int = 1) -> None:
        key = (name, labels)
        self._counts[key] = self._counts.get(key, 0) + by

    def _series(self, server: str, method: str, tool: str, decision: str) -> _Series:
        """Find or make the series for labels that were not seen like this before, within the bounds."""
        method = method if method in self._methods else OTHER
        key = (server, method, self._tool(server, tool, decision), decision)
        series = self._requests.get(key)
        if series is None:
            series = self._requests[key] = _Series(
                self._durations.setdefault((server, method), Histogram()),
                self._upstreams.setdefault((server,), Histogram()),
            )
        return series

    def _tool(self, server: str, tool: str, decision: str) -> str:
        tools = self._tools.get(server)
        if tools is None:
            tools = self._tools[server] = Names()
        return tools.label(tool, allowed=decision == "allow")

    def families(self) -> Iterator[tuple[Family, list[tuple[Labels, float | Histogram]]]]:
        """Take stock: every family with the values of its label sets. The histograms are the live ones."""
        scrape = Scrape()
        for callback in self._callbacks:
            callback(scrape)
        values: dict[str, list[tuple[Labels, float | Histogram]]] = {"build": [((self._version,), 1)]}
        values["requests"] = [(key, series.count) for key, series in self._requests.items()]
        values["duration"] = list(self._durations.items())
        values["upstream"] = list(self._upstreams.items())
        for (name, labels), value in (*self._counts.items(), *scrape.values.items()):
            values.setdefault(name, []).append((labels, value))
        for name, family in FAMILIES.items():
            yield family, values.get(name, [])


class _Registry:
    """The client library's side: imported at the first scrape, as it costs 4 MiB and 25 ms."""

    def __init__(self, families: Callable[[], Iterator[tuple[Family, list[tuple[Labels, float | Histogram]]]]]) -> None:
        import prometheus_client

        self._library: Any = prometheus_client
        self._families = families
        self._registry = prometheus_client.CollectorRegistry(auto_describe=False)
        self._registry.register(self)
        prometheus_client.ProcessCollector(registry=self._registry)

    def text(self) -> bytes:
        """Return the exposition."""
        exposition: bytes = self._library.generate_latest(self._registry)
        return exposition

    def collect(self) -> Iterator["prometheus_client.Metric"]:
        """Return our families as the library's (it calls this)."""
        for family, values in self._families():
            metric = self._library.Metric(family.name, family.help, family.kind)
            for labels, value in values:
                names = dict(zip(family.labels, labels, strict=True))
                if isinstance(value, Histogram):
                    _add_histogram(metric, names, value)
                else:
                    suffix = "_total" if family.kind == "counter" else ""
                    metric.add_sample(family.name + suffix, names, value)
            yield metric


def _add_histogram(metric: "prometheus_client.Metric", labels: dict[str, str], value: Histogram) -> None:
    total = 0
    for bound, count in zip((*BUCKETS, float("inf")), value.counts, strict=True):
        total += count
        upper = "+Inf" if bound == float("inf") else str(bound)
        metric.add_sample(f"{metric.name}_bucket", {**labels, "le": upper}, total)
    metric.add_sample(f"{metric.name}_count", labels, total)
    metric.add_sample(f"{metric.name}_sum", labels, value.sum)
