"""An API server of its own, with what the chart installs and two replicas of the injector."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.support.cluster import CLUSTER_SPIFFE_ID, SYSTEM, Replicas, furnish, install, rendered, replicas, settings_of
from tests.support.kubernetes import KubeApi, Rejected, kube_api
from tests.support.parts import require
from tests.support.spire import wait_until

VALUES = (
    *("--set", "image.repository=registry.example/openmcp", "--set", "image.tag=v1"),
    *("--set", "sidecar.namespaces={support-ai,strict}"),
    *("--set", "trust.images={registry.example/openmcp}"),
    *("--set", "injector.timeoutSeconds=30"),  # a machine that stands still for a while refuses no pod
)
GOVERNED, STRICT, FREE = "support-ai", "strict", "elsewhere"
"""Namespaces: pods are governed; and Pod Security is `restricted`; pods are governed where they ask for it."""


@pytest.fixture(scope="package")
def kube() -> Iterator[KubeApi]:
    """Nobody else's, since the webhook and the policies are for all of it."""
    require("kubernetes")
    with kube_api() as running:
        yield running


@pytest.fixture(scope="package")
def chart() -> list[dict[str, Any]]:
    """What the chart makes."""
    require("kubernetes")
    return rendered(*VALUES)


@pytest.fixture(scope="package")
def injectors(
    kube: KubeApi, chart: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Replicas]:
    """The installed chart with two replicas that are ready; whoever ends one starts another."""
    folder: Path = tmp_path_factory.mktemp("injectors")
    labels = {"openmcp.dev/inject": "true"}
    restricted = {"pod-security.kubernetes.io/enforce": "restricted"}
    for name, given in ((SYSTEM, {}), (GOVERNED, labels), (STRICT, labels | restricted), (FREE, {})):
        kube.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": given}})
        furnish(kube, name)
    kube.apply(CLUSTER_SPIFFE_ID)
    with replicas(kube, folder, settings_of(chart, tls={"lifetime": "1m"})) as running:
        install(kube, chart, f"https://127.0.0.1:{running.port}/mutate")
        running.start()
        running.start()
        wait_until(lambda: _injected(kube), "the API server to ask the injector")
        kube.settle()
        yield running


def _injected(kube: KubeApi) -> bool:
    """Whether a pod gets its sidecar: the API server heeds what was installed some time after it was stored."""
    container = {"name": "agent", "image": "registry.example/agent:3", "securityContext": {"runAsUser": 1000}}
    meta = {"name": "probe", "annotations": {"openmcp.dev/servers": "tickets"}}
    probe = {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": {"containers": [container]}}
    with suppress(Rejected):
        return "initContainers" in kube.create(probe, GOVERNED, dry_run=True)["spec"]
    return False
