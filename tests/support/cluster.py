"""A cluster with OpenMCP in it: what the chart installs, applied to a real API server, and its injector as processes.

Controllers are missing (see `kubernetes`), so this makes what they would: the pods of a Deployment or Job, and in a new
namespace its service account and the CA of the cluster.
"""

from __future__ import annotations

import copy
import json
import socket
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml

from tests.real_parts.install import program
from tests.support.container import relay
from tests.support.kubernetes import KubeApi, objects
from tests.support.process import OPENMCP, ROOT, Running, free_ports, running

Json = Mapping[str, Any]
CHART = ROOT / "manifests" / "helm" / "openmcp"
SYSTEM = "openmcp-system"
INJECTOR = "openmcp-injector"
CLUSTER_SPIFFE_ID = (ROOT / "tests" / "fixtures" / "crds" / "clusterspiffeids.yaml").read_text()
_PATIENCE = 30.0


def rendered(*options: str, namespace: str = SYSTEM) -> list[dict[str, Any]]:
    """Return what ``helm install openmcp`` with these options would send to the API server."""
    command = [program("kubernetes", "helm"), "template", "openmcp", CHART, "--namespace", namespace, *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_PATIENCE)
    assert done.returncode == 0, done.stderr
    return [copy.deepcopy(dict(each)) for each in objects(done.stdout)]


def chosen(documents: Iterable[Json], kind: str, name: str | None = None) -> dict[str, Any]:
    """Return the one object of a kind, or of a kind and name."""
    found = [each for each in documents if each["kind"] == kind and name in (None, each["metadata"]["name"])]
    (one,) = found
    return dict(one)


def furnish(kube: KubeApi, namespace: str) -> None:
    """Put into a namespace what controllers put into each."""
    kube.service_account(namespace, "default")
    root = {"name": "kube-root-ca.crt", "namespace": namespace}
    kube.create({"apiVersion": "v1", "kind": "ConfigMap", "metadata": root, "data": {"ca.crt": kube.ca.decode()}})


def pod_of(owner: Json, **changes: str) -> dict[str, Any]:
    """Return the pod that a controller would make of a Deployment or Job; `changes` of its metadata."""
    template = copy.deepcopy(owner["spec"]["template"])
    meta = {"generateName": f"{owner['metadata']['name']}-", "namespace": owner["metadata"].get("namespace")}
    template.setdefault("metadata", {}).update({key: value for key, value in (meta | changes).items() if value})
    return {"apiVersion": "v1", "kind": "Pod", **template}


class Replicas:
    """Replicas of the injector behind one port, as a Service has them: each connection goes to the next one there."""

    def __init__(self, kube: KubeApi, folder: Path, settings: Json, stack: ExitStack) -> None:
        self.kube = kube
        self.running: list[tuple[Running, int, int]] = []
        """Process, port of the webhook, port for operators."""
        self._folder = folder
        self._settings = settings
        self._stack = stack
        self._turn = 0
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()
        stack.callback(self._listener.close)

    def start(self) -> Running:
        """Start one more, and wait until it is ready."""
        webhook, admin = free_ports(2)
        where = {"listen": f"127.0.0.1:{webhook}", "admin": f"127.0.0.1:{admin}"}
        number = len(list(self._folder.glob("injector-*.yaml")))
        file = self._folder / f"injector-{number}.yaml"
        file.write_text(json.dumps({**self._settings, **where}))
        config = self._folder / f"kubeconfig-{number}"
        self.kube.kubeconfig(config, SYSTEM, self.kube.token_for(INJECTOR, SYSTEM))
        environment = {"KUBECONFIG": str(config), "POD_NAME": f"{INJECTOR}-{number}"}
        command = [OPENMCP, "injector", "--config", file]
        started = self._stack.enter_context(running(f"openmcp injector {number}", command, environment))
        started.wait_for(lambda: "ready" if readiness(admin)[0] == 200 else None, _PATIENCE)
        self.running.append((started, webhook, admin))
        return started

    def stop(self) -> None:
        """End the oldest one by SIGTERM, as a kubelet does; others get the new connections at once."""
        started, _, _ = self.running.pop(0)
        code = started.stop()
        assert code == 0, started.fail(f"ended with {code}")

    def records(self) -> list[dict[str, Any]]:
        """Return the lines about admissions of those that run, by their time."""
        lines = [line for started, _, _ in self.running for line in started.printed().splitlines()]
        found = [json.loads(line) for line in lines if line.startswith("{")]
        return sorted((line for line in found if line.get("kind") == "admission"), key=lambda line: str(line["time"]))

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                threading.Thread(target=self._pass_on, args=(near,), daemon=True).start()

    def _pass_on(self, near: socket.socket) -> None:
        self._turn += 1
        there = list(self.running)
        for number in range(len(there)):
            _, port, _ = there[(self._turn + number) % len(there)]
            with suppress(OSError):
                far = socket.create_connection(("127.0.0.1", port), timeout=5)
                relay(near, far)
                return
        near.close()


def readiness(admin: int) -> tuple[int, str]:
    """Status and body of /readyz on a port of this machine; 0 while nobody listens."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{admin}/readyz", timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError:
        return 0, ""


def install(kube: KubeApi, documents: Iterable[Json], url: str | None = None) -> list[dict[str, Any]]:
    """Apply what the chart makes, CRDs first; `url` is where the webhook is, in the place of its Service."""
    wanted = [copy.deepcopy(dict(each)) for each in documents]
    wanted.sort(key=lambda each: each["kind"] != "CustomResourceDefinition")
    for each in wanted:
        if url is not None and each["kind"] == "MutatingWebhookConfiguration":
            for webhook in each["webhooks"]:
                del webhook["clientConfig"]["service"]
                webhook["clientConfig"]["url"] = url
    return kube.apply(wanted, SYSTEM)


def settings_of(documents: Iterable[Json], **changes: Any) -> dict[str, Any]:
    """Return the settings that the chart writes for the injector; `changes` go one level deep."""
    text = chosen(documents, "ConfigMap", INJECTOR)["data"]["injector.yaml"]
    found: dict[str, Any] = yaml.safe_load(text)
    for key, value in changes.items():
        found[key] = {**found.get(key, {}), **value} if isinstance(value, dict) else value
    return found


@contextmanager
def replicas(kube: KubeApi, folder: Path, settings: Json) -> Iterator[Replicas]:
    """Replicas of the injector, none at first; all end with the block."""
    with ExitStack() as stack:
        yield Replicas(kube, folder, settings, stack)


def trusted(kube: KubeApi) -> list[str]:
    """Return the caBundle of each of the injector's webhooks."""
    kind = {"apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration"}
    found = kube.read({**kind, "metadata": {"name": INJECTOR}})
    return [each["clientConfig"].get("caBundle", "") for each in found["webhooks"]]


def in_order(documents: Iterable[Json], kinds: Collection[str]) -> list[Json]:
    """Return the objects of these kinds."""
    return [each for each in documents if each["kind"] in kinds]
