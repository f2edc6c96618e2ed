"""What the injector says on objects, by the rights that the chart gives it."""

from __future__ import annotations

import re
import time
import urllib.request
from typing import Any

import pytest

from openmcp.config import ConfigurationError, load
from tests.support.cluster import SYSTEM, Replicas, readiness
from tests.support.kubernetes import KubeApi
from tests.support.process import ROOT
from tests.support.spire import wait_until

pytestmark = pytest.mark.real

VERSION = "openmcp.dev/v1alpha1"
SERVER = {
    "apiVersion": VERSION,
    "kind": "MCPServer",
    "metadata": {"name": "zendesk"},
    "spec": {"endpoints": ["https://mcp.zendesk.example/mcp"]},
}
POLICY = {
    "apiVersion": VERSION,
    "kind": "MCPPolicy",
    "metadata": {"name": "tickets"},
    "spec": {"servers": ["zendesk"], "requests": [{"name": "read", "action": "allow", "tools": ["list_*"]}]},
}
WORKFLOW = {
    "apiVersion": VERSION,
    "kind": "ApprovalWorkflow",
    "metadata": {"name": "leads"},
    "spec": {"approvers": ["token:oncall"]},
}
LIFETIME = 60.0
"""Seconds of a certificate here."""
LONG_ENOUGH = LIFETIME / 2
LATER = ROOT / "tests" / "fixtures" / "objects" / "later"


def named(document: dict[str, Any], name: str, **spec: Any) -> dict[str, Any]:
    """The same object by another name, with other parts."""
    return {**document, "metadata": {"name": name}, "spec": {**document["spec"], **spec}}


def condition(found: dict[str, Any]) -> dict[str, Any]:
    """The condition Accepted, as far as it is of this generation."""
    status = found.get("status") or {}
    if status.get("observedGeneration") != found["metadata"]["generation"]:
        return {}
    (ours,) = [one for one in status["conditions"] if one["type"] == "Accepted"]
    return dict(ours)


def verdict(kube: KubeApi, document: dict[str, Any], namespace: str) -> dict[str, Any]:
    """What is said of an object, once it is said of its present generation."""
    found: list[dict[str, Any]] = []

    def said() -> bool:
        found[:] = [condition(kube.read(document, namespace))]
        return bool(found[0])

    wait_until(said, f"the status of {document['metadata']['name']}")
    return found[0]


def becomes(kube: KubeApi, document: dict[str, Any], namespace: str, status: str) -> dict[str, Any]:
    """Wait until an object is accepted, or is not."""
    wait_until(lambda: condition(kube.read(document, namespace)).get("status") == status, f"{status}")
    return condition(kube.read(document, namespace))


def version(kube: KubeApi, document: dict[str, Any], namespace: str) -> str:
    return str(kube.read(document, namespace)["metadata"]["resourceVersion"])


@pytest.fixture
def namespace(kube: KubeApi, injectors: Replicas) -> str:
    """One of its own, where objects are judged by themselves."""
    return kube.namespace("judged")


def test_what_is_in_force_is_accepted(kube: KubeApi, namespace: str):
    kube.apply([SERVER, POLICY], namespace)
    for document in (SERVER, POLICY):
        said = becomes(kube, document, namespace, "True")
        assert (said["reason"], said["observedGeneration"]) == ("Valid", 1)


@pytest.mark.parametrize("name", sorted(file.stem for file in LATER.iterdir()))
def test_what_is_not_in_force_says_what_validate_says(kube: KubeApi, namespace: str, name: str):
    """Of what the API server cannot see: the same words as offline."""
    file = LATER / f"{name}.yaml"
    with pytest.raises(ConfigurationError) as caught:
        load(file)
    documents = kube.apply(file.read_text(), namespace)
    for document in documents:
        verdict(kube, document, namespace)
    said = [condition(kube.read(document, namespace)) for document in documents]
    refused = [(document, one) for document, one in zip(documents, said, strict=True) if one["status"] == "False"]
    ((document, one),) = refused
    place = f"{document['kind']} {namespace}/{document['metadata']['name']}"
    problems = [str(problem).removeprefix(f"{problem.file}:{problem.line}") for problem in caught.value.problems]
    assert one["reason"] == "Invalid"
    assert without_places(one["message"]) == without_places("\n".join(place + problem for problem in problems))


def without_places(message: str) -> str:
    """Where another object is: a line of a file there, its name here."""
    return re.sub(r"\(first at .*\)|first .*", "", message)


def test_what_others_do_to_an_object_is_said_on_it(kube: KubeApi, namespace: str):
    rule = {"name": "close", "tools": ["close"], "action": "requireApproval", "approval": {"workflow": "leads"}}
    asking, workflow = named(POLICY, "asking", requests=[rule]), WORKFLOW
    kube.apply([SERVER, workflow, asking], namespace)
    first = becomes(kube, asking, namespace, "True")
    kube.delete(workflow, namespace)
    broken = becomes(kube, asking, namespace, "False")
    assert broken["observedGeneration"] == 1
    assert broken["lastTransitionTime"] >= first["lastTransitionTime"]
    kube.apply([workflow], namespace)
    becomes(kube, asking, namespace, "True")


