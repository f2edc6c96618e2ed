"""A key that is not known is never dropped in silence: a policy with a mistyped `agents` would be about everybody."""

import json
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from tests.real_parts.install import program
from tests.support.cluster import chosen, rendered
from tests.support.kubernetes import APPLY, MERGE, KubeApi, Rejected
from tests.support.process import ROOT

pytestmark = pytest.mark.real

VAP, NAME = "ValidatingAdmissionPolicy", "openmcp-objects"
REFUSED = "unknown keys would be dropped without a word"


def policy(name: str, **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "openmcp.dev/v1alpha1",
        "kind": "MCPPolicy",
        "metadata": {"name": name},
        "spec": {"servers": ["zendesk"], **spec},
    }


@pytest.fixture(scope="module")
def cluster(kube: KubeApi) -> Iterator[KubeApi]:
    for file in sorted((ROOT / "manifests" / "crds").glob("*.yaml")):
        kube.apply(file.read_text())
    chart = rendered()
    documents = [chosen(chart, kind, NAME) for kind in (VAP, f"{VAP}Binding")]
    kube.apply(documents)
    kube.settle()
    yield kube
    for each in reversed(documents):
        kube.delete(each)


@pytest.fixture
def namespace(cluster: KubeApi) -> str:
    return cluster.namespace("keys")


def post(kube: KubeApi, namespace: str, found: dict[str, Any], **params: str) -> dict[str, Any]:
    """Create an object as most programs do."""
    return kube.call("POST", kube.path(found, namespace, whole=False), found, params=params)


def applied(kube: KubeApi, namespace: str, found: dict[str, Any], manager: str) -> dict[str, Any]:
    """Apply on the server's side as controllers do, which ask for nothing more."""
    params = {"fieldManager": manager, "force": "true"}
    return kube.call("PATCH", kube.path(found, namespace), found, content_type=APPLY, params=params)


def merged(kube: KubeApi, namespace: str, change: dict[str, Any], **params: str) -> dict[str, Any]:
    return kube.call("PATCH", kube.path(policy("p"), namespace), change, content_type=MERGE, params=params)


def refusal(send: Any) -> str:
    try:
        send()
    except Rejected as error:
        return error.message
    return ""


def test_it_can_be_left_out():
    lenient = rendered("--set", "admissionPolicy.strictObjects=false")
    assert [each for each in lenient if each["metadata"]["name"] == NAME] == []


def test_a_chart_of_helm_3_is_refused(cluster, namespace, tmp_path):
    """It does not ask for strictness, and would report success."""
    (tmp_path / "templates").mkdir()
    (tmp_path / "Chart.yaml").write_text("{apiVersion: v2, name: mine, version: 1.0.0}")
    (tmp_path / "templates" / "policy.yaml").write_text(json.dumps(policy("p", agent=["x"])))
    config = cluster.kubeconfig(tmp_path / "config", namespace)
    command = [program("kubernetes", "helm"), "--kubeconfig", config, "install", "mine", tmp_path, "-n", namespace]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert REFUSED in done.stderr


def test_who_does_not_ask_for_strictness_is_refused(cluster, namespace):
    for params in ({}, {"fieldValidation": "Warn"}, {"fieldValidation": "Ignore"}):
        assert REFUSED in refusal(lambda params=params: post(cluster, namespace, policy("p", agent=["x"]), **params))
        assert REFUSED in refusal(lambda params=params: post(cluster, namespace, policy("p"), **params))


def test_who_asks_for_it_is_told_the_key(cluster, namespace):
    error = refusal(lambda: cluster.create(policy("p", agent=["x"]), namespace))
    assert 'unknown field "spec.agent"' in error
    assert cluster.create(policy("p"), namespace)["spec"] == {"servers": ["zendesk"], "mode": "enforce"}


def test_server_side_apply_needs_not_ask(cluster, namespace):
    assert ".spec.agent: field not declared in schema" in refusal(
        lambda: applied(cluster, namespace, policy("p", agent=["x"]), "flux")
    )
    applied(cluster, namespace, policy("p"), "flux")
    assert applied(cluster, namespace, policy("p", mode="shadow"), "flux")["spec"]["mode"] == "shadow"


def test_changes_are_held_to_it_too(cluster, namespace):
    cluster.create(policy("p", agents=["key:bot"]), namespace)
    assert REFUSED in refusal(lambda: merged(cluster, namespace, {"spec": {"agents": None, "agent": ["key:bot"]}}))
    assert 'unknown field "spec.agent"' in refusal(
        lambda: merged(cluster, namespace, {"spec": {"agent": ["key:bot"]}}, fieldValidation="Strict")
    )


def test_what_does_not_touch_the_spec_is_free(cluster, namespace):
    cluster.create(policy("p"), namespace)
    assert merged(cluster, namespace, {"metadata": {"labels": {"a": "b"}}})["metadata"]["labels"] == {"a": "b"}
    cluster.patch(policy("p"), {"status": {"observedGeneration": 1}}, namespace, "status")
