"""Pods, settings and reviews for the tests of the injector."""

import copy
import json

import jsonpatch

from openmcp.injector.pod import Patch, Refused, inject
from openmcp.injector.review import review
from openmcp.injector.settings import parse

IMAGE = "registry.example/openmcp:1.4"
AGENT = {"name": "agent", "image": "registry.example/agent:7"}


def settings(sidecar="", **top):
    """Settings with more keys of `sidecar`, and more keys at the top, both as flow YAML."""
    lines = [f"sidecar: {{image: '{IMAGE}'{sidecar and f', {sidecar}'}}}", *(f"{key}: {top[key]}" for key in top)]
    return parse("\n".join(lines))


SETTINGS = settings()


def pod(*containers, meta=None, notes=None, **spec):
    """A pod; `notes` are annotations below openmcp.dev/."""
    annotations = {f"openmcp.dev/{key.replace('_', '-')}": text for key, text in (notes or {}).items()}
    metadata = {"name": "support", **({"annotations": annotations} if annotations else {}), **(meta or {})}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata,
        "spec": {"containers": [*containers] or [AGENT], **spec},
    }


def patched(given, by=SETTINGS, namespace="support-ai"):
    """The pod with the patch, applied by a library that is not ours; what was given is not changed."""
    before = copy.deepcopy(given)
    found = inject(given, by, namespace)
    assert isinstance(found, Patch), found
    assert given == before
    return jsonpatch.apply_patch(given, json.loads(json.dumps(found.operations)))


def refused(given, by=SETTINGS, namespace="support-ai"):
    """Why a pod is refused."""
    found = inject(given, by, namespace)
    assert isinstance(found, Refused), found
    return list(found.reasons)


def sidecar_of(given):
    """The container of the sidecar."""
    every = [*given["spec"].get("initContainers", []), *given["spec"]["containers"]]
    (found,) = [one for one in every if one["name"] == "openmcp"]
    return found


def request(given, **about):
    """An AdmissionReview as API servers send it."""
    asked = {
        "uid": "705ab4f5-6393-11e8-b7cc-42010a800002",
        "kind": {"group": "", "version": "v1", "kind": "Pod"},
        "resource": {"group": "", "version": "v1", "resource": "pods"},
        "name": "support",
        "namespace": "support-ai",
        "operation": "CREATE",
        "userInfo": {"username": "dev@acme.example", "groups": ["system:authenticated"]},
        "object": given,
        "oldObject": None,
        "dryRun": False,
        "options": {"kind": "CreateOptions", "apiVersion": "meta.k8s.io/v1"},
        **about,
    }
    return json.dumps({"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "request": asked}).encode()


def reviewed(given, by=SETTINGS, **about):
    """What is decided about a request."""
    return review(request(given, **about), by)
