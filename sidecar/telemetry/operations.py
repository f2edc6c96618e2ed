"""The durations of MCP operations and sessions as OpenTelemetry's conventions want them, counted in plain numbers.

Their buckets and labels are not those of our own metrics (metrics.py), and cannot be worked out from them. Everything
is called from the event loop's thread; the number of series is bounded as it is there.
"""

from bisect import bisect_left

from openmcp.sidecar.telemetry import semconv
from openmcp.sidecar.telemetry.metrics import METHODS, Histogram, Names
from openmcp.sidecar.telemetry.spans import Ended, Shape

_CODES = 64
"""JSON-RPC codes that get a label of their own; servers choose them freely, and further ones are `_OTHER`."""
_REMEMBERED = 4096
"""Shapes of exchanges whose histograms need not be looked for."""

Attributes = tuple[tuple[str, str | int], ...]
Series = tuple[str, Attributes, tuple[int, ...], float]
"""Metric, attributes, counts by bucket (not cumulated) and the sum of all seconds."""


class Operations:
    """All durations of one process."""

    def __init__(self) -> None:
        self._series: dict[Shape, tuple[Histogram, Histogram]] = {}
        self._histograms: dict[tuple[str, Attributes], Histogram] = {}
        self._names: dict[tuple[str, str], Names] = {}
        self._codes: set[int] = set()

    def count(self, ended: Ended) -> None:
        """Count an exchange that has ended: the operation, the call to the server in it, the session it ended."""
        shape = ended.shape
        if shape.method:
            series = self._series.get(shape)
            if series is None:
                series = self._find(shape)
            _observe(series[0], ended.seconds)
            if ended.asked >= 0:
                _observe(series[1], ended.answered - ended.asked)
        if ended.session_seconds:
            self._session(shape, ended.session_seconds)

    def stock(self) -> list[Series]:
        """Return all values as they are now."""
        return [
            (metric, attributes, tuple(histogram.counts), histogram.sum)
            for (metric, attributes), histogram in self._histograms.items()
            if any(histogram.counts)
        ]

    def _find(self, shape: Shape) -> tuple[Histogram, Histogram]:
        method = shape.method if shape.method in METHODS else semconv.OTHER
        names = self._names.setdefault((shape.server, method), Names())
        named = semconv.target(method, names.label(shape.name, allowed=shape.decision == "allow"))
        named.pop("mcp.resource.uri", None)  # opt-in, and without bound
        common = {"mcp.method.name": method, **named, **network(shape), "openmcp.server": shape.server}
        code = self._code(shape.code)
        failed = semconv.server_error(method, shape.outcome, shape.code, shape.status)
        server = common | self._failed(failed, shape.code, code)
        failed = semconv.client_error(shape.outcome, shape.code)
        client = common | self._failed(failed, shape.code if shape.outcome == "rpc_error" else 0, code)
        client |= semconv.address(shape.endpoint)
        found = self._histogram(semconv.SERVER_OPERATION, server), self._histogram(semconv.CLIENT_OPERATION, client)
        if len(self._series) >= _REMEMBERED:  # made-up names can fill this; the histograms themselves stay few
            self._series.clear()
        self._series[shape] = found
        return found

    def _failed(self, error: str, code: int, label: str) -> dict[str, str | int]:
        attributes: dict[str, str | int] = {}
        if error:
            attributes["error.type"] = label if error == str(code) else error
        if code:
            attributes["rpc.response.status_code"] = label
        return attributes

    def _code(self, code: int) -> str:
        if code in self._codes or len(self._codes) < _CODES:
            self._codes.add(code)
            return str(code)
        return semconv.OTHER

    def _session(self, shape: Shape, seconds: float) -> None:
        common: dict[str, str | int] = {**network(shape), "openmcp.server": shape.server}
        _observe(self._histogram(semconv.SERVER_SESSION, common), seconds)
        _observe(self._histogram(semconv.CLIENT_SESSION, common | semconv.address(shape.endpoint)), seconds)

    def _histogram(self, metric: str, attributes: dict[str, str | int]) -> Histogram:
        key = metric, tuple(attributes.items())
        found = self._histograms.get(key)
        if found is None:
            found = self._histograms[key] = Histogram(semconv.BUCKETS)
        return found


def network(shape: Shape) -> dict[str, str | int]:
    """The attributes of the transport and the revision that is spoken over it."""
    attributes: dict[str, str | int] = {
        "network.transport": "tcp",
        "network.protocol.name": "http",
        "network.protocol.version": "1.1",
    }
    return {"mcp.protocol.version": shape.version, **attributes} if shape.version else attributes


def _observe(histogram: Histogram, seconds: float) -> None:
    histogram.counts[bisect_left(semconv.BUCKETS, seconds)] += 1
    histogram.sum += seconds