def test_nothing_is_written_twice(kube: KubeApi, namespace: str):
    kube.apply([SERVER, POLICY], namespace)

    def unwarned() -> bool:
        """Either has a warning where it is judged before the other is there."""
        return all(condition(kube.read(one, namespace)).get("message") == "" for one in (SERVER, POLICY))

    wait_until(unwarned, "both without a warning")
    before = [version(kube, document, namespace) for document in (SERVER, POLICY)]
    for number in range(3):  # each is another look at all of them
        other = named(SERVER, f"other-{number}")
        kube.apply([other], namespace)
        becomes(kube, other, namespace, "True")
    assert [version(kube, document, namespace) for document in (SERVER, POLICY)] == before


def test_what_somebody_wrote_over_is_put_right_and_other_conditions_stay(kube: KubeApi, namespace: str):
    kube.apply([SERVER], namespace)
    becomes(kube, SERVER, namespace, "True")
    other = {
        "type": "Seen",
        "status": "True",
        "reason": "Other",
        "message": "",
        "lastTransitionTime": "2026-11-21T12:00:00Z",
    }
    kube.patch(SERVER, {"status": {"conditions": [other]}}, namespace, "status")

    def both() -> bool:
        found = kube.read(SERVER, namespace)["status"]["conditions"]
        return {one["type"] for one in found} == {"Seen", "Accepted"}

    wait_until(both, "both conditions")


def metrics(injectors: Replicas) -> list[str]:
    """The metrics of each replica."""
    found = []
    for _, _, admin in injectors.running:
        with urllib.request.urlopen(f"http://127.0.0.1:{admin}/metrics", timeout=60) as answer:
            found.append(answer.read().decode())
    return found


def leader(injectors: Replicas) -> int:
    """Which of the replicas writes, or -1."""
    leads = 'openmcp_injector_leader{lease="openmcp-injector-status"} 1.0'
    return next((number for number, text in enumerate(metrics(injectors)) if leads in text), -1)


def left(injectors: Replicas) -> float:
    """Seconds until the first certificate of a replica ends."""
    ends = [
        re.findall(r"^openmcp_injector_certificate_expires_seconds (\S+)$", one, re.M) for one in metrics(injectors)
    ]
    return min(float(end) for (end,) in ends) - time.time()


def holder(kube: KubeApi) -> str:
    """Who writes, by the Lease."""
    lease = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "openmcp-injector-status"}}
    return str(kube.read(lease, SYSTEM)["spec"].get("holderIdentity") or "")


def test_another_replica_goes_on_and_repeats_nothing(kube: KubeApi, injectors: Replicas, namespace: str):
    kube.apply([SERVER], namespace)
    becomes(kube, SERVER, namespace, "True")
    before = version(kube, SERVER, namespace)
    wait_until(lambda: leader(injectors) >= 0, "a writer")
    gone = holder(kube)
    injectors.running.insert(0, injectors.running.pop(leader(injectors)))
    injectors.stop()
    try:
        assert holder(kube) != gone, "it is not handed over, but waited for"
        wait_until(lambda: leader(injectors) >= 0, "the other one")
        second = named(SERVER, "second")
        kube.apply([second], namespace)
        becomes(kube, second, namespace, "True")
        assert version(kube, SERVER, namespace) == before
    finally:
        injectors.start()


def test_while_the_api_server_is_away_replicas_stay_ready_and_then_go_on(
    kube: KubeApi, injectors: Replicas, namespace: str
):
    kube.apply([SERVER], namespace)
    becomes(kube, SERVER, namespace, "True")
    before = version(kube, SERVER, namespace)
    # It cannot be renewed meanwhile, and from one to the next it may have twelve seconds left, of which ten are needed.
    wait_until(lambda: left(injectors) > LONG_ENOUGH, "a certificate that outlives this", LIFETIME)
    kube.kill()
    try:
        wait_until(lambda: leader(injectors) < 0, "the end of the Lease")
        assert [readiness(admin)[0] for _, _, admin in injectors.running] == [200] * len(injectors.running)
    finally:
        kube.restart()
    second = named(SERVER, "second")
    kube.apply([second], namespace)
    becomes(kube, second, namespace, "True")
    assert version(kube, SERVER, namespace) == before


def test_an_object_that_is_gone_again_is_no_trouble(kube: KubeApi, injectors: Replicas, namespace: str):
    for number in range(10):
        short = named(SERVER, f"short-{number}")
        kube.apply([short], namespace)
        kube.delete(short, namespace)
    kube.apply([SERVER], namespace)
    becomes(kube, SERVER, namespace, "True")
    assert not [
        line for started, _, _ in injectors.running for line in started.printed().splitlines() if "Traceback" in line
    ]
