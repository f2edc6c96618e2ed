"""The Helm chart over a matrix of values: it is well-formed, and what it says of our programs is what they take."""

from __future__ import annotations

import base64
import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from openmcp.config import ConfigurationError, load
from openmcp.config.model import Address, DynamodbState, FileOrigin, KubernetesOrigin
from openmcp.injector import server
from openmcp.injector.annotations import INJECT, INJECTED
from openmcp.injector.certificates import _names
from openmcp.injector.pod import Patch, inject
from openmcp.injector.settings import BuiltInTls, FilesTls, Settings, Trust, parse
from openmcp.sidecar.cli import main
from tests.manifests.charts import (
    APPROVALS,
    CHART,
    DIGEST,
    FOREIGN,
    MATRIX,
    NAMESPACE,
    OLDER,
    ROOT,
    VERSIONS,
    Json,
    helm,
    kinds,
    of,
    one,
    template,
)

pytestmark = pytest.mark.real

CASES = pytest.mark.parametrize("case", MATRIX)


@pytest.fixture(scope="module", autouse=True)
def _helm() -> None:
    helm("version")  # says by its name what is missing


def _containers(documents: list[Json]) -> Iterator[tuple[Json, Json]]:
    for deployment in kinds(documents, "Deployment"):
        for container in deployment["spec"]["template"]["spec"]["containers"]:
            yield deployment, container


# What is well-formed


def test_lint_has_nothing_to_say() -> None:
    done = helm("lint", "--strict", str(CHART))
    assert done.returncode == 0, done.stdout + done.stderr
    assert [line for line in done.stdout.splitlines() if line.startswith(("[WARNING]", "[ERROR]"))] == []


@CASES
def test_lint_takes_the_values(case: str) -> None:
    done = helm("lint", "--strict", str(CHART), values=MATRIX[case])
    assert done.returncode == 0, done.stdout + done.stderr


@CASES
@pytest.mark.parametrize("version", VERSIONS)
def test_objects_are_what_kubernetes_takes(case: str, version: str) -> None:
    for document in of(case):
        if document["kind"] not in FOREIGN:
            _validate(json.dumps(document, sort_keys=True), version)


@functools.cache
def _validate(document: str, version: str) -> None:
    kubernetes_validate.validate(json.loads(document), version, strict=True)


@CASES
def test_objects_are_named_once_labelled_and_in_the_release_s_namespace(case: str) -> None:
    documents = of(case)
    names = [(one["kind"], one["metadata"].get("namespace"), one["metadata"]["name"]) for one in documents]
    assert len(names) == len(set(names))
    for document in documents:
        labels = document["metadata"]["labels"]
        assert labels["app.kubernetes.io/part-of"] == "openmcp"
        assert {"app.kubernetes.io/component", "app.kubernetes.io/instance"} <= labels.keys()
        for key, value in MATRIX[case].get("commonLabels", {}).items():
            assert labels[key] == value
    governed = {*MATRIX[case].get("sidecar", {}).get("namespaces", []), NAMESPACE, None}
    governed.add(MATRIX[case].get("approvals", {}).get("workflowsFrom"))
    assert {namespace for _, namespace, _ in names} <= governed


@CASES
def test_selectors_find_the_pods_and_ports_that_are_meant(case: str) -> None:
    documents = of(case)
    pods = {one["metadata"]["name"]: one["spec"]["template"] for one in kinds(documents, "Deployment")}
    for service in kinds(documents, "Service"):
        template = pods[service["metadata"]["name"]]
        assert service["spec"]["selector"].items() <= template["metadata"]["labels"].items()
        ports = {port["name"] for container in template["spec"]["containers"] for port in container["ports"]}
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports
    for kind, path in (("PodDisruptionBudget", "selector"), ("NetworkPolicy", "podSelector")):
        for found in kinds(documents, kind):
            labels = pods[found["metadata"]["name"]]["metadata"]["labels"]
            assert found["spec"][path]["matchLabels"].items() <= labels.items()
    assert len({json.dumps(one["spec"]["selector"]) for one in kinds(documents, "Service")}) == len(pods)


