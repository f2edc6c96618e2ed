"""Export to an OpenTelemetry collector by OTLP over gRPC; with otlp_encoding.py the one door to `opentelemetry`.

The event loop only notes what happened; a thread encodes and sends. What waits is bounded, what does not fit is dropped
and counted, and no failure of the export reaches a call. This module is imported only where `telemetry.otlp` is
configured: what it needs is an extra (`openmcp[otlp]`) and takes memory.
"""

import asyncio
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final, TypeVar
from uuid import uuid4

import grpc
import msgspec
from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter
from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector

from openmcp.config import secrets
from openmcp.config.model import Otlp
from openmcp.sidecar.telemetry import trace
from openmcp.sidecar.telemetry.log import extra
from openmcp.sidecar.telemetry.metrics import Histogram, Metrics, Scrape
from openmcp.sidecar.telemetry.operations import Operations
from openmcp.sidecar.telemetry.otlp_encoding import Encoder, Line, Stock
from openmcp.sidecar.telemetry.spans import Ended

QUEUE: Final = 8192
"""Exchanges, and lines of the log, that wait at most."""
BATCH: Final = 256
DELAY: Final = 1.0
"""Seconds that something waits for a batch to fill."""
INTERVAL: Final = 60.0
"""Seconds between two exports of metrics, where OTEL_METRIC_EXPORT_INTERVAL (milliseconds) says nothing else."""
TIMEOUT: Final = 5
"""Seconds for one export with its repetitions."""
DRAIN: Final = 2.0
"""Seconds at the end for what still waits."""
TRACES: Final = "traces"
METRICS: Final = "metrics"
LOGS: Final = "logs"
_OWN_LOGGERS: Final = ("opentelemetry", "grpc")
"""What these say is not exported: it may be about the export itself."""
_log = logging.getLogger("openmcp.otlp")
_Item = TypeVar("_Item")


class _Encoded(msgspec.Struct, frozen=True):
    """A request that is ready to be sent, and how many items it holds."""

    request: object
    count: int


class _AsItIs:
    """Makes an exporter of the SDK send requests that were encoded already, instead of encoding the SDK's objects."""

    def _translate_data(self, data: Any) -> Any:
        return data.request

    def _count_data(self, data: Any) -> int:
        return int(data.count)


class _SpanExporter(_AsItIs, OTLPSpanExporter):
    pass


class _MetricExporter(_AsItIs, OTLPMetricExporter):
    pass


class _LogExporter(_AsItIs, OTLPLogExporter):
    pass


class _Reason(logging.Handler):
    """Keeps the SDK's last word on why an export failed, which it tells its logger and nobody else."""

    def __init__(self) -> None:
        super().__init__()
        self.text = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.text = record.getMessage()


class _Signal:
    """One kind of telemetry on its way out; used by the sending thread, its counters are read by others."""

    def __init__(self, name: str, exporter: Any, endpoint: str, reason: _Reason) -> None:
        self.name = name
        self.exported = self.dropped = self.failures = 0
        self._exporter = exporter
        self._endpoint = endpoint
        self._reason = reason
        self._failing = False

    def send(self, encode: Callable[[], _Encoded], *, again: bool = False) -> None:
        """Export one request. Where it fails it is lost, unless the next one will hold it `again`."""
        count, sent = 0, False
        try:
            encoded = encode()
            count = encoded.count
            sent = self._exporter.export(encoded).name == "SUCCESS"
        except Exception as error:  # whatever it is, it must not end the thread
            self._reason.text = f"{type(error).__name__}: {error}"
        if sent:
            self.exported += count
        else:
            self.failures += 1
            self.dropped += 0 if again else count
        self._tell(sent)

    def close(self) -> None:
        """Break off what is under way."""
        self._exporter.shutdown()

    def _tell(self, sent: bool) -> None:
        if sent and self._failing:
            _log.info("%s are exported to %s again", self.name, self._endpoint)
        elif not sent and not self._failing:
            _log.warning("%s cannot be exported to %s: %s", self.name, self._endpoint, self._reason.text)
        self._failing = not sent


