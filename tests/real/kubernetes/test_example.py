"""examples/kubernetes, step by step as its README says, on a real API server and real SPIRE.

The pods are the ones that the API server has stored after the webhook; each container runs as a process with the very
command, environment, user and mounts that are written there (see `tests.support.kubelet`).
"""

from __future__ import annotations

import asyncio
import http.client
import json
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.approvals.console.site import Browser
from tests.support.cluster import CLUSTER_SPIFFE_ID, SYSTEM, chosen, furnish, install, pod_of, rendered
from tests.support.container import Mount, needed
from tests.support.gate import call, modern, modern_headers
from tests.support.kubelet import Image, Node, RunningPod, run_pod, until
from tests.support.kubernetes import KubeApi, Rejected, kube_api, objects, refused
from tests.support.parts import require
from tests.support.process import OPENMCP, ROOT, free_ports
from tests.support.spire import Agent, Domain, trust_domain

pytestmark = pytest.mark.real

FOLDER = ROOT / "examples" / "kubernetes"
README = (FOLDER / "README.md").read_text(encoding="utf-8")
DOMAIN = "example.org"
BOT, TICKETS = f"spiffe://{DOMAIN}/ns/support-ai/sa/support-bot", f"spiffe://{DOMAIN}/ns/tools/sa/tickets"
SIDECAR_USER, SERVER_USER = 65532, 1000
PATIENCE = 20.0
SOON = 1.0
"""Seconds until running sidecars obey a change."""
TRIES = 5
IMAGE = "ghcr.io/openmcp/openmcp:0.1.0"
RSS = 130
"""MiB."""
IMAGES = {
    "ghcr.io/openmcp/openmcp": Image(
        [str(OPENMCP)],
        ["run", "-c", "/etc/openmcp/gateway.yaml"],
        SIDECAR_USER,
        {"PYTHONDONTWRITEBYTECODE": "1", "HOME": "/tmp"},
        files=[Mount(str(ROOT / "manifests" / "docker" / "gateway.yaml"), "/etc/openmcp/gateway.yaml")],
    ),
    "openmcp-example": Image(
        [sys.executable],
        uid=1000,
        folder="/app",
        env={"PYTHONDONTWRITEBYTECODE": "1"},
        files=[
            Mount(str(ROOT / "examples" / "vm-spire" / "server.py"), "/app/server.py"),
            Mount(str(FOLDER / "agent.py"), "/app/agent.py"),
        ],
    ),
}


def shown(command: str) -> str:
    """What the README says that a command prints."""
    (output,) = re.findall(rf"```sh\n(?:[^`]*\n)?{re.escape(command)}\n```\n\n```\n(.*?)```", README, re.DOTALL)
    return str(output)


