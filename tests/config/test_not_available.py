"""Features of other versions are refused by name, never ignored; the value that says "without it" is accepted."""

from tests.config.sources import check, errors, good, server

LATER = "is not available in this version of openmcp"


@check(
    {
        "transport": (server("transport: sse"), f"4: servers[0].transport: `transport` {LATER}"),
    }
)
def test_what_this_version_does_not_have_is_refused_by_name(text, expected):
    assert errors(text) == expected


def test_values_that_say_without_it_are_accepted():
    found = good(
        """
        state: {type: memory}
        source: {type: file}
        identity: {workloadApi: none, agents: [{type: none}]}
        approvals: {tokens: [], channels: [], workflows: [{name: w, approvers: ["token:a"], channels: []}]}
        servers:
          - name: s
            endpoints: ["http://h/mcp"]
            auth: {type: none}
            translate: false
        policies:
          - name: p
            servers: [s]
            requests: [{name: r, action: allow}]
        """
    )
    assert found.warnings == ()
    assert found.configuration.servers[0].name == "s"
