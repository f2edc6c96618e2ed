"""Renews what lies in manifests/ and follows from something else there; `make manifests`. Needs helm.

    python .ci/manifests.py HELM

That is: the chart's copies of the CRDs, and the kustomize base and components, which are the chart as it is rendered.

tests/manifests holds all of it equal.
"""

import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
CHART = ROOT / "manifests/helm/openmcp"
KUSTOMIZE = ROOT / "manifests/kustomize"
NAMESPACE = "openmcp-system"

BASE = ("namespace", "crds", "injector", "sidecar", "admission-policy")
COMPONENTS = {
    "spire": ("spire",),
    "monitoring": ("monitoring",),
}
"""The kustomize components, beside the base: their folders, and the parts of the chart that are in them."""
VALUES = """
namespace: {create: true}
monitoring:
  serviceMonitor: {enabled: true}
  podMonitor: {enabled: true}
  rules: {enabled: true}
  dashboard: {enabled: true}
"""
"""What the base and components are made with, beside the chart's own."""

HEADER = "# Made from manifests/helm/openmcp by `make manifests`. Change the chart, or patch this in an overlay.\n"
HELM_ONLY = ("helm.sh/chart", "app.kubernetes.io/managed-by", "helm.sh/resource-policy")


def crds() -> dict[Path, str]:
    """The chart's copies of the CRDs: what the files have to hold."""
    return {
        CHART / "files/crds" / path.name: path.read_text() for path in sorted((ROOT / "manifests/crds").glob("*.yaml"))
    }


def rendered(helm: str) -> dict[Path, str]:
    """The kustomize base and its components: what the files have to hold. Runs `helm template`."""
    command = [helm, "template", "openmcp", str(CHART), "--namespace", NAMESPACE, "--values", "-"]
    done = subprocess.run(command, input=VALUES, capture_output=True, text=True, check=True)  # noqa: S603 - helm, as asked
    return split([found for found in yaml.safe_load_all(done.stdout) if found])


def split(documents: list[dict]) -> dict[Path, str]:
    """Objects to files: one file for each part of the base, one for each component."""
    parts: dict[str, list[dict]] = {}
    for document in documents:
        parts.setdefault(document["metadata"]["labels"]["app.kubernetes.io/component"], []).append(_plain(document))
    files = {KUSTOMIZE / "base" / f"{part}.yaml": _text(parts.pop(part)) for part in BASE if part in parts}
    for name, wanted in COMPONENTS.items():
        files[KUSTOMIZE / "components" / name / f"{name}.yaml"] = _text(
            [one for part in wanted for one in parts.pop(part)]
        )
    assert not parts, f"parts of the chart that are in no file: {sorted(parts)}"
    return files


def _plain(document: dict) -> dict:
    """Without what only Helm reads."""
    for metadata in _metadata(document):
        for key in ("labels", "annotations"):
            kept = {name: value for name, value in (metadata.get(key) or {}).items() if name not in HELM_ONLY}
            metadata.pop(key, None)
            metadata |= {key: kept} if kept else {}
    return document


def _metadata(document: dict) -> list[dict]:
    template = (document.get("spec") or {}).get("template") if document["kind"] == "Deployment" else None
    return [document["metadata"], *([template["metadata"]] if template else [])]


class _Dumper(yaml.SafeDumper):
    """Texts of several lines as blocks, and no aliases."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def _lines(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _lines)


def _text(documents: list[dict]) -> str:
    return HEADER + yaml.dump_all(documents, Dumper=_Dumper, sort_keys=False, width=120, allow_unicode=True)


def main() -> None:
    """Write all of it, and take away what is there no more."""
    write(crds())
    write(rendered(sys.argv[1]))


def write(files: dict[Path, str]) -> None:
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    for folder in {path.parent for path in files}:
        for stale in set(folder.glob("*.yaml")) - files.keys() - {folder / "kustomization.yaml"}:
            stale.unlink()


if __name__ == "__main__":
    main()
