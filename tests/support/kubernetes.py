"""A real Kubernetes API over loopback: kube-apiserver on etcd, with RBAC and the default admission plugins.

    with kube_api() as kube:
        namespace = kube.namespace("mesh")              # new; pods can be made in it at once
        kube.apply(text_or_documents, namespace)        # as `kubectl apply --server-side` does, CRDs are waited for
        kube.settle()                                   # admission policies that were stored are in force
        kube.kubeconfig(file, namespace)                # for the administrator, or a service account's token
        kube.kill(); ...; kube.restart()                # same port, same data

There are no nodes and no controllers: nothing runs, no ReplicaSet makes pods, a namespace that is deleted stays. So
bare Pods are created. Webhooks are reached by ``clientConfig.url`` on 127.0.0.1. All requests here block: a test whose
own event loop serves the webhook makes them by ``asyncio.to_thread``. What is refused raises `Rejected`.
"""

from __future__ import annotations

import base64
import http.client
import itertools
import json
import re
import signal
import ssl
import tempfile
import threading
import time
import urllib.parse
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import trustme
import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.real_parts.install import program
from tests.support.process import Running, free_ports, running

Json = Mapping[str, Any]
ISSUER = "https://kubernetes.default.svc.cluster.local"
"""Who issues the tokens of service accounts, and their default audience."""
APPLY = "application/apply-patch+yaml"
MERGE = "application/merge-patch+json"
_ADMISSION, _POLICY = "admissionregistration.k8s.io/v1", "ValidatingAdmissionPolicy"
_PATIENCE = 60.0  # seconds: a first start makes all roles and takes ten on two busy cores
_IDLE = 60.0
"""Seconds after which a connection is not used again: API servers close those that are idle for 90."""
_LOG_SHOWN = 40  # lines
_ERROR = re.compile(r"[EF]\d{4} ")


