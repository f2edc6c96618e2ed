"""One configuration of a file and objects: what is wrong with one object is its own matter, and is denied."""

from collections.abc import Mapping
from typing import Any

import msgspec
import pytest

from openmcp.config import ConfigurationError, Loaded
from openmcp.config.cursor import At
from openmcp.config.kubernetes.assemble import NOT_VALID, Assembled, Object, Parsed, Standing, assemble, parse
from openmcp.config.model import Action, Policy, RequestRule
from openmcp.config.problems import Report
from openmcp.config.yamlsource import read

BASE = """
apiVersion: openmcp.dev/v1alpha1
source: {type: kubernetes}
identity: {agents: [{type: none}]}
"""
ALLOW = {"name": "all", "action": "allow"}
GATED = {"name": "gated", "action": "requireApproval", "approval": {"workflow": "leads"}}
DENIED = (RequestRule(name="not-valid", action=Action.DENY, message=NOT_VALID),)


def document(text: str = BASE) -> list[At]:
    report = Report()
    found = [At(node, node.mark, "", "/etc/openmcp", report) for node in read(text.encode(), "gateway.yaml", report)]
    assert report.errors == []
    return found


class Cluster:
    """Objects, and what was good the last time."""

    def __init__(self, base: str = BASE) -> None:
        self.base = document(base) if base else []
        self.objects: dict[tuple[str, str], Object] = {}
        self.good: Mapping[str, Parsed] = {}

    def put(self, kind: str, name: str, spec: Any, created: str = "2026-01-01T00:00:00Z") -> "Cluster":
        known = self.objects.get((kind, name))
        generation = known.generation + 1 if known else 1
        created = known.created if known else created
        made = Object(kind, "ns", name, f"uid-{kind}-{name}", generation, created, msgspec.json.encode(spec))
        self.objects[kind, name] = made
        return self

    def server(self, name: str, created: str = "2026-01-01T00:00:00Z", **spec: Any) -> "Cluster":
        return self.put("MCPServer", name, {"endpoints": [f"http://{name}/mcp"], **spec}, created)

    def policy(self, name: str, *rules: Any, **spec: Any) -> "Cluster":
        return self.put("MCPPolicy", name, {"servers": ["tickets"], "requests": rules or [ALLOW], **spec})

    def workflow(self, name: str, **spec: Any) -> "Cluster":
        return self.put("ApprovalWorkflow", name, {"approvers": ["token:a"], **spec})

    def assemble(self) -> Assembled:
        made = assemble(self.base, [parse(one, "/etc/openmcp") for one in self.objects.values()], self.good)
        self.good = made.good
        return made


def said(made: Assembled) -> dict[str, tuple[Standing, list[str]]]:
    """What is told of the objects that are not in force as they are."""
    return {
        f"{one.object.kind} {one.object.name}": (one.standing, [str(problem) for problem in one.errors])
        for one in made.verdicts
        if not one.accepted
    }


def servers(made: Assembled) -> list[str]:
    assert isinstance(made.result, Loaded), made.result
    return [server.name for server in made.result.configuration.servers]


def policies(made: Assembled) -> dict[str, Policy]:
    assert isinstance(made.result, Loaded), made.result
    return {policy.name: policy for policy in made.result.configuration.policies}


def test_all_is_well():
    cluster = Cluster().server("tickets").policy("base", GATED).workflow("leads")
    made = cluster.assemble()
    assert isinstance(made.result, Loaded)
    found = made.result.configuration
    assert [one.name for one in (*found.servers, *found.policies, *found.approvals.workflows)] == [
        "tickets",
        "base",
        "leads",
    ]
    assert found.servers[0].path == "/tickets"
    assert found.identity.agents[0].__struct_config__.tag == "none"
    assert said(made) == {}
    assert len(made.good) == 3


def test_errors_name_the_object_and_the_place():
    made = Cluster().server("tickets").policy("base", {"name": "x", "action": "alow"}).assemble()
    assert said(made) == {
        "MCPPolicy base": (
            Standing.DENIED,
            ['MCPPolicy ns/base: spec.requests[0].action: unknown action "alow" (did you mean "allow"?)'],
        )
    }


