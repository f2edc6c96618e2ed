"""What the injector counts; the door to `prometheus_client`."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
"""Seconds; the API server gives up after five."""


class Metrics:
    """All metrics of one injector. Called from the event loop's thread."""

    def __init__(self, version: str) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        ProcessCollector(registry=self._registry)
        registry = self._registry
        self._admissions = Counter(
            "openmcp_injector_admissions",
            "Pods looked at: injected, unchanged, refused, or error where no answer could be given.",
            ("result",),
            registry=registry,
        )
        self._durations = Histogram(
            "openmcp_injector_admission_duration_seconds",
            "From a review's last byte in to its answer.",
            registry=registry,
            buckets=_BUCKETS,
        )
        self._refused = Counter(
            "openmcp_injector_tls_refused", "TLS handshakes that failed.", ("reason",), registry=registry
        )
        self._status = Counter(
            "openmcp_injector_status_writes",
            "Conditions written to our objects: ok, conflict or error.",
            ("result",),
            registry=registry,
        )
        Gauge("openmcp_build_info", "The version that runs.", ("version",), registry=registry).labels(version).set(1)
        for result in ("injected", "unchanged", "refused", "error"):
            self._admissions.labels(result)
        self._lately = _Lately()
        registry.register(self._lately)

    def admission(self, result: str, seconds: float) -> None:
        """Count a pod that was looked at."""
        self._admissions.labels(result).inc()
        self._durations.observe(seconds)

    def tls_refused(self, reason: str) -> None:
        """Count a handshake that failed; `reason` is one of a few fixed texts."""
        self._refused.labels(reason).inc()

    def status_written(self, result: str) -> None:
        """Count an attempt to write the condition of an object."""
        self._status.labels(result).inc()

    def leading(self, lease: str, held: Callable[[], bool]) -> None:
        """Show at each scrape whether a Lease is ours."""
        self._lately.leases[lease] = held

    def certificate(self, ends: Callable[[], float], taken: Callable[[], int]) -> None:
        """Show at each scrape when the certificate ends, and how many there were."""
        self._lately.certificate = ends, taken

    def trusted(self, trusted: Callable[[], bool]) -> None:
        """Show at each scrape whether API servers ask us, as far as the configuration of the webhook says."""
        self._lately.trusted = trusted

    def objects(self, counts: Callable[[], Mapping[tuple[str, str], int]]) -> None:
        """Show at each scrape how many objects of which kind are in which state."""
        self._lately.counts = counts

    def exposition(self) -> bytes:
        """Everything in the text format, version 0.0.4."""
        return generate_latest(self._registry)


class _Lately:
    """What is only read when somebody scrapes."""

    def __init__(self) -> None:
        self.leases: dict[str, Callable[[], bool]] = {}
        self.certificate: tuple[Callable[[], float], Callable[[], int]] = (lambda: 0.0, lambda: 0)
        self.trusted: Callable[[], bool] | None = None
        self.counts: Callable[[], Mapping[tuple[str, str], int]] = dict

    def collect(self) -> Iterator[Metric]:
        """The library calls this."""
        ends, taken = self.certificate
        yield _gauge("certificate_expires_seconds", "When the certificate ends, in Unix time.", (), [((), ends())])
        yield CounterMetricFamily(
            "openmcp_injector_certificates_taken", "Certificates taken over since the start.", taken()
        )
        if self.trusted is not None:
            text = "Whether the configuration of the webhook is there and its caBundle holds the CA of the certificate."
            yield _gauge("ca_trusted", text, (), [((), float(self.trusted()))])
        held = [((lease,), float(held())) for lease, held in self.leases.items()]
        yield _gauge("leader", "Whether this replica holds the Lease.", ("lease",), held)
        yield _gauge(
            "objects",
            "Objects by what is said of them; only at the replica that says it.",
            ("kind", "state"),
            self.counts().items(),
        )


def _gauge(
    name: str, text: str, labels: tuple[str, ...], values: Iterable[tuple[tuple[str, ...], float]]
) -> GaugeMetricFamily:
    family = GaugeMetricFamily(f"openmcp_injector_{name}", text, labels=labels)
    for key, value in values:
        family.add_metric(key, value)
    return family
