"""What docs/kubernetes.md shows can be done: its values are values of the chart, its configuration is good."""

from __future__ import annotations

import json
import re
from pathlib import Path

import jsonschema
import pytest
import yaml

from openmcp.config import load
from openmcp.config.model import DynamodbState, KubernetesOrigin
from tests.manifests.charts import CHART, ROOT, Json, template

TEXT = (ROOT / "docs/kubernetes.md").read_text()
BLOCKS: list[Json] = [
    yaml.safe_load(found.replace("sha256:...", "sha256:" + "0" * 64))
    for found in re.findall(r"```yaml\n(.*?)```", TEXT, re.S)
]
VALUES = [block for block in BLOCKS if not {"apiVersion", "ignoreDifferences"} & block.keys()]


def test_the_blocks_are_found() -> None:
    assert len(BLOCKS) == 4
    assert len(VALUES) == 2


@pytest.mark.real
@pytest.mark.parametrize("values", VALUES, ids=lambda values: next(iter(values)))
def test_values_are_the_chart_s(values: Json) -> None:
    jsonschema.validate(values, json.loads((CHART / "values.schema.json").read_text()))
    assert template(values)


def test_namespaces_that_the_release_binds_are_there_before_it() -> None:
    """Helm stops at a RoleBinding in a namespace that is not there, with half of the release installed."""
    before, found, _ = TEXT.partition("\nhelm install ")
    assert found
    for name in VALUES[0]["sidecar"]["namespaces"]:
        assert re.search(rf"^kubectl create namespace {name}\b", before, re.M)


def test_the_configuration_of_sidecars_with_shared_approvals_is_good(tmp_path: Path) -> None:
    (found,) = (block for block in BLOCKS if block.get("kind") == "ConfigMap")
    (tmp_path / "gateway.yaml").write_text(found["data"]["gateway.yaml"])
    loaded = load(tmp_path / "gateway.yaml")
    assert loaded.configuration.source == KubernetesOrigin(max_staleness=1800.0)
    assert isinstance(loaded.configuration.state, DynamodbState)


@pytest.mark.parametrize(
    "name",
    sorted(set(re.findall(r"`((?:image|sidecar|injector|spire|trust|admissionPolicy|approvals)\.[\w.]+)`", TEXT))),
)
def test_a_value_that_is_named_exists(name: str) -> None:
    shape = json.loads((CHART / "values.schema.json").read_text())
    for part in name.split("."):
        shape = shape["properties"][part]


@pytest.mark.parametrize("alert", sorted(set(re.findall(r"`(OpenMCP\w+)`", TEXT))))
def test_an_alert_that_is_named_exists(alert: str) -> None:
    assert f"alert: {alert}\n" in (CHART / "files/monitoring/rules.yaml").read_text()


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\((?!https?:)([^)#]+)", TEXT))))
def test_a_link_leads_somewhere(target: str) -> None:
    assert (ROOT / "docs" / target).resolve().exists()
