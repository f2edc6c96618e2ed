"""Runs a pod as the API server has it, on this machine: its containers as processes, in the order of a kubelet.

    with run_pod(kube.read(pod), Node(kube, agent, IMAGES)) as running:
        running.wait("agent")                       # its exit code; `running.log("agent")` is what it printed

A container has the command, environment, user and mounts that its pod says, and nothing else (see `container`): a
volume of the SPIFFE CSI driver is the folder of a SPIRE agent's socket, a projected token is one that the API server
gave. Its image is this machine's Python with this project, and says which program is the entry point.
"""

from __future__ import annotations

import http.client
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.container import ADDRESS, Container, Mount, Network, command, network
from tests.support.kubernetes import KubeApi
from tests.support.process import ProcessFailed, Running, running
from tests.support.spire import Agent

Json = Mapping[str, Any]
PATIENCE = 60.0
_GLANCE = 0.05  # seconds between two looks at a process or a probe; they have no event
_REFERENCE = re.compile(r"\$\(([A-Za-z_][A-Za-z0-9_]*)\)")


@dataclass(frozen=True)
class Image:
    """What stands for an image: its entry point, user, environment, working directory and own files."""

    entrypoint: Sequence[str] = ()
    command: Sequence[str] = ()
    uid: int = 1000
    env: Mapping[str, str] = field(default_factory=dict)
    folder: str = "/"
    files: Sequence[Mount] = ()


@dataclass(frozen=True)
class Node:
    """Where pods run: an API server, the SPIRE agent of the node, the images by repository."""

    kube: KubeApi
    spire: Agent
    images: Mapping[str, Image]

    def image(self, reference: str) -> Image:
        """Return the image of a reference such as ``registry/path:tag``."""
        return self.images[re.sub(r"(:[^/:@]+)?(@.*)?$", "", reference)]


