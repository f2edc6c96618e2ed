"""Whatever objects hold, there is a configuration, and nobody gets more than good objects give."""

import copy
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from openmcp.config import Loaded
from openmcp.config.kubernetes.assemble import Assembled, Standing
from openmcp.config.model import Action
from tests.config.kubernetes.test_assemble import ALLOW, DENIED, GATED, Cluster

json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
GOOD: dict[tuple[str, str], Any] = {
    ("MCPServer", "a"): {"endpoints": ["http://a/mcp"], "path": "/a", "auth": {"type": "none"}},
    ("MCPServer", "b"): {"endpoints": ["http://b/mcp"], "health": {"interval": "5s"}},
    ("MCPPolicy", "p"): {"servers": ["a"], "agents": [{"namespace": "x"}], "requests": [GATED]},
    ("MCPPolicy", "q"): {"servers": ["*"], "mode": "enforce", "requests": [ALLOW], "responses": []},
    ("ApprovalWorkflow", "leads"): {"approvers": ["token:a"], "required": 1, "channels": []},
}


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a document."""
    found = [path]
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        found += places(inner, (*path, key))
    return found


@st.composite
def edits(draw: st.DrawFn) -> tuple[str, str, Any]:
    """Another spec for one of the objects: one place is something else; or None, where it is deleted."""
    kind, name = draw(st.sampled_from(sorted(GOOD)))
    spec = copy.deepcopy(GOOD[kind, name])
    path = draw(st.sampled_from(places(spec)))
    other = draw(json | st.sampled_from(["/a", "/b", "leads", "nowhere", "a", "shadow", "deny", "requireApproval"]))
    if not path:
        return kind, name, draw(st.sampled_from([None, other]))
    inner = spec
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = other
    return kind, name, spec


def check(made: Assembled, present: set[tuple[str, str]]) -> None:
    assert isinstance(made.result, Loaded), made.result
    found = made.result.configuration
    assert {(one.object.kind, one.object.name) for one in made.verdicts} == present
    standing = {(one.object.kind, one.object.name): one.standing for one in made.verdicts}
    servers = {server.name for server in found.servers}
    policies = {policy.name: policy for policy in found.policies}
    for (kind, name), its in standing.items():
        if kind == "MCPServer":
            assert (name in servers) == (its is not Standing.DENIED)
        elif kind == "MCPPolicy":
            assert name in policies, "a policy is there, or what denies in its place"
            assert (policies[name].requests == DENIED) == (its is Standing.DENIED)
    for one in made.verdicts:
        assert one.accepted == (not one.errors)
        assert all(problem.file == one.object.place for problem in (*one.errors, *one.warnings))
    known = {workflow.name for workflow in found.approvals.workflows}
    for policy in found.policies:
        for rule in policy.requests:
            assert rule.action is not Action.REQUIRE_APPROVAL or (rule.approval and rule.approval.workflow in known)


@settings(max_examples=300, deadline=None)
@given(st.lists(edits(), min_size=1, max_size=6))
def test_any_edits_one_after_the_other(edited: list[tuple[str, str, Any]]) -> None:
    cluster = Cluster()
    for (kind, name), spec in GOOD.items():
        cluster.put(kind, name, spec)
    made = cluster.assemble()
    assert all(one.accepted for one in made.verdicts)
    for kind, name, spec in edited:
        if spec is None:
            cluster.objects.pop((kind, name), None)
        else:
            cluster.put(kind, name, spec)
        made = cluster.assemble()
        check(made, set(cluster.objects))
        again = cluster.assemble()
        assert msgspec.structs.asdict(again)["verdicts"] == made.verdicts, "it is settled"
    for (kind, name), spec in GOOD.items():
        cluster.put(kind, name, spec)
    assert all(one.accepted for one in cluster.assemble().verdicts)


@settings(max_examples=200, deadline=None)
@given(st.lists(edits(), min_size=1, max_size=5))
def test_any_objects_from_the_start(edited: list[tuple[str, str, Any]]) -> None:
    cluster = Cluster()
    for kind, name, spec in edited:
        if spec is not None:
            cluster.put(kind, name, spec)
    check(cluster.assemble(), set(cluster.objects))
