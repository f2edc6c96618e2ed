"""Pure: the sidecar in manifests instead of in pods: `openmcp inject -f`.

What has a template for pods gets the sidecar in the template, by the same patch that the webhook would answer with.
"""

import copy
from collections.abc import Iterator
from typing import Any, Literal

import msgspec

from openmcp.config.cursor import shortened
from openmcp.injector.container import Json
from openmcp.injector.pod import Refused, Unchanged, inject
from openmcp.injector.settings import Settings

_TEMPLATES: dict[tuple[str, str], tuple[str, ...]] = {
    ("", "Pod"): (),
    ("", "PodTemplate"): ("template",),
    ("", "ReplicationController"): ("spec", "template"),
    ("apps", "DaemonSet"): ("spec", "template"),
    ("apps", "Deployment"): ("spec", "template"),
    ("apps", "ReplicaSet"): ("spec", "template"),
    ("apps", "StatefulSet"): ("spec", "template"),
    ("batch", "CronJob"): ("spec", "jobTemplate", "spec", "template"),
    ("batch", "Job"): ("spec", "template"),
}
"""Group and kind, and where the pod is in it."""


class Note(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one object."""

    name: str
    """`Deployment support-ai/support-agent`."""
    outcome: Literal["injected", "unchanged", "refused"]
    reasons: tuple[str, ...]
    warnings: tuple[str, ...] = ()


def inject_all(documents: list[Any], settings: Settings, namespace: str) -> tuple[list[Any], list[Note]]:
    """Documents with the sidecar in all their pods, and a note for each object that has a pod.

    `namespace` is that of objects which name none. Lists are looked into. Nothing that was given is changed.
    """
    copied = copy.deepcopy(documents)
    with_pods = [document for document in _flat(copied) if _path(document) is not None]
    return copied, [_injected(document, settings, namespace) for document in with_pods]


def _flat(documents: list[Any]) -> Iterator[Any]:
    for document in documents:
        is_list = isinstance(document, dict) and str(document.get("kind", "")).endswith("List")
        if is_list and isinstance(document.get("items"), list):
            _name_items(document)
            yield from _flat(document["items"])
        else:
            yield document


def _name_items(found: Json) -> None:
    """The items of a `PodList` are pods, whether they say so or not: kubectl takes them for that."""
    kind = str(found["kind"]).removesuffix("List")
    for item in found["items"]:
        if kind and isinstance(item, dict) and "kind" not in item:
            item |= {"apiVersion": item.get("apiVersion") or found.get("apiVersion"), "kind": kind}


def _path(document: Any) -> tuple[str, ...] | None:
    if not isinstance(document, dict):
        return None
    group, slash, _ = str(document.get("apiVersion")).rpartition("/")
    return _TEMPLATES.get((group if slash else "", str(document.get("kind"))))


def _injected(document: Json, settings: Settings, namespace: str) -> Note:
    given = document.get("metadata")
    metadata = given if isinstance(given, dict) else {}
    own = str(metadata.get("namespace") or namespace)
    title = str(metadata.get("name") or metadata.get("generateName") or "")
    name = f"{document['kind']} {shortened(own)}/{shortened(title)}"
    pod: Any = document
    for part in _path(document) or ():
        pod = pod.get(part) if isinstance(pod, dict) else None
    found = inject(pod, settings, own)
    if isinstance(found, Refused):
        return Note(name=name, outcome="refused", reasons=found.reasons, warnings=found.warnings)
    if isinstance(found, Unchanged):
        return Note(name=name, outcome="unchanged", reasons=(found.reason,), warnings=found.warnings)
    _apply(pod, found.operations)
    return Note(name=name, outcome="injected", reasons=(f"sidecar {found.image}",), warnings=found.warnings)


def _apply(pod: Any, operations: tuple[Json, ...]) -> None:
    """Do the operations of `inject`, which are all `add` (RFC 6902, 4.1)."""
    for operation in operations:
        *way, last = [part.replace("~1", "/") for part in operation["path"].split("/")[1:]]
        owner = pod
        for part in way:
            owner = owner[int(part)] if isinstance(owner, list) else owner[part]
        if isinstance(owner, list):
            owner.insert(int(last), operation["value"])
        else:
            owner[last] = operation["value"]
