"""The manifests on a real API server: it takes each of them, and its admission policy refuses what gets around the
sidecar and nothing that the injector lets through."""

from __future__ import annotations

import base64
import copy
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import jsonpatch
import msgspec
import pytest

from openmcp.injector.annotations import INJECT, INJECTED
from openmcp.injector.pod import Patch, inject
from openmcp.injector.refusals import _HARMLESS
from openmcp.injector.settings import Settings, Trust, parse
from tests.manifests.charts import FOREIGN, MATRIX, NAMESPACE, ROOT, Json, kinds, of, one, template
from tests.support.kubernetes import KubeApi, Rejected

pytestmark = pytest.mark.real

Change = Callable[[Json], None]


@pytest.fixture(scope="module")
def cluster(kube: KubeApi) -> KubeApi:
    """With the namespaces that the manifests name, and the CRDs."""
    for name in (NAMESPACE, "support-ai", "coding", "tools"):
        kube.apply([{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}])
    for path in sorted((ROOT / "manifests/crds").glob("*.yaml")):
        kube.apply(path.read_text())
    return kube


def test_the_api_server_takes_every_object_of_the_chart(cluster: KubeApi) -> None:
    seen: set[str] = set()
    for case in MATRIX:
        for document in of(case):
            text = json.dumps(document, sort_keys=True)
            if document["kind"] not in FOREIGN and text not in seen:
                seen.add(text)
                cluster.apply([document], dry_run=True)
    assert len(seen) > 90


def test_the_api_server_takes_the_kustomize_base(cluster: KubeApi) -> None:
    for path in sorted((ROOT / "manifests/kustomize/base").glob("*.yaml")):
        if path.name != "kustomization.yaml":
            cluster.apply(path.read_text(), dry_run=True)


@pytest.mark.parametrize(
    "case", ["defaults", "cert-manager", "openshift", "approvals-irsa", "approvals-spiffe", "placed"]
)
def test_pods_of_the_release_are_taken_where_pod_security_is_restricted(cluster: KubeApi, case: str) -> None:
    namespace = cluster.namespace("restricted", {"pod-security.kubernetes.io/enforce": "restricted"})
    for deployment in kinds(of(case), "Deployment"):
        made = deployment["spec"]["template"]
        cluster.service_account(namespace, made["spec"]["serviceAccountName"])
        metadata = made["metadata"] | {"name": deployment["metadata"]["name"]}
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": made["spec"]}
        cluster.create(pod, namespace, dry_run=True)


def test_what_the_injector_wrote_stays_over_an_upgrade(cluster: KubeApi) -> None:
    """caBundle, the Secret and the Leases: the manifests say nothing of what is in them."""
    documents = template({}, release="upgraded")
    mine = [each for each in documents if each["kind"] in ("MutatingWebhookConfiguration", "Secret", "Lease")]
    webhook, secret = one(mine, "MutatingWebhookConfiguration"), one(mine, "Secret")
    for each in webhook["webhooks"]:  # the other tests make pods
        each["namespaceSelector"]["matchExpressions"].append({"key": "no-such-label", "operator": "Exists"})
    lease = kinds(mine, "Lease")[0]
    try:
        cluster.apply(mine)
        whole, bundle = cluster.read(webhook), base64.b64encode(cluster.ca).decode()
        for each in whole["webhooks"]:
            each["clientConfig"]["caBundle"] = bundle
        cluster.patch(webhook, {"webhooks": whole["webhooks"]})
        cluster.patch(secret, {"data": {"tls.key": "a2V5"}}, NAMESPACE)
        cluster.patch(lease, {"spec": {"holderIdentity": "openmcp-injector-0"}}, NAMESPACE)
        changed = copy.deepcopy(mine)
        for each in changed:
            each["metadata"].setdefault("labels", {})["app.kubernetes.io/version"] = "9.9.9"
        cluster.apply(changed)
        after = cluster.read(webhook)
        assert after["metadata"]["labels"]["app.kubernetes.io/version"] == "9.9.9"
        assert [each["clientConfig"]["caBundle"] for each in after["webhooks"]] == [bundle] * 3
        assert cluster.read(secret, NAMESPACE)["data"] == {"tls.key": "a2V5"}
        assert cluster.read(lease, NAMESPACE)["spec"]["holderIdentity"] == "openmcp-injector-0"
    finally:
        cluster.delete(webhook)


# The admission policy


@pytest.fixture(scope="module")
def settings() -> Settings:
    return parse(one(of("defaults"), "ConfigMap", "openmcp-injector")["data"]["injector.yaml"])


