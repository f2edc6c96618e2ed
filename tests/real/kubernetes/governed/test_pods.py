"""Pods of every kind, created through the webhook on a real API server: what is stored is what the golden files say."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest
import yaml

from tests.real.kubernetes.governed.conftest import FREE, GOVERNED, STRICT
from tests.support.cluster import Replicas, pod_of
from tests.support.golden import check_golden
from tests.support.kubernetes import KubeApi, refused

pytestmark = pytest.mark.real

AGENT = {"name": "agent", "image": "registry.example/agent:3"}
SECURE = {
    "runAsNonRoot": True,
    "runAsUser": 1000,
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}
MESH = {
    "name": "mesh-proxy",
    "image": "registry.example/mesh:2",
    "restartPolicy": "Always",
    "ports": [{"name": "mesh", "containerPort": 9901}],
    "env": [{"name": "OPENMCP_TICKETS_URL", "value": "its own"}],
    "securityContext": SECURE,
}
SERVERS = {"openmcp.dev/servers": "tickets,git-hub=/gh-mcp"}


def pod(name: str, *containers: dict[str, Any], meta: dict[str, Any] | None = None, **spec: Any) -> dict[str, Any]:
    chosen = [*containers] or [AGENT | {"securityContext": SECURE}]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "annotations": SERVERS, **(meta or {})},
        "spec": {"containers": chosen, **spec},
    }


JOB = {
    "metadata": {"name": "report"},
    "spec": {
        "template": {
            "metadata": {"labels": {"job-name": "report"}, "annotations": SERVERS},
            "spec": {
                "restartPolicy": "Never",
                "automountServiceAccountToken": False,
                "containers": [
                    AGENT | {"securityContext": SECURE, "env": [{"name": "URL", "value": "$(OPENMCP_TICKETS_URL)/x"}]}
                ],
            },
        }
    },
}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": (GOVERNED, pod("plain")),
    "job": (GOVERNED, pod_of(JOB, name="report-x2c4v", generateName="")),
    "init-containers": (
        GOVERNED,
        pod(
            "init-containers",
            initContainers=[AGENT | {"name": "fetch", "command": ["fetch"], "securityContext": SECURE}],
        ),
    ),
    "other-sidecar": (
        GOVERNED,
        pod(
            "other-sidecar",
            AGENT | {"securityContext": SECURE},
            MESH | {"name": "logs", "restartPolicy": None},
            initContainers=[MESH],
        ),
    ),
    "restricted": (STRICT, pod("restricted")),
    "asked-by-label": (FREE, pod("asked-by-label", meta={"labels": {"openmcp.dev/inject": "true"}})),
}
"""Namespace and pod, by the name of the golden file."""


def without_nothing(value: Any) -> Any:
    """Return a value without what is None in it."""
    if isinstance(value, dict):
        return {key: without_nothing(one) for key, one in value.items() if one is not None}
    return [without_nothing(one) for one in value] if isinstance(value, list) else value


def as_stored(stored: dict[str, Any]) -> str:
    """Return a pod as YAML, without what differs from run to run."""
    shown = copy.deepcopy({key: stored[key] for key in ("apiVersion", "kind", "metadata", "spec")})
    for key in ("uid", "creationTimestamp", "resourceVersion", "managedFields", "generation"):
        shown["metadata"].pop(key, None)
    return re.sub(r"kube-api-access-[a-z0-9]{5}", "kube-api-access", yaml.safe_dump(shown, sort_keys=True))


@pytest.mark.parametrize("case", CASES)
def test_what_is_stored_equals_the_golden_file(kube: KubeApi, injectors: Replicas, case: str):
    namespace, wanted = CASES[case]
    stored = kube.create(without_nothing(wanted), namespace)
    try:
        check_golden(f"injector/admitted/{case}.yaml", as_stored(stored))
    finally:
        kube.delete(stored, namespace)


def test_a_pod_that_has_the_sidecar_is_not_changed(kube: KubeApi, injectors: Replicas):
    first = kube.create(pod("first"), GOVERNED)
    again = copy.deepcopy({key: first[key] for key in ("apiVersion", "kind", "metadata", "spec")})
    again["metadata"] = {key: first["metadata"][key] for key in ("labels", "annotations")} | {"name": "again"}
    second = kube.create(again, GOVERNED)
    assert second["spec"] == first["spec"]
    assert [second["metadata"][key] for key in ("labels", "annotations")] == [
        first["metadata"][key] for key in ("labels", "annotations")
    ]
    outcomes = {line["name"]: (line["outcome"], line["reason"]) for line in injectors.records()}
    assert outcomes["again"] == ("unchanged", "the sidecar is there already")
    for made in (first, second):
        kube.delete(made, GOVERNED)


def test_one_that_opts_out_is_as_it_was(kube: KubeApi, injectors: Replicas):
    stored = kube.create(pod("free", meta={"annotations": {"openmcp.dev/inject": "false"}}), GOVERNED)
    assert [one["name"] for one in stored["spec"]["containers"]] == ["agent"]
    assert "initContainers" not in stored["spec"]
    assert "labels" not in stored["metadata"]
    kube.delete(stored, GOVERNED)


def test_one_that_does_not_ask_elsewhere_is_not_seen(kube: KubeApi, injectors: Replicas):
    stored = kube.create(pod("unasked"), FREE)
    assert "initContainers" not in stored["spec"]
    assert "unasked" not in {line["name"] for line in injectors.records()}
    kube.delete(stored, FREE)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "hostNetwork": (
        pod("on-the-node", hostNetwork=True),
        "hostNetwork: every process of the node would reach the sidecar's loopback",
    ),
    "shareProcessNamespace": (
        pod("open", shareProcessNamespace=True),
        "shareProcessNamespace: the agent's processes would reach",
    ),
    "the socket of SPIRE": (
        pod("thief", volumes=[{"name": "spiffe", "csi": {"driver": "csi.spiffe.io", "readOnly": True}}]),
        "volume spiffe: the Workload API (csi.spiffe.io) is the sidecar's alone",
    ),
    "its user": (
        pod("twin", AGENT | {"securityContext": SECURE | {"runAsUser": 65532}}),
        "container agent: runAsUser 65532 is the sidecar's; choose another",
    ),
    "another sidecar": (
        pod("impostor", AGENT | {"securityContext": SECURE}, AGENT | {"name": "openmcp"}),
        "a container named openmcp is among the containers, ours would be among the initContainers",
    ),
    "a label that lies": (
        pod(
            "mislabelled",
            meta={"labels": {"openmcp.dev/injected": "true"}, "annotations": {"openmcp.dev/inject": "false"}},
        ),
        'openmcp.dev/inject is "false", and the pod has the label openmcp.dev/injected',
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_governed_is_refused_with_the_reason(kube: KubeApi, injectors: Replicas, case: str):
    wanted, reason = REFUSED[case]
    error = refused(lambda: kube.create(wanted, GOVERNED))
    assert (error.status, error.reason) == (403, "Forbidden")
    webhook = 'admission webhook "namespace.injector.openmcp.dev" denied the request: '
    assert error.message.startswith(f"{webhook}{reason}"), error.message
    lines = [line for line in injectors.records() if line["name"] == wanted["metadata"]["name"]]
    assert [(line["outcome"], line["reason"].startswith(reason)) for line in lines] == [("refused", True)]
