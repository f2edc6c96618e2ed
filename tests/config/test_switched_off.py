"""The value that says "without it" is accepted for features that are off."""

from tests.config.sources import good


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
