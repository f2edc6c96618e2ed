"""Pure: whether a container of our name is the one that we put in.

It may have come back from the API server and from other webhooks. So what they are known to add is passed over, where
it cannot weaken the sidecar, and everything else counts: one more variable can make Python run another's code.
"""

from collections.abc import Iterator
from typing import Any

from openmcp.config.cursor import shortened
from openmcp.injector.container import Json
from openmcp.injector.settings import Settings

_DEFAULTS: Json = {"procMount": "Default"}
"""What the API server may fill in beside what we write."""

_OTHERS = frozenset(("resources", "resizePolicy"))
"""What LimitRanger and autoscalers set: the pod's own annotations may say as much."""

_NOTHING: tuple[Any, ...] = (None, [], {}, "", False)


def container_differences(ours: Json, found: Json, settings: Settings) -> Iterator[str]:
    """What keeps the container that was found from being ours, in words."""
    apart = {"env", "volumeMounts", "securityContext", *_OTHERS}
    for key in sorted((ours.keys() | found.keys()) - apart):
        yield from _unlike(key, ours.get(key), found.get(key))
    yield from _security(ours["securityContext"], found.get("securityContext") or {}, settings)
    yield from _entries("env", "name", ours, found, settings.trust.env)
    yield from _entries("volumeMounts", "mountPath", ours, found, settings.trust.mounts)
    if (found.get("resources") or {}).keys() - {"limits", "requests"}:
        yield "resources has claims"


def _unlike(key: str, ours: Any, found: Any) -> Iterator[str]:
    if ours == found or (ours is None and found in _NOTHING):
        return
    if ours is None:
        yield f"{shortened(key)} is set"
    elif isinstance(found, str) and isinstance(ours, str):
        yield f'{key} is "{shortened(found)}", not "{shortened(ours)}"'
    else:
        yield f"{key} differs"


def _security(ours: Json, found: Json, settings: Settings) -> Iterator[str]:
    chosen_by_cluster = ("runAsUser", "seLinuxOptions") if settings.sidecar.run_as_user is None else ()
    for key in sorted((ours.keys() | found.keys()) - set(chosen_by_cluster)):
        if key not in _DEFAULTS or found.get(key) != _DEFAULTS[key]:
            yield from _unlike(f"securityContext.{key}", ours.get(key), found.get(key))


def _entries(key: str, name: str, ours: Json, found: Json, allowed: tuple[str, ...]) -> Iterator[str]:
    """Lists whose entries have names: each of ours once and as it is, others only where they are allowed."""
    there = found.get(key) or []
    for entry in ours[key]:
        same = [other for other in there if other.get(name) == entry[name]]
        if same != [entry]:
            yield f"{key}: {entry[name]} differs"
    own = {entry[name] for entry in ours[key]}
    for other in there:
        if other.get(name) not in own and other.get(name) not in allowed:
            yield f"{key}: {shortened(str(other.get(name)))} was added"
