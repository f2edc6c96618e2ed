"""Several files and documents make one configuration; Kubernetes objects are entries of its lists."""

from openmcp.config import ConfigurationError, Loaded
from openmcp.config.model import Workflow
from tests.config.sources import HEAD, outcome

SERVER = "servers: [{name: %s, endpoints: ['http://h/']}]\n"
POLICY = "policies: [{name: %s, servers: ['*'], requests: [{name: r, action: allow}]}]\n"


def names(found):
    assert isinstance(found, Loaded), str(found)
    made = found.configuration
    return [server.name for server in made.servers], [policy.name for policy in made.policies]


def told(found):
    assert isinstance(found, ConfigurationError)
    return [str(problem) for problem in found.problems]


def test_the_files_of_a_folder_are_joined_in_the_order_of_their_names():
    found = outcome(
        {
            "conf/20-b.yml": HEAD + SERVER % "b" + POLICY % "q",
            "conf/10-a.yaml": HEAD + SERVER % "a",
            "conf/30-c.yaml": HEAD + "identity: {agents: [{type: none}]}\n---\n" + HEAD + POLICY % "p",
            "conf/.hidden.yaml": "not: read",
            "conf/readme.md": "not read",
        },
        "conf",
    )
    assert names(found) == (["a", "b"], ["q", "p"])
    assert isinstance(found, Loaded)
    assert found.warnings == ()


def test_problems_name_the_file():
    found = outcome(
        {
            "conf/a.yaml": HEAD + SERVER % "s" + "listen: {}\n",
            "conf/b.yaml": HEAD + "\n" + SERVER % "s" + "listen: {}\nlisen: {}\n",
            "conf/c.yaml": "servers: []",
        },
        "conf",
    )
    assert told(found) == [
        'conf/b.yaml:3: servers[0].name: duplicate server name "s" (first at conf/a.yaml:2)',
        'conf/b.yaml:4: listen: duplicate section "listen" (first at conf/a.yaml:3)',
        'conf/b.yaml:5: unknown key "lisen" (did you mean "listen"?)',
        "conf/c.yaml:1: `apiVersion` is required (write apiVersion: openmcp.dev/v1alpha1)",
    ]


def test_a_file_with_an_error_of_yaml_does_not_hide_those_of_others():
    found = outcome({"conf/a.yaml": "a: [", "conf/b.yaml": HEAD + "x: 1"}, "conf")
    assert [problem.file for problem in found.problems] == ["conf/a.yaml", "conf/b.yaml"]


OBJECTS = """
apiVersion: openmcp.dev/v1alpha1
kind: MCPServer
metadata: {name: zendesk, namespace: support-ai, labels: {a: b}}
spec:
  endpoints: ["http://h/mcp"]
status: {conditions: []}
---
apiVersion: openmcp.dev/v1alpha1
kind: MCPPolicy
metadata:
  name: base
spec:
  servers: [zendesk]
  requests: [{name: r, action: allow}]
---
apiVersion: openmcp.dev/v1alpha1
kind: ApprovalWorkflow
metadata: {name: leads}
spec: {approvers: ["token:oncall"]}
"""


def test_kubernetes_objects_are_entries_of_the_lists():
    found = outcome({"conf/objects.yaml": OBJECTS, "conf/z.yaml": HEAD + SERVER % "other"}, "conf")
    assert names(found) == (["zendesk", "other"], ["base"])
    assert isinstance(found, Loaded)
    assert found.configuration.servers[0].path == "/zendesk"
    assert found.configuration.approvals.workflows == (Workflow(name="leads", approvers=("token:oncall",)),)


def test_workflows_of_a_section_and_of_objects_are_joined():
    sections = HEAD + "approvals: {workflows: [{name: leads, approvers: ['email:a@b']}]}\n"
    found = outcome({"conf/a.yaml": OBJECTS, "conf/b.yaml": HEAD + SERVER % "o" + sections.removeprefix(HEAD)}, "conf")
    assert told(found) == [
        'conf/b.yaml:3: approvals.workflows[0].name: duplicate workflow name "leads" (first at conf/a.yaml:19)'
    ]


def test_problems_of_kubernetes_objects():
    found = outcome(
        {
            "a.yaml": OBJECTS.lstrip()
            .replace("MCPPolicy", "MCPPolici")
            .replace("spec:\n  endpoints", "spec:\n  name: other\n  endpoint")
            .replace("status", "stats")
            + "---\n"
            + HEAD
            + "kind: ApprovalWorkflow\nmetadata: {name: w}\nspec: {approver: [x]}\n---\n"
            + HEAD
            + "kind: MCPServer\nspec: {name: a, endpoints: ['http://h/']}\n---\n"
            + HEAD
            + "kind: MCPServer\nmetadata: {name: b}\n"
        },
        "a.yaml",
    )
    assert told(found) == [
        "a.yaml:4: spec: `endpoints` is required (or `stdio`, where the server is a program of this machine)",
        "a.yaml:5: spec.name: must be left out or equal to `metadata.name`",
        'a.yaml:6: spec: unknown key "endpoint" (did you mean "endpoints"?)',
        'a.yaml:7: unknown key "stats" (did you mean "status"?)',
        'a.yaml:10: kind: unknown kind "MCPPolici" (did you mean "MCPPolicy"?)',
        "a.yaml:25: spec: `approvers` is required",
        'a.yaml:25: spec: unknown key "approver" (did you mean "approvers"?)',
        "a.yaml:27: `metadata.name` is required",
        "a.yaml:31: `spec` is required (a mapping, the same as one entry of the list in gateway.yaml)",
    ]
