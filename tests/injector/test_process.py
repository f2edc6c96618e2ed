"""`openmcp injector` as a process, with certificates from files, while the API server is away."""

import http.client
import json
import socket
import ssl
import subprocess
import time

import pytest

from openmcp.injector.authority import issue
from tests.injector.pods import pod
from tests.injector.test_server import NAME, asked
from tests.support.process import OPENMCP, free_ports, running
from tests.support.spire import wait_until

KUBECONFIG = """
apiVersion: v1
kind: Config
current-context: gone
clusters: [{name: gone, cluster: {server: "http://127.0.0.1:1"}}]
users: [{name: gone, user: {token: none}}]
contexts: [{name: gone, context: {cluster: gone, user: gone, namespace: openmcp-system}}]
"""


class Installed:
    """A folder with settings, a kubeconfig and a certificate."""

    def __init__(self, folder):
        self.folder = folder
        self.port, self.admin = free_ports(2)
        self.generation = self.write()
        (folder / "kubeconfig").write_text(KUBECONFIG)
        (folder / "injector.yaml").write_text(
            f"""
sidecar: {{image: registry.example/openmcp:1.4}}
listen: 127.0.0.1:{self.port}
admin: 127.0.0.1:{self.admin}
tls: {{type: files, certificate: tls.crt, key: tls.key}}
"""
        )

    command = property(lambda self: [OPENMCP, "injector", "--config", self.folder / "injector.yaml"])
    environment = property(lambda self: {"KUBECONFIG": str(self.folder / "kubeconfig")})

    def write(self):
        made = issue({NAME}, time.time(), 3600)
        (self.folder / "tls.crt").write_bytes(made.certificate)
        (self.folder / "tls.key").write_bytes(made.key)
        return made

    def ready(self):
        connection = http.client.HTTPConnection("127.0.0.1", self.admin, timeout=5)
        try:
            connection.request("GET", "/readyz")
            return "ready" if connection.getresponse().status == 200 else None
        except OSError:
            return None
        finally:
            connection.close()

    def post(self, generation):
        """What the webhook says to a review, to a client that trusts this CA."""
        trusting = ssl.create_default_context(cadata=generation.ca.decode())
        with (
            socket.create_connection(("127.0.0.1", self.port), timeout=5) as plain,
            trusting.wrap_socket(plain, server_hostname=NAME) as secure,
        ):
            body = json.dumps(asked(pod())).encode()
            secure.sendall(b"POST /mutate HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
            response = http.client.HTTPResponse(secure)
            response.begin()
            return response.status, json.loads(response.read())["response"]["allowed"]

    def trusted(self, generation):
        try:
            return self.post(generation) == (200, True)
        except ssl.SSLError:
            return False


@pytest.fixture
def installed(tmp_path):
    return Installed(tmp_path)


def test_pods_are_admitted_and_a_new_certificate_is_taken_over(installed):
    with running("openmcp injector", installed.command, installed.environment) as process:
        process.wait_for(installed.ready)
        assert installed.trusted(installed.generation)
        after = installed.write()
        wait_until(lambda: installed.trusted(after), "the new certificate")
        assert not installed.trusted(installed.generation)
        assert process.stop() == 0
        said = [json.loads(line) for line in process.printed().splitlines()]
    assert [line["outcome"] for line in said if line.get("kind") == "admission"][:1] == ["injected"]
    assert [line["message"] for line in said if line.get("level") in ("error", "critical")] == []


def test_without_a_certificate_it_is_not_ready_and_ends_all_the_same(installed):
    (installed.folder / "tls.key").unlink()
    with running("openmcp injector", installed.command, installed.environment) as process:
        process.wait_for(lambda: "admin on" if "admin on" in process.printed() else None)
        assert installed.ready() is None
        assert process.stop() == 0


def test_what_it_is_told_must_be_right(installed):
    (installed.folder / "injector.yaml").write_text("sidecar: {}\nlisten: everywhere")
    done = subprocess.run(installed.command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert [line.partition(": ")[2] for line in done.stderr.splitlines()] == [
        "sidecar: `image` is required",
        'listen: not an address to listen on: "everywhere" (write host:port, such as 127.0.0.1:15001)',
    ]


def test_it_needs_a_cluster(installed):
    (installed.folder / "kubeconfig").write_text("")
    done = subprocess.run(installed.command, capture_output=True, text=True, check=False, env=installed.environment)
    assert (done.returncode, done.stderr) == (
        3,
        "not in a pod (KUBERNETES_SERVICE_HOST is not set), and the kubeconfig cannot be used: "
        f"Invalid kube-config. {installed.folder}/kubeconfig file is empty\n",
    )


@pytest.mark.parametrize("taken", ["port", "admin"])
def test_it_says_where_it_cannot_listen(installed, taken):
    with socket.create_server(("127.0.0.1", getattr(installed, taken))):
        done = subprocess.run(
            installed.command, capture_output=True, text=True, check=False, env=installed.environment, timeout=60
        )
    address = f"('127.0.0.1', {getattr(installed, taken)})"
    assert done.returncode == 3
    assert f"cannot listen: [Errno 98] error while attempting to bind on address {address}" in done.stderr
