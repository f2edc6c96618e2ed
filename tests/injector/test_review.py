"""Reviews as API servers send them, and the answers that they get."""

import base64
import json

import jsonpatch
import pytest

from openmcp.injector.review import Admission, NotAReview, review
from tests.injector.pods import IMAGE, SETTINGS, patched, pod, request, reviewed, settings

UID = "705ab4f5-6393-11e8-b7cc-42010a800002"
MIRROR = {"annotations": {"kubernetes.io/config.mirror": "5a"}}


def answer(admission):
    """The answer, as the API server reads it."""
    read = json.loads(admission.answer())
    assert (read.pop("apiVersion"), read.pop("kind")) == ("admission.k8s.io/v1", "AdmissionReview")
    assert read["response"]["uid"] == UID
    return read["response"]


def test_a_pod_is_injected():
    given = pod(notes={"servers": "zendesk", "mood": "good"})
    found = reviewed(given)
    told = answer(found)
    patch = json.loads(base64.b64decode(told.pop("patch")))
    assert jsonpatch.apply_patch(given, patch) == patched(given)
    assert told == {
        "uid": UID,
        "allowed": True,
        "patchType": "JSONPatch",
        "auditAnnotations": {"outcome": "injected", "reason": f"sidecar {IMAGE}"},
        "warnings": ["openmcp: unknown annotation openmcp.dev/mood: it has no effect"],
    }
    assert found == Admission(
        uid=UID,
        namespace="support-ai",
        name="support",
        user="dev@acme.example",
        outcome="injected",
        reason=f"sidecar {IMAGE}",
        image=IMAGE,
        warnings=("unknown annotation openmcp.dev/mood: it has no effect",),
        patch=found.patch,
    )


def test_a_pod_that_has_it_is_unchanged():
    assert answer(reviewed(patched(pod()))) == {
        "uid": UID,
        "allowed": True,
        "auditAnnotations": {"outcome": "unchanged", "reason": "the sidecar is there already"},
    }


def test_a_pod_that_cannot_be_governed_is_refused():
    reason = (
        "hostNetwork: every process of the node would reach the sidecar's loopback; remove it; hostPID: its processes"
    )
    told = answer(reviewed(pod(hostNetwork=True, hostPID=True)))
    assert told["allowed"] is False
    assert "patch" not in told
    assert told["status"] == {"code": 403, "reason": "Forbidden", "message": told["auditAnnotations"]["reason"]}
    assert told["status"]["message"].startswith(reason)


def test_a_refusal_has_an_end():
    told = answer(reviewed(pod(*({"name": f"a{i}", "securityContext": {"privileged": True}} for i in range(100)))))
    assert len(told["status"]["message"]) == 1000


def test_warnings_have_an_end():
    notes = {"servers": ",".join(f"a{i}" for i in range(40))} | {f"x{i:03}": "" for i in range(40)}
    found = reviewed(pod(notes={**notes, "long-" + "x" * 60: ""}))
    told = answer(found)["warnings"]
    assert (len(found.warnings), len(told)) == (41, 16)
    assert max(map(len, told)) <= 240


def test_a_dry_run_is_answered_alike():
    real, dry = reviewed(pod()), reviewed(pod(), dryRun=True)
    assert (real.dry_run, dry.dry_run) == (False, True)
    assert dry.patch == real.patch


def test_the_namespace_of_the_request_counts():
    given = pod(meta={"namespace": "kube-system"}, notes={"config": "gateway"})
    by = settings(trust="{configMaps: [support-ai/gateway]}")
    assert reviewed(given, by).outcome == "injected"
    assert reviewed(given, by, namespace="other").outcome == "refused"
    assert reviewed(given, by, namespace="kube-system").outcome == "unchanged"


@pytest.mark.parametrize(
    ("meta", "about", "name"),
    [
        ({"name": "support"}, {"name": ""}, "support"),
        ({"name": None, "generateName": "agent-7d9c-"}, {"name": ""}, "agent-7d9c-"),
        ({"name": "other"}, {}, "support"),
        ({"name": None}, {"name": None}, ""),
    ],
)
def test_how_a_pod_is_named(meta, about, name):
    assert reviewed(pod(meta=meta), **about).name == name


@pytest.mark.parametrize(
    ("about", "reason"),
    [
        ({"kind": {"group": "apps", "version": "v1", "kind": "Deployment"}}, "only pods are looked at"),
        ({"operation": "UPDATE"}, "only the creation of pods is looked at"),
        ({"subResource": "ephemeralcontainers"}, "only the creation of pods is looked at"),
    ],
)
def test_what_is_not_the_creation_of_a_pod_passes(about, reason):
    found = reviewed(pod(hostNetwork=True), **about)
    assert (found.outcome, found.reason) == ("unchanged", reason)


def test_a_mirror_pod_passes_where_a_node_makes_it():
    node = {"username": "system:node:a", "groups": ["system:nodes", "system:authenticated"]}
    found = reviewed(pod(meta=MIRROR, hostNetwork=True), userInfo=node)
    assert (found.outcome, found.reason) == ("unchanged", "a mirror pod: its kubelet runs it from a file")


@pytest.mark.parametrize("user", [{"username": "dev", "groups": ["dev"]}, {"username": "system:node:a"}, {}, None])
def test_a_mirror_pod_of_anybody_else_is_a_pod(user):
    assert reviewed(pod(meta=MIRROR), userInfo=user).outcome == "injected"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b'{"a": "\xff"}', "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "no AdmissionReview"),
        (b'{"kind": "Pod"}', "no AdmissionReview"),
        (
            b'{"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1beta1"}',
            "an AdmissionReview of admission.k8s.io/v1beta1, not of admission.k8s.io/v1",
        ),
        (b'{"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1"}', "no request with a uid"),
        (request(pod(), uid=""), "no request with a uid"),
        (request(pod(), uid=5), "no request with a uid"),
    ],
)
def test_what_is_no_review(body, reason):
    with pytest.raises(NotAReview, match=reason):
        review(body, SETTINGS)


@pytest.mark.parametrize(
    "given", [None, [], "x", {"spec": None}, {"metadata": 5, "spec": {"containers": [{"name": "a"}]}}]
)
def test_what_is_no_pod_is_refused(given):
    assert reviewed(given).outcome == "refused"


def test_names_write_no_lines_and_no_colours_into_a_refusal():
    given = pod()
    given["spec"]["containers"][0] |= {"name": "a\n\x1b[31m\u202eb", "securityContext": {"privileged": True}}
    assert answer(reviewed(given))["status"]["message"].startswith("container a\ufffd\ufffd[31m\ufffdb: privileged: ")
