"""A developer who may do everything in the agent's namespace, but for writing policies, and what he tries to become the
sidecar: the table at the end of docs/injection.md, on a real API server."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest

from tests.real.kubernetes.governed.conftest import FREE, GOVERNED, VALUES
from tests.real.kubernetes.governed.test_pods import AGENT, SECURE, pod
from tests.support.cluster import SYSTEM, Replicas, in_order, rendered
from tests.support.kubernetes import KubeApi, Rejected, refused
from tests.support.spire import wait_until

pytestmark = pytest.mark.real

RBAC = "rbac.authorization.k8s.io"
DEVELOPER = {"Impersonate-User": "dev@acme.example"}
MERGE = "application/merge-patch+json"
PODS = "/api/v1/namespaces/{}/pods"


@pytest.fixture(scope="module")
def developer(kube: KubeApi, injectors: Replicas) -> None:
    """His rights: all of Kubernetes' own kinds in the two namespaces."""
    role = {"apiVersion": f"{RBAC}/v1", "kind": "ClusterRole", "metadata": {"name": "developer"}}
    kube.create(role | {"rules": [{"apiGroups": [""], "resources": ["*"], "verbs": ["*"]}]})
    for namespace in (GOVERNED, FREE):
        subject = {"kind": "User", "name": DEVELOPER["Impersonate-User"], "apiGroup": RBAC}
        binding = {"apiVersion": f"{RBAC}/v1", "kind": "RoleBinding", "metadata": {"name": "developer"}}
        bound = {"roleRef": {"kind": "ClusterRole", "name": "developer", "apiGroup": RBAC}, "subjects": [subject]}
        kube.create(binding | bound, namespace)
        wait_until(lambda: may_make_pods(kube, namespace), "his rights")  # noqa: B023 - called in this round


def may_make_pods(kube: KubeApi, namespace: str) -> bool:
    """Whether the API server lets the developer: it takes note of his rights some time after they were stored."""
    asked = {"verb": "create", "resource": "pods", "namespace": namespace}
    review = {"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview"}
    spec = {"user": DEVELOPER["Impersonate-User"], "resourceAttributes": asked}
    return bool(kube.create({**review, "metadata": {}, "spec": spec})["status"]["allowed"])


@pytest.fixture
def governed(kube: KubeApi, developer: None) -> Iterator[dict[str, Any]]:
    """A pod with the sidecar that the developer made."""
    made = kube.call("POST", PODS.format(GOVERNED), pod("governed"), headers=DEVELOPER)
    yield made
    kube.delete(made, GOVERNED)


def create(kube: KubeApi, given: dict[str, Any], namespace: str) -> dict[str, Any]:
    return kube.call("POST", PODS.format(namespace), given, headers=DEVELOPER)


def change(kube: KubeApi, name: str, patch: Any, subresource: str = "") -> dict[str, Any]:
    path = f"{PODS.format(GOVERNED)}/{name}{subresource}"
    return kube.call("PATCH", path, patch, headers=DEVELOPER, content_type=MERGE)


def denied(error: Rejected, said: str) -> None:
    assert (error.status, "ValidatingAdmissionPolicy" in error.message) == (403, True), error.message
    assert said in error.message


def posing(kube: KubeApi, **changes: Any) -> dict[str, Any]:
    """A pod that looks governed, with a container that is the sidecar's but for these changes."""
    like = create(kube, pod("model"), GOVERNED)
    kube.delete(like, GOVERNED)
    spec = {key: like["spec"][key] for key in ("initContainers", "volumes")}
    spec["volumes"] = [one for one in spec["volumes"] if one["name"].startswith("openmcp-")]
    spec["initContainers"][0].update(changes)
    return pod("posing", meta={"labels": {"openmcp.dev/injected": "true"}}, **spec)


SHELL = {"command": ["sh", "-c", "sleep infinity"], "args": []}


@pytest.mark.parametrize("namespace", [FREE, GOVERNED])
@pytest.mark.parametrize("asks", [{}, {"openmcp.dev/inject": "true"}])
def test_a_pod_that_looks_governed_is_compared(kube: KubeApi, developer: None, namespace: str, asks: dict[str, str]):
    given = posing(kube, **SHELL)
    given["metadata"]["labels"] |= asks
    message = refused(lambda: create(kube, given, namespace)).message
    assert "the container named openmcp is not what the injector puts in: args differs" in message


def test_even_a_good_copy_has_to_ask(kube: KubeApi, developer: None):
    denied(refused(lambda: create(kube, posing(kube), FREE)), "are for pods that the injector has seen")


def test_one_that_does_not_look_governed_has_no_sidecar(kube: KubeApi, developer: None):
    given = posing(kube, **SHELL)
    del given["metadata"]["labels"]
    denied(refused(lambda: create(kube, given, FREE)), "are for pods that the injector has seen")