@pytest.fixture(scope="module")
def governed(cluster: KubeApi) -> Iterator[str]:
    """A namespace that asks for sidecars, in which the policy is in force, and no webhook is."""
    namespace = cluster.namespace("policy", {INJECT: "true", "policy-of": "defaults"})
    with _in_force(cluster, "defaults", namespace):
        yield namespace


@pytest.fixture(scope="module")
def elsewhere(cluster: KubeApi, governed: str) -> str:
    """A namespace that does not ask for sidecars; the policy is in force there too."""
    return cluster.namespace("ungoverned", {"policy-of": "defaults"})


class _in_force:
    """The policy of a case, bound to the namespaces that are labelled with it, from when the API server heeds it."""

    def __init__(self, kube: KubeApi, case: str, namespace: str, values: Json | None = None) -> None:
        self._kube, self._namespace = kube, namespace
        made = template(MATRIX[case] if values is None else values)
        self._settings = parse(one(made, "ConfigMap", "openmcp-injector")["data"]["injector.yaml"])
        wanted = ("ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding")
        self._documents = [each for each in made if each["kind"] in wanted]
        for each in self._documents:
            each["metadata"]["name"] = f"{case}-{each['metadata']['name']}"
            if each["kind"] == wanted[1]:
                each["spec"]["policyName"] = each["metadata"]["name"]
                each["spec"]["matchResources"] = {"namespaceSelector": {"matchLabels": {"policy-of": case}}}

    def __enter__(self) -> None:
        self._kube.apply(self._documents)
        without, reaching_out = _pod(), _injected(self._settings, self._namespace)
        reaching_out["spec"]["hostNetwork"] = True
        for pod, said in ((without, "does not have it"), (reaching_out, "its own network")):  # one policy says each
            until = time.monotonic() + 30
            while said not in _refusal(self._kube, self._namespace, pod):
                assert time.monotonic() < until, "the policy does not come into force"

    def __exit__(self, *_: object) -> None:
        for each in reversed(self._documents):
            self._kube.delete(each)


def _refusal(kube: KubeApi, namespace: str, pod: Json) -> str:
    """What the API server says against a pod; empty where it takes it."""
    try:
        kube.create(pod, namespace, dry_run=True)
    except Rejected as error:
        return error.message if error.status == 403 else f"not by a policy: {error}"
    return ""


def _pod(**spec: Any) -> Json:
    """An agent's pod, as its developers write it."""
    container = {"name": "agent", "image": "registry.example/agent:1"}
    security = {"runAsNonRoot": True}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "agent", "annotations": {}, "labels": {}},
        "spec": {"containers": [container], "initContainers": [], "volumes": [], "securityContext": security, **spec},
    }


def _injected(settings: Settings, namespace: str, pod: Json | None = None) -> Json:
    """A pod as the webhook leaves it."""
    pod = pod or _pod()
    found = inject(pod, settings, namespace)
    assert isinstance(found, Patch), found
    return jsonpatch.apply_patch(pod, json.loads(json.dumps(found.operations)))


def test_what_the_injector_makes_is_let_through(cluster: KubeApi, governed: str, settings: Settings) -> None:
    assert _refusal(cluster, governed, _injected(settings, governed)) == ""


@pytest.mark.parametrize(
    "annotations",
    [
        {"openmcp.dev/native-sidecar": "false"},
        {"openmcp.dev/servers": "tickets", "openmcp.dev/log-level": "debug"},
        {"openmcp.dev/image": "ghcr.io/openmcp/openmcp:0.0.9"},
        {"openmcp.dev/image": "ghcr.io/openmcp/openmcp@sha256:" + "0" * 64},
    ],
    ids=str,
)
def test_what_annotations_choose_is_let_through(
    cluster: KubeApi, governed: str, settings: Settings, annotations: Json
) -> None:
    pod = _pod()
    pod["metadata"]["annotations"] = annotations
    looser = msgspec.structs.replace(settings, trust=Trust(images=("ghcr.io/openmcp/openmcp",)))
    assert _refusal(cluster, governed, _injected(looser, governed, pod)) == ""


def test_a_pod_that_opts_out_or_did_not_ask_is_let_through(cluster: KubeApi, governed: str, elsewhere: str) -> None:
    pod = _pod()
    pod["metadata"]["annotations"][INJECT] = "false"
    assert _refusal(cluster, governed, pod) == ""
    assert _refusal(cluster, elsewhere, _pod(hostNetwork=True)) == ""


def _agent(pod: Json) -> Json:
    return next(each for each in pod["spec"]["containers"] if each["name"] == "agent")


def _sidecar(pod: Json) -> Json:
    return next(each for each in pod["spec"]["initContainers"] if each["name"] == "openmcp")


