"""Features of other versions are refused by name, never ignored; the value that says "without it" is accepted."""

from tests.config.sources import check, errors, good, rule, server

LATER = "is not available in this version of openmcp"


@check(
    {
        "approvals": ("approvals: {workflows: []}", f"2: approvals: `approvals` {LATER}"),
        "state": ("state: {type: sqlite, path: x}", f"2: state.type: `type: sqlite` {LATER} (available: memory)"),
        "source": ("source: {type: kubernetes}", f"2: source.type: `type: kubernetes` {LATER} (available: file)"),
        "otlp": ("telemetry: {otlp: {endpoint: x}}", f"2: telemetry.otlp: `otlp` {LATER}"),
        "payloads": (
            "telemetry: {audit: {payloads: redacted}}",
            f"2: telemetry.audit.payloads: `payloads: redacted` {LATER} (only payloads: none is)",
        ),
        "signing": (
            "telemetry: {audit: {signingKey: {file: x}}}",
            f"2: telemetry.audit.signingKey: `signingKey` {LATER}",
        ),
        "listen.tls": ("listen: {tls: {type: spiffe}}", f"2: listen.tls: `tls` {LATER}"),
        "workload API": (
            "identity: {workloadApi: unix:///x}",
            f"2: identity.workloadApi: `workloadApi: unix:///x` {LATER} (only workloadApi: none is)",
        ),
        "agents": (
            "identity: {agents: [{type: jwtSvid, audience: x}]}",
            f"2: identity.agents[0].type: `type: jwtSvid` {LATER} (available: none, apiKey)",
        ),
        "auth": (
            server("auth: {type: spiffe, serverIds: []}"),
            f"4: servers[0].auth.type: `type: spiffe` {LATER} (available: none)",
        ),
        "auth misspelt": (
            server("auth: {type: spifee}"),
            '4: servers[0].auth.type: unknown type "spifee" (did you mean "spiffe"?)',
        ),
        "pinTools": (
            server("pinTools: true"),
            f"4: servers[0].pinTools: `pinTools: true` {LATER} (only pinTools: false is)",
        ),
        "translate": (
            server("translate: true"),
            f"4: servers[0].translate: `translate: true` {LATER} (only translate: false is)",
        ),
        "retries": (server("retries: {attempts: 2}"), f"4: servers[0].retries: `retries` {LATER}"),
        "rateLimit": (server("rateLimit: [{requests: 1}]"), f"4: servers[0].rateLimit: `rateLimit` {LATER}"),
        "transport": (server("transport: sse"), f"4: servers[0].transport: `transport` {LATER}"),
        "stdio": (server("stdio: {command: npx}"), f"4: servers[0].stdio: `stdio` {LATER}"),
        "mode": (
            "policies: [{name: p, servers: [s], mode: shadow}]",
            f"2: policies[0].mode: `mode: shadow` {LATER} (only mode: enforce is)",
        ),
        "responses": (
            "policies: [{name: p, servers: [s], responses: [{name: x}]}]",
            f"2: policies[0].responses: `responses` {LATER}",
        ),
        "when": (rule("{name: r, action: allow, when: [{}]}"), f"5: policies[0].requests[0].when: `when` {LATER}"),
        "approval": (
            rule("{name: r, action: requireApproval, approval: {}}"),
            f"5: policies[0].requests[0].action: `action: requireApproval` {LATER} (available: allow, deny)",
            f"5: policies[0].requests[0].approval: `approval` {LATER}",
        ),
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
        telemetry: {audit: {payloads: none}}
        servers:
          - name: s
            endpoints: ["http://h/mcp"]
            auth: {type: none}
            pinTools: false
            translate: false
            rateLimit: []
        policies:
          - name: p
            servers: [s]
            mode: enforce
            responses: []
            requests: [{name: r, action: allow, when: []}]
        """
    )
    assert found.warnings == ()
    assert found.configuration.servers[0].name == "s"


def test_false_is_not_zero():
    assert errors(server("pinTools: 0")) == [f"4: servers[0].pinTools: `pinTools: 0` {LATER} (only pinTools: false is)"]