def test_one_that_asks_and_says_that_it_is_a_mirror_pod_is_run_by_no_kubelet(kube: KubeApi, developer: None):
    given = posing(kube, **SHELL)
    given["metadata"] |= {"annotations": {"kubernetes.io/config.mirror": "mine"}}
    given["spec"]["volumes"] = [one for one in given["spec"]["volumes"] if "projected" not in one]
    given["spec"]["initContainers"][0]["volumeMounts"].pop(0)
    try:
        create(kube, given, GOVERNED)
    except Rejected:
        return
    error = refused(
        lambda: change(kube, "posing", {"metadata": {"annotations": {"kubernetes.io/config.mirror": None}}})
    )
    assert "may not remove or update mirror pod annotation" in error.message


def test_the_label_is_not_given_to_a_pod_that_is_there(kube: KubeApi, developer: None):
    made = create(kube, pod("free", meta={"annotations": {"openmcp.dev/inject": "false"}}), GOVERNED)
    label = {"metadata": {"labels": {"openmcp.dev/injected": "true"}}}
    denied(refused(lambda: change(kube, "free", label)), "openmcp.dev/injected")
    kube.delete(made, GOVERNED)


@pytest.mark.parametrize("image", ["evil.example/openmcp:1", "registry.example/openmcp:0.1-with-holes"])
def test_the_image_of_a_running_sidecar_stays(kube: KubeApi, governed: dict[str, Any], image: str):
    sidecar = copy.deepcopy(governed["spec"]["initContainers"])
    sidecar[0]["image"] = image
    denied(refused(lambda: change(kube, "governed", {"spec": {"initContainers": sidecar}})), "image")


def test_the_image_of_the_agent_may_change(kube: KubeApi, governed: dict[str, Any]):
    agent = copy.deepcopy(governed["spec"]["containers"])
    agent[0]["image"] = "registry.example/agent:4"
    changed = change(kube, "governed", {"spec": {"containers": agent}})
    assert changed["spec"]["containers"][0]["image"] == "registry.example/agent:4"


DEBUG = {"name": "debug", "image": "registry.example/tools:1", "securityContext": SECURE}


@pytest.mark.parametrize(
    ("debugger", "said"),
    [
        (DEBUG | {"targetContainerName": "openmcp"}, "the sidecar's processes are not debugged"),
        (DEBUG | {"securityContext": SECURE | {"runAsUser": 65532}}, "user 65532 is the sidecar's"),
        (
            DEBUG | {"volumeMounts": [{"name": "openmcp-workload-api", "mountPath": "/spiffe"}]},
            "volumes that begin with openmcp- are the sidecar's alone",
        ),
        (DEBUG | {"securityContext": {"privileged": True, "runAsUser": 1000}}, "are not privileged"),
    ],
)
def test_debugging_the_sidecar(kube: KubeApi, governed: dict[str, Any], debugger: dict[str, Any], said: str):
    patch = {"spec": {"ephemeralContainers": [debugger]}}
    path = f"{PODS.format(GOVERNED)}/governed/ephemeralcontainers"
    strategic = "application/strategic-merge-patch+json"
    denied(refused(lambda: kube.call("PATCH", path, patch, headers=DEVELOPER, content_type=strategic)), said)


def test_debugging_the_sidecar_of_a_pod_without_its_label(kube: KubeApi, governed: dict[str, Any]):
    """Labels may be changed with the status, and by a binding, neither of which is an update of the pod."""
    changed = change(kube, "governed", {"metadata": {"labels": {"openmcp.dev/injected": None}}}, "/status")
    assert "openmcp.dev/injected" not in changed["metadata"].get("labels", {})
    patch = {"spec": {"ephemeralContainers": [DEBUG | {"targetContainerName": "openmcp"}]}}
    path = f"{PODS.format(GOVERNED)}/governed/ephemeralcontainers"
    strategic = "application/strategic-merge-patch+json"
    tried = refused(lambda: kube.call("PATCH", path, patch, headers=DEVELOPER, content_type=strategic))
    denied(tried, "the sidecar's processes are not debugged")


def test_debugging_the_agent(kube: KubeApi, governed: dict[str, Any]):
    patch = {"spec": {"ephemeralContainers": [DEBUG | {"targetContainerName": "agent"}]}}
    path = f"{PODS.format(GOVERNED)}/governed/ephemeralcontainers"
    strategic = "application/strategic-merge-patch+json"
    changed = kube.call("PATCH", path, patch, headers=DEVELOPER, content_type=strategic)
    assert [one["name"] for one in changed["spec"]["ephemeralContainers"]] == ["debug"]


@pytest.mark.parametrize("how", ["exec", "attach"])
def test_a_shell_in_the_sidecar(kube: KubeApi, governed: dict[str, Any], how: str):
    path = f"{PODS.format(GOVERNED)}/governed/{how}"
    asked = {"container": "openmcp", "stdin": "true", **({"command": "sh"} if how == "exec" else {})}
    denied(refused(lambda: kube.call("POST", path, params=asked, headers=DEVELOPER)), "openmcp")
    theirs = refused(lambda: kube.call("POST", path, params=asked | {"container": "agent"}, headers=DEVELOPER))
    assert "ValidatingAdmissionPolicy" not in theirs.message  # no kubelet runs it here


