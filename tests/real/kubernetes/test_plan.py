"""Plans against a real API server that has the published CRDs: schemas, unknown fields, CEL rules."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from openmcp.config import load
from openmcp.config.plan import plan
from tests.config.planning import FOLDER, MODES, called, cases
from tests.real_parts import install
from tests.support.kubernetes import KubeApi, Rejected, kube_api
from tests.support.parts import require

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def kube() -> Iterator[KubeApi]:
    require("kubernetes", "envoygateway", "aigateway")
    with kube_api() as running:
        for part in ("envoygateway", "aigateway"):
            for file in sorted(install.files(part).rglob("*.yaml")):
                found = [one for one in yaml.safe_load_all(file.read_bytes()) if one]
                running.apply([one for one in found if one["kind"] == "CustomResourceDefinition"])
        for name in ("openmcp", "mesh"):
            running.apply([{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}])
        yield running


@pytest.mark.parametrize(("file", "mode"), cases(*MODES), ids=called)
def test_every_object_is_accepted(file: Path, mode: str, kube: KubeApi) -> None:
    for document in plan(load(file).configuration, MODES[mode]).documents:
        kube.apply([document], document["metadata"].get("namespace"))


def test_what_a_rule_forbids_is_refused(kube: KubeApi) -> None:
    documents = plan(load(FOLDER / "many.yaml").configuration, MODES["direct"]).documents
    policy = next(one for one in documents if one["kind"] == "BackendTrafficPolicy")
    policy["spec"]["healthCheck"]["active"]["type"] = "HTTP"
    with pytest.raises(Rejected, match="http field needs to be set"):
        kube.apply([policy], "openmcp")