class _Handler(logging.Handler):
    """Notes the lines of the process's log for export; from any thread."""

    def __init__(self, note: Callable[[Line], None]) -> None:
        super().__init__()
        self._note = note

    def emit(self, record: logging.LogRecord) -> None:
        if record.name.startswith(_OWN_LOGGERS):
            return
        try:
            self._note(_line(record))
        except Exception:
            self.handleError(record)


class Exporter:
    """The export of one process. `take` is called on the loop's thread, and so are `start`, `collect` and `stop`."""

    def __init__(self, settings: Otlp, version: str, metrics: Metrics) -> None:
        """Raises `SecretError` where the CA or a header cannot be read, ValueError where they are not usable."""
        self.threshold = trace.threshold(settings.sample)
        self._metrics = metrics
        self._operations = Operations()
        self._exchanges: deque[Ended] = deque()
        self._lines: deque[Line] = deque()
        self._stock: deque[Stock] = deque(maxlen=1)
        reason = _listen()
        common = _connection(settings)
        self._traces = _Signal(TRACES, _SpanExporter(**common), settings.endpoint, reason)
        self._series = _Signal(METRICS, _MetricExporter(**common), settings.endpoint, reason)
        self._logs = _Signal(LOGS, _LogExporter(**common), settings.endpoint, reason)
        self._encoder = Encoder(_resource(version), version, time.time_ns())
        self._wake = threading.Event()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="otlp", daemon=True)
        self._handler = _Handler(self._note)
        self._timer: asyncio.TimerHandle | None = None
        self._interval = _interval()
        metrics.on_scrape(self._scrape)

    def start(self) -> None:
        """Begin to export. Needs a running loop."""
        logging.getLogger().addHandler(self._handler)
        self._thread.start()
        self._schedule()

    def take(self, ended: Ended) -> None:
        """Note an exchange: its durations always, its spans where its trace is sampled."""
        self._operations.count(ended)
        if not ended.trace.flags & trace.SAMPLED:
            return
        if len(self._exchanges) >= QUEUE:
            self._traces.dropped += 1 + (ended.asked >= 0)
            return
        self._exchanges.append(ended)
        if len(self._exchanges) == BATCH:
            self._wake.set()

    def collect(self) -> None:
        """Take stock of all metrics, and let them be exported."""
        families = tuple(
            (family, tuple((labels, _frozen(value)) for labels, value in values))
            for family, values in self._metrics.families()
        )
        self._stock.append(Stock(time.time_ns(), families, tuple(self._operations.stock())))
        self._wake.set()

    async def stop(self, patience: float = DRAIN) -> None:
        """Export what waits, within `patience` seconds; then break off."""
        if self._timer is not None:
            self._timer.cancel()
        self.collect()
        logging.getLogger().removeHandler(self._handler)
        self._stopping = True
        self._wake.set()
        if self._thread.is_alive():
            await asyncio.to_thread(self._thread.join, patience)
        for signal in (self._traces, self._series, self._logs):
            signal.close()

    def _schedule(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._interval, self._due)

    def _due(self) -> None:
        self.collect()
        self._schedule()

    def _note(self, line: Line) -> None:
        if len(self._lines) >= QUEUE:
            self._logs.dropped += 1
        else:
            self._lines.append(line)

    def _scrape(self, scrape: Scrape) -> None:
        for signal in (self._traces, self._series, self._logs):
            scrape.export(signal.name, exported=signal.exported, dropped=signal.dropped, failures=signal.failures)

    def _run(self) -> None:
        while True:
            stopping = self._stopping  # looked at first: whatever came before it was set is still sent
            self._send()
            if stopping:
                return
            self._wake.wait(DELAY)
            self._wake.clear()

    def _send(self) -> None:
        """Send all that waits, a batch of each kind at a time."""
        while self._exchanges or self._stock or self._lines:
            if self._stock:
                stock = self._stock.popleft()
                self._series.send(lambda stock=stock: self._metrics_request(stock), again=True)  # type: ignore[misc]  # mypy cannot infer a lambda with a bound default
            if exchanges := _batch(self._exchanges):
                self._traces.send(lambda some=exchanges: self._traces_request(some))  # type: ignore[misc]  # as above
            if lines := _batch(self._lines):
                self._logs.send(lambda some=lines: _Encoded(self._encoder.logs(some), len(some)))  # type: ignore[misc]  # as above

    def _traces_request(self, exchanges: list[Ended]) -> _Encoded:
        return _Encoded(self._encoder.traces(exchanges), sum(1 + (ended.asked >= 0) for ended in exchanges))

    def _metrics_request(self, stock: Stock) -> _Encoded:
        points = sum(len(values) for _, values in stock.families) + len(stock.operations)
        return _Encoded(self._encoder.metrics(stock), points)