@dataclass
class Cluster:
    """The cluster of the example after step 4: the injector and the MCP server run."""

    kube: KubeApi
    domain: Domain
    node: Agent
    injector: RunningPod
    tickets: RunningPod

    def apply(self, name: str) -> list[dict[str, Any]]:
        """``kubectl apply -f examples/kubernetes/NAME``, which the README must say."""
        assert f"kubectl apply -f examples/kubernetes/{name}\n" in README
        return self.kube.apply((FOLDER / name).read_text())

    @contextmanager
    def job(self, name: str) -> Iterator[RunningPod]:
        """Apply a file with a Job, and run the pod that its controller would make."""
        self.apply("agent.yaml")  # its service account is there
        with self.run(pod_of(chosen(self.apply(name), "Job"))) as running:
            yield running

    @contextmanager
    def run(self, pod: dict[str, Any], prepared: Callable[[RunningPod], None] | None = None) -> Iterator[RunningPod]:
        """Create a pod in `support-ai`, through the webhook, and run it as it was stored."""
        stored = self.kube.create(pod, "support-ai")
        services = {"tickets.tools.svc": (8443, self.tickets.network)}
        with run_pod(stored, Node(self.kube, self.node, IMAGES), services, prepared) as running:
            yield running
        self.kube.delete(stored, "support-ai")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    require("kubernetes", "spire")
    needed()
    with ExitStack() as stack:
        kube = stack.enter_context(kube_api())
        domain = stack.enter_context(trust_domain(DOMAIN))
        node, tools = domain.agent("node"), domain.agent("tools")
        chart = rendered("-f", str(FOLDER / "openmcp-values.yaml"))
        kube.apply(CLUSTER_SPIFFE_ID)
        kube.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SYSTEM}})
        kube.apply((FOLDER / "namespaces.yaml").read_text())
        for name in (SYSTEM, "support-ai", "tools"):
            furnish(kube, name)
        (webhook,) = free_ports(1)
        install(kube, chart, f"https://127.0.0.1:{webhook}/mutate")
        injector = stack.enter_context(started_injector(kube, chart, node, webhook))
        domain.register(node, registered(chart), selector=f"unix:uid:{SIDECAR_USER}")
        domain.register(tools, TICKETS.removeprefix(f"spiffe://{DOMAIN}"), selector=f"unix:uid:{SERVER_USER}")
        served = kube.create(pod_of(chosen(kube.apply((FOLDER / "tickets.yaml").read_text()), "Deployment")), "tools")
        tickets = stack.enter_context(run_pod(served, Node(kube, tools, IMAGES)))
        until(lambda: f"serving as {TICKETS}" in tickets.log("tickets"), "the MCP server")
        made = Cluster(kube, domain, node, injector, tickets)
        made.apply("governance.yaml")
        yield made


def registered(chart: list[dict[str, Any]]) -> str:
    """The path that SPIRE's controller manager makes of the chart's ClusterSPIFFEIDs for the example's pods."""
    specs = [each["spec"] for each in chart if each["kind"] == "ClusterSPIFFEID"]
    assert {name for spec in specs for name in spec["workloadSelectorTemplates"]} == {"k8s:container-name:openmcp"}
    (template,) = {str(spec["spiffeIDTemplate"]) for spec in specs}
    values = {".TrustDomain": DOMAIN, ".PodMeta.Namespace": "support-ai", ".PodSpec.ServiceAccountName": "support-bot"}
    id = re.sub(r"\{\{ (\S+) \}\}", lambda found: values[found[1]], template)
    assert id == BOT
    return id.removeprefix(f"spiffe://{DOMAIN}")


@contextmanager
def started_injector(kube: KubeApi, chart: list[dict[str, Any]], node: Agent, webhook: int) -> Iterator[RunningPod]:
    """The pod of the chart's Deployment, with the rights that the chart gives it; it is ready."""
    pod = kube.create(pod_of(chosen(chart, "Deployment")), SYSTEM)
    with run_pod(pod, Node(kube, node, IMAGES)) as running:
        running.network.expose(8443, webhook)
        try:
            until(lambda: running.answer(15020, "/readyz")[0] == 200, "the injector to be ready")
        except AssertionError:
            print(running.answer(15020, "/readyz")[1].decode(), running.log("injector"), sep="\n")
            raise
        yield running


def test_an_agent_does_its_work_through_its_sidecar(cluster: Cluster, tmp_path: Path):
    with cluster.job("agent.yaml") as running:
        assert running.wait("agent") == 0, running.log("agent")
        assert running.log("agent") == shown("kubectl -n support-ai logs job/support-bot -c agent")
        sidecar = running.started["openmcp"]
        assert running.pod["spec"]["initContainers"][0]["image"] == IMAGE
        assert sidecar.stop() == 0, sidecar.printed()
        record = [line for line in running.log("openmcp").splitlines(keepends=True) if '"chain":' in line]
    calls = [json.loads(line) for line in record if '"tools/call"' in line and '"decision"' in line]
    assert [(line["agent"], line["name"], line["decision"]) for line in calls] == [
        (BOT, "whoami", "allow"),
        (BOT, "get_ticket_status", "allow"),
        (BOT, "delete_ticket", "deny"),
    ]
    (tmp_path / "audit.jsonl").write_text("".join(record))
    told = re.findall(r"^(openmcp (?:audit|replay) .*)$", README, re.MULTILINE)
    assert len(told) == 2
    for words in told:
        command = [OPENMCP, *words.split()[1:]]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout != "") == (0, True), done.stderr