class Rejected(Exception):
    """The API server refused: HTTP `status`, the `reason` as `Invalid`, its `message`."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(f"{status} {reason}: {message}")
        self.status = status
        self.reason = reason
        self.message = message


class KubeApi:
    """A running kube-apiserver with its etcd. Its requests may be made by any thread."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder = folder
        self.port, self._etcd, peers = free_ports(3)  # still free when a server comes back to its own
        self.url = f"https://127.0.0.1:{self.port}"
        self._authority = trustme.CA()
        self.ca = self._authority.cert_pem.bytes()
        """The CA of its certificate, PEM."""
        self.admin = self._write_keys()
        """A file: certificate and key of an administrator, PEM."""
        self._context = ssl.create_default_context(cadata=self.ca.decode())
        self._context.load_cert_chain(self.admin)
        self._local = threading.local()
        self._generation = 0
        self._numbers = itertools.count(1)
        self._resources: dict[str, dict[str, Json]] = {}
        self._stack = stack
        etcd = stack.enter_context(running("etcd", self._etcd_command(peers)))
        etcd.wait_for(self._etcd_ready, _PATIENCE)
        self._server = self._start()

    # Processes

    def kill(self) -> None:
        """Kill the API server; etcd goes on."""
        self._server.process.kill()
        self._server.process.wait()
        self._generation += 1

    def restart(self) -> None:
        """Start the API server that was killed, on the same port and the same data; wait until it is ready."""
        self._server = self._start()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Let the API server hang: its connections stay and nothing comes through them."""
        self._server.process.send_signal(signal.SIGSTOP)
        try:
            self._server.wait_for(self._stopped)
            yield
        finally:
            self._server.process.send_signal(signal.SIGCONT)

    def _stopped(self) -> str | None:
        """Each thread stops when it has a processor next, which on a busy machine is later than the signal."""
        with suppress(FileNotFoundError):  # a thread that ended meanwhile
            threads = Path(f"/proc/{self._server.process.pid}/task").iterdir()
            states = {(thread / "stat").read_text().rpartition(") ")[2][0] for thread in threads}
            return "stopped" if states == {"T"} else None
        return None

    def revision(self) -> int:
        """Return etcd's revision: the newest resourceVersion."""
        return int(self._ask_etcd("/v3/maintenance/status", {})["header"]["revision"])

    def compact(self) -> int:
        """Have etcd forget all but the newest of everything, as of a version that nobody has seen; return that."""
        self._ask_etcd("/v3/kv/put", {"key": _text(b"/tests/moved-on"), "value": _text(b"")})
        revision = self.revision()
        self._ask_etcd("/v3/kv/compaction", {"revision": revision, "physical": True})
        return revision

    def multiply(self, document: Json, names: Iterable[str], namespace: str = "default") -> None:
        """Store copies of an object of a CRD that is stored, by their names: a thousand a second.

        Done in etcd, as the API server would take ten times as long; their `spec` is the same.
        """
        _, _, group, _, _, place, resource, name = self.path(document, namespace).split("/")
        folder = f"/registry/{group}/{resource}/{place}"
        (found,) = self._ask_etcd("/v3/kv/range", {"key": _text(f"{folder}/{name}".encode())})["kvs"]
        made = json.loads(base64.b64decode(found["value"]))
        for each in names:  # one by one: two objects of one version are not to be met in a cluster
            meta = {**made["metadata"], "name": each, "uid": str(uuid.uuid4())}
            value = json.dumps({**made, "metadata": meta}).encode()
            self._ask_etcd("/v3/kv/put", {"key": _text(f"{folder}/{each}".encode()), "value": _text(value)})

    # Requests

    def call(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        params: Mapping[str, str] | None = None,
        content_type: str = "application/json",
        headers: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        """Return the answer to one request of the administrator (`Impersonate-User` in `headers`: of somebody else).

        :raises Rejected: it was refused.
        :raises OSError: the API server is not there.
        """
        target = f"{path}?{urllib.parse.urlencode(params)}" if params else path
        data = None if body is None else json.dumps(body).encode()
        status, answer = self._exchange(method, target, data, {"content-type": content_type, **(headers or {})})
        if status >= 400:
            raise _rejection(status, answer)
        return dict(json.loads(answer))

    def get(self, path: str, **params: str) -> dict[str, Any]:
        """Return what is at a path."""
        return self.call("GET", path, params=params)

    def text(self, path: str) -> str:
        """Return what is at a path that has no JSON (`/metrics`)."""
        status, answer = self._exchange("GET", path, None, {})
        if status >= 400:
            raise _rejection(status, answer)
        return answer.decode()

    def create(self, document: Json, namespace: str = "default", *, dry_run: bool = False) -> dict[str, Any]:
        """Create an object as ``kubectl create`` does: unknown fields are refused. Return it as it was stored."""
        params = {"fieldManager": "tests", "fieldValidation": "Strict", **_dry(dry_run)}
        return self.call("POST", self.path(document, namespace, whole=False), document, params=params)

    def apply(
        self, documents: str | Iterable[Json], namespace: str = "default", *, dry_run: bool = False
    ) -> list[dict[str, Any]]:
        """Apply YAML or objects in this order as ``kubectl apply --server-side --force-conflicts`` does; return them.

        `namespace` is for those that name none. CRDs and their API are waited for.
        """
        applied = []
        params = {"fieldManager": "tests", "force": "true", "fieldValidation": "Strict", **_dry(dry_run)}
        for document in objects(documents):
            path = self.path(document, namespace)
            applied.append(self.call("PATCH", path, document, params=params, content_type=APPLY))
            if document["kind"] == "CustomResourceDefinition" and not dry_run:
                self.wait_for_crd(document)
        return applied

    def read(self, document: Json, namespace: str = "default") -> dict[str, Any]:
        """Return an object as it is now."""
        return self.get(self.path(document, namespace))

    def patch(self, document: Json, change: Json, namespace: str = "default", subresource: str = "") -> dict[str, Any]:
        """Merge `change` into an object, or into its subresource ("status"); return it."""
        path = "/".join(filter(None, (self.path(document, namespace), subresource)))
        return self.call("PATCH", path, change, content_type=MERGE, params={"fieldValidation": "Strict"})

    def delete(self, document: Json, namespace: str = "default") -> None:
        """Delete an object; it is gone when this returns."""
        self.call("DELETE", self.path(document, namespace), params={"gracePeriodSeconds": "0"})

    def path(self, document: Json, namespace: str = "default", *, whole: bool = True) -> str:
        """Return the path of an object, or that of its collection."""
        version, meta = document["apiVersion"], document.get("metadata", {})
        resource = self._resource(version, document["kind"])
        where = ["", "apis" if "/" in version else "api", version]
        if resource["namespaced"]:
            where += ["namespaces", meta.get("namespace", namespace)]
        return "/".join([*where, resource["name"], *([meta["name"]] if whole else [])])

    def wait_for_crd(self, document: Json) -> None:
        """Wait until objects of the kind that this CRD defines are taken."""
        spec = document["spec"]
        paths = [
            f"/apis/{spec['group']}/{version['name']}/{spec['names']['plural']}"
            for version in spec["versions"]
            if version["served"]
        ]
        self._server.wait_for(lambda: "served" if all(map(self._served, paths)) else None, _PATIENCE)

    def settle(self) -> None:
        """Wait until the API server heeds all admission policies and bindings as they are stored now.

        It takes note of them in the order in which they were stored, all at once and once a second: so another policy
        is stored after them, and what that refuses is tried until it is refused.
        """
        name = f"settled-{next(self._numbers)}"
        match = {"apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"], "operations": ["CREATE"]}
        policy = {
            "matchConstraints": {"resourceRules": [match]},
            "validations": [{"expression": f"object.metadata.name != '{name}'", "message": name}],
        }
        binding = {"policyName": name, "validationActions": ["Deny"]}
        kinds = ((_POLICY, policy), (f"{_POLICY}Binding", binding))
        stored = [{"apiVersion": _ADMISSION, "kind": kind, "metadata": {"name": name}, "spec": s} for kind, s in kinds]
        tried = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}}

        def heeded() -> str | None:
            try:
                self.create(tried, dry_run=True)
            except Rejected as rejected:
                return "heeded" if name in rejected.message else None
            return None

        for each in stored:
            self.create(each)
        self._server.wait_for(heeded, _PATIENCE)
        for each in reversed(stored):
            self.delete(each)

    # What a cluster's controllers would do

    def namespace(self, name: str = "test", labels: Mapping[str, str] | None = None) -> str:
        """Make a namespace of its own for a test, with the service account `default`; return its name."""
        unique = f"{name}-{next(self._numbers)}"
        self.create(
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": unique, "labels": {**(labels or {})}}}
        )
        self.service_account(unique, "default")
        root = {"name": "kube-root-ca.crt", "namespace": unique}
        data = {"ca.crt": self.ca.decode()}
        self.create({"apiVersion": "v1", "kind": "ConfigMap", "metadata": root, "data": data})
        return unique

    def service_account(self, namespace: str, name: str) -> None:
        """Make a service account; pods that name none have `default`."""
        self.create({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "namespace": namespace}})

    def token_for(self, account: str, namespace: str, *, seconds: int = 3600, audiences: Sequence[str] = ()) -> str:
        """Return a token of a service account, as the kubelet gets it for a pod; it lives ten minutes at least."""
        request = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"expirationSeconds": seconds, "audiences": [*audiences] or [ISSUER]},
        }
        made = self.call("POST", f"/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token", request)
        return str(made["status"]["token"])

    def account_files(self, folder: Path, account: str, namespace: str) -> dict[str, str]:
        """Write what a pod finds at `/var/run/secrets/kubernetes.io/serviceaccount`; return its environment."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "token").write_text(self.token_for(account, namespace))
        (folder / "ca.crt").write_bytes(self.ca)
        (folder / "namespace").write_text(namespace)
        return {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": str(self.port)}

    def kubeconfig(self, file: Path, namespace: str = "default", token: str | None = None) -> Path:
        """Write a kubeconfig: the administrator's, or that of the holder of `token`; return `file`."""
        administrator = {"client-certificate": str(self.admin), "client-key": str(self.admin)}
        user = administrator if token is None else {"token": token}
        cluster = {"server": self.url, "certificate-authority-data": base64.b64encode(self.ca).decode()}
        whole = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "tests",
            "clusters": [{"name": "tests", "cluster": cluster}],
            "users": [{"name": "tests", "user": user}],
            "contexts": [{"name": "tests", "context": {"cluster": "tests", "user": "tests", "namespace": namespace}}],
        }
        file.write_text(json.dumps(whole, indent=1))  # JSON is YAML
        return file

    # Inside

    def _write_keys(self) -> Path:
        (self.folder / "ca.pem").write_bytes(self.ca)
        served = self._authority.issue_cert("127.0.0.1", "localhost", "kubernetes.default.svc")
        served.private_key_and_cert_chain_pem.write_to_path(str(self.folder / "server.pem"))
        admin = self.folder / "admin.pem"
        shown = self._authority.issue_cert("admin.invalid", common_name="admin", organization_name="system:masters")
        shown.private_key_and_cert_chain_pem.write_to_path(str(admin))
        key = ec.generate_private_key(ec.SECP256R1())
        form = serialization.PrivateFormat.TraditionalOpenSSL  # the only one that is taken for an EC key
        pem = key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
        (self.folder / "accounts.key").write_bytes(pem)
        return admin

    def _etcd_command(self, peers: int) -> list[str | Path]:
        listens = f"http://127.0.0.1:{self._etcd}"
        options = {
            "data-dir": self.folder / "etcd",
            "listen-client-urls": listens,
            "advertise-client-urls": listens,
            "listen-peer-urls": f"http://127.0.0.1:{peers}",
            "log-level": "warn",
            "unsafe-no-fsync": "true",
        }
        return [program("kubernetes", "server"), *_flags(options)]  # `server` is the name Go builds etcd under

    def _server_command(self) -> list[str | Path]:
        folder = self.folder
        options = {
            "etcd-servers": f"http://127.0.0.1:{self._etcd}",
            "bind-address": "127.0.0.1",
            "advertise-address": "127.0.0.1",
            "endpoint-reconciler-type": "none",
            "secure-port": self.port,
            "cert-dir": folder,
            "tls-cert-file": folder / "server.pem",
            "tls-private-key-file": folder / "server.pem",
            "client-ca-file": folder / "ca.pem",
            "authorization-mode": "RBAC",
            "allow-privileged": "true",
            "service-cluster-ip-range": "10.0.0.0/24",
            "service-account-issuer": ISSUER,
            "service-account-key-file": folder / "accounts.key",
            "service-account-signing-key-file": folder / "accounts.key",
        }
        return [program("kubernetes", "kube-apiserver"), *_flags(options)]

    def _start(self) -> Running:
        self._generation += 1
        server = self._stack.enter_context(running("kube-apiserver", self._server_command()))
        self._stack.callback(_show_errors, server)
        server.wait_for(self._ready, _PATIENCE)
        return server

    def _ready(self) -> str | None:
        with suppress(OSError, http.client.HTTPException):
            if self._exchange("GET", "/readyz", None, {})[0] == 200:
                # Made by it after its start, and needed for what is in them.
                found = [self._exchange("GET", f"/api/v1/namespaces/{name}", None, {})[0] for name in _OF_ITS_OWN]
                return "ready" if set(found) == {200} else None
        return None

    def _etcd_ready(self) -> str | None:
        with suppress(OSError, http.client.HTTPException):
            return "ready" if self._ask_etcd("/v3/maintenance/status", {}) else None
        return None

    def _ask_etcd(self, path: str, body: object) -> dict[str, Any]:
        connection: http.client.HTTPConnection | None = getattr(self._local, "etcd", None)
        if connection is None:
            connection = http.client.HTTPConnection("127.0.0.1", self._etcd, timeout=_PATIENCE)
            self._local.etcd = connection
        try:
            connection.request("POST", path, json.dumps(body))
            answer = connection.getresponse()
            content = answer.read()
        except BaseException:
            connection.close()  # it is opened anew by the next request
            raise
        assert answer.status == 200, content
        return dict(json.loads(content))

    def _exchange(self, method: str, target: str, data: bytes | None, headers: Mapping[str, str]) -> tuple[int, bytes]:
        connection = self._connection()
        try:
            connection.request(method, target, data, dict(headers))
            answer = connection.getresponse()
            return answer.status, answer.read()
        except BaseException:
            connection.close()  # it is opened anew by the next request
            raise

    def _connection(self) -> http.client.HTTPSConnection:
        """Return this thread's connection to the API server that runs now."""
        mine: tuple[int, http.client.HTTPSConnection] | None = getattr(self._local, "connection", None)
        idle, self._local.used = time.monotonic() - getattr(self._local, "used", 0.0), time.monotonic()
        if mine is None or mine[0] != self._generation or idle > _IDLE:
            if mine is not None:
                mine[1].close()
            made = http.client.HTTPSConnection("127.0.0.1", self.port, timeout=_PATIENCE, context=self._context)
            self._local.connection = mine = (self._generation, made)
        return mine[1]

    def _resource(self, version: str, kind: str) -> Json:
        known = self._resources.get(version, {})
        if kind not in known:
            found = self.get(f"/apis/{version}" if "/" in version else f"/api/{version}")["resources"]
            known = self._resources[version] = {each["kind"]: each for each in found if "/" not in each["name"]}
        if kind not in known:
            raise Rejected(404, "NotFound", f'no matches for kind "{kind}" in version "{version}"')
        return known[kind]

    def _served(self, path: str) -> bool:
        """Whether a kind is taken and listed: its API comes soon after its CRD, discovery soon after that."""
        group = path.rpartition("/")[0]
        with suppress(Rejected):
            self.get(path, limit="1")
            return any(path == f"{group}/{each['name']}" for each in self.get(group)["resources"])
        return False


