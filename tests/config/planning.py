"""Plans made of configurations in tests: by file, or by the few lines that a test is about."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from openmcp.config import load
from openmcp.config.plan import CannotPlan, Plan, Target, plan, service

ROOT = Path(__file__).resolve().parents[2]
FOLDER = Path(__file__).with_name("plans")
MODES = {
    "direct": Target(),
    "behind": Target(sidecar=service("openmcp.mesh:15001", "openmcp")),
    "ai": Target(ai_gateway=True),
}
_OURS = re.compile(r"^apiVersion: openmcp\.dev/", re.MULTILINE)
HEAD = "apiVersion: openmcp.dev/v1alpha1\n"
KEYS = f"[{{name: one, sha256: {'1' * 64}}}, {{name: two, sha256: {'2' * 64}}}]"


def planned(folder: Path, text: str, mode: str = "direct") -> Plan:
    """Return the plan of a configuration that consists of `text` and the apiVersion."""
    file = folder / "gateway.yaml"
    file.write_text(HEAD + text, encoding="utf-8")
    return plan(load(file).configuration, MODES[mode])


def configurations() -> list[Path]:
    """Return all configurations that there are: of the examples, what `openmcp init` writes, the manifests', and the
    tests' own. An example of what is refused is none."""
    files = [
        file for folder in ("examples", "config/templates", "manifests") for file in (ROOT / folder).rglob("*.yaml")
    ]
    ours = [file for file in files if _OURS.search(file.read_text(encoding="utf-8")) and "refused" not in file.parts]
    return sorted([*ours, *FOLDER.glob("*.yaml")])


def called(value: Path | str) -> str:
    """Return what a test about a configuration, or a mode, is called."""
    return value if isinstance(value, str) else "-".join(value.relative_to(ROOT).with_suffix("").parts)


def cases(*modes: str) -> list[tuple[Path, str]]:
    """Return all configurations in each of these modes, but for those that there is no plan of, see `refusal`."""
    return [(file, mode) for file in configurations() for mode in modes if refusal(file, mode) is None]


def refusal(file: Path, mode: str) -> str | None:
    """Return why there is no plan of a configuration."""
    try:
        plan(load(file).configuration, MODES[mode])
    except CannotPlan as error:
        return str(error)
    return None


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
