"""The webhook under load: many pods at once, certificates and replicas that change, and nobody there."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Event
from typing import Any

import pytest

from tests.real.kubernetes.governed.conftest import FREE, GOVERNED, STRICT
from tests.real.kubernetes.governed.test_pods import pod
from tests.support.cluster import Replicas, trusted
from tests.support.kubernetes import KubeApi, Rejected, refused
from tests.support.spire import wait_until

pytestmark = pytest.mark.real

AT_ONCE = 50
ADMISSIONS = 500
P99 = 0.05
"""Seconds of an admission."""
CREATORS = 4
ROTATIONS = 1
LONG = 120.0


def test_fifty_pods_at_once(kube: KubeApi, injectors: Replicas):
    def create(number: int) -> dict[str, Any]:
        return kube.create(pod(f"crowd-{number}"), GOVERNED)

    with ThreadPoolExecutor(AT_ONCE) as threads:
        stored = list(threads.map(create, range(AT_ONCE)))
    specs = [each["spec"] for each in stored]
    assert [[one["name"] for one in spec["initContainers"]] for spec in specs] == [["openmcp"]] * AT_ONCE
    assert {each["metadata"]["labels"]["openmcp.dev/injected"] for each in stored} == {"true"}
    with ThreadPoolExecutor(CREATORS) as threads:
        list(threads.map(kube.delete, stored))


def test_the_99th_percentile_of_an_admission(kube: KubeApi, injectors: Replicas):
    before = len(injectors.records())
    taken = []
    for number in range(ADMISSIONS):
        began = time.perf_counter()
        kube.create(pod(f"timed-{number}"), STRICT, dry_run=True)
        taken.append(time.perf_counter() - began)
    lines = injectors.records()[before:]
    assert len(lines) >= ADMISSIONS
    whole, judged = percentile(taken), percentile([line["milliseconds"] / 1000 for line in lines])
    print(f"p99 of {ADMISSIONS}: {judged * 1000:.2f} ms in the injector, {whole * 1000:.1f} ms for the whole creation")
    assert judged < P99
    assert {line["dryRun"] for line in lines[-ADMISSIONS:]} == {True}


def percentile(values: list[float], share: float = 0.99) -> float:
    """Return the value that this share of the values does not exceed."""
    return sorted(values)[math.ceil(share * len(values)) - 1]


class Creating:
    """Creates pods (dry runs) without a pause, and keeps what went wrong."""

    def __init__(self, kube: KubeApi) -> None:
        self.done = 0
        self.refusals: list[str] = []
        self._kube = kube
        self._numbers = itertools.count()
        self._ended = Event()

    def go_on(self) -> None:
        while not self._ended.is_set():
            try:
                stored = self._kube.create(pod(f"load-{next(self._numbers)}"), GOVERNED, dry_run=True)
                assert stored["spec"]["initContainers"][0]["name"] == "openmcp"
                self.done += 1
            except Rejected as rejected:
                self.refusals.append(str(rejected))

    def end(self) -> None:
        self._ended.set()


@contextmanager
def creating(kube: KubeApi) -> Iterator[Creating]:
    """Load by a few clients while the block runs."""
    load = Creating(kube)
    with ThreadPoolExecutor(CREATORS) as threads:
        running = [threads.submit(load.go_on) for _ in range(CREATORS)]
        try:
            yield load
        finally:
            load.end()
        for each in running:
            each.result()


def test_no_pod_is_refused_while_certificates_change(kube: KubeApi, injectors: Replicas):
    seen = [trusted(kube)]

    def changed() -> bool:
        """Whether the caBundle was changed twice for each rotation: the next CA came, the former one went."""
        now = trusted(kube)
        assert len(set(now)) == 1  # both webhooks trust the same
        if now != seen[-1]:
            seen.append(now)
        return len(seen) > 2 * ROTATIONS

    with creating(kube) as load:
        took = wait_until(changed, f"{ROTATIONS} rotations", LONG)
    print(f"{load.done} admissions, {len(seen) - 1} changes of the caBundle in {took:.0f} s")
    assert load.refusals == []
    assert load.done > took


def test_no_pod_is_refused_while_replicas_are_replaced(kube: KubeApi, injectors: Replicas):
    with creating(kube) as load:
        for _ in range(2):
            injectors.start()
            injectors.stop()
            reached = load.done + AT_ONCE
            wait_until(lambda: load.done > reached, "pods after it", LONG)  # noqa: B023 - called in this round
    assert load.refusals == []


def test_while_no_injector_is_there_pods_are_refused(kube: KubeApi, injectors: Replicas):
    while injectors.running:
        injectors.stop()
    try:
        error = refused(lambda: kube.create(pod("alone"), GOVERNED))
        assert (error.status, error.reason) == (500, "InternalError")
        assert 'failed calling webhook "namespace.injector.openmcp.dev"' in error.message
        stored = kube.create(pod("not-asked"), FREE)
        kube.delete(stored, FREE)
    finally:
        injectors.start()
        injectors.start()
    stored = kube.create(pod("again-there"), GOVERNED)
    assert stored["spec"]["initContainers"][0]["name"] == "openmcp"
    kube.delete(stored, GOVERNED)


def test_without_its_webhook_the_api_server_still_refuses(kube: KubeApi, injectors: Replicas):
    """Somebody deletes the webhook: the admission policy is the second lock."""
    kind = {"apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration"}
    webhook = kube.read({**kind, "metadata": {"name": "openmcp-injector"}})
    kube.delete(webhook)
    try:
        wait_until(lambda: "the OpenMCP sidecar and does not have it" in said(kube), "the policy's refusal")
    finally:
        for key in ("uid", "resourceVersion", "managedFields", "creationTimestamp", "generation"):
            webhook["metadata"].pop(key, None)
        kube.create(webhook)
        wait_until(lambda: not said(kube), "the webhook to be back")


def said(kube: KubeApi) -> str:
    """How the API server refuses a pod; empty where it does not."""
    try:
        kube.create(pod("bare"), GOVERNED, dry_run=True)
    except Rejected as rejected:
        return rejected.message
    return ""