def _secured(**context: Any) -> Change:
    return lambda pod: _agent(pod).update(securityContext=context)


def _spec(**fields: Any) -> Change:
    return lambda pod: pod["spec"].update(fields)


def _of_sidecar(**fields: Any) -> Change:
    return lambda pod: _sidecar(pod).update(fields)


def _volume(**source: Any) -> Change:
    return lambda pod: pod["spec"]["volumes"].append({"name": "mine", **source})


def _without_sidecar(pod: Json) -> None:
    pod["spec"]["initContainers"] = []


def _unmarked(pod: Json) -> None:
    del pod["metadata"]["labels"][INJECTED]


def _opted_out(pod: Json) -> None:
    pod["metadata"]["annotations"][INJECT] = "false"


def _mounted(pod: Json) -> None:
    _agent(pod)["volumeMounts"] = [{"name": "openmcp-workload-api", "mountPath": "/socket"}]


def _root_for_all(pod: Json) -> None:
    pod["spec"]["securityContext"] = {"runAsUser": 0}


def _root_by_silence(pod: Json) -> None:
    pod["spec"]["securityContext"] = {}


def _ended(pod: Json) -> None:
    sidecar = _sidecar(pod)
    for key in ("restartPolicy", "startupProbe", "readinessProbe", "livenessProbe"):
        del sidecar[key]


def _beside(pod: Json) -> None:
    pod["spec"]["initContainers"].append({"name": "setup", "image": "x", "securityContext": {"runAsUser": 65532}})


ATTEMPTS: list[tuple[str, Change, str]] = [
    ("no sidecar", _without_sidecar, "does not have it"),
    ("not marked", _unmarked, "does not have it"),
    ("opted out, with a sidecar", _opted_out, "for pods that the injector has seen"),
    ("another image", _of_sidecar(image="registry.example/openmcp:1"), "none of OpenMCP's"),
    ("an image that only begins so", _of_sidecar(image="ghcr.io/openmcp/openmcp-evil:1"), "none of OpenMCP's"),
    ("an image below it", _of_sidecar(image="ghcr.io/openmcp/openmcp/x:1"), "none of OpenMCP's"),
    ("an image with another dot", _of_sidecar(image="ghcrxio/openmcp/openmcp:1"), "none of OpenMCP's"),
    ("another program", _of_sidecar(command=["python"]), "something else"),
    ("another command", _of_sidecar(args=["bridge", "--", "sh"]), "something else"),
    ("no arguments", _of_sidecar(args=[]), "something else"),
    ("a library before it", _of_sidecar(env=[{"name": "LD_PRELOAD", "value": "/x.so"}]), "something else"),
    ("a module before it", _of_sidecar(env=[{"name": "PYTHONPATH", "value": "/x"}]), "something else"),
    ("an environment from elsewhere", _of_sidecar(envFrom=[{"configMapRef": {"name": "x"}}]), "something else"),
    ("a program at its start", _of_sidecar(lifecycle={"postStart": {"exec": {"command": ["sh"]}}}), "something else"),
    ("a program as a probe", _of_sidecar(livenessProbe={"exec": {"command": ["sh"]}}), "something else"),
    ("a sidecar that ends", _ended, "restartPolicy Always"),
    ("the node's network", _spec(hostNetwork=True), "its own network"),
    ("the node's processes", _spec(hostPID=True), "its own network"),
    ("the node's memory", _spec(hostIPC=True), "its own network"),
    ("shared processes", _spec(shareProcessNamespace=True), "its own network"),
    ("the sidecar's user", _secured(runAsUser=65532), "is the sidecar's"),
    ("the sidecar's user in an init container", _beside, "is the sidecar's"),
    ("root", _secured(runAsUser=0, runAsNonRoot=False), "do not run as root"),
    ("root for the pod", _root_for_all, "do not run as root"),
    ("root by the image's choice", _root_by_silence, "do not run as root"),
    ("root allowed again", _secured(runAsNonRoot=False), "do not run as root"),
    ("privileged", _secured(privileged=True), "not privileged"),
    *(
        (name, _secured(capabilities={"add": [name]}), "no capability")
        for name in ("NET_ADMIN", "CAP_NET_ADMIN", "NET_RAW", "SYS_PTRACE", "SYS_ADMIN", "BPF", "ALL")
    ),
    ("the sidecar's volume", _mounted, "the sidecar's alone"),
    ("the Workload API", _volume(csi={"driver": "csi.spiffe.io", "readOnly": True}), "Workload API is the sidecar's"),
    ("the node's folder", _volume(hostPath={"path": "/run/spire/agent-sockets"}), "no hostPath"),
]


