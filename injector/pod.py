"""Pure: from a pod to the JSON patch that puts the sidecar into it, or to the reason why not.

The patch is made for the raw JSON, so that no field is lost that we do not know. It brings the pod to a wanted state,
and a pod that is there is not changed: the API server may ask again after other webhooks (reinvocationPolicy IfNeeded).
What is there under one of our names and is not ours is refused, never repaired: somebody meant it.
"""

import json
from collections.abc import Iterator
from typing import Any

import msgspec

from openmcp.injector import wellformed
from openmcp.injector.annotations import INJECT, INJECTED, PREFIX, STATUS, Annotations, Choices, Server
from openmcp.injector.comparison import container_differences
from openmcp.injector.container import API_SERVER, VOLUMES, Json, Sidecar, sidecar
from openmcp.injector.refusals import containers, faults
from openmcp.injector.settings import CONTAINER, Settings

Path = tuple[str | int, ...]


class Patch(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be done: operations of RFC 6902, in their order."""

    operations: tuple[Json, ...]
    image: str
    warnings: tuple[str, ...] = ()


class Unchanged(msgspec.Struct, frozen=True, kw_only=True):
    """The pod stays as it is."""

    reason: str
    warnings: tuple[str, ...] = ()


class Refused(msgspec.Struct, frozen=True, kw_only=True):
    """The pod must not be: everything that is wrong with it, one sentence each."""

    reasons: tuple[str, ...]
    warnings: tuple[str, ...] = ()


def inject(pod: Any, settings: Settings, namespace: str) -> Patch | Unchanged | Refused:
    """Judge a pod that is to be created in a namespace; `pod` is decoded JSON and is not changed."""
    if settings.excludes(namespace):
        return Unchanged(reason=f"nothing is injected in the namespace {namespace}")
    malformed = wellformed.fault(pod)
    if malformed is not None:
        return Refused(reasons=(malformed,))
    metadata = pod.get("metadata") or {}
    labels, annotations = metadata.get("labels") or {}, metadata.get("annotations") or {}
    wishes = {text for text in (labels.get(INJECT), annotations.get(INJECT)) if text is not None}
    if wishes - {"true", "false"}:
        return Refused(reasons=(f'{INJECT}: write "true" or "false"',))
    if "false" in wishes:
        return _opted_out(pod)
    read = Annotations(annotations, settings, namespace)
    choices = read.choices()
    wrong = [*read.faults, *faults(pod, settings)]
    if wrong:
        return Refused(reasons=tuple(wrong), warnings=tuple(read.warnings))
    return _changed(pod, choices, settings, read.warnings)


def _opted_out(pod: Json) -> Unchanged | Refused:
    """A pod without our sidecar must not look as if it had one: SPIFFE IDs are given by that look."""
    spec, metadata = pod["spec"], pod.get("metadata") or {}
    claims = [f"the label {INJECTED}"] if INJECTED in (metadata.get("labels") or {}) else []
    claims += [f"a container named {CONTAINER}"] if any(one["name"] == CONTAINER for one in containers(spec)) else []
    claims += [f"a volume named {one['name']}" for one in spec.get("volumes") or () if one["name"] in VOLUMES]
    if claims:
        return Refused(reasons=(f'{INJECT} is "false", and the pod has {" and ".join(claims)}',))
    return Unchanged(reason=f'{INJECT} is "false"')


def _changed(pod: Json, choices: Choices, settings: Settings, warnings: list[str]) -> Patch | Unchanged | Refused:
    wanted = sidecar(choices, settings)
    wrong = [*_foreign_container(pod, wanted, settings), *_foreign_volumes(pod, wanted)]
    if wrong:
        return Refused(reasons=tuple(wrong), warnings=tuple(warnings))
    changes = _Changes(pod)
    changes.put(("metadata", "labels", INJECTED), "true")
    changes.put(("metadata", "annotations", STATUS), _status(choices, wanted))
    told = (*warnings, *_tell_agents(changes, choices, settings))
    _put_in(changes, wanted)
    if not changes.operations:
        return Unchanged(reason="the sidecar is there already", warnings=told)
    return Patch(operations=tuple(changes.operations), image=choices.image, warnings=told)


def _foreign_container(pod: Json, wanted: Sidecar, settings: Settings) -> Iterator[str]:
    place = _place(wanted)
    for key in ("initContainers", "containers"):
        for found in pod["spec"].get(key) or ():
            if found["name"] == CONTAINER and key != place:
                yield f"a container named {CONTAINER} is among the {key}, ours would be among the {place}"
            elif found["name"] == CONTAINER:
                whole = found | {"env": [*(found.get("env") or ()), *_told_by_cluster(wanted, found)]}
                for difference in container_differences(wanted.container, whole, settings):
                    yield f"the container named {CONTAINER} is not what the injector puts in: {difference}"


def _told_by_cluster(wanted: Sidecar, found: Json) -> list[Json]:
    """What a sidecar lacks that was put into a manifest outside of the cluster, where its API server is not known."""
    there = {variable["name"] for variable in found.get("env") or ()}
    return [one for one in wanted.container["env"] if one["name"] in API_SERVER and one["name"] not in there]


def _foreign_volumes(pod: Json, wanted: Sidecar) -> Iterator[str]:
    ours = {volume["name"]: volume for volume in wanted.volumes}
    seen: set[str] = set()
    for found in pod["spec"].get("volumes") or ():
        name = found["name"]
        if name in VOLUMES and (ours.get(name) != found or name in seen):
            yield f"the volume named {name} is not what the injector puts in; that name is the sidecar's"
        seen.add(name)


def _place(wanted: Sidecar) -> str:
    return "initContainers" if wanted.container.get("restartPolicy") == "Always" else "containers"


def _put_in(changes: "_Changes", wanted: Sidecar) -> None:
    spec, place = changes.pod["spec"], _place(wanted)
    there = {volume["name"] for volume in spec.get("volumes") or ()}
    missing = [volume for volume in wanted.volumes if volume["name"] not in there]
    changes.insert(("spec", "volumes"), len(there), missing)
    for index, found in enumerate(spec.get(place) or ()):
        if found["name"] == CONTAINER:
            end = len(found.get("env") or ())
            return changes.insert(("spec", place, index, "env"), end, _told_by_cluster(wanted, found))
    first = 0 if place == "initContainers" else len(spec["containers"])  # kubectl takes the first for the main one
    return changes.insert(("spec", place), first, [wanted.container])


def _tell_agents(changes: "_Changes", choices: Choices, settings: Settings) -> Iterator[str]:
    """Put the addresses of servers into the containers of the agent, and say where one had such a variable."""
    spec = changes.pod["spec"]
    for name in choices.excluded:
        if all(one["name"] != name for one in containers(spec)):
            yield f"{PREFIX}exclude-containers: there is no container {name}"
    for path, container in _told(spec, choices):
        own = {variable["name"] for variable in container.get("env") or ()}
        wanted = {server.variable: _url(server, settings) for server in choices.servers}
        missing = [{"name": name, "value": url} for name, url in wanted.items() if name not in own]
        if missing:
            changes.insert((*path, "env"), 0, missing)  # first, so that the agent's own may refer to them
        for name in sorted(wanted.keys() & own):
            values = [variable.get("value") for variable in container["env"] if variable["name"] == name]
            if values != [wanted[name]]:
                yield f"container {container['name']}: its own {name} is kept"


def _told(spec: Json, choices: Choices) -> Iterator[tuple[tuple[str | int, ...], Json]]:
    """The containers that are told of servers. Init containers are, where the sidecar runs before them."""
    for key in ("initContainers", "containers") if choices.native else ("containers",):
        for index, container in enumerate(spec.get(key) or ()):
            is_sidecar = key == "initContainers" and container.get("restartPolicy") == "Always"
            if container["name"] not in (CONTAINER, *choices.excluded) and not is_sidecar:
                yield ("spec", key, index), container


def _url(server: Server, settings: Settings) -> str:
    return f"http://127.0.0.1:{settings.sidecar.port}{server.path}"


def _status(choices: Choices, wanted: Sidecar) -> str:
    told = {"image": choices.image, "container": CONTAINER, "volumes": [volume["name"] for volume in wanted.volumes]}
    return json.dumps(told, separators=(",", ":"), sort_keys=True)


class _Changes:
    """Collects operations. Those on what lies in a list are to be asked for before those that lengthen the list."""

    def __init__(self, pod: Json) -> None:
        self.pod = pod
        self.operations: list[Json] = []
        self._made: set[Path] = set()

    def put(self, path: Path, value: str) -> None:
        """Set a text in a mapping, which is made where it is missing."""
        if self._ensured(path[:-1], {}).get(path[-1]) != value:
            self._add(path, value)

    def insert(self, path: Path, index: int, values: list[Json]) -> None:
        """Put values into a list before `index`, in their order; the list is made where it is missing."""
        if values:
            self._ensured(path, [])
        for offset, value in enumerate(values):
            self._add((*path, index + offset), value)

    def _ensured(self, path: Path, empty: Any) -> Any:
        found: Any = self.pod
        for part in path:
            found = found[part] if isinstance(part, int) else (found or {}).get(part)
        if found is not None:
            return found
        if path not in self._made:
            if len(path) > 1:
                self._ensured(path[:-1], {})
            self._made.add(path)
            self._add(path, empty)
        return empty

    def _add(self, path: Path, value: Any) -> None:
        pointer = "".join("/" + str(part).replace("/", "~1") for part in path)  # RFC 6901; none of ours has a ~
        self.operations.append({"op": "add", "path": pointer, "value": value})