# The values


def test_every_value_is_in_the_schema_and_every_mapping_is_closed() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    jsonschema.Draft7Validator.check_schema(schema)
    jsonschema.validate(values, schema)

    def compare(shape: Json, value: Any, path: str) -> None:
        if "properties" in shape:
            assert shape["additionalProperties"] is False, path
            assert shape["properties"].keys() - {"global", *(value or {})} == set() or value == {}, path
            for key, inner in (value or {}).items():
                compare(shape["properties"][key], inner, f"{path}.{key}")

    compare(schema, values, "values")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"injectr": {}}, "injectr"),
        ({"injector": {"replicas": 0}}, "replicas"),
        ({"image": {"digest": "sha256:12"}}, "digest"),
        ({"image": {"repository": "ghcr.io/openmcp/openmcp:1"}}, "repository"),
        ({"image": {"repository": "ghcr.io/OpenMCP/openmcp"}}, "repository"),
        ({"trust": {"images": ["*"]}}, "images"),
        ({"trust": {"hostPaths": ["/var/log/../lib"]}}, "hostPaths"),
        ({"sidecar": {"apiServer": "https://10.0.0.1:6443"}}, "apiServer"),
        ({"sidecar": {"resources": {"memory": "128MB"}}}, "memory"),
        (
            {"sidecar": {"resources": {"memory": "1Gi"}}},
            "sidecar.resources.memory, 1Gi, is more than sidecar.resources",
        ),
        ({"sidecar": {"resources": {"memory": "1Gi", "memoryLimit": "1000M"}}}, "memoryLimit, 1000M"),
        ({"sidecar": {"resources": {"memory": 134217729, "memoryLimit": "128Mi"}}}, "memory, 134217729, is more"),
        ({"sidecar": {"resources": {"cpu": 2, "cpuLimit": "1900m"}}}, "sidecar.resources.cpuLimit, 1900m"),
        ({"injector": {"adminPort": 8443}}, "injector.port and injector.adminPort"),
        (
            {"injector": {"podDisruptionBudget": {"minAvailable": 2}}},
            "injector.podDisruptionBudget.minAvailable is all",
        ),
        ({"injector": {"podDisruptionBudget": {"minAvailable": "100%"}}}, "minAvailable is all of injector.replicas"),
        ({"injector": {"failurePolicy": "fail"}}, "failurePolicy"),
        ({"sidecar": {"spiffe": {"volume": "hostPath"}}}, "volume"),
        ({"spire": {"olderDigests": ["latest"]}}, "olderDigests"),
        ({"approvals": {"url": "http://approvals.example"}}, "url"),
        ({"approvals": {"dynamodb": {"roleArn": "openmcp"}}}, "roleArn"),
        ({"admissionPolicy": {"action": "deny"}}, "action"),
    ],
)
def test_a_wrong_value_is_refused_by_its_name(values: Json, said: str) -> None:
    done = helm("template", "openmcp", str(CHART), values=values)
    assert done.returncode != 0
    assert said in done.stderr