_OF_ITS_OWN = ("default", "kube-system", "kube-public", "kube-node-lease")


@contextmanager
def kube_api() -> Iterator[KubeApi]:
    """Run etcd and kube-apiserver; the errors of the latter are printed at the end."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kube-")))
        yield KubeApi(folder, stack)


def objects(documents: str | Iterable[Json]) -> Iterator[Json]:
    """Return the objects of some YAML, or of these documents; what is in a `List` comes one by one."""
    for document in yaml.safe_load_all(documents) if isinstance(documents, str) else documents:
        if document is None:
            continue
        if document["kind"].endswith("List") and "items" in document:
            yield from objects(document["items"])
        else:
            yield document


def refused(request: Callable[[], object]) -> Rejected:
    """Return how the API server refused this request.

    :raises AssertionError: it did not.
    """
    try:
        answer = request()
    except Rejected as rejected:
        return rejected
    raise AssertionError(f"not refused: {answer}")


def _rejection(status: int, answer: bytes) -> Rejected:
    try:
        found = json.loads(answer)
        return Rejected(status, str(found.get("reason", "")), str(found.get("message", "")))
    except ValueError:
        return Rejected(status, "", answer.decode(errors="replace"))


def _text(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def _dry(dry_run: bool) -> dict[str, str]:
    return {"dryRun": "All"} if dry_run else {}


def _flags(options: Mapping[str, object]) -> list[str]:
    return [f"--{name}={value}" for name, value in options.items()]


def _show_errors(server: Running) -> None:
    lines = [line for line in server.printed().splitlines() if _ERROR.match(line)]
    print("--- errors of kube-apiserver ---", *lines[-_LOG_SHOWN:], sep="\n")
