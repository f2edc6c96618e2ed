"""Writes the CustomResourceDefinitions that the configuration makes into manifests/crds."""

from pathlib import Path
from typing import Any

import yaml

from openmcp.config.kubernetes.crds import definitions

FOLDER = Path(__file__).resolve().parents[1] / "manifests" / "crds"
_HEAD = "# Made by `make crds` from the tables of config/; not to be edited.\n"


class _Plain(yaml.SafeDumper):
    """Without anchors: what stands twice is written twice."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def files() -> dict[Path, str]:
    """What belongs into which file."""
    written = {FOLDER / f"{name.partition('.')[0]}.yaml": made for name, made in definitions().items()}
    return {path: _HEAD + yaml.dump(made, Dumper=_Plain, sort_keys=False, width=120) for path, made in written.items()}


if __name__ == "__main__":
    FOLDER.mkdir(parents=True, exist_ok=True)
    for path, text in files().items():
        path.write_text(text, encoding="utf-8")