def test_manifests_with_the_sidecar_in_them_are_as_the_cluster_makes_them(cluster: Cluster, tmp_path: Path):
    """For GitOps: by the settings of the cluster, offline, and then through the webhook."""
    (words,) = re.findall(r"openmcp inject -c injector.yaml -f (\S+)\n", README)
    kind = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "openmcp-injector"}}
    assert r"kubectl -n openmcp-system get configmap openmcp-injector -o jsonpath='{.data.injector\.yaml}'" in README
    (tmp_path / "injector.yaml").write_text(cluster.kube.read(kind, SYSTEM)["data"]["injector.yaml"])
    command = [OPENMCP, "inject", "-c", tmp_path / "injector.yaml", "-f", words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    offline = chosen(objects(done.stdout), "Job")
    assert "openmcp" in str(offline)
    wanted = cluster.kube.create(pod_of(chosen(cluster.apply(Path(words).name), "Job")), "support-ai", dry_run=True)
    made = cluster.kube.create(pod_of(offline), "support-ai", dry_run=True)
    assert made["spec"] == wanted["spec"]
    assert made["metadata"]["labels"].items() <= wanted["metadata"]["labels"].items()  # the rest is the controller's
    assert made["metadata"]["labels"]["openmcp.dev/injected"] == "true"


def test_around_its_sidecar_the_agent_has_nothing_to_show(cluster: Cluster):
    with cluster.job("around.yaml") as running:
        assert running.wait("agent") == 0, running.log("agent")
        assert running.log("agent") == shown("kubectl -n support-ai logs job/support-bot-around -c agent")
    assert "refused nobody" in cluster.tickets.log("tickets")


STEADY = ["-c", "import time; time.sleep(600)"]


@pytest.fixture(scope="module")
def steady(cluster: Cluster) -> Iterator[RunningPod]:
    """A pod of the example's agent that stays, for commands in it."""
    pod = pod_of(chosen(objects((FOLDER / "agent.yaml").read_text()), "Job"))
    pod["spec"]["containers"][0]["args"] = STEADY
    with cluster.run(pod) as running:
        yield running


def test_the_agents_container_got_an_address_and_nothing_else(steady: RunningPod):
    agent, sidecar = steady.container("agent"), steady.container("openmcp")
    given = {name for name in agent.env if not name.startswith(("KUBERNETES_", "PYTHON"))}
    assert given == {"OPENMCP_TICKETS_URL"}
    assert agent.env["OPENMCP_TICKETS_URL"] == "http://127.0.0.1:15001/tickets"
    assert {mount.path for mount in agent.mounts} == {"/app/agent.py", "/app/server.py"}
    assert {mount.path for mount in sidecar.mounts} == {
        "/etc/openmcp/gateway.yaml",
        "/run/spire/agent-sockets",
        "/var/run/secrets/kubernetes.io/serviceaccount",
    }


def test_the_sidecar_is_small(steady: RunningPod):
    """With SPIFFE and the watches of three kinds, after it was used."""
    assert may(steady, "whoami")
    status = Path(f"/proc/{steady.started['openmcp'].process.pid}/status").read_text()
    (kib,) = re.findall(r"VmRSS:\s+(\d+) kB", status)
    print(f"the sidecar has {int(kib) / 1024:.0f} MiB")
    assert int(kib) / 1024 < RSS


def test_only_loopback_reaches_the_sidecar(steady: RunningPod):
    assert steady.answer(15020, "/healthz")[0] == 200  # the kubelet, at the pod's address
    assert steady.answer(15001, "/tickets") == (0, b"")


def test_a_change_of_policy_is_obeyed_at_once(cluster: Cluster, steady: RunningPod):
    assert "sed 's/whoami, //' examples/kubernetes/governance.yaml | kubectl apply -f -\n" in README
    assert may(steady, "whoami")
    before = (FOLDER / "governance.yaml").read_text()
    assert before.count("whoami, ") == 1
    took: list[float] = []
    while min(took, default=SOON) >= SOON and len(took) < TRIES:  # a machine may stand still for a while
        try:
            cluster.kube.apply(before.replace("whoami, ", ""))
            took.append(until(lambda: not may(steady, "whoami"), "whoami to be denied"))
            assert may(steady, "get_ticket_status")
        finally:
            cluster.kube.apply(before)
        until(lambda: may(steady, "whoami"), "whoami to be allowed")
    assert min(took) < SOON, took


def may(pod: RunningPod, tool: str) -> bool:
    """Whether a call of the agent gets through: one request of 2026-07-28, which needs no session."""
    document = modern(call(tool, ticket_id="101"))
    headers = {name.replace("_", "-"): value for name, value in modern_headers(document).items()}
    connection = http.client.HTTPConnection("127.0.0.1", 15001, timeout=10)
    connection.sock = pod.network.connect(15001, "127.0.0.1")
    accepted = {"accept": "application/json, text/event-stream", "content-type": "application/json"}
    connection.request("POST", "/tickets", json.dumps(document), accepted | headers)
    answer = connection.getresponse()
    text = answer.read().decode()
    assert answer.status == 200, text
    denied = "Denied: no policy allows this" in text
    assert denied != ('"structuredContent"' in text or BOT in text), text
    return not denied


def test_a_pod_that_starts_while_the_api_server_is_away(cluster: Cluster):
    """Its sidecar denies, and says why; the agent starts when there are rules."""

    def outage(pod: RunningPod) -> None:
        cluster.kube.kill()
        threading.Thread(target=watch, args=(pod,)).start()

    def watch(pod: RunningPod) -> None:
        try:
            until(lambda: b"cannot connect" in pod.answer(15020, "/readyz")[1], "the reason in /readyz")
            before.append((pod.answer(15020, "/readyz")[0], list(pod.started)))
        finally:
            cluster.kube.restart()

    before: list[tuple[int, list[str]]] = []
    job = pod_of(chosen(cluster.apply("agent.yaml"), "Job"))
    with cluster.run(job, outage) as running:
        assert before == [(503, ["openmcp"])]
        assert running.wait("agent") == 0, running.log("agent")
        assert running.log("agent") == shown("kubectl -n support-ai logs job/support-bot -c agent")


@dataclass
class Forwarded:
    """What `kubectl port-forward` offers."""

    port: int


async def approve(port: int) -> None:
    """Be the human of the README: log in, wait for the request, and approve it."""
    (token,) = re.findall(r"log in with `([^`]+)`", README)
    us = {"Host": "127.0.0.1:15021", "Origin": "http://127.0.0.1:15021"}  # the test's port is another one
    browser = Browser(Forwarded(port))
    try:
        form = (await browser.get("/login", headers=us)).forms["/login"]
        assert (await browser.post("/login", form | {"token": token}, us)).status == 303
        async with asyncio.timeout(PATIENCE):
            found = None
            while found is None:
                page = await browser.get("/", headers=us)
                found = re.search(r"/requests/(apr_[A-Za-z0-9_-]+)", page.text)
        page = await browser.get(found[0], headers=us)
        assert "get_ticket_status" in page.words
        assert BOT in page.words
        assert (await browser.post(f"{found[0]}/approve", page.forms[f"{found[0]}/approve"], us)).status == 303
    finally:
        await browser.close()


def test_a_human_is_asked(cluster: Cluster):
    asking = list(objects((FOLDER / "asking.yaml").read_text()))
    try:
        with cluster.job("asking.yaml") as running:
            asyncio.run(approve(running.network.expose(15021, 0, "127.0.0.1")))
            assert running.wait("agent") == 0, running.log("agent")
            assert running.log("agent") == shown("kubectl -n support-ai logs job/support-bot-asks -c agent")
    finally:
        cluster.kube.delete(chosen(asking, "MCPPolicy"))


@pytest.mark.parametrize("what", ["policy", "pod"])
def test_what_is_wrong_is_refused_as_the_readme_says(cluster: Cluster, what: str):
    error: Rejected = refused(lambda: cluster.apply(f"refused/{what}.yaml"))
    said = error.message.rpartition(" is invalid: ")[2]  # kubectl writes what is before that in its own way
    assert shown(f"kubectl apply -f examples/kubernetes/refused/{what}.yaml").endswith(f"{said}\n")


def test_what_is_applied_is_accepted(cluster: Cluster):
    table = shown("kubectl -n support-ai get openmcp")
    for applied in objects((FOLDER / "governance.yaml").read_text()):
        until(lambda: accepted(cluster, applied) == "True", "the condition")  # noqa: B023 - called in this round
        row = f"{applied['kind'].lower()}.openmcp.dev/{applied['metadata']['name']} +True "
        assert len(re.findall(row, table)) == 1


def accepted(cluster: Cluster, applied: Any) -> str | None:
    """The status of the condition Accepted; None while there is none."""
    conditions = cluster.kube.read(applied).get("status", {}).get("conditions", [])
    return next((each["status"] for each in conditions if each["type"] == "Accepted"), None)


def test_what_spires_chart_is_told_fits_the_rest():
    spire = yaml.safe_load((FOLDER / "spire-values.yaml").read_text())
    openmcp = yaml.safe_load((FOLDER / "openmcp-values.yaml").read_text())
    assert spire["global"]["spire"]["trustDomain"] == DOMAIN
    assert openmcp["spire"]["className"] == "spire-server-spire"
    assert "helm upgrade --install -n spire-server spire spire " in README


def test_every_file_is_taken_by_the_api_server_but_those_that_show_what_is_not(cluster: Cluster):
    for file in sorted(FOLDER.rglob("*.yaml")):
        name = str(file.relative_to(FOLDER))
        if name.endswith("-values.yaml"):  # for helm
            assert f"-f examples/kubernetes/{name}\n" in README
        elif name.startswith("refused/"):
            assert refused(lambda: cluster.apply(name)).status in (403, 422)  # noqa: B023 - called in this round
        else:
            assert cluster.apply(name)
    cluster.kube.delete(chosen(objects((FOLDER / "asking.yaml").read_text()), "MCPPolicy"))


def test_the_image_has_the_programs_of_the_example():
    """What stands for it in `IMAGES` is what its Dockerfile makes."""
    text = (FOLDER / "Dockerfile").read_text()
    (copied,) = re.findall(r"^COPY (examples/.*) /app/$", text, re.MULTILINE)
    files = {Path(mount.source) for mount in IMAGES["openmcp-example"].files}
    assert {ROOT / source for source in copied.split()} == files
    let_through = (FOLDER / "Dockerfile.dockerignore").read_text().splitlines()
    assert let_through == ["*", *(f"!{source}" for source in copied.split())]
    assert 'ENTRYPOINT ["/opt/openmcp/bin/python"]' in text
    assert "USER 1000:1000" in text
    assert f"FROM {IMAGE} AS openmcp" in text
    assert f"docker build -t {IMAGE} -f manifests/docker/Dockerfile ." in README
    assert "docker build -t openmcp-example:latest -f examples/kubernetes/Dockerfile ." in README
