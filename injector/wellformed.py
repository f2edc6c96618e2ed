"""Pure: whether JSON is a pod, as far as the injector looks at it. The API server has checked it; a file has nobody."""

from collections.abc import Callable
from typing import Any

from openmcp.injector.container import Json


def fault(pod: Any) -> str | None:
    """What keeps us from reading it, or None: lists are lists of what they are for, or are absent."""
    try:
        _pod(pod)
    except _Malformed as error:
        return str(error)
    return None


class _Malformed(Exception):
    """Something is not what it has to be."""


def _pod(pod: Any) -> None:
    metadata = _optional(_mapping(pod, "the pod").get("metadata"), "metadata", _mapping)
    for key in ("labels", "annotations"):
        texts = _optional(metadata.get(key), f"metadata.{key}", _mapping)
        if not all(isinstance(text, str) for text in texts.values()):
            raise _Malformed(f"metadata.{key}: all values are texts")
    spec = _mapping(pod.get("spec"), "spec")
    for key in ("securityContext", "dnsConfig", "os"):
        _optional(spec.get(key), f"spec.{key}", _mapping)
    for volume in _named(spec, "volumes", "spec"):
        for key in ("csi", "hostPath"):
            _optional(volume.get(key), f"spec.volumes.{volume['name']}.{key}", _mapping)
    _containers(spec)


def _containers(spec: Json) -> None:
    found = [(key, one) for key in ("initContainers", "containers") for one in _named(spec, key, "spec")]
    for key, container in found:
        _container(container, f"spec.{key}.{container['name']}")
    if not spec.get("containers"):
        raise _Malformed("spec.containers: at least one is wanted")
    if len({container["name"] for _, container in found}) < len(found):
        raise _Malformed("spec: two containers have one name")


def _container(container: Json, path: str) -> None:
    for key in ("env", "volumeMounts", "volumeDevices"):
        _named(container, key, path)
    for port in _list(container, "ports", path):
        _mapping(port, f"{path}.ports")
    security = _optional(container.get("securityContext"), f"{path}.securityContext", _mapping)
    capabilities = _optional(security.get("capabilities"), f"{path}.securityContext.capabilities", _mapping)
    _list(capabilities, "add", f"{path}.securityContext.capabilities")


def _mapping(value: Any, path: str) -> Json:
    if not isinstance(value, dict):
        raise _Malformed(f"{path}: a mapping is wanted")
    return value


def _optional(value: Any, path: str, read: Callable[[Any, str], Json]) -> Json:
    return {} if value is None else read(value, path)


def _list(owner: Json, key: str, path: str) -> list[Any]:
    value = owner.get(key)
    if value is not None and not isinstance(value, list):
        raise _Malformed(f"{path}.{key}: a list is wanted")
    return value or []


def _named(owner: Json, key: str, path: str) -> list[Json]:
    items = _list(owner, key, path)
    for item in items:
        if not isinstance(_mapping(item, f"{path}.{key}").get("name"), str):
            raise _Malformed(f"{path}.{key}: each entry has a name")
    return items