def test_an_invalid_change_leaves_the_last_good_version():
    cluster = Cluster().server("tickets").policy("base")
    before = cluster.assemble()
    made = cluster.policy("base", {"name": "all"}).assemble()
    assert policies(made) == policies(before)
    assert said(made) == {
        "MCPPolicy base": (Standing.PREVIOUS, ["MCPPolicy ns/base: spec.requests[0]: `action` is required"])
    }
    assert said(cluster.assemble()) == said(made), "it stays so"
    made = cluster.policy("base", {"name": "none", "action": "deny"}).assemble()
    assert said(made) == {}
    assert policies(made)["base"].requests[0].action is Action.DENY


def test_an_object_made_anew_has_no_last_good_version():
    cluster = Cluster().server("tickets").policy("base")
    cluster.assemble()
    cluster.policy("base", {"name": "all"})
    made = msgspec.structs.replace(cluster.objects["MCPPolicy", "base"], uid="another")
    cluster.objects["MCPPolicy", "base"] = made
    assert policies(cluster.assemble())["base"].requests == DENIED


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (
            {"servers": ["tickets", "crm-*"], "agents": ["key:a"]},
            {"servers": ("tickets", "crm-*"), "agents": ("key:a",)},
        ),
        ({"servers": ["tickets"]}, {"servers": ("tickets",)}),
        ({"servers": ["tickets"], "agents": []}, {"servers": ("tickets",)}),
        ({"servers": ["tickets"], "agents": [{"namespace": 5}]}, {"servers": ("tickets",)}),
        ({"servers": "tickets"}, {"servers": ("*",)}),
        ({"servers": []}, {"servers": ("*",)}),
        ({"servers": ["tickets", 5], "agents": ["key:a"]}, {"servers": ("*",), "agents": ("key:a",)}),
        ({"servers": ["tickets"], "mode": "shadow"}, {"servers": ("tickets",), "mode": "shadow"}),
        ({"servers": ["tickets"], "mode": "shadwo"}, {"servers": ("tickets",)}),
        ({}, {"servers": ("*",)}),
        ("text", {"servers": ("*",)}),
        (None, {"servers": ("*",)}),
    ],
)
def test_a_policy_that_was_never_good_denies_to_whom_it_names(spec, expected):
    given = spec | {"requests": [{"name": "x"}]} if isinstance(spec, dict) else spec
    made = Cluster().server("tickets").put("MCPPolicy", "base", given).assemble()
    assert policies(made)["base"] == Policy(name="base", requests=DENIED, **expected)
    assert said(made)["MCPPolicy base"][0] is Standing.DENIED


def test_a_server_that_was_never_good_is_not_there():
    made = Cluster().server("tickets", endpoints=[]).server("crm").policy("base").assemble()
    assert servers(made) == ["crm"]
    assert said(made).keys() == {"MCPServer tickets"}


def test_rules_that_name_a_workflow_that_is_not_there():
    cluster = Cluster().server("tickets").policy("base", GATED).policy("other")
    made = cluster.assemble()
    assert policies(made)["base"].requests == DENIED
    assert policies(made)["other"].requests != DENIED
    assert said(made) == {
        "MCPPolicy base": (
            Standing.DENIED,
            [
                'MCPPolicy ns/base: spec.requests[0].approval.workflow: no workflow is named "leads" '
                "(approvals.workflows: there are none)"
            ],
        )
    }
    assert said(cluster.workflow("leads").assemble()) == {}


def test_a_workflow_that_goes_takes_its_rules_along():
    cluster = Cluster().server("tickets").policy("base", GATED).workflow("leads")
    cluster.assemble()
    made = cluster.workflow("leads", approvers=[]).assemble()
    assert said(made).keys() == {"ApprovalWorkflow leads"}
    assert said(made)["ApprovalWorkflow leads"][0] is Standing.PREVIOUS
    assert policies(made)["base"].requests != DENIED
    del cluster.objects["ApprovalWorkflow", "leads"]
    made = cluster.assemble()
    assert policies(made)["base"].requests == DENIED
    assert "uid-ApprovalWorkflow-leads" not in made.good


def test_a_bad_workflow_and_the_policy_that_names_it_fall_together():
    made = Cluster().server("tickets").policy("base", GATED).workflow("leads", approvers=[]).assemble()
    assert {name: standing for name, (standing, _) in said(made).items()} == {
        "ApprovalWorkflow leads": Standing.DENIED,
        "MCPPolicy base": Standing.DENIED,
    }


def test_the_older_one_wins_a_clash():
    early, late = "2026-01-01T00:00:00Z", "2026-06-01T00:00:00Z"
    cluster = Cluster().server("b", early, path="/x").server("a", late, path="/x").policy("base", servers=["*"])
    made = cluster.assemble()
    assert servers(made) == ["b"]
    assert said(made) == {
        "MCPServer a": (
            Standing.DENIED,
            ['MCPServer ns/a: spec.path: duplicate server path "/x" (first at MCPServer ns/b)'],
        )
    }
    assert servers(cluster.server("b", path="/y").assemble()) == ["b", "a"]


