"""The harness: what the other tests of this folder rely on holds."""

from __future__ import annotations

import http.client
import ssl

import pytest
from kubernetes import config
from kubernetes.client import CoreV1Api

from openmcp.config.kubernetes.api import Api, ApiError
from openmcp.config.kubernetes.credentials import InCluster
from tests.support.kubernetes import ISSUER, KubeApi, refused

pytestmark = pytest.mark.real

POD = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "agent"},
    "spec": {"containers": [{"name": "agent", "image": "registry.example/agent:1"}]},
}
CRD = """
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: marbles.toys.example}
spec:
  group: toys.example
  names: {kind: Marble, plural: marbles, singular: marble}
  scope: Namespaced
  versions:
  - name: v1
    served: true
    storage: true
    schema: {openAPIV3Schema: {type: object, properties: {spec: {type: object, properties: {size: {type: integer}}}}}}
---
apiVersion: toys.example/v1
kind: Marble
metadata: {name: first}
spec: {size: 3}
"""


def marble_of(name: str, **spec: int) -> dict[str, object]:
    return {"apiVersion": "toys.example/v1", "kind": "Marble", "metadata": {"name": name}, "spec": spec}


def config_map(name: str, **data: str):
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}


def test_a_pod_is_admitted_as_in_a_cluster(kube: KubeApi):
    namespace = kube.namespace()
    made = kube.create(POD, namespace)["spec"]
    assert made["serviceAccountName"] == "default"
    assert made["containers"][0]["volumeMounts"][0]["mountPath"] == "/var/run/secrets/kubernetes.io/serviceaccount"


def test_pod_security_is_enforced(kube: KubeApi):
    namespace = kube.namespace("strict", {"pod-security.kubernetes.io/enforce": "restricted"})
    error = refused(lambda: kube.create(POD, namespace))
    assert (error.status, error.reason) == (403, "Forbidden")
    assert 'violates PodSecurity "restricted:latest"' in error.message


def test_a_kind_is_there_with_its_definition(kube: KubeApi):
    namespace = kube.namespace()
    _, marble = kube.apply(CRD, namespace)
    assert kube.read(marble)["spec"] == {"size": 3}
    error = refused(lambda: kube.create(marble_of("second", sise=3), namespace))
    assert (error.status, error.reason) == (400, "BadRequest")
    assert error.message.endswith('strict decoding error: unknown field "spec.sise"')
    kube.delete(marble)
    assert refused(lambda: kube.read(marble)).status == 404


def test_a_dry_run_makes_nothing(kube: KubeApi):
    namespace = kube.namespace()
    assert kube.apply([config_map("one")], namespace, dry_run=True)[0]["metadata"]["namespace"] == namespace
    assert refused(lambda: kube.read(config_map("one"), namespace)).reason == "NotFound"


def test_admission_policies_are_heeded_once_they_are_settled(kube: KubeApi):
    namespace = kube.namespace("settled")
    kind = {"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy"}
    maps = {"apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"], "operations": ["CREATE"]}
    rules = {"validations": [{"expression": "false"}], "matchConstraints": {"resourceRules": [maps]}}
    there = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}}}
    bound = {"policyName": "nothing", "validationActions": ["Deny"], "matchResources": there}
    policy = {**kind, "metadata": {"name": "nothing"}, "spec": rules}
    binding = {**policy, "kind": f"{kind['kind']}Binding", "spec": bound}
    for _ in range(3):
        kube.apply([policy, binding])
        kube.settle()
        assert refused(lambda: kube.create(config_map("one"), namespace)).status == 422
        kube.delete(binding)
        kube.settle()
        kube.delete(kube.create(config_map("one"), namespace))


async def test_a_service_account_may_do_what_it_is_given(kube: KubeApi, tmp_path):
    namespace = kube.namespace()
    where = kube.account_files(tmp_path, "default", namespace)
    api = Api(InCluster(where["KUBERNETES_SERVICE_HOST"], where["KUBERNETES_SERVICE_PORT"], tmp_path))
    try:
        assert api.namespace == namespace
        with pytest.raises(ApiError) as error:
            await api.list_page(f"/api/v1/namespaces/{namespace}/configmaps")
        who = f"system:serviceaccount:{namespace}:default"
        assert (error.value.status, f'User "{who}" cannot list' in error.value.message) == (403, True)
    finally:
        await api.close()
    review = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview"}
    spec = {"token": kube.token_for("default", namespace), "audiences": [ISSUER]}
    assert kube.create({**review, "spec": spec})["status"]["user"]["username"] == who


def test_its_kubeconfig_is_one(kube: KubeApi, tmp_path):
    file = kube.kubeconfig(tmp_path / "config", "default")
    api = CoreV1Api(config.new_client_from_config(str(file)))
    assert "kube-system" in {each.metadata.name for each in api.list_namespace().items}


def test_what_is_stored_outlives_the_api_server(kube: KubeApi):
    namespace = kube.namespace()
    kube.create(config_map("one", key="value"), namespace)
    kube.kill()
    with pytest.raises(OSError, match="refused"):
        kube.get("/readyz")
    kube.restart()
    assert kube.read(config_map("one"), namespace)["data"] == {"key": "value"}


def test_etcd_forgets(kube: KubeApi):
    namespace = kube.namespace()
    for name in ("one", "two", "three"):
        kube.create(config_map(name), namespace)
    maps = f"/api/v1/namespaces/{namespace}/configmaps"
    token = kube.get(maps, limit="2")["metadata"]["continue"]
    kube.apply([config_map("one", changed="yes")], namespace)
    kube.kill()  # it has pages of a list in memory, too
    kube.compact()
    kube.restart()
    error = refused(lambda: kube.get(maps, limit="2", **{"continue": token}))
    assert (error.status, error.reason) == (410, "Expired")


def test_it_can_hang(kube: KubeApi):
    connection = http.client.HTTPSConnection(
        "127.0.0.1", kube.port, timeout=0.5, context=ssl.create_default_context(cadata=kube.ca.decode())
    )
    with kube.paused(), pytest.raises(TimeoutError):
        connection.connect()
    connection.close()
    assert kube.get("/api")["kind"] == "APIVersions"