SETTINGS_OF: dict[tuple[str, ...], list[Any]] = {
    ("image", "repository"): [
        "a",
        "a/b",
        "localhost:5000/a",
        "A.example/b",
        "a/B",
        "a/b/*",
        "a//b",
        "a/b@x",
        "[::1]:5/a",
    ],
    ("sidecar", "apiServer"): [
        *("10.0.0.1:443", "api.example:6443", "[fd00::1]:443", "[::1]:1", "[1:2:3:4:5:6:7:8]:65535", "a:65536", "a:0"),
        *("a", ":443", "*:443", "fd00::1:443", "[::1", "[1::2::3]:1", "[:::]:1", "https://a:443", "a/b:443", "a b:1"),
    ],
    ("sidecar", "resources", "cpu"): [
        *(
            "1",
            "100m",
            "0.5",
            "1.25",
            "0.001",
            "0",
            "0m",
            "0.0",
            "none",
            "1n",
            "-1",
            "1e3",
            "",
            ".5",
            "1.",
            1,
            0.5,
            0,
            -1,
        ),
        *(0.001, 0.0000001, 2000000000, 1e30),
    ],
    ("sidecar", "resources", "memoryLimit"): ["none", "128Mi", "1G", "64MB", "128 Mi", "128mi", 134217728, "None"],
    ("sidecar", "spiffe", "directory"): ["/run/spire", "/run/../x", "/", "run", "/a/", "/a:b", "/.a/..b/...", "/a//b"],
    ("sidecar", "spiffe", "driver"): ["csi.spiffe.io", "CSI", "", "-a", "a..b"],
    ("sidecar", "spiffe", "socket"): ["a.sock", "../a", ".a", "a" * 102, "a" * 101],
    ("trust", "images"): [[], ["a/*"], ["*"], ["a/b"], ["a/b:1"], ["A/*"], ["a*"], ["registry.example:5000/a/*"]],
    ("trust", "hostPaths"): [["/mnt/models"], ["/"], ["/a/../b"], ["/a/."], ["/a/"], ["a"], ["/a:b"], ["/..."]],
    ("trust", "mounts"): [["/mnt"], ["/mnt/.."], ["//mnt"]],
    ("trust", "configMaps"): [["*/a"], ["a/b"], ["a"], ["a/b."], ["A/b"], ["*/*"], [f"{'a' * 64}/b"], ["a/b.c"]],
    ("trust", "capabilities"): [["NET_ADMIN"], ["net_admin"], ["ALL"]],
    ("trust", "env"): [["AWS_REGION"], ["1A"], ["A-B"]],
}


@pytest.mark.parametrize("place", SETTINGS_OF, ids=".".join)
def test_the_schema_takes_no_value_that_the_injector_refuses_at_start(place: tuple[str, ...]) -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    for key in place:
        schema = schema["properties"][key]
    judged = {}
    for value in SETTINGS_OF[place]:
        written: Any = f"{value}:1" if place == ("image", "repository") else value
        for key in reversed(("sidecar", "image") if place == ("image", "repository") else place):
            written = {key: written}
        try:
            parse(json.dumps({"sidecar": {"image": "a/b"}} | written | _with_image(written)))
        except ConfigurationError:
            good = False
        else:
            good = True
        judged[str(value)] = jsonschema.Draft7Validator(schema).is_valid(value), good
    assert {value: both for value, both in judged.items() if both not in ((True, True), (False, False))} == {}
    assert set(judged.values()) == {(True, True), (False, False)}


def _with_image(written: Json) -> Json:
    return {"sidecar": {"image": "a/b"} | written.get("sidecar", {})}


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (
            {"injector": {"certificates": {"mode": "files", "files": {"caBundle": "x"}}}},
            "injector.certificates.files.secretName",
        ),
        (
            {"injector": {"certificates": {"mode": "files", "files": {"secretName": "x"}}}},
            "injector.certificates.files.caBundle",
        ),
        ({"approvals": {"enabled": True}}, "approvals.dynamodb.roleArn"),
        (
            {"approvals": {"enabled": True, "dynamodb": {"roleArn": "arn:aws:iam::123456789012:role/x"}}},
            "approvals.dynamodb.region",
        ),
        (
            {
                "approvals": {
                    "enabled": True,
                    "url": "https://a.example",
                    "dynamodb": {"roleArn": "arn:aws:iam::123456789012:role/x", "region": "r", "credentials": "spiffe"},
                },
                "sidecar": {"spiffe": {"volume": "none"}},
            },
            "sidecar.spiffe.volume is none",
        ),
        (
            {"approvals": {**APPROVALS, "workflowsFrom": "support-ai"}},
            "with workflowsFrom they are objects",
        ),
    ],
)
def test_what_is_missing_is_asked_for(values: Json, said: str) -> None:
    done = helm("template", "openmcp", str(CHART), values=values)
    assert done.returncode != 0
    assert said in done.stderr


