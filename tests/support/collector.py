"""An OpenTelemetry collector's receiving side: OTLP over gRPC on a free loopback port, which keeps what it gets.

It runs on a loop and thread of its own, so that a test's loop may block, and shares no code with the exporter: messages
are turned into plain values here.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Future
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from functools import partialmethod
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2, logs_service_pb2_grpc
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2, metrics_service_pb2_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

from openmcp.sidecar.telemetry import otlp as exporter
from tests.support.gate import Gate, configuration, gate
from tests.support.hostile import Hostile

PATIENCE = 20.0
KINDS = {2: "SERVER", 3: "CLIENT"}


@dataclass(frozen=True)
class Span:
    """One span; ids in hexadecimal, `parent` is "" at the root, times in nanoseconds since 1970."""

    name: str
    kind: str
    trace: str
    id: str
    parent: str
    start: int
    end: int
    attributes: dict[str, Any]
    error: bool
    message: str
    flags: int
    state: str


@dataclass(frozen=True)
class Metric:
    """One metric: its kind is `sum`, `gauge` or `histogram`; `points` are (attributes, value or data point)."""

    name: str
    kind: str
    unit: str
    points: list[tuple[dict[str, Any], Any]]

    def value(self, **attributes: Any) -> Any:
        """Return the value of the only point that has these attributes (with `.` written as `__`)."""
        wanted = {key.replace("__", "."): value for key, value in attributes.items()}
        found = [value for labels, value in self.points if wanted.items() <= labels.items()]
        assert len(found) == 1, (self.points, wanted)
        return found[0]


@dataclass
class Collector:
    """What came so far. Read it after `wait_for`, or when the sender has stopped."""

    url: str = ""
    requests: list[Any] = field(default_factory=list)
    metadata: list[dict[str, str]] = field(default_factory=list)
    refuse: grpc.StatusCode | None = None
    arrived: threading.Condition = field(default_factory=threading.Condition)

    def wait_for(self, what: Any) -> Any:
        """Return what `what(self)` returns once it is true."""
        with self.arrived:
            assert self.arrived.wait_for(lambda: what(self), PATIENCE), self.requests
            return what(self)

    @property
    def resources(self) -> list[dict[str, Any]]:
        """Return the resource of each request."""
        return [plain(group.resource.attributes) for request in self.requests for group in _groups(request)]

    @property
    def schemas(self) -> set[str]:
        """Return the schema URLs of all resources and scopes of spans and metrics."""
        groups = [group for request in self.requests for group in _groups(request)]
        scopes = [scope for group in groups for scope in getattr(group, "scope_spans", [])]
        scopes += [scope for group in groups for scope in getattr(group, "scope_metrics", [])]
        return {each.schema_url for each in (*groups, *scopes)}

    @property
    def spans(self) -> list[Span]:
        """Return all spans."""
        found = [
            one
            for request in self.requests
            for group in getattr(request, "resource_spans", [])
            for one in group.scope_spans
        ]
        return [_span(span) for scope in found for span in scope.spans]

    @property
    def metrics(self) -> dict[str, Metric]:
        """Return the metrics of the last export, by name."""
        exports = [request for request in self.requests if hasattr(request, "resource_metrics")]
        if not exports:
            return {}
        scopes = [scope for group in exports[-1].resource_metrics for scope in group.scope_metrics]
        metrics = [_metric(metric) for scope in scopes for metric in scope.metrics]
        assert len({metric.name for metric in metrics}) == len(metrics), "each metric once"
        return {metric.name: metric for metric in metrics}

    @property
    def logs(self) -> list[tuple[str, str, str, dict[str, Any]]]:
        """Return logger, level, message and attributes of all log records."""
        groups = [group for request in self.requests for group in getattr(request, "resource_logs", [])]
        return [
            (scope.scope.name, line.severity_text, line.body.string_value, plain(line.attributes))
            for group in groups
            for scope in group.scope_logs
            for line in scope.log_records
        ]

    async def take(self, request: Any, context: Any, answer: Any) -> Any:
        """Keep a request."""
        if self.refuse is not None:
            await context.abort(self.refuse, "the test said so")
        with self.arrived:
            self.requests.append(request)
            self.metadata.append({key: value for key, value in context.invocation_metadata()})
            self.arrived.notify_all()
        return answer


@contextmanager
def collector(port: int = 0, certificate: tuple[bytes, bytes] | None = None) -> Iterator[Collector]:
    """Run a collector; `certificate` is a private key and a chain (PEM), for TLS."""
    made = Collector()
    started: Future[int] = Future()
    stop = asyncio.Event()
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_until_complete, args=(_serve(made, port, certificate, started, stop),))
    thread.start()
    try:
        bound = started.result(PATIENCE)
        made.url = f"{'https' if certificate else 'http'}://127.0.0.1:{bound}"
        yield made
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(PATIENCE)
        loop.close()


async def _serve(
    made: Collector, port: int, certificate: tuple[bytes, bytes] | None, started: Future[int], stop: asyncio.Event
) -> None:
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(_Traces(made), server)
    metrics_service_pb2_grpc.add_MetricsServiceServicer_to_server(_Metrics(made), server)
    logs_service_pb2_grpc.add_LogsServiceServicer_to_server(_Logs(made), server)
    address = f"127.0.0.1:{port}"
    try:
        if certificate is None:
            bound = server.add_insecure_port(address)
        else:
            bound = server.add_secure_port(address, grpc.ssl_server_credentials([certificate]))
        await server.start()
    except BaseException as error:
        started.set_exception(error)
        raise
    started.set_result(bound)
    await stop.wait()
    await server.stop(None)


@asynccontextmanager
async def exporting(
    folder: Path, server: Hostile, endpoint: str, patience: float = PATIENCE, **otlp: Any
) -> AsyncIterator[Gate]:
    """Run a sidecar before this server that exports; keywords are further members of `telemetry.otlp`. When the
    block is left, everything has been exported, however slow this machine is: within `patience` seconds."""
    audit = {"output": {"file": str(folder / "audit.jsonl")}}
    config = configuration(server.url) | {"telemetry": {"audit": audit, "otlp": {"endpoint": endpoint, **otlp}}}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exporter.Exporter, "stop", partialmethod(exporter.Exporter.stop, patience=patience))
        async with gate(folder, config) as running:
            yield running


class _Service:
    def __init__(self, made: Collector) -> None:
        self.made = made


class _Traces(_Service, trace_service_pb2_grpc.TraceServiceServicer):
    async def Export(self, request: Any, context: Any) -> Any:
        return await self.made.take(request, context, trace_service_pb2.ExportTraceServiceResponse())


class _Metrics(_Service, metrics_service_pb2_grpc.MetricsServiceServicer):
    async def Export(self, request: Any, context: Any) -> Any:
        return await self.made.take(request, context, metrics_service_pb2.ExportMetricsServiceResponse())


class _Logs(_Service, logs_service_pb2_grpc.LogsServiceServicer):
    async def Export(self, request: Any, context: Any) -> Any:
        return await self.made.take(request, context, logs_service_pb2.ExportLogsServiceResponse())


def plain(attributes: Any) -> dict[str, Any]:
    """Return attributes as plain values."""
    named = {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in attributes}
    assert len(named) == len(attributes), "each attribute once"
    return named


def _groups(request: Any) -> list[Any]:
    for name in ("resource_spans", "resource_metrics", "resource_logs"):
        if hasattr(request, name):
            return list(getattr(request, name))
    raise AssertionError(request)


def _span(span: Any) -> Span:
    return Span(
        span.name,
        KINDS[span.kind],
        span.trace_id.hex(),
        span.span_id.hex(),
        span.parent_span_id.hex(),
        span.start_time_unix_nano,
        span.end_time_unix_nano,
        plain(span.attributes),
        span.status.code == 2,
        span.status.message,
        span.flags,
        span.trace_state,
    )


def _metric(metric: Any) -> Metric:
    kind = metric.WhichOneof("data")
    points = getattr(metric, kind).data_points
    if kind == "histogram":
        return Metric(metric.name, kind, metric.unit, [(plain(point.attributes), point) for point in points])
    values = [(plain(point.attributes), getattr(point, point.WhichOneof("value"))) for point in points]
    return Metric(metric.name, kind, metric.unit, values)
