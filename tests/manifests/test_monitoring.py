"""Alerts and dashboard: every expression is PromQL, about metrics and labels that this version exports."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml

from openmcp.injector.metrics import Metrics
from openmcp.sidecar.telemetry.families import FAMILIES

MONITORING = Path(__file__).resolve().parents[2] / "manifests/helm/openmcp/files/monitoring"
RULES = yaml.safe_load((MONITORING / "rules.yaml").read_text())
DASHBOARD = json.loads((MONITORING / "dashboard.json").read_text())
ALERTS = [rule for group in RULES["groups"] for rule in group["rules"]]
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]

SCRAPED = {"namespace", "pod", "job", "instance", "container", "endpoint"}
"""Labels that Prometheus adds to each series of a pod."""
PROCESS = {"process_resident_memory_bytes", "process_cpu_seconds_total"}


def _series(name: str, kind: str, labels: tuple[str, ...]) -> dict[str, set[str]]:
    """The names that a metric has in an exposition, with their labels."""
    if kind == "counter":
        return {f"{name}_total": set(labels)}
    if kind == "histogram":
        return {f"{name}_bucket": {*labels, "le"}, f"{name}_sum": set(labels), f"{name}_count": set(labels)}
    return {name: set(labels)}


def _of_injector() -> dict[str, set[str]]:
    """From the injector's own exposition, in which every metric is described, also before it has values."""
    metrics = Metrics("1")
    metrics.objects(lambda: {("MCPServer", "accepted"): 1})
    metrics.leading("openmcp-status", lambda: True)
    metrics.tls_refused("x")
    metrics.trusted(lambda: True)
    metrics.status_written("ok")
    found: dict[str, set[str]] = {}
    for line in metrics.exposition().decode().splitlines():
        if named := re.match(r"([a-z_]+)(?:\{(.*)\})? ", line):
            found.setdefault(named[1], set()).update(re.findall(r"(\w+)=", named[2] or ""))
    return found


EXPORTED = {
    key: value
    for family in FAMILIES.values()
    for key, value in _series(family.name, family.kind, family.labels).items()
}
EXPORTED |= {name: labels for name, labels in _of_injector().items() if name.startswith("openmcp_injector_")}
EXPORTED |= {name: set() for name in PROCESS}


def _expressions() -> Iterator[tuple[str, str]]:
    for rule in ALERTS:
        yield rule["alert"], rule["expr"]
    for panel in PANELS:
        for target in panel["targets"]:
            yield f"{panel['title']} {target['refId']}", target["expr"]


EXPRESSIONS = dict(_expressions())


def _parsed(text: str) -> Any:
    """Grafana's variables stand for durations and patterns."""
    return promql_parser.parse(
        text.replace("$__rate_interval", "5m").replace("$namespace", ".*").replace("$server", ".*")
    )


def _selectors(node: Any) -> Iterator[Any]:
    if isinstance(node, promql_parser.VectorSelector):
        yield node
    for name in ("lhs", "rhs", "expr", "vector_selector", "vs", "param"):
        if (child := getattr(node, name, None)) is not None and isinstance(child, promql_parser.Expr):
            yield from _selectors(child)
    for child in getattr(node, "args", None) or ():
        yield from _selectors(child)


def _grouped(text: str) -> set[str]:
    return {label.strip() for found in re.findall(r"\b(?:by|on) \(([^)]*)\)", text) for label in found.split(",")}


@pytest.mark.parametrize("title", EXPRESSIONS)
def test_an_expression_is_about_what_is_exported(title: str) -> None:
    text = EXPRESSIONS[title]
    selectors = list(_selectors(_parsed(text)))
    assert len(selectors) == len(re.findall(r"\b(?:openmcp|process)_\w+", text)) > 0
    assert {selector.name for selector in selectors} - EXPORTED.keys() == set()
    for selector in selectors:
        asked = {matcher.name for matcher in selector.matchers.matchers}
        assert asked - EXPORTED[selector.name] - SCRAPED == set(), selector.name
    known = set().union(*(EXPORTED[selector.name] for selector in selectors)) | SCRAPED
    assert _grouped(text) - known == set()


def _left(rule: dict[str, Any]) -> set[str]:
    """The labels that the series of an alert can have: what it is grouped by, or all."""
    grouped = re.findall(r"\bby \(([^)]*)\)", rule["expr"])
    if grouped:
        return {label.strip() for label in grouped[0].split(",")} - {"le"}
    if re.match(r"\s*(sum|absent|max|min)\(", rule["expr"]):
        return set()
    return set().union(*(EXPORTED[one.name] for one in _selectors(_parsed(rule["expr"])))) | SCRAPED


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule["alert"])
def test_an_alert_says_what_its_series_knows(rule: dict[str, Any]) -> None:
    assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
    assert rule["labels"]["severity"] in ("critical", "warning", "info")
    said = " ".join(rule["annotations"].values())
    assert set(re.findall(r"\$labels\.(\w+)", said)) - _left(rule) == set()
    assert len(re.findall(r"\{\{", said)) == len(
        re.findall(r"\{\{ \$(?:labels\.\w+|value)(?: \| humanize\w*)? \}\}", said)
    )
    if "for" in rule:
        promql_parser.parse_duration(rule["for"])


def test_alerts_and_panels_are_named_once() -> None:
    alerts = [rule["alert"] for rule in ALERTS]
    assert len(alerts) == len(set(alerts))
    assert all(name.startswith("OpenMCP") for name in alerts)
    identifiers = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(identifiers) == len(set(identifiers))


def test_panels_do_not_lie_on_each_other() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert at["x"] + at["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells


def test_the_dashboard_asks_the_data_source_that_was_chosen() -> None:
    assert {target["datasource"]["uid"] for panel in PANELS for target in panel["targets"]} == {"${datasource}"}
    variables = {variable["name"] for variable in DASHBOARD["templating"]["list"]}
    used = {name for text in EXPRESSIONS.values() for name in re.findall(r"\$(\w+)", text)}
    assert used - variables - {"__rate_interval"} == set()


@pytest.mark.parametrize(
    "panel", [panel for panel in PANELS if panel["type"] == "timeseries"], ids=lambda panel: panel["title"]
)
def test_a_legend_names_labels_that_are_left(panel: dict[str, Any]) -> None:
    for target in panel["targets"]:
        shown = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
        grouped = re.findall(r"\bby \(([^)]*)\)", target["expr"])
        left = {label.strip() for label in grouped[0].split(",")} if grouped else SCRAPED
        assert shown - left == set(), target["expr"]