def test_a_release_of_another_name_shares_nothing_that_is_cluster_wide_but_the_crds_and_the_sidecar_s_role() -> None:
    def cluster_wide(release: str) -> set[tuple[str, str]]:
        documents = template({}, namespace=release, release=release)
        return {(one["kind"], one["metadata"]["name"]) for one in documents if "namespace" not in one["metadata"]}

    shared = {name for _, name in cluster_wide("openmcp") & cluster_wide("other")}
    assert {name for name in shared if not name.endswith(".openmcp.dev")} == {"openmcp-sidecar", "openmcp-view"}


# The pods


@CASES
def test_pods_keep_to_pod_security_restricted(case: str) -> None:
    documents = of(case)
    for deployment, container in _containers(documents):
        spec = deployment["spec"]["template"]["spec"]
        user = {} if case == "openshift" else {"runAsUser": 65532, "runAsGroup": 65532, "fsGroup": 65532}
        assert spec["securityContext"] == {
            "runAsNonRoot": True,
            "seccompProfile": {"type": "RuntimeDefault"},
            **user,
        }
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert not {"hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace"} & spec.keys()
        allowed = {"configMap", "secret", "csi"} | ({"hostPath"} if case == "host-path" else set())
        assert {key for volume in spec["volumes"] for key in volume if key != "name"} <= allowed
        assert all(mount["readOnly"] for mount in container["volumeMounts"])
        assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in spec["volumes"]}
        assert container["resources"]["requests"].keys() == {"cpu", "memory"}
        assert "memory" in container["resources"]["limits"]
    for namespace in kinds(documents, "Namespace"):
        assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


@CASES
def test_arguments_are_a_command_that_exists(case: str) -> None:
    for _, container in _containers(of(case)):
        assert "command" not in container
        arguments = container["args"]
        command, context = main, main.make_context("openmcp", list(arguments))
        while hasattr(command, "resolve_command") and (rest := [*context._protected_args, *context.args]):
            _, command, left = command.resolve_command(context, rest)
            context = command.make_context(command.name, list(left), parent=context)
        (path,) = context.params.values()
        mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
        assert str(Path(path).parent) in mounts


@CASES
def test_every_pod_has_the_same_image_and_the_sidecar_as_well(case: str) -> None:
    documents = of(case)
    images = {container["image"] for _, container in _containers(documents)}
    assert images == {_settings(documents).sidecar.image}


# The injector


def _settings(documents: list[Json]) -> Settings:
    (text,) = (one["data"]["injector.yaml"] for one in kinds(documents, "ConfigMap") if "injector.yaml" in one["data"])
    return parse(text)


@CASES
def test_the_injector_takes_its_settings(case: str) -> None:
    documents, values = of(case), MATRIX[case]
    settings = _settings(documents)
    name = "governor-injector" if case == "named" else "openmcp-injector"
    deployment = one(documents, "Deployment", name)
    ports = {
        port["name"]: port["containerPort"] for port in deployment["spec"]["template"]["spec"]["containers"][0]["ports"]
    }
    assert settings.listen == Address(host="0.0.0.0", port=ports["webhook"])
    assert settings.admin == Address(host="0.0.0.0", port=ports["admin"])
    assert settings.namespace == NAMESPACE
    assert settings.status_lease == f"{name}-status"
    assert settings.sidecar.native is values.get("sidecar", {}).get("native", True)
    mode = values.get("injector", {}).get("certificates", {}).get("mode", "builtIn")
    if mode == "builtIn":
        assert settings.tls == BuiltInTls(secret=f"{name}-ca", lease=f"{name}-ca", webhook=name)
    else:
        assert settings.tls == FilesTls(certificate="/etc/openmcp-tls/tls.crt", key="/etc/openmcp-tls/tls.key")