def test_a_pod_of_the_sidecar_alone(kube: KubeApi, injectors: Replicas, developer: None):
    """An exec that names no container is in the only one, and the API server does not tell policies which that is."""
    notes = {"annotations": {"openmcp.dev/native-sidecar": "false"}}
    model = create(kube, pod("model", meta=notes), GOVERNED)
    kube.delete(model, GOVERNED)
    alone = pod("alone", *model["spec"]["containers"][1:], meta=notes, volumes=model["spec"]["volumes"])
    message = refused(lambda: create(kube, alone, GOVERNED)).message
    assert "containers: there is none but openmcp" in message


@pytest.mark.parametrize("how", [{"name": "zendesk.tools.svc"}, {"hostnameOverride": "zendesk.tools.svc"}])
def test_a_pod_with_the_name_of_a_server(kube: KubeApi, developer: None, how: dict[str, str]):
    """The kubelet writes it into the hosts file of the sidecar."""
    given = pod(how.get("name", "zendesk"))
    given["spec"] |= {key: value for key, value in how.items() if key != "name"}
    message = refused(lambda: create(kube, given, GOVERNED)).message
    assert "the sidecar would find a server of that name in the pod itself" in message


@pytest.mark.parametrize("method", ["PATCH", "DELETE"])
def test_the_ca_of_the_cluster(kube: KubeApi, governed: dict[str, Any], method: str):
    path = f"/api/v1/namespaces/{GOVERNED}/configmaps/kube-root-ca.crt"
    mine = {"data": {"ca.crt": "mine"}} if method == "PATCH" else None
    denied(refused(lambda: kube.call(method, path, mine, headers=DEVELOPER, content_type=MERGE)), "kube-root-ca.crt")


@pytest.mark.parametrize("name", ["kube-root-ca.crt", "gateway"])
def test_what_sidecars_believe_goes_with_its_namespace(kube: KubeApi, trusting: str, name: str):
    """The controller that empties a namespace may write no policies; while it is refused, the namespace stays."""
    controller = {"Impersonate-User": "system:serviceaccount:kube-system:namespace-controller"}
    if name == "gateway":
        kube.call("POST", trusting, config_map(name))
    everything = {"dryRun": "All"} if name == "kube-root-ca.crt" else {"fieldSelector": f"metadata.name={name}"}
    kube.call("DELETE", trusting, headers=controller, params=everything)
    there = {each["metadata"]["name"] for each in kube.get(trusting)["items"]}
    assert ("gateway" in there, "kube-root-ca.crt" in there) == (False, True)


def test_an_agent_as_root(kube: KubeApi, developer: None):
    root = pod("root", AGENT | {"securityContext": {"runAsUser": 0}})
    denied(refused(lambda: create(kube, root, GOVERNED)), "do not run as root")
    unsaid = pod("unsaid", AGENT)
    denied(refused(lambda: create(kube, unsaid, GOVERNED)), "do not run as root")


@pytest.fixture
def trusting(kube: KubeApi, developer: None, chart: list[dict[str, Any]]) -> Iterator[str]:
    """The path of ConfigMaps, where the chart trusts those named `gateway`."""
    kinds = ("ValidatingAdmissionPolicy",)
    path = f"/api/v1/namespaces/{GOVERNED}/configmaps"
    kube.apply(in_order(rendered(*VALUES, "--set", "trust.configMaps={*/gateway}"), kinds), SYSTEM)
    kube.settle()
    yield path
    kube.apply(in_order(chart, kinds), SYSTEM)


def config_map(name: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"gateway.yaml": "mine"}}


def test_a_configuration_that_sidecars_take(kube: KubeApi, trusting: str):
    said = "this ConfigMap configures sidecars"
    mine, one = config_map("gateway"), f"{trusting}/gateway"
    denied(refused(lambda: kube.call("POST", trusting, mine, headers=DEVELOPER)), said)
    kube.call("POST", trusting, mine)  # by somebody who may write policies
    change = {"data": {"gateway.yaml": "theirs"}}
    denied(refused(lambda: kube.call("PATCH", one, change, headers=DEVELOPER, content_type=MERGE)), said)
    denied(refused(lambda: kube.call("DELETE", one, headers=DEVELOPER)), said)
    everything = refused(lambda: kube.call("DELETE", trusting, headers=DEVELOPER))
    assert (everything.status, "ValidatingAdmissionPolicy" in everything.message) == (403, True), everything.message
    assert kube.get(one)["data"] == mine["data"]
    kube.call("DELETE", one)
    kube.call("POST", trusting, config_map("other"), headers=DEVELOPER)
    kube.call("DELETE", f"{trusting}/other", headers=DEVELOPER)
