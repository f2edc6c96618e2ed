"""What `openmcp inject` writes is what the webhook would have made of it: the API server stores one and the same."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.real.kubernetes.governed.conftest import GOVERNED
from tests.real.kubernetes.governed.test_pods import CASES, as_stored, without_nothing
from tests.support.cluster import Replicas, settings_of
from tests.support.kubernetes import KubeApi
from tests.support.process import OPENMCP

pytestmark = pytest.mark.real


@pytest.mark.parametrize("case", [name for name, (namespace, _) in CASES.items() if namespace == GOVERNED])
def test_a_file_and_a_pod_become_the_same(
    kube: KubeApi, injectors: Replicas, chart: list[dict[str, Any]], tmp_path: Path, case: str
):
    given = without_nothing(CASES[case][1])
    settings, file = tmp_path / "injector.yaml", tmp_path / "pod.yaml"
    settings.write_text(json.dumps(settings_of(chart)))
    file.write_text(yaml.safe_dump(given))
    command = [OPENMCP, "inject", "-c", settings, "-f", file, "-n", GOVERNED]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert ": injected: sidecar registry.example/openmcp:" in done.stderr
    stored, before = [], len(outcomes(injectors, given))
    for document in (given, yaml.safe_load(done.stdout)):
        made = kube.create(document, GOVERNED)
        kube.delete(made, GOVERNED)
        made["spec"]["volumes"].sort(key=lambda volume: volume["name"])  # that of the API server comes first, or last
        stored.append(as_stored(made))
    assert stored[1] == stored[0]
    assert outcomes(injectors, given)[before:] == ["injected", "unchanged"]


def outcomes(injectors: Replicas, given: dict[str, Any]) -> list[str]:
    """What was said so far of pods of this name, by whichever replica."""
    return [line["outcome"] for line in injectors.records() if line["name"] == given["metadata"]["name"]]