def test_values_reach_the_injector() -> None:
    ours = _settings(of("governed"))
    assert ours.trust.config_maps == ("*/openmcp", "support-ai/special")
    assert ours.trust.mounts == ("/var/run/secrets/eks.amazonaws.com/serviceaccount",)
    assert (ours.trust.dns, ours.trust.env) == (True, ("AWS_ROLE_ARN",))
    assert ours.sidecar.api_server == Address(host="10.0.0.1", port=6443)
    assert (ours.sidecar.log_level, _settings(of("defaults")).sidecar.log_level) == ("debug", None)
    resources = ours.sidecar.resources
    assert (resources.cpu, resources.cpu_limit, resources.memory, resources.memory_limit) == ("0.1", "1", "64Mi", None)
    assert _settings(of("openshift")).sidecar.run_as_user is None
    assert _settings(of("own-registry")).trust.images == (
        "registry.acme.example:5000/ci/*",
        "ghcr.io/openmcp/openmcp",
    )
    assert _settings(of("defaults")).trust == Trust()
    assert _settings(of("digest")).sidecar.image == f"ghcr.io/openmcp/openmcp@{DIGEST}"


@CASES
def test_the_webhook_calls_the_injector_and_nothing_else_is_asked(case: str) -> None:
    documents = of(case)
    webhook = one(documents, "MutatingWebhookConfiguration")
    service = one(documents, "Service", webhook["metadata"]["name"])
    namespaces = {"kube-system", "kube-public", "kube-node-lease", NAMESPACE}
    for each in webhook["webhooks"]:
        client = each["clientConfig"]["service"]
        assert (client["name"], client["namespace"]) == (service["metadata"]["name"], NAMESPACE)
        assert client["path"] == server.PATH
        assert client["port"] in [port["port"] for port in service["spec"]["ports"] if port["targetPort"] == "webhook"]
        assert each["reinvocationPolicy"] == "IfNeeded"
        assert each["matchPolicy"] == "Equivalent"
        assert each["sideEffects"] == "None"
        (rule,) = each["rules"]
        assert (rule["resources"], rule["operations"]) == (["pods"], ["CREATE"])
        excluded = each["namespaceSelector"]["matchExpressions"][0]
        assert excluded["operator"] == "NotIn"
        assert set(excluded["values"]) >= namespaces
        assert all(_settings(documents).excludes(name) for name in excluded["values"])
    assert {each["failurePolicy"] for each in webhook["webhooks"]} == {"Ignore" if case == "lenient" else "Fail"}


def _selects(selector: Json, labels: Json) -> bool:
    wanted = [
        {"key": key, "operator": "In", "values": [value]} for key, value in selector.get("matchLabels", {}).items()
    ]
    found = [
        each["key"] in labels
        if each["operator"] == "Exists"
        else (labels.get(each["key"]) in each["values"]) is (each["operator"] == "In")
        for each in [*wanted, *selector.get("matchExpressions", [])]
    ]
    return all(found)


@pytest.mark.parametrize("namespace", [None, "true", "false"])
@pytest.mark.parametrize("pod", [None, "true", "false"])
@pytest.mark.parametrize("marked", [False, True])
def test_a_pod_is_asked_about_once_where_it_or_its_namespace_asks(
    namespace: str | None, pod: str | None, marked: bool
) -> None:
    labels = {"kubernetes.io/metadata.name": "support-ai"} | ({INJECT: namespace} if namespace else {})
    own = ({INJECT: pod} if pod else {}) | ({INJECTED: "true"} if marked else {})
    asked = [
        each
        for each in one(of("defaults"), "MutatingWebhookConfiguration")["webhooks"]
        if _selects(each["namespaceSelector"], labels) and _selects(each.get("objectSelector", {}), own)
    ]
    assert len(asked) == (1 if marked or "true" in (namespace, pod) else 0)


def test_the_injector_s_own_pods_are_never_asked_about() -> None:
    labels = {"kubernetes.io/metadata.name": NAMESPACE, INJECT: "true"}
    for each in one(of("defaults"), "MutatingWebhookConfiguration")["webhooks"]:
        assert not _selects(each["namespaceSelector"], labels)


