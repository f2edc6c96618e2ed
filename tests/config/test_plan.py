"""Plans for Envoy Gateway, whole: what is written for a configuration, and what its reader is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from openmcp.config import load
from openmcp.config.plan import CannotPlan, plan
from openmcp.config.yamltext import read_manifests, write_manifests
from tests.config.planning import (
    FOLDER,
    KEYS,
    MODES,
    ROOT,
    called,
    cases,
    configurations,
    kinds,
    planned,
    refusal,
)
from tests.support.golden import check_golden

GOLDEN = {
    "many": FOLDER / "many.yaml",
    "sessions": FOLDER / "sessions.yaml",
    "tickets": ROOT / "examples" / "tickets" / "gateway.yaml",
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", GOLDEN)
def test_what_is_written(name: str, mode: str) -> None:
    made = plan(load(GOLDEN[name]).configuration, MODES[mode])
    told = [f"# warning: {one}\n" for one in made.warnings] + [f"# needs: {one}\n" for one in made.needs]
    check_golden(f"plan/{name}-{mode}.yaml", "".join(told) + write_manifests(list(made.documents)))


@pytest.mark.parametrize("file", configurations(), ids=called)
def test_there_is_a_plan_of_every_configuration(file: Path) -> None:
    """Envoy AI Gateway takes endpoints of one TLS name alone, which not all have."""
    assert (refusal(file, "direct"), refusal(file, "behind")) == (None, None)
    assert "an MCPRoute takes one Backend" in (refusal(file, "ai") or "an MCPRoute takes one Backend")


@pytest.mark.parametrize(("file", "mode"), cases(*MODES), ids=called)
def test_each_object_is_written_once_and_reads_as_it_was_made(file: Path, mode: str) -> None:
    made = plan(load(file).configuration, MODES[mode])
    names = [(document["kind"], document["metadata"]["name"]) for document in made.documents]
    assert len(names) == len(set(names))
    assert read_manifests(write_manifests(list(made.documents)).encode()) == list(made.documents)


def test_no_object_stands_for_two_things(tmp_path: Path) -> None:
    """Names that a server may have, and that others make for what belongs to them."""
    names = ("s", "s-0", "s-1", "s-key", "s-jwt", "s-ca", "s-credential", "openmcp", "openmcp-deny", "openmcp-tls")
    rest = "auth: {type: header, name: X-Key, value: {env: K}}, tls: {ca: {file: c}, serverName: a.example}"
    servers = "".join(
        f"  - {{name: {name}, endpoints: ['https://a.svc/mcp', 'https://10.0.0.1/mcp'], {rest}}}\n" for name in names
    )
    token = '{type: jwt, issuer: "https://idp", audience: a, jwks: {url: "https://idp/jwks.json"}}'
    text = f"identity: {{workloadApi: none, agents: [{{type: apiKey, keys: {KEYS}}}, {token}]}}\nservers:\n{servers}"
    made = planned(tmp_path, f"{text}policies: [{{name: p, servers: ['*'], requests: [{{name: r, action: allow}}]}}]\n")
    assert len(kinds(made)) == len(set(kinds(made))) > 80
    references = [str(one) for one in made.needs]
    assert len(references) == len(set(references))
    for document in made.documents:
        assert len(document["metadata"]["name"]) <= 253


def test_names_that_are_cut_alike_are_not_planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("openmcp.config.plan.values._digest", lambda text: "12345678")
    servers = ", ".join(f"{{name: {'x' * 70}{end}, endpoints: ['http://a.svc/mcp']}}" for end in "ab")
    text = f"identity: {{workloadApi: none, agents: [{{type: none}}]}}\nservers: [{servers}]\n"
    with pytest.raises(CannotPlan, match="give one of the two another name"):
        planned(tmp_path, f"{text}policies: [{{name: p, servers: ['*'], requests: [{{name: r, action: allow}}]}}]\n")


def test_without_servers_no_route_leads_to_sidecars(tmp_path: Path) -> None:
    made = planned(tmp_path, "listen: {}\n", "behind")
    assert {document["kind"] for document in made.documents}.isdisjoint({"HTTPRoute", "ReferenceGrant"})
    assert "servers: there are none: no route leads to the sidecars" in map(str, made.warnings)


def test_without_servers_there_is_a_gateway_that_lets_nobody_in(tmp_path: Path) -> None:
    made = planned(tmp_path, "listen: {}\n")
    assert kinds(made) == [
        "GatewayClass openmcp",
        "Gateway openmcp",
        "ClientTrafficPolicy openmcp",
        "SecurityPolicy openmcp.deny",
    ]
    assert made.documents[-1]["spec"] == {
        "targetRefs": [{"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "openmcp"}],
        "authorization": {"defaultAction": "Deny"},
    }