@pytest.mark.parametrize(("change", "said"), [each[1:] for each in ATTEMPTS], ids=[each[0] for each in ATTEMPTS])
def test_what_gets_around_the_sidecar_is_refused_and_why(
    cluster: KubeApi, governed: str, settings: Settings, change: Change, said: str
) -> None:
    pod = _injected(settings, governed)
    change(pod)
    assert said in _refusal(cluster, governed, pod)


def test_marks_of_the_sidecar_need_the_injector(cluster: KubeApi, elsewhere: str, settings: Settings) -> None:
    """Whoever makes pods elsewhere does not get an SVID by looking like a governed one."""
    whole = _injected(settings, elsewhere)
    assert "for pods that the injector has seen" in _refusal(cluster, elsewhere, whole)
    named = _pod(containers=[{"name": "openmcp", "image": "ghcr.io/openmcp/openmcp:1", "args": ["run"]}])
    assert "for pods that the injector has seen" in _refusal(cluster, elsewhere, named)
    asked = copy.deepcopy(whole)
    asked["metadata"]["labels"][INJECT] = "true"
    assert _refusal(cluster, elsewhere, asked) == ""


@pytest.mark.parametrize("capability", sorted(_HARMLESS))
def test_capabilities_that_the_injector_allows_are_let_through(
    cluster: KubeApi, governed: str, settings: Settings, capability: str
) -> None:
    pod = _pod()
    _agent(pod)["securityContext"] = {"capabilities": {"add": [capability]}}
    assert _refusal(cluster, governed, _injected(settings, governed, pod)) == ""


def test_a_pod_that_is_there_can_be_changed_but_not_into_another(
    cluster: KubeApi, governed: str, settings: Settings
) -> None:
    pod = cluster.create(_injected(settings, governed), governed)
    cluster.patch(
        pod, {"metadata": {"annotations": {"example.com/note": "1"}, "finalizers": ["example.com/x"]}}, governed
    )
    cluster.patch(pod, {"metadata": {"finalizers": None}}, governed)
    containers = copy.deepcopy(cluster.read(pod, governed)["spec"]["initContainers"])
    containers[0]["image"] = "registry.example/openmcp:1"
    with pytest.raises(Rejected, match="none of OpenMCP's"):
        cluster.patch(pod, {"spec": {"initContainers": containers}}, governed)
    containers[0]["image"] = "ghcr.io/openmcp/openmcp:9.9.9"
    with pytest.raises(Rejected, match="does not change in a pod that is there"):
        cluster.patch(pod, {"spec": {"initContainers": containers}}, governed)
    plain = _pod()
    plain["metadata"] |= {"name": "plain", "annotations": {INJECT: "false"}}
    made = cluster.create(plain, governed)
    with pytest.raises(Rejected, match="for pods that the injector has seen"):
        cluster.patch(made, {"metadata": {"labels": {INJECTED: "true"}}}, governed)


def test_a_pod_from_before_the_policy_is_not_marked_later(cluster: KubeApi, governed: str, settings: Settings) -> None:
    namespace = cluster.namespace("before", {INJECT: "true"})
    pod = _injected(settings, namespace)
    _unmarked(pod)
    made = cluster.create(pod, namespace)
    cluster.patch(
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}},
        {"metadata": {"labels": {"policy-of": "defaults"}}},
    )
    until = time.monotonic() + 30
    while not _refusal(cluster, namespace, _pod()):  # the API server does not heed the namespace's label yet
        assert time.monotonic() < until, "the policy does not come into force"
    with pytest.raises(Rejected, match="cannot be given to a pod that is there"):
        cluster.patch(made, {"metadata": {"labels": {INJECTED: "true"}}}, namespace)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"targetContainerName": "openmcp", "securityContext": {"runAsUser": 1000}}, "not debugged"),
        ({"securityContext": {"runAsUser": 65532}}, "is the sidecar's"),
        ({"securityContext": {"runAsUser": 0}}, "do not run as root"),
        ({"securityContext": {"capabilities": {"add": ["SYS_PTRACE"]}}}, "no capability"),
        ({"volumeMounts": [{"name": "openmcp-token", "mountPath": "/token"}]}, "the sidecar's alone"),
        ({"targetContainerName": "agent"}, ""),
    ],
)
def test_a_debugging_container_is_an_agent_s(
    cluster: KubeApi, governed: str, settings: Settings, fields: Json, said: str
) -> None:
    pod = _injected(settings, governed)
    pod["metadata"] |= {"generateName": "debugged-"}
    del pod["metadata"]["name"]
    made = cluster.create(pod, governed)
    change = {"spec": {"ephemeralContainers": [{"name": "debug", "image": "registry.example/shell:1", **fields}]}}
    if said:
        with pytest.raises(Rejected, match=said):
            cluster.patch(made, change, governed, subresource="ephemeralcontainers")
    else:
        cluster.patch(made, change, governed, subresource="ephemeralcontainers")


