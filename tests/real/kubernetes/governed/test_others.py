"""Other webhooks and plugins that change a pod after the injector: it is asked again, and sees what they did."""

from __future__ import annotations

import base64
import json
import ssl
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import trustme

from tests.real.kubernetes.governed.conftest import GOVERNED
from tests.real.kubernetes.governed.test_pods import AGENT, SECURE, pod
from tests.support.cluster import Replicas, furnish
from tests.support.kubernetes import KubeApi, refused
from tests.support.spire import wait_until

pytestmark = pytest.mark.real

Pod = dict[str, Any]
LATE = AGENT | {"name": "late", "securityContext": SECURE}


def containers(given: Pod) -> list[Pod]:
    return [*given["spec"].get("initContainers", []), *given["spec"]["containers"]]


def sidecar(given: Pod) -> Pod:
    (found,) = [one for one in containers(given) if one["name"] == "openmcp"]
    return found


def variables(given: Pod) -> None:
    for one in containers(given):
        if "AWS_ROLE_ARN" not in {variable["name"] for variable in one.get("env", [])}:
            one.setdefault("env", []).append({"name": "AWS_ROLE_ARN", "value": "arn:aws:iam::1:role/mine"})


def image(given: Pod) -> None:
    sidecar(given)["image"] = "evil.example/openmcp:1"


def mount(given: Pod) -> None:
    given["spec"]["containers"][0].setdefault("volumeMounts", []).append(
        {"name": "openmcp-workload-api", "mountPath": "/spiffe"}
    )


def late(given: Pod) -> None:
    if all(one["name"] != "late" for one in containers(given)):
        given["spec"]["containers"].append(LATE)


def first(given: Pod) -> None:
    if all(one["name"] != "late" for one in containers(given)):
        given["spec"]["initContainers"].insert(0, LATE | {"restartPolicy": "Always"})


def unlabel(given: Pod) -> None:
    given["metadata"]["labels"].pop("openmcp.dev/injected")


def unlabel_once(given: Pod) -> None:
    if "waited" not in given["metadata"]["annotations"]:
        given["metadata"]["annotations"]["waited"] = "yes"
        unlabel(given)


def patience(given: Pod) -> None:
    """Change nothing that counts at first, and make the injector change something, so that this is asked again too."""
    if "waited" in given["metadata"]["annotations"]:
        image(given)
    unlabel_once(given)


def resources(given: Pod) -> None:
    for one in containers(given):
        one["resources"] = {"limits": {"cpu": "2", "memory": "1Gi"}}


CHANGES: dict[str, Callable[[Pod], None]] = {
    each.__name__: each for each in (variables, image, mount, late, first, unlabel, unlabel_once, patience, resources)
}


class Other(BaseHTTPRequestHandler):
    """Does to a pod what its label `other` says."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        review = json.loads(self.rfile.read(int(self.headers["content-length"])))
        asked = review.pop("request")
        before = asked["object"]
        after = json.loads(json.dumps(before))
        CHANGES[before["metadata"]["labels"]["other"]](after)
        patch = [{"op": "replace", "path": f"/{key}", "value": after[key]} for key in ("metadata", "spec")]
        answer: dict[str, Any] = {"uid": asked["uid"], "allowed": True}
        if after != before:
            answer |= {"patchType": "JSONPatch", "patch": base64.b64encode(json.dumps(patch).encode()).decode()}
        body = json.dumps(review | {"response": answer}).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def other(kube: KubeApi, injectors: Replicas) -> Iterator[None]:
    """A webhook whose configuration comes after the injector's in the alphabet, and so is asked after it."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Other)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    ca = base64.b64encode(authority.cert_pem.bytes()).decode()
    webhook = {
        "name": "other.example.com",
        "admissionReviewVersions": ["v1"],
        "clientConfig": {"url": f"https://127.0.0.1:{server.server_port}/", "caBundle": ca},
        "sideEffects": "None",
        "reinvocationPolicy": "IfNeeded",
        "objectSelector": {"matchExpressions": [{"key": "other", "operator": "Exists"}]},
        "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"], "operations": ["CREATE"]}],
    }
    kind = {"apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration"}
    made = kube.create({**kind, "metadata": {"name": "zz-other"}, "webhooks": [webhook]})
    wait_until(lambda: limited(kube), "the API server to ask it")
    yield
    kube.delete(made)
    server.shutdown()
    thread.join()
    server.server_close()


