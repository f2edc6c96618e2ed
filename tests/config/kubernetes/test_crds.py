"""The CustomResourceDefinitions are what the tables of the configuration make them, bounded and described."""

import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from openmcp.config import parse, policies, workflows
from openmcp.config.cursor import Shape, string
from openmcp.config.kubernetes.crds import KINDS, definitions
from openmcp.config.kubernetes.descriptions import DESCRIPTIONS
from openmcp.config.kubernetes.schemas import schema

ROOT = Path(__file__).resolve().parents[3]


def root_schema(plural: str) -> dict[str, Any]:
    (version,) = definitions()[f"{plural}.openmcp.dev"]["spec"]["versions"]
    found: dict[str, Any] = version["schema"]["openAPIV3Schema"]
    return found


def nodes(found: dict[str, Any], path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, found
    for key, inner in found.get("properties", {}).items():
        yield from nodes(inner, f"{path}.{key}")
    for key in ("items", "additionalProperties"):
        if key in found:
            yield from nodes(found[key], f"{path}.{key}")


def test_the_files_are_those_that_the_tables_make():
    written = {path: path.read_text() for path in (ROOT / "manifests" / "crds").iterdir()}
    assert written == runpy.run_path(str(ROOT / ".ci" / "crds.py"))["files"](), "renew them: make crds"


@pytest.mark.parametrize(
    ("kind", "shape", "only_in_files", "required"),
    [
        ("mcpservers", parse.server_shape, {"stdio"}, {"endpoints"}),
        ("mcppolicies", policies.policy, set(), set()),
        ("approvalworkflows", workflows.workflow_shape, set(), set()),
    ],
)
def test_a_spec_has_the_keys_of_an_entry_of_the_list(kind, shape, only_in_files, required):
    spec = root_schema(kind)["properties"]["spec"]
    assert spec["properties"].keys() == shape.keys.keys() - only_in_files
    assert set(spec["required"]) == set(shape.required) - {"name"} | required
    assert not any("nullable" in spec["properties"][key] for key in spec["required"])


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.kind)
def test_everything_is_bounded(kind):
    """Else the API server refuses the rules, as it cannot tell what they cost."""
    bounds = {"string": "maxLength", "array": "maxItems", "integer": "maximum"}
    spec = root_schema(kind.plural)["properties"]["spec"]
    unbounded = [
        path
        for path, node in nodes(spec, "spec")
        if (bound := bounds.get(node.get("type", ""))) and bound not in node and "enum" not in node
    ]
    assert unbounded == []
    assert [
        path for path, node in nodes(spec, "spec") if "additionalProperties" in node and "maxProperties" not in node
    ] == []


def test_a_key_that_nothing_is_known_of_is_an_error():
    def speed(at):
        return at.text()

    with pytest.raises(LookupError, match=r"no schema is known of .*speed.*: say in config/kubernetes/rules\.py"):
        schema(Shape(dict, {"name": string, "speed": speed}))


def test_every_message_fits_into_a_line():
    for kind in KINDS:
        for path, node in nodes(root_schema(kind.plural), kind.kind):
            for rule in node.get("x-kubernetes-validations", ()):
                assert rule["message"].isprintable(), path
                assert len(rule["message"]) < 250, path


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.kind)
def test_every_key_is_described_and_nothing_else(kind):
    spec = root_schema(kind.plural)["properties"]["spec"]
    keys = {path.removeprefix("spec.").replace(".items", "") for path, _ in nodes(spec, "spec") if path != "spec"}
    keys = {key for key in keys if "additionalProperties" not in key and key.rpartition(".")[2] not in ("file", "env")}
    if kind.kind == "MCPServer":
        keys.add("pinTools.file")
    assert keys == DESCRIPTIONS[kind.kind].keys()
    undescribed = [path for path, node in nodes(spec, "spec") if "." in path and "description" not in node]
    assert [path for path in undescribed if not path.endswith((".items", ".additionalProperties"))] == []