def test_no_debugging_container_has_the_sidecar_s_name(cluster: KubeApi, governed: str) -> None:
    pod = _pod()
    pod["metadata"] = {"generateName": "out-", "annotations": {INJECT: "false"}}
    for name, said in (("debug", ""), ("openmcp", "not named openmcp")):
        made = cluster.create(copy.deepcopy(pod), governed)
        found = _debugging(cluster, governed, made, {"name": name, "image": "registry.example/shell:1"})
        assert said in found
        assert bool(found) is bool(said)


def _debugging(kube: KubeApi, namespace: str, pod: Json, container: Json) -> str:
    """What the API server says against a debugging container; empty where it adds it."""
    try:
        kube.patch(pod, {"spec": {"ephemeralContainers": [container]}}, namespace, subresource="ephemeralcontainers")
    except Rejected as error:
        return error.message
    return ""


@pytest.mark.parametrize("marked", [False, True])
def test_nobody_but_a_node_makes_mirror_pods(cluster: KubeApi, governed: str, marked: bool) -> None:
    pod = _pod(hostNetwork=True, nodeName="node-1")
    pod["metadata"]["annotations"]["kubernetes.io/config.mirror"] = "x"
    if marked:
        pod["metadata"]["labels"][INJECTED] = "true"
    assert "ValidatingAdmissionPolicy 'defaults-openmcp-" in _refusal(cluster, governed, pod)


def test_values_bound_the_policy(cluster: KubeApi) -> None:
    """`governed`: NET_RAW and one folder of the node are allowed; `own-registry`: other images."""
    namespace = cluster.namespace("policy", {INJECT: "true", "policy-of": "governed"})
    wider = parse(one(of("governed"), "ConfigMap", "openmcp-injector")["data"]["injector.yaml"])
    with _in_force(cluster, "governed", namespace):
        pod = _pod(volumes=[{"name": "logs", "hostPath": {"path": "/var/log/pods/mine"}}])
        _agent(pod)["securityContext"] = {"capabilities": {"add": ["NET_RAW"]}}
        assert _refusal(cluster, namespace, _injected(wider, namespace, pod)) == ""
        made = _injected(wider, namespace)
        made["spec"]["volumes"].append({"name": "logs", "hostPath": {"path": "/var/log/pods-not"}})
        assert "no hostPath" in _refusal(cluster, namespace, made)
    namespace = cluster.namespace("policy", {INJECT: "true", "policy-of": "own-registry"})
    own = parse(one(of("own-registry"), "ConfigMap", "openmcp-injector")["data"]["injector.yaml"])
    with _in_force(cluster, "own-registry", namespace):
        pod = _pod()
        pod["metadata"]["annotations"]["openmcp.dev/image"] = "registry.acme.example:5000/ci/any/openmcp:7"
        made = _injected(own, namespace, pod)
        assert _refusal(cluster, namespace, made) == ""
        _sidecar(made)["image"] = "registry.acme.example:5000/other/openmcp:7"
        assert "none of OpenMCP's" in _refusal(cluster, namespace, made)


def test_where_nobody_may_opt_out_nobody_does(cluster: KubeApi) -> None:
    namespace = cluster.namespace("policy", {INJECT: "true", "policy-of": "strict"})
    with _in_force(cluster, "strict", namespace, {"admissionPolicy": {"allowOptOut": False}}):
        by_annotation, by_label = _pod(), _pod()
        by_annotation["metadata"]["annotations"][INJECT] = "false"
        by_label["metadata"]["labels"][INJECT] = "false"
        for pod in (by_annotation, by_label):
            assert '"false" is not allowed here' in _refusal(cluster, namespace, pod)


def test_where_root_is_allowed_the_rest_holds(cluster: KubeApi, settings: Settings) -> None:
    namespace = cluster.namespace("policy", {INJECT: "true", "policy-of": "root"})
    with _in_force(cluster, "root", namespace, {"admissionPolicy": {"allowRoot": True}}):
        pod = _injected(settings, namespace)
        _root_by_silence(pod)
        assert _refusal(cluster, namespace, pod) == ""
        _secured(runAsUser=65532)(pod)
        assert "is the sidecar's" in _refusal(cluster, namespace, pod)
