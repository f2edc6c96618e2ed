"""`source`: where servers, policies and workflows come from."""

from openmcp.config.model import FileOrigin, KubernetesOrigin
from tests.config.sources import HEAD, check, errors, good

FROM_CLUSTER = "source: {type: kubernetes}\n"
ELSEWHERE = "are objects of kind {} (apply it to the cluster and remove it here, or remove `source`)"


@check(
    {
        "neither": ("source: {type: git}", '2: source.type: unknown type "git" (one of: file, kubernetes)'),
        "namespace": (
            "source: {type: kubernetes, namespace: A_b}",
            '2: source.namespace: not a namespace: "A_b" (lower case letters, digits and -, at most 63)',
        ),
        "another path": (
            "source: {type: kubernetes, namespace: ../secrets}",
            '2: source.namespace: not a namespace: "../secrets" (lower case letters, digits and -, at most 63)',
        ),
        "staleness": (
            "source: {type: kubernetes, maxStaleness: 119s}",
            "2: source.maxStaleness: must be at least 2m "
            "(where nothing changes, the API server is heard of about once a minute)",
        ),
        "of the other type": (
            "source: {type: file, namespace: a}",
            '2: source: unknown key "namespace" (known here: type)',
        ),
        "servers": (
            FROM_CLUSTER + "servers: [{name: s, endpoints: ['http://h/']}]",
            "3: servers[0]: with `source: {type: kubernetes}` servers " + ELSEWHERE.format("MCPServer"),
        ),
        "policies": (
            FROM_CLUSTER + "policies: [{name: p, servers: [s]}]",
            "3: policies[0]: with `source: {type: kubernetes}` policies " + ELSEWHERE.format("MCPPolicy"),
        ),
        "workflows": (
            FROM_CLUSTER + "approvals: {workflows: [{name: w, approvers: ['token:a']}]}",
            "3: approvals.workflows[0]: with `source: {type: kubernetes}` workflows "
            + ELSEWHERE.format("ApprovalWorkflow"),
        ),
    }
)
def test_what_is_refused(text, expected):
    assert errors(text) == expected


def test_what_is_read():
    assert good("source: {type: file}").configuration.source == FileOrigin()
    found = good("source: {type: kubernetes, namespace: support-ai, maxStaleness: 10m}").configuration.source
    assert found == KubernetesOrigin(namespace="support-ai", max_staleness=600.0)


def test_what_needs_the_objects_is_not_looked_at_without_them():
    alone = """
        source: {type: kubernetes}
        telemetry: {audit: {payloads: redacted}}
        state: {type: sqlite, path: state.db}
        approvals:
          console: {}
          tokens: [{name: a, sha256: 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08}]
          channels: [{name: c, type: slack, mode: socket, channel: C0123ABC, token: {env: A}, appToken: {env: B}}]
        """
    found = good(alone)
    assert [str(warning) for warning in found.warnings] == []
    assert HEAD.strip() == "apiVersion: openmcp.dev/v1alpha1"
    assert len(found.base) == 1


def test_documents_are_kept_only_where_objects_are_added_to_them():
    assert good("source: {type: file}").base == ()
