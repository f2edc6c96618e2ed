"""The API server takes the CustomResourceDefinitions, and judges good and bad objects as `validate` does."""

from pathlib import Path

import pytest

from tests.support.fixture_objects import FOLDER, files, objects
from tests.support.golden import check_golden
from tests.support.kubernetes import KubeApi, Rejected, refused
from tests.support.process import ROOT

pytestmark = pytest.mark.real

CRDS = sorted((ROOT / "manifests" / "crds").glob("*.yaml"))
POLICY = {"apiVersion": "openmcp.dev/v1alpha1", "kind": "MCPPolicy", "metadata": {"name": "p"}}


def named(file: Path) -> str:
    return str(file.relative_to(FOLDER).with_suffix(""))


@pytest.fixture(scope="module")
def cluster(kube: KubeApi) -> KubeApi:
    """The API server with the definitions."""
    for file in CRDS:
        kube.apply(file.read_text())
    return kube


@pytest.fixture(scope="module")
def namespace(cluster: KubeApi) -> str:
    return cluster.namespace("objects")


@pytest.mark.parametrize("file", [*files("good"), *files("later")], ids=named)
def test_what_it_cannot_know_better_is_accepted(cluster, namespace, file):
    for found in objects(file):
        for made in (cluster.create(found, namespace, dry_run=True), *cluster.apply([found], namespace, dry_run=True)):
            defaulted = {"mode": "enforce"} if found["kind"] == "MCPPolicy" else {}
            assert made["spec"] == defaulted | found["spec"], "nothing is left out or changed"


@pytest.mark.parametrize("file", files("refused"), ids=named)
def test_what_is_wrong_is_refused(cluster, namespace, file):
    for send in (lambda one: cluster.create(one, namespace, dry_run=True), lambda one: cluster.apply([one], namespace)):
        assert any(rejection(send, found) for found in objects(file))


def rejection(send, found) -> str:
    try:
        send(found)
    except Rejected as error:
        return error.message
    return ""


def test_in_which_words(cluster, namespace):
    told = ""
    for file in files("refused"):
        messages = [rejection(lambda one: cluster.create(one, namespace, dry_run=True), one) for one in objects(file)]
        told += "".join(f"{named(file)}\n  {message.partition(': ')[2]}\n" for message in messages if message)
    check_golden("objects/api-server.txt", told)


def test_a_thousand_rules_are_within_what_checking_may_cost(cluster, namespace):
    rule = {
        "tools": [f"tool_{number}" for number in range(10)],
        "action": "requireApproval",
        "when": [{"path": "$.a", "op": "lt", "value": 5}],
        "approval": {"workflow": "leads", "duration": "30m", "maxDuration": "4h"},
    }
    spec = {"servers": ["*"], "requests": [{"name": f"rule-{number}", **rule} for number in range(1000)]}
    made = cluster.create({**POLICY, "spec": spec}, namespace, dry_run=True)
    assert len(made["spec"]["requests"]) == 1000
    more = {**spec, "requests": [*spec["requests"], {"name": "one-more", "action": "deny"}]}
    error = refused(lambda: cluster.create({**POLICY, "spec": more}, namespace, dry_run=True))
    assert "spec.requests: Too many: 1001: must have at most 1000 items" in error.message


def test_status_is_written_by_itself(cluster, namespace):
    """A spec does not change with it, and who applies an object does not touch its status."""
    found = {**POLICY, "spec": {"servers": ["*"]}}
    made = cluster.create({**found, "status": {"conditions": []}}, namespace)
    assert "status" not in made
    condition = {
        "type": "Accepted",
        "status": "False",
        "reason": "Invalid",
        "message": "spec.requests[0].tools: an empty list",
        "observedGeneration": 1,
        "lastTransitionTime": "2026-11-21T10:00:00Z",
    }
    status = {"observedGeneration": 1, "conditions": [condition]}
    patched = cluster.patch(found, {"status": status, "spec": {"servers": ["x"]}}, namespace, "status")
    assert patched["status"] == status
    assert patched["spec"]["servers"] == ["*"]
    twice = {"status": {"conditions": [condition, condition]}}
    assert "Duplicate value" in refused(lambda: cluster.patch(found, twice, namespace, "status")).message


def test_tables_show_what_is_accepted(cluster, namespace):
    cluster.create({**POLICY, "metadata": {"name": "shown"}, "spec": {"servers": ["*"]}}, namespace)
    path = f"/apis/openmcp.dev/v1alpha1/namespaces/{namespace}/mcppolicies/shown"
    table = cluster.call("GET", path, headers={"accept": "application/json;as=Table;g=meta.k8s.io;v=v1"})
    assert [column["name"] for column in table["columnDefinitions"]] == ["Name", "Accepted", "Mode", "Age", "Message"]
    assert table["rows"][0]["cells"][:3] == ["shown", None, "enforce"]


def test_they_are_found_by_their_short_names_and_category(cluster):
    found = cluster.get("/apis/openmcp.dev/v1alpha1")["resources"]
    named = {
        each["name"]: (each.get("shortNames"), each.get("categories")) for each in found if "/" not in each["name"]
    }
    assert named == {
        "mcpservers": (["omcp"], ["openmcp"]),
        "mcppolicies": (["omcpp"], ["openmcp"]),
        "approvalworkflows": (["omcpw"], ["openmcp"]),
    }
