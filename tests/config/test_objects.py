"""Manifests as they lie about: lists taken apart, others' objects left out, one namespace at a time."""

import json
from textwrap import dedent

import pytest

from openmcp.config import ConfigurationError, Loaded
from tests.config.sources import HEAD, outcome

SERVER = HEAD + "kind: MCPServer\nmetadata: {name: %s%s}\nspec: {endpoints: ['http://h/%s']}\n"
ONLY = "(only MCPServer, MCPPolicy, ApprovalWorkflow and the sections of gateway.yaml are)"


def server(name: str, namespace: str = "") -> str:
    return SERVER % (name, f", namespace: {namespace}" if namespace else "", name)


def names(found: Loaded | ConfigurationError) -> list[str]:
    assert isinstance(found, Loaded), str(found)
    return [each.name for each in found.configuration.servers]


def skipped(found: Loaded | ConfigurationError) -> list[str]:
    return [str(warning) for warning in found.warnings if "not looked at" in warning.message]


def told(found: Loaded | ConfigurationError) -> list[str]:
    assert isinstance(found, ConfigurationError)
    return [str(problem) for problem in found.problems]


UNKNOWN = 'all.yaml:1: apiVersion: unknown apiVersion "%s" (write openmcp.dev/v1alpha1)'
FOREIGN = """\
apiVersion: v1
kind: ConfigMap
metadata: {name: openmcp}
data: {gateway.yaml: "x"}
---
"""


def test_objects_of_others_are_named_and_left_out():
    deployment = FOREIGN.replace("ConfigMap", "Deployment").replace("v1", "apps/v1")
    found = outcome({"all.yaml": FOREIGN + server("a") + "---\n" + deployment + server("b")}, "all.yaml")
    assert names(found) == ["a", "b"]
    assert skipped(found) == [f"all.yaml:1: not looked at: ConfigMap openmcp, Deployment openmcp {ONLY}"]


def test_of_many_the_first_are_named():
    found = outcome({"all.yaml": FOREIGN * 7 + server("a")}, "all.yaml")
    assert skipped(found) == [
        f"all.yaml:1: not looked at: {'ConfigMap openmcp, ' * 4}ConfigMap openmcp and 2 more {ONLY}"
    ]


@pytest.mark.parametrize(
    ("changed", "to", "expected"),
    [
        ("MCPServer", "MCPServr", 'all.yaml:2: kind: unknown kind "MCPServr" (did you mean "MCPServer"?)'),
        ("v1alpha1", "v1", 'all.yaml:1: apiVersion: unknown apiVersion "openmcp.dev/v1" (write openmcp.dev/v1alpha1)'),
        ("openmcp.dev", "openmpc.dev", UNKNOWN % "openmpc.dev/v1alpha1"),
        ("openmcp.dev", "openmcp.io", UNKNOWN % "openmcp.io/v1alpha1"),
        ("openmcp.dev/", "", 'all.yaml:1: apiVersion: unknown apiVersion "v1alpha1" (write openmcp.dev/v1alpha1)'),
        (HEAD, "", "all.yaml:1: `apiVersion` is required (write apiVersion: openmcp.dev/v1alpha1)"),
    ],
)
def test_what_was_meant_for_us_is_never_left_out(changed, to, expected):
    assert told(outcome({"all.yaml": server("a").replace(changed, to)}, "all.yaml")) == [expected]


@pytest.mark.parametrize(
    ("version", "kind"),
    [("v1", "Service"), ("toolhive.stacklok.dev/v1alpha1", "MCPServer"), ("networking.k8s.io/v1", "NetworkPolicy")],
)
def test_what_others_name_alike_is_theirs(version, kind):
    theirs = server("theirs").replace("openmcp.dev/v1alpha1", version).replace("MCPServer", kind)
    found = outcome({"all.yaml": server("a") + "---\n" + theirs}, "all.yaml")
    assert names(found) == ["a"]
    assert skipped(found) == [f"all.yaml:6: not looked at: {kind} theirs {ONLY}"]


@pytest.mark.parametrize(("version", "kind"), [("v1", "List"), ("openmcp.dev/v1alpha1", "MCPServerList")])
def test_lists_are_taken_apart(version, kind):
    one = {
        "apiVersion": "openmcp.dev/v1alpha1",
        "kind": "MCPServer",
        "metadata": {"name": "a", "uid": "5", "managedFields": []},
        "spec": {"endpoints": ["http://a/"]},
        "status": {"conditions": []},
    }
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}}
    text = json.dumps({"apiVersion": version, "kind": kind, "metadata": {}, "items": [one, secret]}, indent=1)
    found = outcome({"list.yaml": text}, "list.yaml")
    assert names(found) == ["a"]
    assert [warning.partition(": ")[2] for warning in skipped(found)] == [f"not looked at: Secret s {ONLY}"]
    wrong = text.replace("endpoints", "endpoint")
    assert [message.partition(": ")[2] for message in told(outcome({"list.yaml": wrong}, "list.yaml"))] == [
        "items[0].spec: `endpoints` is required (or `stdio`, where the server is a program of this machine)",
        'items[0].spec: unknown key "endpoint" (did you mean "endpoints"?)',
    ]


def test_objects_of_two_namespaces_are_not_one_configuration():
    text = server("a", "one") + "---\n" + server("b") + "---\n" + server("a", "two")
    assert told(outcome({"all.yaml": text}, "all.yaml")) == [
        'all.yaml:13: metadata: an object of namespace "two" beside those of "one" '
        "(a sidecar sees those of one: choose it with --namespace)",
        'all.yaml:13: spec.name: duplicate server name "a" (first at line 3)',
    ]


def test_a_namespace_is_chosen():
    text = server("a", "one") + "---\n" + server("b") + "---\n" + server("a", "two")
    assert names(outcome({"all.yaml": text}, "all.yaml", "two")) == ["b", "a"]
    assert names(outcome({"all.yaml": text}, "all.yaml", "three")) == ["b"]


@pytest.mark.parametrize("name", ["Zendesk", "a_b", "-a", "a.-b"])
def test_a_name_is_one_that_the_api_server_takes(name):
    assert told(outcome({"all.yaml": server(f'"{name}"')}, "all.yaml"))[0] == (
        f'all.yaml:3: metadata.name: not the name of a Kubernetes object: "{name}" '
        "(lower case letters, digits, - and ., beginning and ending with a letter or digit (RFC 1123))"
    )


def test_a_kind_and_a_group_that_are_both_mistyped_are_told():
    text = server("a").replace("openmcp.dev", "openmcp.io").replace("MCPServer", "MCPSever")
    assert told(outcome({"all.yaml": text}, "all.yaml")) == [
        UNKNOWN % "openmcp.io/v1alpha1",
        'all.yaml:2: kind: unknown kind "MCPSever" (did you mean "MCPServer"?)',
    ]


def test_a_file_of_others_alone_is_no_configuration_of_ours():
    found = outcome({"all.yaml": dedent(FOREIGN)}, "all.yaml")
    assert names(found) == []
    assert len(skipped(found)) == 1