def test_with_certificates_of_its_own_the_injector_finds_its_name_and_writes_ca_bundle_itself() -> None:
    webhook = one(of("defaults"), "MutatingWebhookConfiguration")
    assert _names(webhook) == {f"openmcp-injector.{NAMESPACE}.svc"}
    assert not any("caBundle" in each["clientConfig"] for each in webhook["webhooks"])


@pytest.mark.parametrize("case", ["cert-manager", "cert-manager-issuer"])
def test_cert_manager_makes_the_certificate_that_is_mounted_and_called(case: str) -> None:
    documents = of(case)
    webhook = one(documents, "MutatingWebhookConfiguration")
    certificate = one(documents, "Certificate", "openmcp-injector")
    assert webhook["metadata"]["annotations"]["cert-manager.io/inject-ca-from"] == f"{NAMESPACE}/openmcp-injector"
    assert f"openmcp-injector.{NAMESPACE}.svc" in certificate["spec"]["dnsNames"]
    volumes = one(documents, "Deployment")["spec"]["template"]["spec"]["volumes"]
    assert {"name": "tls", "secret": {"secretName": certificate["spec"]["secretName"], "defaultMode": 0o440}} in volumes
    issuer = certificate["spec"]["issuerRef"]
    assert issuer["name"] in {"corporate", *(each["metadata"]["name"] for each in kinds(documents, "Issuer"))}
    assert len(kinds(documents, "Issuer")) == (2 if case == "cert-manager" else 0)


def test_a_certificate_of_somebody_else_is_trusted_by_what_they_say() -> None:
    (bundle,) = {
        each["clientConfig"]["caBundle"] for each in one(of("files"), "MutatingWebhookConfiguration")["webhooks"]
    }
    assert base64.b64decode(bundle) == b"-----BEGIN CERTIFICATE-----\n"


# Rights


@CASES
def test_nobody_may_read_secrets_but_the_injector_its_own(case: str) -> None:
    documents = of(case)
    rules = [
        (role, rule) for kind in ("Role", "ClusterRole") for role in kinds(documents, kind) for rule in role["rules"]
    ]
    assert not [role for role, rule in rules if "*" in [*rule["verbs"], *rule["resources"], *rule["apiGroups"]]]
    named = [(role, rule) for role, rule in rules if "secrets" in rule["resources"]]
    mode = MATRIX[case].get("injector", {}).get("certificates", {}).get("mode", "builtIn")
    assert len(named) == (1 if mode == "builtIn" else 0)
    for role, rule in named:
        assert (role["kind"], rule["resources"], rule["verbs"]) == ("Role", ["secrets"], ["get", "patch"])
        (secret,) = rule["resourceNames"]
        assert "data" not in one(documents, "Secret", secret)
    writes = {"create", "update", "patch", "delete", "deletecollection"}
    for role, rule in rules:
        if writes & set(rule["verbs"]):
            assert "resourceNames" in rule or all(each.endswith("/status") for each in rule["resources"]), role