def limited(kube: KubeApi) -> bool:
    """Whether it is asked: the API server takes note of a configuration some time after it was stored."""
    stored = kube.create(changed("resources"), GOVERNED, dry_run=True)
    return "limits" in stored["spec"]["containers"][0]["resources"]


def changed(what: str) -> Pod:
    annotations = {"openmcp.dev/servers": "tickets"}
    return pod(f"changed-{what.replace('_', '-')}", meta={"labels": {"other": what}, "annotations": annotations})


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("variables", "the container named openmcp is not what the injector puts in: env: AWS_ROLE_ARN was added"),
        ("image", 'the container named openmcp is not what the injector puts in: image is "evil.example/openmcp:1"'),
        ("mount", "container agent: mounts openmcp-workload-api, which is the sidecar's alone"),
    ],
)
def test_what_another_webhook_does_to_the_sidecar_is_seen(kube: KubeApi, other: None, what: str, reason: str):
    assert reason in refused(lambda: kube.create(changed(what), GOVERNED)).message


def test_a_container_that_comes_later_is_told_of_the_servers(kube: KubeApi, other: None):
    stored = kube.create(changed("late"), GOVERNED)
    told = {one["name"]: [variable["name"] for variable in one.get("env", [])] for one in stored["spec"]["containers"]}
    assert told == {"agent": ["OPENMCP_TICKETS_URL"], "late": ["OPENMCP_TICKETS_URL"]}
    kube.delete(stored, GOVERNED)


def test_another_sidecar_may_go_first(kube: KubeApi, other: None):
    stored = kube.create(changed("first"), GOVERNED)
    assert [one["name"] for one in stored["spec"]["initContainers"]] == ["late", "openmcp"]
    kube.delete(stored, GOVERNED)


def test_a_label_that_was_taken_away_is_put_back(kube: KubeApi, other: None):
    stored = kube.create(changed("unlabel_once"), GOVERNED)
    assert stored["metadata"]["labels"] == {"other": "unlabel_once", "openmcp.dev/injected": "true"}
    kube.delete(stored, GOVERNED)


def test_who_takes_it_away_each_time_meets_the_admission_policy(kube: KubeApi, other: None):
    message = refused(lambda: kube.create(changed("unlabel"), GOVERNED)).message
    assert "this pod asks for the OpenMCP sidecar and does not have it" in message


def test_who_waits_until_we_were_asked_again_meets_the_admission_policy(kube: KubeApi, other: None):
    message = refused(lambda: kube.create(changed("patience"), GOVERNED)).message
    assert "ValidatingAdmissionPolicy 'openmcp-sidecar'" in message
    assert "the container openmcp has an image that is none of OpenMCP's here" in message


def test_resources_are_the_clusters_to_say(kube: KubeApi, other: None):
    stored = kube.create(changed("resources"), GOVERNED)
    assert sidecar(stored)["resources"]["limits"] == {"cpu": "2", "memory": "1Gi"}
    kube.delete(stored, GOVERNED)


def test_the_limits_of_a_namespace_are_taken(kube: KubeApi, injectors: Replicas):
    namespace = "limited"
    labels = {"openmcp.dev/inject": "true"}
    kube.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace, "labels": labels}})
    furnish(kube, namespace)
    limits = [{"type": "Container", "default": {"cpu": "1500m", "memory": "2Gi"}, "defaultRequest": {"cpu": "20m"}}]
    kube.create(
        {"apiVersion": "v1", "kind": "LimitRange", "metadata": {"name": "all"}, "spec": {"limits": limits}}, namespace
    )
    stored = kube.create(pod("limited"), namespace)
    assert sidecar(stored)["resources"] == {
        "limits": {"cpu": "1500m", "memory": "256Mi"},
        "requests": {"cpu": "50m", "memory": "128Mi"},
    }
    again = pod("again", meta={key: stored["metadata"][key] for key in ("labels", "annotations")} | {"name": "again"})
    again["spec"] = stored["spec"]
    assert kube.create(again, namespace)["spec"] == stored["spec"]
