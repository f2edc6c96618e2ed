"""`openmcp plan`: what goes where, and how it ends."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from openmcp.sidecar.cli import main
from tests.config.planning import FOLDER
from tests.fakes.kubernetes_api import kubernetes_api

QUIET = """\
apiVersion: openmcp.dev/v1alpha1
listen: {mcp: "0.0.0.0:15001", url: "https://mcp.example.org"}
identity: {workloadApi: none, agents: [{type: none}]}
servers: [{name: s, endpoints: ["http://s.tools.svc/mcp"]}]
policies: [{name: p, servers: [s], requests: [{name: all, action: allow}]}]
"""


def openmcp(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(main, arguments, prog_name="openmcp", catch_exceptions=False)
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gateway.yaml").write_text(QUIET)
    return tmp_path


def lossy(folder: Path) -> None:
    """Let the configuration have a rule that Envoy cannot enforce."""
    (folder / "gateway.yaml").write_text(QUIET.replace("name: all,", "name: all, tools: [t],"))


def test_resources_go_to_standard_output_and_notices_to_standard_error(folder: Path) -> None:
    lossy(folder)
    code, out, err = openmcp("plan", "--name", "edge", "-n", "mesh")
    documents = list(yaml.safe_load_all(out))
    assert (code, {one["metadata"].get("namespace", "-") for one in documents}) == (0, {"-", "mesh"})
    assert documents[1]["kind"] == "Gateway"
    assert documents[1]["spec"]["gatewayClassName"] == "edge"
    lines = err.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["warning", "needs", "needs"]
    assert "not enforced: p/all (allow)" in lines[0]


def test_the_same_configuration_gives_the_same_plan() -> None:
    assert openmcp("plan") == openmcp("plan")


def test_strict_writes_nothing_where_there_is_a_warning(folder: Path) -> None:
    assert openmcp("plan", "--strict")[0] == 0
    lossy(folder)
    code, out, err = openmcp("plan", "--strict")
    assert (code, out) == (1, "")
    assert err.startswith("warning: servers: s: ")


def test_as_json_all_is_one_object(folder: Path) -> None:
    lossy(folder)
    code, out, err = openmcp("plan", "--json")
    told = json.loads(out)
    assert (code, err) == (0, "")
    assert sorted(told) == ["needs", "resources", "warnings"]
    assert told["resources"] == list(yaml.safe_load_all(openmcp("plan")[1]))


def test_in_front_of_sidecars_in_another_namespace_there_is_a_grant() -> None:
    _, out, _ = openmcp("plan", "--sidecar", "proxies.mesh:15001")
    documents = {one["kind"]: one for one in yaml.safe_load_all(out)}
    assert documents["ReferenceGrant"]["metadata"] == {"name": "openmcp-sidecar", "namespace": "mesh"}
    (rule,) = documents["HTTPRoute"]["spec"]["rules"]
    assert rule["backendRefs"] == [
        {"group": "", "kind": "Service", "name": "proxies", "namespace": "mesh", "port": 15001}
    ]
    _, out, _ = openmcp("plan", "--sidecar", "proxies:15001")
    assert "ReferenceGrant" not in out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--sidecar", "proxies"], "write NAME:PORT or NAME.NAMESPACE:PORT"),
        (["--sidecar", "proxies:0"], "write NAME:PORT or NAME.NAMESPACE:PORT"),
        (["--sidecar", "a:1", "--ai-gateway"], "one of them"),
        (["--name", "Edge"], "lower-case letters"),
        (["--namespace", "a.b"], "lower-case letters"),
    ],
)
def test_wrong_use(arguments: list[str], said: str) -> None:
    code, out, err = openmcp("plan", *arguments)
    assert (code, out) == (2, "")
    assert said in err


def test_a_configuration_that_is_not_valid_is_not_planned(folder: Path) -> None:
    (folder / "gateway.yaml").write_text(QUIET + "more: 1\n")
    code, out, err = openmcp("plan")
    assert (code, out) == (1, "")
    assert 'gateway.yaml:6: unknown key "more"' in err


async def test_servers_and_policies_may_be_objects_of_kubernetes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = QUIET.partition("servers:")[0]
    (folder / "gateway.yaml").write_text(f"{text}source: {{type: kubernetes}}\n")
    async with kubernetes_api() as kubernetes:
        kubernetes.put("MCPServer", "tickets", {"endpoints": ["http://tickets.tools.svc/mcp"]})
        kubernetes.put("MCPPolicy", "all", {"servers": ["tickets"], "requests": [{"name": "all", "action": "allow"}]})
        (folder / "kubeconfig").write_text(kubernetes.kubeconfig())
        monkeypatch.setenv("KUBECONFIG", str(folder / "kubeconfig"))
        code, out, err = await asyncio.to_thread(openmcp, "plan", "--strict")
    assert code == 0, err
    assert "HTTPRoute tickets" in [f"{one['kind']} {one['metadata']['name']}" for one in yaml.safe_load_all(out)]
    assert "needs: source: servers and policies are planned as they are now: plan again when they change\n" in err


def test_without_a_cluster_there_is_no_plan_of_its_objects(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "gateway.yaml").write_text("apiVersion: openmcp.dev/v1alpha1\nsource: {type: kubernetes}\n")
    for name in ("KUBECONFIG", "KUBERNETES_SERVICE_HOST"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(folder))
    code, out, err = openmcp("plan")
    assert (code, out) == (3, "")
    assert err.startswith("gateway.yaml: source: ")


def test_what_cannot_be_planned_says_why(folder: Path) -> None:
    (folder / "gateway.yaml").write_text(QUIET.replace('"http://s.tools.svc/mcp"', '"http://a/x", "http://b/y"'))
    assert openmcp("plan") == (1, "", "servers: s: endpoints: a route has one path for all of them\n")


@pytest.mark.parametrize("mode", [[], ["--sidecar", "a:1"], ["--ai-gateway"], ["--json"]])
def test_secrets_are_named_and_never_told(folder: Path, monkeypatch: pytest.MonkeyPatch, mode: list[str]) -> None:
    """Every secret of a configuration is there, and has one text."""
    text = (FOLDER / "everything.yaml").read_text()
    for name in re.findall(r"env: ([A-Z_]+)", text):
        monkeypatch.setenv(name, "hush-hush")
    for name in re.findall(r"file: ([a-z.]+)", text):
        (folder / name).write_text("hush-hush")
    (folder / "gateway.yaml").write_text(text)
    code, out, err = openmcp("plan", *mode)
    assert (code, "hush-hush" in out + err) == (0, False)
    assert out.count("resources") or out.count("kind: ") > 3
