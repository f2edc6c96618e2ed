"""What works, but probably not as it was meant: who we are, who calls, where we listen."""

import pytest

from tests.config.sources import warnings

JWT_SVID = "{type: jwtSvid, audience: x, trustDomains: [prod]}"
API_KEY = "{type: apiKey, keys: [{name: a, sha256: 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08}]}"
ELSEWHERE = "listen: {mcp: 0.0.0.0:1, allowedHosts: [g.example]}\n"
CLEAR = (
    "2: listen.mcp: agents send their keys and tokens to 0.0.0.0:1 in the clear "
    "(write `tls`, or `url: https://...` where a proxy or a mesh ends TLS before it)"
)
NONE_TAKES = "`type: none` before it takes such callers (put that one last)"
MTLS = "listen: {tls: {type: spiffe, trustDomains: [prod]}}\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(
            ELSEWHERE + "identity: {agents: [{type: workload}]}",
            [
                "3: identity.agents[0]: 0.0.0.0:1 is reached from elsewhere, and only callers over loopback are our "
                "workload (this is for a sidecar beside its agent: write mcp: 127.0.0.1:15001)"
            ],
            id="workload reached from elsewhere",
        ),
        pytest.param(
            "identity: {agents: [\n  {type: none},\n  {type: workload},\n  {type: forwarded, from: [127.0.0.1]},\n"
            f"  {API_KEY},\n  {JWT_SVID}]}}",
            [f"{line}: identity.agents[{line - 3}]: never applies: {NONE_TAKES}" for line in (4, 5)],
            id="none first",
        ),
        pytest.param(
            f"{MTLS}identity: {{agents: [\n  {{type: none}},\n  {{type: mtls, trustDomains: [prod]}}]}}",
            [f"5: identity.agents[1]: never applies: {NONE_TAKES}"],
            id="none before SVIDs",
        ),
        pytest.param(
            f"{MTLS}identity: {{agents: [\n  {{type: workload}},\n  {{type: mtls, trustDomains: [prod]}},\n"
            f"  {JWT_SVID},\n  {{type: forwarded, from: [127.0.0.1]}}]}}",
            ["5: identity.agents[1]: never applies: `type: workload` before it takes such callers (put that one last)"],
            id="workload first",
        ),
        pytest.param(f"identity: {{agents: [{JWT_SVID}, {{type: workload}}]}}", [], id="workload last"),
        pytest.param(f"{ELSEWHERE}identity: {{agents: [{JWT_SVID}]}}", [CLEAR], id="tokens in the clear"),
        pytest.param(f"{ELSEWHERE}identity: {{agents: [{API_KEY}]}}", [CLEAR], id="keys in the clear"),
        pytest.param(
            f"{ELSEWHERE}identity: {{agents: [{{type: jwt, issuer: i, audience: a, jwks: {{file: k}}}}]}}",
            [CLEAR],
            id="other tokens in the clear",
        ),
        pytest.param(
            f"listen: {{mcp: 0.0.0.0:1, url: 'https://g.example'}}\nidentity: {{agents: [{JWT_SVID}]}}",
            [],
            id="a proxy ends TLS",
        ),
        pytest.param(
            f"listen: {{mcp: 0.0.0.0:1, url: 'http://g.example'}}\nidentity: {{agents: [{JWT_SVID}]}}",
            [CLEAR],
            id="nothing ends TLS",
        ),
        pytest.param(
            "listen: {mcp: 0.0.0.0:1, allowedHosts: [g], tls: {type: spiffe, trustDomains: [prod]}}\n"
            f"identity: {{agents: [{JWT_SVID}]}}",
            [],
            id="TLS here",
        ),
        pytest.param(
            "identity: {agents: [{type: jwt, issuer: i, audience: a, jwks: {file: k}, principalClaim: email}]}",
            [
                "2: identity.agents[0].principalClaim: at many identity providers users choose their `email` "
                "themselves: one could take another agent's (sub is given once and never changes)"
            ],
            id="a name that callers choose",
        ),
        pytest.param(
            "identity: {agents: [{type: forwarded, from: [127.0.0.1, 0.0.0.0/0, '::/0']}]}",
            [
                "2: identity.agents[0].from[1]: 0.0.0.0/0 is everybody: any caller may say who it is "
                "(write the addresses of the proxies alone)",
                "2: identity.agents[0].from[2]: ::/0 is everybody: any caller may say who it is "
                "(write the addresses of the proxies alone)",
            ],
            id="forwarded by everybody",
        ),
        pytest.param(
            "listen: {tls: {certificate: {file: a}, key: {file: b}, clientCa: {file: c}}}\n"
            f"identity: {{agents: [{API_KEY}]}}",
            [
                "2: listen.tls.clientCa: client certificates are verified, and nobody is known by them "
                "(write agents: [{type: mtls, trustDomains: [...]}])"
            ],
            id="client certificates for nothing",
        ),
        pytest.param(
            "identity: {workloadApi: 'tcp://10.0.0.1:8081'}",
            [
                "2: identity.workloadApi: the Workload API over tcp to another machine carries private keys in the "
                "clear (use the socket of an agent on this machine: unix:///run/spire/agent-sockets/api.sock)"
            ],
            id="keys over the network",
        ),
    ],
)
def test_warnings(text, expected):
    assert warnings(text) == expected


