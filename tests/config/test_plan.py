"""Plans for Envoy Gateway, whole: what is written for a configuration, and what its reader is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from openmcp.config import load
from openmcp.config.plan import plan
from openmcp.config.yamltext import read_manifests, write_manifests
from tests.config.planning import FOLDER, MODES, ROOT, configurations, kinds, planned
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


@pytest.mark.parametrize("file", configurations(), ids=lambda file: f"{file.parent.name}-{file.stem}")
@pytest.mark.parametrize("mode", MODES)
def test_each_object_is_written_once_and_reads_as_it_was_made(file: Path, mode: str) -> None:
    made = plan(load(file).configuration, MODES[mode])
    names = [(document["kind"], document["metadata"]["name"]) for document in made.documents]
    assert len(names) == len(set(names))
    assert read_manifests(write_manifests(list(made.documents)).encode()) == list(made.documents)


def test_without_servers_there_is_a_gateway_that_lets_nobody_in(tmp_path: Path) -> None:
    made = planned(tmp_path, "listen: {}\n")
    assert kinds(made) == [
        "GatewayClass openmcp",
        "Gateway openmcp",
        "ClientTrafficPolicy openmcp",
        "SecurityPolicy openmcp",
    ]
    assert made.documents[-1]["spec"] == {
        "targetRefs": [{"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "openmcp"}],
        "authorization": {"defaultAction": "Deny"},
    }
