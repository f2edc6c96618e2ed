"""Plans made of configurations in tests: by file, or by the few lines that a test is about."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from openmcp.config import load
from openmcp.config.plan import Plan, Target, plan, service

ROOT = Path(__file__).resolve().parents[2]
FOLDER = Path(__file__).with_name("plans")
MODES = {
    "direct": Target(),
    "behind": Target(sidecar=service("openmcp.mesh:15001", "openmcp")),
    "ai": Target(ai_gateway=True),
}
HEAD = "apiVersion: openmcp.dev/v1alpha1\n"
KEYS = f"[{{name: one, sha256: {'1' * 64}}}, {{name: two, sha256: {'2' * 64}}}]"


def planned(folder: Path, text: str, mode: str = "direct") -> Plan:
    """Return the plan of a configuration that consists of `text` and the apiVersion."""
    file = folder / "gateway.yaml"
    file.write_text(HEAD + text, encoding="utf-8")
    return plan(load(file).configuration, MODES[mode])


def configurations() -> list[Path]:
    """Return all configurations that can be planned: those of the examples, the scaffolds and the tests' own."""
    templates = ROOT / "config" / "templates"
    scaffolds = [templates / profile / "gateway.yaml" for profile in ("local", "vm")]
    return sorted([*ROOT.glob("examples/*/gateway.yaml"), *FOLDER.glob("*.yaml"), *scaffolds])


def found(made: Plan, kind: str, name: str | None = None) -> dict[str, Any]:
    """Return the spec of the one document of this kind (and name)."""
    (spec,) = [
        document["spec"]
        for document in made.documents
        if document["kind"] == kind and name in (None, document["metadata"]["name"])
    ]
    assert isinstance(spec, dict)
    return spec


def kinds(made: Plan) -> list[str]:
    """Return the kinds and names of the documents."""
    return [f"{document['kind']} {document['metadata']['name']}" for document in made.documents]
