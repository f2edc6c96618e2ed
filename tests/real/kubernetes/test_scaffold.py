"""What `openmcp init --profile kubernetes` writes is taken by a real API server, and the chart takes its values."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from openmcp.config import scaffold
from tests.support.cluster import CLUSTER_SPIFFE_ID, SYSTEM, install, rendered
from tests.support.kubernetes import KubeApi, kube_api, objects, refused
from tests.support.parts import require
from tests.support.process import OPENMCP, ROOT

pytestmark = pytest.mark.real


@pytest.fixture
def cluster(tmp_path: Path):
    """An API server with the chart of the scaffold's values; nothing answers for the webhook."""
    require("kubernetes")
    scaffold.write(tmp_path, "kubernetes")
    with kube_api() as kube:
        kube.apply(CLUSTER_SPIFFE_ID)
        kube.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SYSTEM}})
        kube.apply((tmp_path / "namespace.yaml").read_text())
        install(kube, rendered("-f", str(tmp_path / "values.yaml")))
        yield kube


def test_the_api_server_takes_the_objects(cluster: KubeApi, tmp_path: Path):
    made = cluster.apply((tmp_path / "objects" / "governance.yaml").read_text())
    assert [(each["kind"], each["metadata"]["namespace"]) for each in made] == [
        ("MCPServer", "agents"),
        ("MCPPolicy", "agents"),
        ("MCPPolicy", "agents"),
    ]
    wrong = next(objects((tmp_path / "objects" / "governance.yaml").read_text().replace("endpoints:", "endpoint:")))
    assert refused(lambda: cluster.create(wrong, "agents")).status in (400, 422)
    namespace = cluster.read({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "agents"}})
    assert namespace["metadata"]["labels"]["openmcp.dev/inject"] == "true"


def test_the_chart_lets_the_sidecars_of_the_namespace_in(cluster: KubeApi):
    bindings = cluster.get("/apis/rbac.authorization.k8s.io/v1/namespaces/agents/rolebindings")["items"]
    assert [each["roleRef"]["name"] for each in bindings] == ["openmcp-sidecar"]


def test_pods_of_the_namespace_may_name_the_file(cluster: KubeApi, tmp_path: Path):
    """The injector, with the settings of the chart, lets them have the ConfigMap `openmcp`, and no other one."""
    name = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "openmcp-injector"}}
    (tmp_path / "injector.yaml").write_text(cluster.read(name, SYSTEM)["data"]["injector.yaml"])
    assert injected(tmp_path, "openmcp").returncode == 0
    refusal = injected(tmp_path, "another")
    assert (refusal.returncode, "another" in refusal.stderr) == (1, True)


def injected(folder: Path, config_map: str) -> subprocess.CompletedProcess[str]:
    """What `openmcp inject` makes of the example's agent in the namespace of the scaffold."""
    pod = (ROOT / "examples" / "kubernetes" / "agent.yaml").read_text().replace("support-ai", "agents")
    named = pod.replace(
        "openmcp.dev/servers: tickets}", f"openmcp.dev/servers: tickets, openmcp.dev/config: {config_map}}}"
    )
    assert named != pod
    (folder / "agent.yaml").write_text(named)
    command = [OPENMCP, "inject", "-c", folder / "injector.yaml", "-f", folder / "agent.yaml"]
    return subprocess.run(command, capture_output=True, text=True, check=False)
