"""The admission policies of the chart: what the API server itself refuses, whatever the webhook says."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.real.kubernetes.governed.conftest import FREE, GOVERNED
from tests.real.kubernetes.governed.test_pods import AGENT, SECURE, pod
from tests.support.cluster import Replicas
from tests.support.kubernetes import MERGE, KubeApi, refused

pytestmark = pytest.mark.real

INJECT, INJECTED = "openmcp.dev/inject", "openmcp.dev/injected"
SIDECAR = {"name": "openmcp", "image": "registry.example/openmcp:v1", "args": ["run"], "securityContext": SECURE}
LIES: dict[str, tuple[str, dict[str, Any], str]] = {
    "the mark": (FREE, pod("liar", meta={"labels": {INJECTED: "true"}}), "are for pods that the injector has seen"),
    "the mark, denied": (FREE, pod("liar", meta={"labels": {INJECTED: "false"}}), "are for pods that the injector"),
    "the container": (FREE, pod("liar", SIDECAR), "are for pods that the injector has seen"),
    "no user": (GOVERNED, pod("root", AGENT), "do not run as root: say runAsNonRoot: true or runAsUser"),
    "root": (GOVERNED, pod("root", AGENT | {"securityContext": {"runAsUser": 0}}), "do not run as root"),
    "a pod of root": (GOVERNED, pod("root", AGENT, securityContext={"runAsUser": 0}), "do not run as root"),
}


def policy(message: str) -> bool:
    return message.partition("ValidatingAdmissionPolicy 'openmcp-")[2] != ""


@pytest.mark.parametrize("case", LIES)
def test_what_no_pod_may_claim(kube: KubeApi, injectors: Replicas, case: str):
    namespace, wanted, reason = LIES[case]
    error = refused(lambda: kube.create(wanted, namespace))
    assert error.status in (403, 422)
    assert policy(error.message), error.message
    assert reason in error.message


@pytest.fixture
def governed(kube: KubeApi, injectors: Replicas) -> Iterator[dict[str, Any]]:
    stored = kube.create(pod("governed"), GOVERNED)
    yield stored
    kube.delete(stored, GOVERNED)


DEBUGGERS: dict[str, tuple[dict[str, Any], str]] = {
    "its user": ({"securityContext": SECURE | {"runAsUser": 65532}}, "user 65532 is the sidecar's"),
    "root": ({"securityContext": {"runAsUser": 0}}, "do not run as root"),
    "no user": ({}, "do not run as root"),
    "its processes": ({"securityContext": SECURE, "targetContainerName": "openmcp"}, "are not debugged from the pod"),
    "its socket": (
        {"securityContext": SECURE, "volumeMounts": [{"name": "openmcp-workload-api", "mountPath": "/x"}]},
        "are the sidecar's alone",
    ),
    "its token": (
        {"securityContext": SECURE, "volumeMounts": [{"name": "openmcp-token", "mountPath": "/x"}]},
        "are the sidecar's alone",
    ),
    "privileged": (
        {"securityContext": {"runAsUser": 1000, "privileged": True}},
        "are not privileged, and add no capability",
    ),
    "the network": (
        {"securityContext": {"runAsUser": 1000, "capabilities": {"add": ["NET_ADMIN"]}}},
        "are not privileged, and add no capability",
    ),
}


def debug(kube: KubeApi, given: dict[str, Any], **how: Any) -> dict[str, Any]:
    """``kubectl debug``: a container is added to a pod that runs."""
    container = {"name": "debugger", "image": "registry.example/debug:1", **how}
    change = {"spec": {"ephemeralContainers": [container]}}
    return kube.patch(given, change, GOVERNED, "ephemeralcontainers")


@pytest.mark.parametrize("case", DEBUGGERS)
def test_how_no_container_is_added_beside_a_sidecar(kube: KubeApi, governed: dict[str, Any], case: str):
    how, reason = DEBUGGERS[case]
    error = refused(lambda: debug(kube, governed, **how))
    assert error.status in (403, 422)
    assert policy(error.message), error.message
    assert reason in error.message


def test_a_harmless_one_is_added(kube: KubeApi, governed: dict[str, Any]):
    stored = debug(kube, governed, securityContext=SECURE, targetContainerName="agent")
    assert [one["name"] for one in stored["spec"]["ephemeralContainers"]] == ["debugger"]


CHANGES: dict[str, tuple[dict[str, Any], str]] = {
    "no mark": ({"metadata": {"labels": {INJECTED: None}}}, "asks for the OpenMCP sidecar and does not have it"),
    "another mark": ({"metadata": {"labels": {INJECTED: "no"}}}, "asks for the OpenMCP sidecar and does not have it"),
    "opted out": ({"metadata": {"labels": {INJECT: "false"}}}, "are for pods that the injector has seen"),
    "out by annotation": (
        {"metadata": {"annotations": {INJECT: "false"}, "labels": {"a": "b"}}},
        "are for pods that the injector has seen",
    ),
}


@pytest.mark.parametrize("case", CHANGES)
def test_what_cannot_be_changed_in_a_governed_pod(kube: KubeApi, governed: dict[str, Any], case: str):
    change, reason = CHANGES[case]
    error = refused(lambda: kube.patch(governed, change, GOVERNED))
    assert policy(error.message), error.message
    assert reason in error.message


@pytest.mark.parametrize("image", ["registry.example/openmcp-evil:v1", "registry.example/openmcp:v0"])
def test_the_sidecars_image_stays_what_it_is(kube: KubeApi, governed: dict[str, Any], image: str):
    steps = [{"op": "replace", "path": "/spec/initContainers/0/image", "value": image}]
    path = kube.path(governed, GOVERNED)
    error = refused(lambda: kube.call("PATCH", path, steps, content_type="application/json-patch+json"))
    assert policy(error.message), error.message
    steps[0] |= {"path": "/spec/containers/0/image"}
    kube.call("PATCH", path, steps, content_type="application/json-patch+json")  # that of the agent may


def test_a_pod_is_not_marked_afterwards(kube: KubeApi, injectors: Replicas):
    stored = kube.create(pod("later"), FREE)
    for labels in ({INJECTED: "true"}, {INJECTED: "true", INJECT: "true"}):
        error = refused(lambda: kube.patch(stored, {"metadata": {"labels": labels}}, FREE))  # noqa: B023 - called here
        assert policy(error.message), error.message
    kube.delete(stored, FREE)


def test_others_may_still_write_what_is_theirs(kube: KubeApi, governed: dict[str, Any]):
    """The kubelet its status, a controller a label or a finalizer."""
    status = {"status": {"podIP": "10.1.2.3", "podIPs": [{"ip": "10.1.2.3"}]}}
    path = kube.path(governed, GOVERNED)
    kube.call("PATCH", f"{path}/status", status, content_type=MERGE)
    stored = kube.patch(governed, {"metadata": {"labels": {"team": "blue"}, "annotations": {"note": "x"}}}, GOVERNED)
    assert stored["metadata"]["labels"] == {INJECTED: "true", "team": "blue"}
