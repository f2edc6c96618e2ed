"""Pure: pods that cannot be governed, since an agent in them could pass for its sidecar, or reach into it.

A sidecar is worth as much as the wall between its container and the agent's. What takes that wall down is refused.
"""

from collections.abc import Iterator
from typing import Any

from openmcp.config.cursor import shortened
from openmcp.injector.container import VOLUMES, Json
from openmcp.injector.settings import CONTAINER, Settings, Trust

# What Pod Security's `baseline` lets a container add: none of it reaches beyond the container.
_HARMLESS = frozenset(
    (
        *("AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD"),
        *("NET_BIND_SERVICE", "SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT"),
    )
)


def faults(pod: Json, settings: Settings) -> list[str]:
    """Everything that keeps a well-formed pod from being governed, as sentences that say what to do."""
    spec = pod["spec"]
    found = [*_shared(spec), *_alone(spec), *_volumes(spec, settings), *_annotations(pod)]
    if not settings.trust.dns:
        found += _names(pod.get("metadata") or {}, spec)
    for container in agents(spec):
        found += [f"container {container['name']}: {fault}" for fault in _container(container, spec, settings)]
    return found


def agents(spec: Json) -> list[Json]:
    """All containers that are not the sidecar."""
    return [one for one in containers(spec) if one["name"] != CONTAINER]


def containers(spec: Json) -> list[Json]:
    """All containers, in the order in which they are started."""
    return [*(spec.get("initContainers") or ()), *(spec.get("containers") or ())]


def _shared(spec: Json) -> Iterator[str]:
    """Namespaces of Linux that the sidecar would share with the agent or the node."""
    reasons = {
        "hostNetwork": "every process of the node would reach the sidecar's loopback",
        "hostPID": "its processes see those of every sidecar on the node",
        "hostIPC": "its processes share memory with those of the node",
        "shareProcessNamespace": "the agent's processes would reach into the sidecar's",
    }
    for field, reason in reasons.items():
        if spec.get(field):
            yield f"{field}: {reason}; remove it"
    if (spec.get("os") or {}).get("name") == "windows":
        yield "os: the sidecar runs on Linux"


def _alone(spec: Json) -> Iterator[str]:
    """An `exec` that names no container goes to the only one, and no policy on `exec` sees which that is."""
    if all(one["name"] == CONTAINER for one in spec["containers"]):
        yield f"containers: there is none but {CONTAINER}; who gives no container's name to exec would be in it"


def _names(metadata: Json, spec: Json) -> Iterator[str]:
    """The sidecar resolves the names of MCP servers and of the API server as the pod says. The kubelet writes the
    hostname into the hosts file of all containers: `hostnameOverride`, else `hostname`, which has no dot, else the
    pod's name. Names that controllers make end by chance, and lead nowhere."""
    remedy = "an operator may allow it by trust.dns"
    if spec.get("hostnameOverride"):
        yield f"hostnameOverride: the sidecar would find a server of that name in the pod itself; {remedy}"
    elif not spec.get("hostname") and "." in str(metadata.get("name") or ""):
        yield (
            "metadata.name: it is the hostname too, and the sidecar would find a server of that name in the pod "
            f"itself; write it without dots, or a hostname; {remedy}"
        )
    if spec.get("hostAliases"):
        yield f"hostAliases: they would say where the sidecar finds its servers; {remedy}"
    given = spec.get("dnsConfig") or {}
    if spec.get("dnsPolicy") == "None" or given.get("nameservers") or given.get("searches"):
        yield f"dnsConfig: its servers or search domains would say where the sidecar finds its servers; {remedy}"


def _annotations(pod: Json) -> Iterator[str]:
    """Old annotations that say how a container is confined, one by its name."""
    for key in sorted((pod.get("metadata") or {}).get("annotations") or ()):
        if key.partition("/")[2] == CONTAINER and key.startswith("container."):
            yield f"annotation {shortened(key)}: the sidecar's confinement is not the pod's to say"


def _volumes(spec: Json, settings: Settings) -> Iterator[str]:
    spiffe = settings.sidecar.spiffe
    for volume in spec.get("volumes") or ():
        if volume["name"] in VOLUMES:
            continue  # compared with ours, field by field, elsewhere
        driver, path = (volume.get("csi") or {}).get("driver"), (volume.get("hostPath") or {}).get("path")
        if driver is not None and driver == spiffe.driver:
            yield f"volume {volume['name']}: the Workload API ({driver}) is the sidecar's alone"
        if volume.get("hostPath") is not None and not _is_below(path, settings.trust):
            yield (
                f"volume {volume['name']}: the folder {shortened(str(path))} of the node may lead to the sidecar's "
                "identity; an operator may allow it by trust.hostPaths"
            )


def _is_below(path: Any, trust: Trust) -> bool:
    if not isinstance(path, str) or ".." in path.split("/"):
        return False
    return any(path == folder or path.startswith(f"{folder}/") for folder in trust.host_paths)


def _container(container: Json, spec: Json, settings: Settings) -> Iterator[str]:
    ours = settings.sidecar
    security = container.get("securityContext") or {}
    if security.get("privileged"):
        yield "privileged: it is not kept from the sidecar; remove it"
    added = {str(name).removeprefix("CAP_") for name in (security.get("capabilities") or {}).get("add") or ()}
    for name in sorted(added - _HARMLESS - set(settings.trust.capabilities)):
        remedy = "an operator may allow it by trust.capabilities"
        yield f"capability {shortened(name)} reaches beyond the container; {remedy}"
    user = security.get("runAsUser", (spec.get("securityContext") or {}).get("runAsUser"))
    if user is not None and user == ours.run_as_user:
        yield f"runAsUser {user} is the sidecar's; choose another"
    for mount in (*(container.get("volumeMounts") or ()), *(container.get("volumeDevices") or ())):
        if mount["name"] in VOLUMES:
            yield f"mounts {mount['name']}, which is the sidecar's alone"
    for port in container.get("ports") or ():
        if port.get("containerPort") in (ours.port, ours.admin.port) and port.get("protocol", "TCP") == "TCP":
            yield f"port {port['containerPort']} is the sidecar's; the containers of a pod share their ports"
