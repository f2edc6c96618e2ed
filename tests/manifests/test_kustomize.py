"""The kustomize base and components are the chart as it is rendered, and every file of them is listed."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from tests.manifests.charts import CHART, MATRIX, ROOT, helm, template
from tests.real_parts.install import program

KUSTOMIZE = ROOT / "manifests/kustomize"
FOLDERS = [path.parent for path in sorted(KUSTOMIZE.rglob("kustomization.yaml"))]


def _made() -> ModuleType:
    spec = importlib.util.spec_from_file_location("manifests", ROOT / ".ci/manifests.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_chart_s_crds_are_the_crds() -> None:
    files = _made().crds()
    assert {path: path.read_text() for path in (CHART / "files/crds").glob("*")} == files, "run: make manifests"
    assert len(files) == 3


@pytest.mark.real
def test_the_base_and_components_are_the_chart() -> None:
    helm("version")
    files = _made().rendered(str(program("kubernetes", "helm")))
    there = {path for path in KUSTOMIZE.rglob("*.yaml") if path.name != "kustomization.yaml"}
    assert there == files.keys()
    assert {path: path.read_text() for path in there} == files, "run: make manifests"


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_every_file_is_listed(folder: Path) -> None:
    listed = yaml.safe_load((folder / "kustomization.yaml").read_text())["resources"]
    assert sorted(listed) == sorted({path.name for path in folder.glob("*.yaml")} - {"kustomization.yaml"})


def test_nothing_of_helm_is_left() -> None:
    for path in KUSTOMIZE.rglob("*.yaml"):
        assert not {"helm.sh/", "managed-by: Helm"} & {
            word for word in ("helm.sh/", "managed-by: Helm") if word in path.read_text()
        }


@pytest.mark.real
def test_every_part_of_the_chart_is_in_some_file() -> None:
    """Whatever the values: what is in no file of the base and components is the console, which needs values."""
    made = _made()
    known = {*made.BASE, *(part for parts in made.COMPONENTS.values() for part in parts)}
    found = {
        each["metadata"]["labels"]["app.kubernetes.io/component"] for case in MATRIX for each in template(MATRIX[case])
    }
    assert found - known == {"approvals"}
