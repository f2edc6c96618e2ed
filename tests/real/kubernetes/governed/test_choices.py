"""What annotations choose is taken by a real API server, in a namespace where Pod Security is `restricted`."""

from __future__ import annotations

from typing import Any

import pytest

from tests.real.kubernetes.governed.conftest import STRICT
from tests.real.kubernetes.governed.test_pods import SERVERS, pod
from tests.support.cluster import Replicas
from tests.support.kubernetes import KubeApi, refused

pytestmark = pytest.mark.real


def choosing(**notes: str) -> dict[str, Any]:
    annotations = SERVERS | {f"openmcp.dev/{key.replace('_', '-')}": text for key, text in notes.items()}
    return pod("choosing", meta={"annotations": annotations})


@pytest.mark.parametrize(
    "notes",
    [
        {"native_sidecar": "false"},
        {"cpu": "0.1", "cpu_limit": "1500m", "memory": "200Mi", "memory_limit": "1G"},
        {"memory": "1Ti"},
        {"log_level": "debug", "exclude_containers": "agent"},
        {"image": "registry.example/openmcp:1.5@sha256:" + "5" * 64},
    ],
)
def test_what_is_chosen_is_taken_and_stays(kube: KubeApi, injectors: Replicas, notes: dict[str, str]):
    stored = kube.create(choosing(**notes), STRICT)
    kube.delete(stored, STRICT)
    again = choosing(**notes) | {"spec": stored["spec"]}
    again["metadata"] |= {key: stored["metadata"][key] for key in ("labels", "annotations")}
    second = kube.create(again, STRICT)
    kube.delete(second, STRICT)
    assert second["spec"] == stored["spec"]
    outcomes = [line["outcome"] for line in injectors.records() if line["name"] == "choosing"]
    assert outcomes[-2:] == ["injected", "unchanged"]


def test_a_folder_of_the_node_is_pod_securitys_to_refuse(kube: KubeApi, injectors: Replicas):
    message = refused(lambda: kube.create(choosing(spiffe_volume="host-path"), STRICT)).message
    assert 'violates PodSecurity "restricted' in message
    assert 'volume "openmcp-workload-api" uses restricted volume type "hostPath"' in message
