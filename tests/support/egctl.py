"""Envoy Gateway's own translator, without a cluster."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from openmcp.config.yamltext import write_manifests
from tests.real_parts import install

Json = Mapping[str, Any]


def translated(documents: Sequence[Json], folder: Path) -> Json:
    """Return what Envoy Gateway makes of documents: themselves with their status, and Envoy's configuration."""
    file = folder / "plan.yaml"
    file.write_text(write_manifests(list(documents)), encoding="utf-8")
    command = [install.program("envoygateway", "egctl"), "x", "translate", "--from", "gateway-api"]
    command += ["--to", "gateway-api,xds", "-o", "json", "-f", file]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    told: Json = json.loads(done.stdout)
    return told