def _batch(queue: "deque[_Item]") -> list[_Item]:
    return [queue.popleft() for _ in range(min(BATCH, len(queue)))]


def _frozen(value: "float | Histogram") -> "float | tuple[tuple[int, ...], float]":
    return (tuple(value.counts), value.sum) if isinstance(value, Histogram) else value


def _listen() -> _Reason:
    """Take what the SDK's exporters say: it comes for each repetition, and we say it once."""
    reason = _Reason()
    for name in ("exporter", "trace_exporter", "metric_exporter", "_log_exporter"):
        logger = logging.getLogger(f"opentelemetry.exporter.otlp.proto.grpc.{name}")
        logger.handlers[:], logger.filters[:] = [reason], []  # its filter takes two signals that fail for one
        logger.propagate = False
    return reason


def _connection(settings: Otlp) -> dict[str, Any]:
    """What the three exporters need to connect; they share the connection."""
    secure = settings.endpoint.startswith("https://")
    authority = settings.ca
    credentials = None
    if secure:
        roots = secrets.read(authority) if authority is not None else None
        credentials = grpc.ssl_channel_credentials(root_certificates=roots)
    return {
        "endpoint": settings.endpoint,
        "insecure": not secure,
        "credentials": credentials,
        "headers": tuple((name, _header(name, secrets.read(secret))) for name, secret in settings.headers),
        "timeout": TIMEOUT,
    }


def _header(name: str, value: bytes) -> str:
    text = value.decode("ascii", "replace")
    if not text.isascii() or not text.isprintable():
        raise ValueError(f"the value of the header {name} has characters that a header cannot have")
    return text


def _interval() -> float:
    given = os.environ.get("OTEL_METRIC_EXPORT_INTERVAL", "")
    if given and not (given.isdecimal() and int(given)):
        raise ValueError(f"OTEL_METRIC_EXPORT_INTERVAL is to be a number of milliseconds, not {given!r}")
    return int(given) / 1000 if given else INTERVAL


def _resource(version: str) -> dict[str, Any]:
    """What exports: our names, and what OTEL_RESOURCE_ATTRIBUTES and OTEL_SERVICE_NAME add or say better."""
    own = {"service.name": "openmcp", "service.version": version, "service.instance.id": str(uuid4())}
    given = OTELResourceDetector().detect().attributes
    return {**own, **given}


def _line(record: logging.LogRecord) -> Line:
    attributes = extra(record)
    if record.exc_info and record.exc_info[0] is not None:
        attributes["exception.type"] = record.exc_info[0].__qualname__
        attributes["exception.message"] = str(record.exc_info[1])
        attributes["exception.stacktrace"] = logging.Formatter().formatException(record.exc_info)
    message = record.getMessage()
    return Line(int(record.created * 1e9), record.name, record.levelno, record.levelname, message, attributes)