def of_server(auth: str) -> list[str]:
    """What is said of the `auth` of a server, on line 3."""
    return warnings(
        "identity: {agents: [{type: none}]}\n"
        f"servers: [{{name: s, endpoints: ['https://h/'], auth: {auth}}}]\n"
        "policies: [{name: p, servers: [s], requests: [{name: r, action: allow}]}]"
    )


@pytest.mark.parametrize("glob", ["spiffe://prod/*", "spiffe://prod/**"])
def test_server_ids_that_agents_have_too(glob):
    assert of_server(f"{{type: spiffe, serverIds: ['{glob}']}}") == [
        f'3: servers[0].auth.serverIds[0]: "{glob}" is every workload of prod, agents too: each of them could pose as '
        "this server (name the server's own ID, or the folder that servers alone have)"
    ]


def test_a_prefix_without_a_blank():
    assert of_server("{type: header, name: Authorization, prefix: Bearer, value: {env: KEY}}") == [
        '3: servers[0].auth.prefix: the secret follows "Bearer" without a blank (write "Bearer " where one is wanted)'
    ]


def test_audiences_that_several_take():
    text = """
        identity: {agents: [{type: jwtSvid, audience: mine, trustDomains: [prod]}]}
        servers:
          - {name: a, endpoints: ['https://a/'], auth: {type: jwtSvid, audience: mine}}
          - {name: b, endpoints: ['https://b/'], auth: {type: jwtSvid, audience: theirs}}
          - {name: c, endpoints: ['https://c/'], auth: {type: jwtSvid, audience: theirs}}
          - {name: d, endpoints: ['https://d/'], auth: {type: jwtSvid, audience: its}}
        policies: [{name: p, servers: ['*'], requests: [{name: r, action: allow}]}]
    """
    own = "(an audience of its own for each)"
    assert warnings(text) == [
        '4: servers[0].auth.audience: this gateway takes the same audience: server "a" could call there with our '
        f"token, as us {own}",
        '6: servers[2].auth.audience: server "b" takes the same audience: server "c" could call there with our token, '
        f"as us {own}",
    ]


@pytest.mark.parametrize(
    ("methods", "agent", "said"),
    [
        ("{type: jwtSvid, audience: x, trustDomains: [prod]}", "'spiffe://prd/x'", 'is named "spiffe://prd/x"'),
        ("{type: jwtSvid, audience: x, trustDomains: [prod]}", "'spiffe:/prod/x'", 'is named "spiffe:/prod/x"'),
        (
            "{type: jwtSvid, audience: x, trustDomains: [prod]}",
            "{trustDomain: dev}",
            "has this SPIFFE ID and these claims",
        ),
        (
            "{type: forwarded, from: [127.0.0.1], trustDomains: [prod]}",
            "{claims: {team: a}}",
            "has this SPIFFE ID and these claims",
        ),
    ],
)
def test_agents_that_nobody_can_be(methods, agent, said):
    text = f"""
        identity: {{agents: [{methods}]}}
        servers: [{{name: s, endpoints: ['https://h/']}}]
        policies: [{{name: p, servers: [s], agents: ['spiffe://prod/*', {agent}],
          requests: [{{name: r, action: allow}}]}}]
    """
    assert warnings(text) == [
        f"4: policies[0].agents[1]: no caller that `identity.agents` identifies {said} (there are: spiffe://prod/*)"
    ]


def test_tokens_of_an_issuer_are_no_spiffe_ids():
    text = """
        identity: {agents: [{type: jwt, issuer: "https://i", audience: a, jwks: {file: k}}]}
        servers: [{name: s, endpoints: ['https://h/']}]
        policies: [{name: p, servers: [s], agents: ["jwt:https://i#*", {namespace: a}, "jwt:https://j#*"],
          requests: [{name: r, action: allow}]}]
    """
    there = "(there are: jwt:https://i#*)"
    assert warnings(text) == [
        "4: policies[0].agents[1]: no caller that `identity.agents` identifies has this SPIFFE ID and these claims "
        f"{there}",
        f'4: policies[0].agents[2]: no caller that `identity.agents` identifies is named "jwt:https://j#*" {there}',
    ]