class RunningPod:
    """A pod whose init containers are done, and whose containers were started."""

    def __init__(self, pod: Json, node: Node, net: Network, folder: Path, hosts: Sequence[str]) -> None:
        self.pod = pod
        self.node = node
        self.network = net
        self.started: dict[str, Running] = {}
        """By the name of the container, in the order of their start."""
        self._folder = folder
        self._hosts = hosts
        self._stack = ExitStack()
        self._volumes = {volume["name"]: self._volume(volume) for volume in pod["spec"].get("volumes", [])}

    def start(self) -> None:
        """Do what a kubelet does until the last container is started.

        :raises ProcessFailed: an init container failed, or a sidecar did not come up.
        """
        spec = self.pod["spec"]
        for each in spec.get("initContainers", []):
            self._start(each)
            if each.get("restartPolicy") == "Always":
                self._await_probe(each)
            elif (code := self.wait(each["name"])) != 0:
                raise self.started[each["name"]].fail(f"ended with {code}")
        for each in spec["containers"]:
            self._start(each)

    def stop(self) -> None:
        """End all, the last that was started first."""
        self._stack.close()

    def wait(self, name: str) -> int:
        """Wait until a container has ended by itself, and return its exit code."""
        return self.started[name].process.wait(PATIENCE)

    def log(self, name: str) -> str:
        """Return what a container has printed so far."""
        return self.started[name].printed()

    def container(self, name: str, *words: str) -> Container:
        """Return a container as its pod says it, or one like it that runs other words, as ``kubectl exec`` does."""
        spec = self.pod["spec"]
        (each,) = [each for each in [*spec.get("initContainers", []), *spec["containers"]] if each["name"] == name]
        image, env = self.node.image(each["image"]), self._environment(each)
        own = [*(each.get("command") or image.entrypoint), *(each.get("args") or [])]
        if "command" not in each and "args" not in each:
            own += image.command
        user = {**spec.get("securityContext", {}), **each.get("securityContext", {})}.get("runAsUser", image.uid)
        return Container(
            words or [_expanded(word, env) for word in own],
            user,
            env,
            [*image.files, *(self._mount(mount) for mount in each.get("volumeMounts", []))],
            each.get("workingDir", image.folder),
            self._hosts,
        )

    def answer(self, port: int, path: str) -> tuple[int, bytes]:
        """Ask an HTTP port of the pod's address; 0 where nobody listens."""
        try:
            connection = http.client.HTTPConnection(ADDRESS, port, timeout=5)
            connection.sock = self.network.connect(port)
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read()
        except (OSError, http.client.HTTPException):
            return 0, b""

    def _start(self, each: Json) -> None:
        name = each["name"]
        words = command(self.container(name), self.network)
        self.started[name] = self._stack.enter_context(running(f"container {name}", words))

    def _await_probe(self, each: Json) -> None:
        probe = each["startupProbe"]["httpGet"]
        names = {port.get("name"): port["containerPort"] for port in each.get("ports", [])}
        port = names.get(probe["port"], probe["port"])
        self.started[each["name"]].wait_for(
            lambda: "ready" if 200 <= self.answer(port, probe["path"])[0] < 400 else None, PATIENCE
        )

    def _environment(self, each: Json) -> dict[str, str]:
        env = {
            **self.node.image(each["image"]).env,
            "KUBERNETES_SERVICE_HOST": "127.0.0.1",  # the kubelet's own, as for any pod
            "KUBERNETES_SERVICE_PORT": str(self.node.kube.port),
        }
        for variable in each.get("env", []):
            text = variable.get("value", "")
            if "valueFrom" in variable:
                text = self._field(variable["valueFrom"]["fieldRef"]["fieldPath"])
            env[variable["name"]] = _expanded(text, env)
        return env

    def _field(self, path: str) -> str:
        if path == "status.podIP":
            return ADDRESS
        found: Any = self.pod
        for part in path.split("."):
            found = found[part]
        return str(found)

    def _mount(self, mount: Json) -> Mount:
        source = self._volumes[mount["name"]] / mount.get("subPath", "")
        return Mount(str(source), mount["mountPath"], bool(mount.get("readOnly", False)))

    def _volume(self, volume: Json) -> Path:
        if "csi" in volume:
            assert volume["csi"]["driver"] == "csi.spiffe.io", volume
            return self.node.spire.process.api.parent
        folder = self._folder / volume["name"]
        folder.mkdir()
        folder.chmod(0o777 if "emptyDir" in volume else 0o755)
        for source in volume["projected"]["sources"] if "projected" in volume else [volume]:
            for name, text in self._files(source):
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_text(text)
                (folder / name).chmod(0o644)
        return folder

    def _files(self, source: Json) -> Iterator[tuple[str, str]]:
        """What a source of a volume holds."""
        meta = self.pod["metadata"]
        match source:
            case {"serviceAccountToken": token}:
                account = self.pod["spec"].get("serviceAccountName", "default")
                audiences = [token["audience"]] if "audience" in token else []
                seconds = token.get("expirationSeconds", 3600)
                yield (
                    token["path"],
                    self.node.kube.token_for(account, meta["namespace"], seconds=seconds, audiences=audiences),
                )
            case {"downwardAPI": downward}:
                for item in downward["items"]:
                    yield item["path"], self._field(item["fieldRef"]["fieldPath"])
            case {"configMap": chosen}:
                named = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": chosen["name"]}}
                data = self.node.kube.read(named, meta["namespace"])["data"]
                items = chosen.get("items") or [{"key": key, "path": key} for key in data]
                yield from ((item["path"], data[item["key"]]) for item in items)
            case {"emptyDir": _}:
                return
            case _:
                raise ProcessFailed(f"no such volume here: {source}")


@contextmanager
def run_pod(
    pod: Json,
    node: Node,
    services: Mapping[str, tuple[int, int | Network]] | None = None,
    prepared: Callable[[RunningPod], None] | None = None,
) -> Iterator[RunningPod]:
    """Run a pod until the block ends; `prepared` is called when its volumes are there and no container is.

    `services` are by name: the port under which the pod reaches it, and the port of this machine that it is, or the
    network of the pod that listens on this port.

    :raises ProcessFailed: it did not start.
    """
    with ExitStack() as stack:
        net = stack.enter_context(network())
        net.forward(node.kube.port, node.kube.port)
        for port, target in (services or {}).values():
            net.forward(port, port if isinstance(target, Network) else target, *_via(target))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pod-")))
        folder.chmod(0o755)
        made = RunningPod(pod, node, net, folder, list(services or {}))
        stack.callback(made.stop)
        if prepared is not None:
            prepared(made)
        made.start()
        yield made


def until(holds: Any, what: str, patience: float = PATIENCE) -> float:
    """Wait for something of a pod; return the seconds it took.

    :raises AssertionError: it did not come.
    """
    began = time.monotonic()
    while not holds():
        assert time.monotonic() < began + patience, f"waited {patience:.0f} s for {what}"
        time.sleep(_GLANCE)
    return time.monotonic() - began


def _via(target: int | Network) -> list[Network]:
    return [target] if isinstance(target, Network) else []


def _expanded(text: str, env: Mapping[str, str]) -> str:
    """Return a text with ``$(NAME)`` replaced as in Kubernetes."""
    return _REFERENCE.sub(lambda found: env.get(found[1], found[0]), text)
