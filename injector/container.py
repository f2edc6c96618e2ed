"""Pure: the sidecar as it stands in a pod: one container and its volumes, as JSON of the Kubernetes API.

All fields that the API server would fill in are written out, so that what comes back to us is what we wrote.
"""

from typing import Any

import msgspec

from openmcp.config.addresses import shown
from openmcp.injector.annotations import Choices
from openmcp.injector.settings import CONTAINER, Settings

Json = dict[str, Any]

SOCKET_FOLDER = "/run/spire/agent-sockets"
"""Where the socket of the Workload API is in the sidecar."""
CONFIG_FOLDER = "/etc/openmcp"
API_SERVER = ("KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT")
"""Variables that say where the API server is."""
CREDENTIALS = "/var/run/secrets/kubernetes.io/serviceaccount"

SOCKET_VOLUME = f"{CONTAINER}-workload-api"
CONFIG_VOLUME = f"{CONTAINER}-config"
TOKEN_VOLUME = f"{CONTAINER}-token"
VOLUMES = (SOCKET_VOLUME, CONFIG_VOLUME, TOKEN_VOLUME)
"""All names that volumes of ours may have."""

_TOKEN_SECONDS = 3607  # as the API server's own; it is renewed after 80 percent of it
_MODE = 0o644


class Sidecar(msgspec.Struct, frozen=True):
    """What goes into a pod."""

    container: Json
    volumes: tuple[Json, ...]


def sidecar(choices: Choices, settings: Settings) -> Sidecar:
    """The container and its volumes."""
    volumes = [_credentials()]
    if choices.volume != "none":
        volumes.append(_socket(choices, settings))
    if choices.config is not None:
        volumes.append({"name": CONFIG_VOLUME, "configMap": {"name": choices.config, "defaultMode": _MODE}})
    return Sidecar(_container(choices, settings), tuple(volumes))


def _container(choices: Choices, settings: Settings) -> Json:
    ours = settings.sidecar
    level = [] if choices.log_level is None else ["--log-level", choices.log_level]
    made: Json = {
        "name": CONTAINER,
        "image": choices.image,
        "imagePullPolicy": ours.image_pull_policy,
        "args": ["run", "-c", f"{CONFIG_FOLDER}/gateway.yaml", "--admin", shown(ours.admin), *level],
        "ports": [{"name": "openmcp-admin", "containerPort": ours.admin.port, "protocol": "TCP"}],
        "env": _environment(choices, settings),
        "resources": _resources(choices),
        "volumeMounts": _mounts(choices),
        # Ready within the second that passes before the first probe, or soon after: the agent waits for the next one.
        "startupProbe": _probe("/readyz", settings, period=1, failures=300),
        "readinessProbe": _probe("/readyz", settings, period=5, failures=3),
        "livenessProbe": _probe("/healthz", settings, period=10, failures=6),
        "terminationMessagePath": "/dev/termination-log",
        "terminationMessagePolicy": "File",  # never the last lines of the log: they may be the record
        "securityContext": _security(settings),
    }
    return made | {"restartPolicy": "Always"} if choices.native else made


def _environment(choices: Choices, settings: Settings) -> list[Json]:
    ours = settings.sidecar
    variables: list[Json] = [_of_pod("POD_NAME", "metadata.name"), _of_pod("POD_NAMESPACE", "metadata.namespace")]
    texts = {"OTEL_RESOURCE_ATTRIBUTES": "k8s.namespace.name=$(POD_NAMESPACE),k8s.pod.name=$(POD_NAME)"}
    if choices.volume != "none":
        texts["SPIFFE_ENDPOINT_SOCKET"] = f"unix://{SOCKET_FOLDER}/{ours.spiffe.socket}"
    if ours.api_server is not None:
        texts |= dict(zip(API_SERVER, (ours.api_server.host, str(ours.api_server.port)), strict=True))
    return variables + [{"name": name, "value": text} for name, text in texts.items()]


def _of_pod(name: str, field: str) -> Json:
    return {"name": name, "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": field}}}


def _resources(choices: Choices) -> Json:
    chosen = choices.resources
    limits = {"cpu": chosen.cpu_limit, "memory": chosen.memory_limit}
    given = {name: limit for name, limit in limits.items() if limit is not None}
    return {"requests": {"cpu": chosen.cpu, "memory": chosen.memory}} | ({"limits": given} if given else {})


def _mounts(choices: Choices) -> list[Json]:
    mounts = {TOKEN_VOLUME: CREDENTIALS}
    if choices.volume != "none":
        mounts[SOCKET_VOLUME] = SOCKET_FOLDER
    if choices.config is not None:
        mounts[CONFIG_VOLUME] = CONFIG_FOLDER
    return [{"name": name, "mountPath": path, "readOnly": True} for name, path in mounts.items()]


def _probe(path: str, settings: Settings, *, period: int, failures: int) -> Json:
    return {
        "httpGet": {"path": path, "port": settings.sidecar.admin.port, "scheme": "HTTP"},
        "timeoutSeconds": 2,
        "periodSeconds": period,
        "successThreshold": 1,
        "failureThreshold": failures,
    }


def _security(settings: Settings) -> Json:
    """What Pod Security's `restricted` wants, and a root file system that cannot be written to."""
    user = settings.sidecar.run_as_user
    return {
        "runAsNonRoot": True,
        **({} if user is None else {"runAsUser": user, "runAsGroup": user}),
        "privileged": False,
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def _credentials() -> Json:
    """A service account token of the sidecar's own: the pod may go without (automountServiceAccountToken: false)."""
    namespace = {"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}
    sources = [
        {"serviceAccountToken": {"path": "token", "expirationSeconds": _TOKEN_SECONDS}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [namespace]}},
    ]
    return {"name": TOKEN_VOLUME, "projected": {"sources": sources, "defaultMode": _MODE}}


def _socket(choices: Choices, settings: Settings) -> Json:
    spiffe = settings.sidecar.spiffe
    if choices.volume == "csi":
        return {"name": SOCKET_VOLUME, "csi": {"driver": spiffe.driver, "readOnly": True}}
    return {"name": SOCKET_VOLUME, "hostPath": {"path": spiffe.directory, "type": "Directory"}}
