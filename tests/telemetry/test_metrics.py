"""The metrics as Prometheus sees them, and their bounds."""

import subprocess
import sys

from prometheus_client.parser import text_string_to_metric_families

from openmcp.sidecar.telemetry.metrics import (
    FAMILIES,
    TOOLS_PER_SERVER,
    UNALLOWED_TOOLS_PER_SERVER,
    Metrics,
    Scrape,
)
from openmcp.sidecar.telemetry.values import AuditStats


def samples(metrics: Metrics, prefix: str = "openmcp_") -> dict[str, float]:
    """Every sample whose name begins so, as `name{label=value,...}` in alphabetical order of the labels."""
    found = {}
    for family in text_string_to_metric_families(metrics.exposition().decode()):
        for sample in family.samples:
            if sample.name.startswith(prefix):
                labels = ",".join(f"{key}={value}" for key, value in sorted(sample.labels.items()))
                found[f"{sample.name}{{{labels}}}"] = sample.value
    return found


def test_requests_are_counted_and_timed() -> None:
    metrics = Metrics("1.2.3")
    metrics.request("zendesk", "tools/call", "search", "allow", 0.0003, 0.0002)
    metrics.request("zendesk", "tools/call", "search", "allow", 0.0005, 0.0002)
    metrics.request("zendesk", "tools/call", "delete", "deny", 90.0, 0)
    metrics.request("zendesk", "tools/list", "", "allow", 0.3, 0.25)
    assert samples(metrics, "openmcp_requests") == {
        "openmcp_requests_total{decision=allow,method=tools/call,server=zendesk,tool=search}": 2,
        "openmcp_requests_total{decision=deny,method=tools/call,server=zendesk,tool=delete}": 1,
        "openmcp_requests_total{decision=allow,method=tools/list,server=zendesk,tool=}": 1,
    }
    found = samples(metrics)
    duration = "openmcp_request_duration_seconds"
    calls = {
        bound: found[f"{duration}_bucket{{le={bound},method=tools/call,server=zendesk}}"]
        for bound in ("0.00025", "0.0005", "60.0", "+Inf")
    }
    assert calls == {"0.00025": 0, "0.0005": 2, "60.0": 2, "+Inf": 3}
    assert found[f"{duration}_count{{method=tools/call,server=zendesk}}"] == 3
    assert found[f"{duration}_sum{{method=tools/call,server=zendesk}}"] == 90.0008
    assert found["openmcp_upstream_duration_seconds_count{server=zendesk}"] == 3
    assert found["openmcp_upstream_duration_seconds_sum{server=zendesk}"] == 0.2504
    assert found["openmcp_build_info{version=1.2.3}"] == 1


def test_events_are_counted() -> None:
    metrics = Metrics("1")
    for _ in range(2):
        metrics.error("s", "tools/call", "timeout")
        metrics.session("s", "opened")
        metrics.stream_event("s", "post")
        metrics.connect("s", "https://a:1", "ok")
        metrics.reload("error")
    metrics.error("s", "no/such/method", "unknown_method")
    found = samples(metrics)
    del found["openmcp_build_info{version=1}"]
    assert found == {
        "openmcp_errors_total{kind=timeout,method=tools/call,server=s}": 2,
        "openmcp_errors_total{kind=unknown_method,method=other,server=s}": 1,
        "openmcp_sessions_total{event=opened,server=s}": 2,
        "openmcp_stream_events_total{kind=post,server=s}": 2,
        "openmcp_connects_total{endpoint=https://a:1,result=ok,server=s}": 2,
        "openmcp_config_reloads_total{result=error}": 2,
    }