def test_sidecars_read_the_three_kinds_in_their_own_namespace() -> None:
    documents = of("governed")
    assert one(documents, "ClusterRole", "openmcp-sidecar")["rules"] == [
        {
            "apiGroups": ["openmcp.dev"],
            "resources": ["mcpservers", "mcppolicies", "approvalworkflows"],
            "verbs": ["get", "list", "watch"],
        }
    ]
    bindings = [each for each in kinds(documents, "RoleBinding") if each["roleRef"]["name"] == "openmcp-sidecar"]
    assert {each["metadata"]["namespace"]: each["subjects"] for each in bindings} == {
        name: [{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": f"system:serviceaccounts:{name}"}]
        for name in ("support-ai", "coding")
    }
    for each in kinds(documents, "ClusterRoleBinding"):
        assert each["roleRef"]["name"] != "openmcp-sidecar"


def test_names_in_rules_are_those_of_the_crds() -> None:
    crds = [yaml.safe_load(path.read_text()) for path in (ROOT / "manifests/crds").glob("*.yaml")]
    plurals = {crd["spec"]["names"]["plural"] for crd in crds}
    for case in MATRIX:
        for role in kinds(of(case), "ClusterRole"):
            for rule in role["rules"]:
                if rule["apiGroups"] == ["openmcp.dev"]:
                    assert {each.partition("/")[0] for each in rule["resources"]} == plurals


# The CRDs


def test_the_chart_has_the_crds_and_keeps_them() -> None:
    made = {each["metadata"]["name"]: each for each in kinds(of("defaults"), "CustomResourceDefinition")}
    for path in sorted((ROOT / "manifests/crds").glob("*.yaml")):
        assert (CHART / "files/crds" / path.name).read_text() == path.read_text(), "run: make manifests"
        wanted = yaml.safe_load(path.read_text())
        found = made.pop(wanted["metadata"]["name"])
        assert found["spec"] == wanted["spec"]
        assert found["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
        assert found["metadata"]["labels"].items() >= wanted["metadata"].get("labels", {}).items()
    assert made == {}


# Monitoring


def test_monitors_ask_for_ports_that_there_are() -> None:
    documents = of("monitored")
    (endpoint,) = one(documents, "ServiceMonitor")["spec"]["endpoints"]
    assert endpoint["port"] in [port["name"] for port in one(documents, "Service")["spec"]["ports"]]
    (endpoint,) = one(documents, "PodMonitor")["spec"]["podMetricsEndpoints"]
    pod = {"metadata": {"name": "a"}, "spec": {"containers": [{"name": "agent", "image": "x"}]}}
    patch = inject(pod, _settings(documents), "support-ai")
    assert isinstance(patch, Patch)
    ports = [
        port["name"]
        for step in patch.operations
        if "initContainers/0" in step["path"]
        for port in step["value"]["ports"]
    ]
    assert ports == [endpoint["port"]]
    rules = one(documents, "PrometheusRule")["spec"]
    assert rules == yaml.safe_load((CHART / "files/monitoring/rules.yaml").read_text())
    dashboard = one(documents, "ConfigMap", "openmcp-dashboard")["data"]["openmcp.json"]
    assert json.loads(dashboard) == json.loads((CHART / "files/monitoring/dashboard.json").read_text())


# SPIRE


KNOWN = {
    "className",
    "spiffeIDTemplate",
    "podSelector",
    "namespaceSelector",
    "workloadSelectorTemplates",
    "ttl",
    "jwtTtl",
    "federatesWith",
}
"""Of ClusterSPIFFEID (spire.spiffe.io/v1alpha1), what is used."""


@CASES
def test_of_a_governed_pod_the_sidecar_alone_is_registered(case: str) -> None:
    documents = of(case)
    entries = kinds(documents, "ClusterSPIFFEID")
    for entry in entries:
        spec = entry["spec"]
        assert spec.keys() <= KNOWN
        first, *more = spec["workloadSelectorTemplates"]
        assert first in ("k8s:container-name:openmcp", "k8s:container-name:approvals")
        assert all(each.startswith("k8s:container-image:ghcr.io/openmcp/openmcp@sha256:") for each in more)
        assert "{{ .PodMeta.Namespace }}" in spec["spiffeIDTemplate"]
    assert bool(entries) is (case != "no-spiffe")


def test_pods_that_opt_out_of_a_governed_namespace_are_registered_for_nobody() -> None:
    """SPIRE gives its default ID to pods that no other ClusterSPIFFEID selects; it would be that of a sidecar."""
    by_namespace, by_pod = (entry["spec"] for entry in kinds(of("defaults"), "ClusterSPIFFEID"))
    assert "podSelector" not in by_namespace
    assert by_pod["podSelector"] == {"matchLabels": {INJECTED: "true"}}
    (named, asks), (also_named, does_not) = (
        spec["namespaceSelector"]["matchExpressions"] for spec in (by_namespace, by_pod)
    )
    assert named == also_named
    assert asks == {"key": "openmcp.dev/inject", "operator": "In", "values": ["true"]}
    assert does_not == asks | {"operator": "NotIn"}


def test_while_images_change_pods_with_the_older_one_keep_their_svid() -> None:
    entries = kinds(of("digest"), "ClusterSPIFFEID")
    selectors = [entry["spec"]["workloadSelectorTemplates"][1] for entry in entries]
    wanted = [f"k8s:container-image:ghcr.io/openmcp/openmcp@{digest}" for digest in (DIGEST, OLDER)]
    assert sorted(selectors) == sorted([*wanted, *wanted])


# Approvals


@pytest.mark.parametrize(
    "case", ["approvals-irsa", "approvals-spiffe", "approvals-from-objects", "host-path", "placed"]
)
def test_the_console_takes_its_configuration(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OIDC_SECRET", "x")
    documents = of(case)
    file = tmp_path / "gateway.yaml"
    file.write_text(one(documents, "ConfigMap", "openmcp-approvals")["data"]["gateway.yaml"])
    configuration = load(file).configuration
    state = configuration.state
    assert isinstance(state, DynamodbState)
    pod = one(documents, "Deployment", "openmcp-approvals")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    account = one(documents, "ServiceAccount", "openmcp-approvals")
    svid = "spiffe" in case or case == "host-path"
    assert (state.credentials, state.role_arn) == (
        ("spiffe", "arn:aws:iam::123456789012:role/openmcp") if svid else ("default", None)
    )
    role = account["metadata"].get("annotations", {}).get("eks.amazonaws.com/role-arn")
    assert role == (None if svid else "arn:aws:iam::123456789012:role/openmcp")
    sockets = [each["value"] for each in container.get("env", []) if each["name"] == "SPIFFE_ENDPOINT_SOCKET"]
    assert bool(sockets) is svid
    for socket in sockets:
        folder = str(Path(socket.removeprefix("unix://")).parent)
        (mount,) = (each for each in container["volumeMounts"] if each["mountPath"] == folder)
        assert mount["name"] == "spiffe"
    console = configuration.approvals.console
    assert console is not None
    assert {"name": "console", "containerPort": console.listen.port} in container["ports"]
    asks = case == "approvals-from-objects"
    assert configuration.source == (KubernetesOrigin(namespace="support-ai") if asks else FileOrigin())
    assert pod["automountServiceAccountToken"] is asks
    bindings = [each for each in kinds(documents, "RoleBinding") if each["metadata"]["name"] == "openmcp-approvals"]
    assert [(each["metadata"]["namespace"], each["roleRef"]["name"]) for each in bindings] == (
        [("support-ai", "openmcp-sidecar")] if asks else []
    )


@pytest.mark.parametrize(
    ("change", "replaced"),
    [
        ({"url": "https://other.acme.example"}, True),
        ({"logLevel": "debug"}, True),
        ({"workflowsFrom": "support-ai", "workflows": []}, True),
        ({"dynamodb": {**APPROVALS["dynamodb"], "table": "other"}}, True),
        ({"dynamodb": {**APPROVALS["dynamodb"], "roleArn": "arn:aws:iam::123456789012:role/other"}}, True),
        ({"tokens": []}, False),
        ({"workflows": []}, False),
        ({"channels": []}, False),
        ({"oidc": {**APPROVALS["oidc"], "clientId": "other"}}, False),
    ],
)
def test_the_console_s_pods_are_replaced_for_what_is_taken_over_at_a_start_alone(change: Json, replaced: bool) -> None:
    """The rest of the ConfigMap reaches pods that run; logins are in their memory, so nobody has to log in anew."""
    before, after = (template({"approvals": APPROVALS | more}) for more in ({}, change))
    pods = [one(documents, "Deployment", "openmcp-approvals")["spec"]["template"] for documents in (before, after)]
    assert (pods[0] != pods[1]) is replaced


@CASES
def test_no_key_of_aws_is_anywhere(case: str) -> None:
    text = json.dumps(of(case))
    assert "AWS_SECRET_ACCESS_KEY" not in text
    assert "AWS_ACCESS_KEY_ID" not in text
