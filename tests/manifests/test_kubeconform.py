"""kubeconform, strictly, over everything that is applied to a cluster: the chart, the kustomize base, the examples.

Schemas come from the package kubernetes-validate, which has them for each version, and from our own CRDs: nothing is
fetched. Kinds of other projects (cert-manager, SPIRE, the Prometheus operator) are skipped by name.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from tests.manifests.charts import FOREIGN, MATRIX, ROOT, VERSIONS, Json, of
from tests.real_parts.install import program
from tests.support.parts import require

pytestmark = pytest.mark.real

PACKAGED = Path(kubernetes_validate.__file__).parent / "kubernetes-json-schema"
FOLDERS = ("manifests/crds", "manifests/kustomize", "examples/kubernetes")


def _objects(path: Path) -> list[Json]:
    """The objects for a cluster in a file; none in a configuration of ours, or one of kustomize or helm."""
    found = [each for each in yaml.safe_load_all(path.read_text()) if isinstance(each, dict)]
    return [each for each in found if "kind" in each and "kustomize.config.k8s.io" not in each["apiVersion"]]


FILES = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.yaml")) if _objects(path)]


@pytest.fixture(scope="module")
def schemas(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of schemas for each version, by the names that kubeconform looks for."""
    folder = tmp_path_factory.mktemp("schemas")
    kinds = {each["kind"].lower() for path in FILES for each in _objects(path)}
    kinds |= {each["kind"].lower() for case in MATRIX for each in of(case)} | {"_definitions.json"}
    for version in VERSIONS:
        there = folder / f"v{version}"
        there.mkdir()
        packaged = (PACKAGED / f"v{version}-local-strict").glob("*.json")
        for path in (path for path in packaged if path.name.partition("-")[0] in kinds):
            # They are known by URLs and refer to each other by them; here they lie beside each other.
            schema = json.loads(path.read_text().replace('"/api/_definitions.json#', '"_definitions.json#'))
            schema.pop("$id", None)
            (there / path.name).write_text(json.dumps(schema))
        for path in (ROOT / "manifests/crds").glob("*.yaml"):
            crd = yaml.safe_load(path.read_text())["spec"]
            (made,) = crd["versions"]
            name = f"{crd['names']['kind'].lower()}-openmcp-{made['name']}.json"
            schema = made["schema"]["openAPIV3Schema"]
            schema["properties"]["metadata"] = {
                "$ref": "_definitions.json#/$defs/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"
            }
            (there / name).write_text(json.dumps(schema))
    return folder


def _run(schemas: Path, version: str, *files: Path) -> Json:
    require("kubernetes")
    location = f"{schemas}/{{{{ .NormalizedKubernetesVersion }}}}/{{{{ .ResourceKind }}}}{{{{ .KindSuffix }}}}.json"
    command = [
        program("kubernetes", "kubeconform"),
        "-strict",
        "-kubernetes-version",
        version,
        "-output",
        "json",
        "-summary",
    ]
    skipped = ["-skip", ",".join(sorted(FOREIGN))]
    done = subprocess.run(
        [*command, *skipped, "-schema-location", location, *files], capture_output=True, text=True, check=False
    )
    assert done.stdout, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("version", VERSIONS)
def test_all_that_is_applied(version: str, schemas: Path, tmp_path: Path) -> None:
    """What lies there, and each object that the chart becomes with some values, once."""
    rendered = {json.dumps(each, sort_keys=True): each for case in MATRIX for each in of(case)}
    (tmp_path / "chart.yaml").write_text(yaml.safe_dump_all(rendered.values()))
    said = _run(schemas, version, tmp_path, *FILES)
    assert said.get("resources", []) == []
    assert said["summary"]["valid"] > len(rendered) > said["summary"]["skipped"] > 0


def test_it_would_find_something(schemas: Path, tmp_path: Path) -> None:
    """A typing error, a field that is not there, a kind nobody knows, and one of ours that is wrong."""
    documents = [
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"}, "spec": {"ports": [{"port": "80"}]}},
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "b"}, "dta": {}},
        {"apiVersion": "v1", "kind": "Pot", "metadata": {"name": "c"}},
        {
            "apiVersion": "openmcp.dev/v1alpha1",
            "kind": "MCPServer",
            "metadata": {"name": "d"},
            "spec": {"endpoint": "x"},
        },
    ]
    (tmp_path / "wrong.yaml").write_text(yaml.safe_dump_all(documents))
    said = _run(schemas, VERSIONS[0], tmp_path)
    assert {each["name"] for each in said["resources"]} == {"a", "b", "c", "d"}