def test_gauges_are_read_at_the_scrape() -> None:
    metrics = Metrics("1")
    idle = 3

    def report(scrape: Scrape) -> None:
        scrape.in_flight("s", 4)
        scrape.streams("s", "get", 5)
        scrape.endpoint("s", "https://a:1", healthy=False)
        scrape.pool("s", "https://a:1", idle=idle, active=1)
        scrape.connections("mcp", 7)
        scrape.config(digest="abc", age=1.5)
        scrape.audit(AuditStats(lines=1, bytes=2, buffered=3, failures=4, dropped=5, failing_since=6.0))

    metrics.on_scrape(report)
    expected = {
        "openmcp_in_flight{server=s}": 4,
        "openmcp_streams{kind=get,server=s}": 5,
        "openmcp_endpoint_healthy{endpoint=https://a:1,server=s}": 0,
        "openmcp_pool_connections{endpoint=https://a:1,server=s,state=idle}": 3,
        "openmcp_pool_connections{endpoint=https://a:1,server=s,state=active}": 1,
        "openmcp_connections{listener=mcp}": 7,
        "openmcp_config_age_seconds{}": 1.5,
        "openmcp_config_info{digest=abc}": 1,
        "openmcp_audit_lines_total{}": 1,
        "openmcp_audit_buffered_bytes{}": 3,
        "openmcp_audit_failures_total{}": 4,
        "openmcp_audit_dropped_total{}": 5,
        "openmcp_audit_failing{}": 1,
        "openmcp_build_info{version=1}": 1,
    }
    assert samples(metrics) == expected
    idle = 0
    assert samples(metrics)["openmcp_pool_connections{endpoint=https://a:1,server=s,state=idle}"] == 0


def test_a_hostile_agent_cannot_grow_the_label_sets() -> None:
    """Made-up tools and methods: bounded memory, and the real tools keep their names."""
    metrics = Metrics("1")
    for index in range(5_000):
        metrics.request("s", "tools/call", f"made-up-{index}", "deny", 0.001, 0)
        metrics.request("s", f"made/up/{index}", "", "deny", 0.001, 0)
    for index in range(5_000):
        metrics.request("s", "tools/call", f"real-{index}", "allow", 0.001, 0)
    metrics.request("s", "tools/call", "x" * 129, "allow", 0.001, 0)
    metrics.request("t", "tools/call", "x" * 129, "allow", 0.001, 0)
    metrics.request("t", "tools/call", "\ud800", "allow", 0.001, 0)
    assert len(metrics._requests) == TOOLS_PER_SERVER + 4
    found = samples(metrics, "openmcp_requests_total")
    assert sum(found.values()) == 15_003
    assert sum("tool=made-up" in name for name in found) == UNALLOWED_TOOLS_PER_SERVER
    assert sum("tool=real" in name for name in found) == TOOLS_PER_SERVER - UNALLOWED_TOOLS_PER_SERVER
    assert found["openmcp_requests_total{decision=deny,method=other,server=s,tool=}"] == 5_000
    assert found["openmcp_requests_total{decision=allow,method=tools/call,server=t,tool=other}"] == 2


def test_labels_are_escaped() -> None:
    metrics = Metrics("1")
    metrics.error("s", "tools/call", 'a"b\\c\nd')
    assert any(sample.endswith('a"b\\c\nd,method=tools/call,server=s}') for sample in samples(metrics))


def test_names_follow_the_conventions() -> None:
    """Base units, no type in the name, a prefix: https://prometheus.io/docs/practices/naming/."""
    for family in FAMILIES.values():
        assert family.name.startswith("openmcp_")
        assert not family.name.endswith(("_total", "_count", "_sum", "_bucket", "_gauge", "_counter", "_ms"))
        assert family.help.endswith(".")
        assert "le" not in family.labels
        if family.kind == "histogram" or "duration" in family.name or "age" in family.name:
            assert family.name.endswith("_seconds")


def test_the_process_is_measured() -> None:
    found = samples(Metrics("1"), "process_")
    assert found["process_resident_memory_bytes{}"] > 1_000_000
    assert found["process_open_fds{}"] > 2


def test_the_client_library_is_imported_at_the_first_scrape() -> None:
    """It costs 4 MiB and 25 ms, which a sidecar that nobody scrapes does not pay."""
    code = (
        "import sys; from openmcp.sidecar.telemetry.metrics import Metrics; metrics = Metrics('1');"
        "assert 'prometheus_client' not in sys.modules; metrics.exposition();"
        "assert 'prometheus_client' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