def test_of_the_same_age_the_name_decides():
    assert servers(Cluster().server("b", path="/x").server("a", path="/x").assemble()) == ["a"]


def test_a_clash_takes_the_younger_one_back_to_what_it_was():
    cluster = Cluster().server("a", "2026-01-01T00:00:00Z").server("b", "2026-02-01T00:00:00Z")
    cluster.assemble()
    made = cluster.server("b", path="/a").assemble()
    assert said(made)["MCPServer b"][0] is Standing.PREVIOUS
    assert isinstance(made.result, Loaded)
    assert [server.path for server in made.result.configuration.servers] == ["/a", "/b"]
    made = cluster.server("a", path="/b").assemble()
    assert said(made) == {}, "they have changed places"


def test_an_old_version_that_has_become_wrong_is_denied():
    cluster = Cluster().server("a", "2026-01-01T00:00:00Z").server("b", "2026-02-01T00:00:00Z")
    cluster.assemble()
    made = cluster.server("b", endpoints=[]).server("a", path="/b").assemble()
    assert servers(made) == ["a"]
    assert said(made)["MCPServer b"][0] is Standing.DENIED
    made = cluster.server("a", path="/z").assemble()
    assert servers(made) == ["a", "b"], "its last good version is good again"


def test_errors_of_the_file_are_its_own():
    cluster = Cluster(BASE + "listen: {mcp: '127.0.0.1:1', admin: '127.0.0.1:1'}\n").server("tickets")
    made = cluster.assemble()
    assert isinstance(made.result, ConfigurationError)
    assert [problem.file for problem in made.result.problems] == ["gateway.yaml"]
    assert said(made) == {}


def test_an_object_cannot_lead_back_here():
    cluster = Cluster(BASE + "listen: {mcp: '127.0.0.1:15001'}\n").server(
        "loop", endpoints=["http://127.0.0.1:15001/x"]
    )
    assert servers(cluster.assemble()) == []


def test_warnings_belong_to_objects_that_are_accepted():
    cluster = Cluster().server("tickets").policy("base", servers=["tickets", "nowhere"]).policy("bad", {})
    warnings = {one.object.name: [str(problem) for problem in one.warnings] for one in cluster.assemble().verdicts}
    assert warnings == {
        "tickets": [],
        "base": [
            'MCPPolicy ns/base: spec.servers[1]: no server is named "nowhere" (there are: tickets)',
            'MCPPolicy ns/base: spec.requests[0]: rule "all" has no effect: rule "not-valid" of policy "bad" denies '
            "all of it (remove it, or narrow the other)",
        ],
        "bad": [],
    }


def test_without_a_file_objects_are_judged_by_themselves():
    cluster = Cluster("").server("tickets").policy("base", GATED).workflow("leads", channels=["slack"])
    made = cluster.assemble()
    assert said(made) == {}
    assert [one.warnings for one in made.verdicts] == [(), (), ()]


def test_duplicates_within_an_object_are_told_by_their_path():
    made = Cluster().server("tickets").policy("base", ALLOW, ALLOW).assemble()
    assert said(made)["MCPPolicy base"][1] == [
        'MCPPolicy ns/base: spec.requests[1].name: duplicate rule name "all" (first at spec.requests[0].name)'
    ]


@pytest.mark.parametrize(
    "value",
    [10**18, -(10**18), [[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]],
    ids=["big", "small", "deep"],
)
def test_values_that_have_no_place_in_a_configuration(value):
    rule = {**ALLOW, "when": [{"path": "$.a", "op": "eq", "value": value}]}
    made = Cluster().server("tickets").policy("base", rule).assemble()
    assert said(made)["MCPPolicy base"][0] is Standing.DENIED


def test_numbers_and_texts_stay_what_they_are():
    values = [5, 5.5, "5", True, "true", "", 999_999_999_999_999_999]
    rule = {**ALLOW, "when": [{"path": "$.a", "op": "in", "value": values}]}
    made = Cluster().server("tickets").policy("base", rule).assemble()
    found = policies(made)["base"].requests[0].when[0].value
    assert isinstance(found, tuple)
    assert [(type(one), one) for one in found] == [(type(one), one) for one in values]
