"""helm on a real API server of its own: install, what programs write, upgrade, roll back, uninstall."""

from __future__ import annotations

import base64
import copy
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.manifests.charts import CHART, NAMESPACE, ROOT, Json
from tests.real_parts.install import program
from tests.support.kubernetes import KubeApi, Rejected, kube_api
from tests.support.parts import require

pytestmark = pytest.mark.real

WEBHOOK: Json = {
    "apiVersion": "admissionregistration.k8s.io/v1",
    "kind": "MutatingWebhookConfiguration",
    "metadata": {"name": "openmcp-injector"},
}
SECRET: Json = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "openmcp-injector-ca"}}
LEASE: Json = {
    "apiVersion": "coordination.k8s.io/v1",
    "kind": "Lease",
    "metadata": {"name": "openmcp-injector-status"},
}
SERVER: Json = {
    "apiVersion": "openmcp.dev/v1alpha1",
    "kind": "MCPServer",
    "metadata": {"name": "tickets"},
    "spec": {"endpoints": ["https://tickets.example/mcp"]},
}


@pytest.fixture(scope="module")
def kube() -> Iterator[KubeApi]:
    """An API server that no other test is disturbed on: the webhook is in force, and nothing answers for it."""
    require("kubernetes")
    with kube_api() as running:
        running.apply((ROOT / "tests/fixtures/crds/clusterspiffeids.yaml").read_text())
        yield running


def _helm(kube: KubeApi, folder: Path, *arguments: str, **values: Any) -> str:
    kubeconfig = kube.kubeconfig(folder / "kubeconfig", NAMESPACE)
    command = [
        str(program("kubernetes", "helm")),
        *arguments,
        "--namespace",
        NAMESPACE,
        "--kubeconfig",
        str(kubeconfig),
    ]
    done = subprocess.run(command, input=json.dumps(values), capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _written(kube: KubeApi) -> list[Any]:
    """What the injector writes into the objects that the chart makes."""
    bundles = {each["clientConfig"].get("caBundle") for each in kube.read(WEBHOOK)["webhooks"]}
    return [
        bundles,
        kube.read(SECRET, NAMESPACE).get("data"),
        kube.read(LEASE, NAMESPACE)["spec"].get("holderIdentity"),
    ]


def test_a_release_from_its_beginning_to_its_end(kube: KubeApi, tmp_path: Path) -> None:
    said = _helm(kube, tmp_path, "install", "openmcp", str(CHART), "--create-namespace", "--values", "-")
    assert f"OpenMCP 0.1.0 is in {NAMESPACE}" in said
    assert _written(kube) == [{None}, None, None]
    for each in kube.get("/apis/apiextensions.k8s.io/v1/customresourcedefinitions")["items"]:
        kube.wait_for_crd(each)  # helm does not

    webhook, bundle = copy.deepcopy(kube.read(WEBHOOK)), base64.b64encode(kube.ca).decode()
    for each in webhook["webhooks"]:
        each["clientConfig"]["caBundle"] = bundle
    kube.patch(WEBHOOK, {"webhooks": webhook["webhooks"]})
    kube.patch(SECRET, {"data": {"tls.key": "a2V5"}}, NAMESPACE)
    kube.patch(LEASE, {"spec": {"holderIdentity": "openmcp-injector-0"}}, NAMESPACE)
    kube.create(SERVER, "default")
    mine = [{bundle}, {"tls.key": "a2V5"}, "openmcp-injector-0"]
    assert _written(kube) == mine

    changed = {"injector": {"timeoutSeconds": 3, "excludedNamespaces": ["legacy"]}, "commonLabels": {"team": "a"}}
    _helm(kube, tmp_path, "upgrade", "openmcp", str(CHART), "--values", "-", **changed)
    assert {each["timeoutSeconds"] for each in kube.read(WEBHOOK)["webhooks"]} == {3}
    assert _written(kube) == mine

    _helm(kube, tmp_path, "rollback", "openmcp", "1")
    assert {each["timeoutSeconds"] for each in kube.read(WEBHOOK)["webhooks"]} == {5}
    assert _written(kube) == mine

    _helm(kube, tmp_path, "uninstall", "openmcp")
    assert kube.read(SERVER, "default")["spec"]["endpoints"] == ["https://tickets.example/mcp"]
    with pytest.raises(Rejected):
        kube.read(WEBHOOK)

    _helm(kube, tmp_path, "install", "openmcp", str(CHART), "--values", "-")
    assert _written(kube) == [{None}, None, None]
