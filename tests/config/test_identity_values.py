"""Who we are, who calls and how we prove it: what is accepted, and the values it becomes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openmcp.config import model
from openmcp.config.model import Secret
from openmcp.config.uses import workload_api_uses
from openmcp.identity import endpoint
from tests.config.sources import good, server, warnings

DIGEST = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"


def test_identity_with_every_method():
    made = good(
        f"""
        listen:
          tls: {{type: spiffe, trustDomains: [prod.acme.example, dev.acme.example]}}
          url: https://Gateway.acme.example:8443
        identity:
          workloadApi: unix:///run/spire/agent-sockets/api.sock
          svid: {{hint: sidecar}}
          agents:
            - {{type: mtls, trustDomains: [prod.acme.example]}}
            - {{type: jwtSvid, audience: openmcp, trustDomains: [prod.acme.example]}}
            - {{type: jwt, issuer: "https://idp.acme.example/", audience: openmcp, jwks: {{url: "https://idp/jwks?p=1"}}}}
            - type: jwt
              issuer: "https://other.example"
              audience: [a, b]
              jwks: {{url: "https://other.example/jwks", ca: {{file: ca.pem}}}}
              principalClaim: email
              algorithms: [ES512]
              clockSkew: 5m
            - {{type: jwt, issuer: local, audience: a, jwks: {{file: keys/jwks.json}}}}
            - {{type: apiKey, keys: [{{name: ci-bot, sha256: {DIGEST}}}]}}
            - {{type: forwarded, from: [127.0.0.1/32, "fd00::/8", 10.1.2.3], trustDomains: [mesh]}}
            - {{type: forwarded, from: [10.2.0.0/16]}}
            - {{type: workload}}
        """
    ).configuration
    assert made.listen.tls == model.SpiffeTls(trust_domains=("prod.acme.example", "dev.acme.example"))
    assert made.listen.url == "https://gateway.acme.example:8443"
    assert made.identity == model.Identity(
        workload_api="unix:///run/spire/agent-sockets/api.sock",
        svid=model.SvidSelection(hint="sidecar"),
        agents=(
            model.MtlsAgents(trust_domains=("prod.acme.example",)),
            model.JwtSvidAgents(audience="openmcp", trust_domains=("prod.acme.example",)),
            model.JwtAgents(
                issuer="https://idp.acme.example/", audience=("openmcp",), jwks=model.Jwks(url="https://idp/jwks?p=1")
            ),
            model.JwtAgents(
                issuer="https://other.example",
                audience=("a", "b"),
                jwks=model.Jwks(url="https://other.example/jwks", ca=Secret(file="ca.pem")),
                principal_claim="email",
                algorithms=("ES512",),
                clock_skew=300.0,
            ),
            model.JwtAgents(issuer="local", audience=("a",), jwks=model.Jwks(file="keys/jwks.json")),
            model.ApiKeyAgents(keys=(model.ApiKey(name="ci-bot", sha256=DIGEST),)),
            model.ForwardedAgents(networks=("127.0.0.1/32", "fd00::/8", "10.1.2.3/32"), trust_domains=("mesh",)),
            model.ForwardedAgents(networks=("10.2.0.0/16",)),
            model.WorkloadAgents(),
        ),
    )


@pytest.mark.parametrize("kind", ["", "type: web, "])
def test_tls_of_the_web_needs_no_type(kind):
    made = good(
        f"""
        listen: {{tls: {{{kind}certificate: {{file: a.crt}}, key: {{env: KEY}}, clientCa: {{file: ca.pem}}}}}}
        identity: {{agents: [{{type: mtls, trustDomains: [a]}}]}}
        """
    ).configuration
    assert made.listen.tls == model.WebTls(
        certificate=Secret(file="a.crt"), key=Secret(env="KEY"), client_ca=Secret(file="ca.pem")
    )


@pytest.mark.parametrize(
    ("auth", "expected"),
    [
        ("{type: none}", None),
        (
            "{type: spiffe, serverIds: ['spiffe://a/ns/tools/sa/x', 'spiffe://a/ns/tools/*', 'spiffe://a/b?/c']}",
            model.SpiffeAuth(server_ids=("spiffe://a/ns/tools/sa/x", "spiffe://a/ns/tools/*", "spiffe://a/b?/c")),
        ),
        ("{type: jwtSvid, audience: zendesk}", model.JwtSvidAuth(audience="zendesk")),
        (
            "{type: header, name: X-API-Key, value: {env: TOKEN}}",
            model.HeaderAuth(name="X-API-Key", value=Secret(env="TOKEN")),
        ),
        (
            "{type: header, name: Authorization, prefix: 'Bearer ', value: {file: t}, allowHttp: true}",
            model.HeaderAuth(name="Authorization", value=Secret(file="t"), prefix="Bearer ", allow_http=True),
        ),
        (
            "{type: oauth, tokenUrl: 'https://idp/token?p=1', client: {id: openmcp, type: jwtSvid}}",
            model.OAuthAuth(token_url="https://idp/token?p=1", client=model.OAuthClient(id="openmcp", type="jwtSvid")),
        ),
        (
            "{type: oauth, tokenUrl: 'http://127.0.0.1/token', client: {id: a, type: jwtSvidSpiffe, audience: b}, "
            "resource: 'https://h/mcp', scopes: [read, 'tickets:write']}",
            model.OAuthAuth(
                token_url="http://127.0.0.1/token",
                client=model.OAuthClient(id="a", type="jwtSvidSpiffe", audience="b"),
                resource="https://h/mcp",
                scopes=("read", "tickets:write"),
            ),
        ),
        (
            "{type: oauth, tokenUrl: 'https://idp/token', client: {id: a, type: secret, secret: {file: s}}, "
            "ca: {file: ca.pem}, allowHttp: true}",
            model.OAuthAuth(
                token_url="https://idp/token",
                client=model.OAuthClient(id="a", type="secret", secret=Secret(file="s")),
                ca=Secret(file="ca.pem"),
                allow_http=True,
            ),
        ),
    ],
)
def test_auth(auth, expected):
    text = f"servers: [{{name: s, endpoints: ['https://h/mcp'], auth: {auth}}}]"
    assert good(text).configuration.servers[0].auth == expected


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.10", "localhost", "[::1]"])
def test_a_credential_may_go_in_the_clear_on_this_machine(host):
    text = f"servers: [{{name: s, endpoints: ['http://{host}:9/mcp'], auth: {{type: jwtSvid, audience: s}}}}]"
    assert good(text).configuration.servers[0].auth == model.JwtSvidAuth(audience="s")


def test_a_credential_may_go_in_the_clear_where_that_is_said():
    made = good(server("auth: {type: jwtSvid, audience: s, allowHttp: true}")).configuration
    assert made.servers[0].auth == model.JwtSvidAuth(audience="s", allow_http=True)


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("none", ""),
        ("unix:///run/api.sock", "unix:///run/api.sock"),
        ("tcp://127.0.0.1:8081", "tcp://127.0.0.1:8081"),
        ("tcp://[::1]:8081", "tcp://[::1]:8081"),
    ],
)
def test_the_address_of_the_workload_api(written, value):
    loaded = good(f"identity: {{workloadApi: '{written}'}}")
    assert loaded.configuration.identity.workload_api == value
    assert loaded.warnings == ()


def test_without_the_key_the_environment_says_where_the_workload_api_is():
    assert good("identity: {}").configuration.identity.workload_api is None


@given(st.text(max_size=40) | st.text(max_size=20).map(lambda text: f"unix://{text}"))
def test_every_address_is_judged(text):
    if endpoint.fault(text) is None:
        assert text.startswith(("unix:///", "tcp://"))
        assert text.isprintable()
        assert endpoint.is_local(text) or text.startswith("tcp://")


def test_svid_by_id():
    made = good("identity: {svid: {id: 'spiffe://a/b'}}").configuration
    assert made.identity.svid == model.SvidSelection(id="spiffe://a/b")


def test_what_needs_the_workload_api():
    made = good(
        """
        listen: {tls: {type: spiffe, trustDomains: [a]}}
        identity:
          agents: [{type: mtls, trustDomains: [a]}, {type: jwtSvid, audience: x, trustDomains: [a]}, {type: workload}]
        servers:
          - {name: a, endpoints: ["https://h/"], auth: {type: header, name: X-Key, value: {env: X}}}
          - {name: b, endpoints: ["https://h/"], auth: {type: jwtSvid, audience: x}}
          - {name: c, endpoints: ["https://h/"], auth: {type: spiffe, serverIds: ["spiffe://a/b"]}}
          - name: d
            endpoints: ["https://h/"]
            auth: {type: oauth, tokenUrl: "https://h/", client: {id: a, type: jwtSvid}}
          - name: e
            endpoints: ["https://h/"]
            auth: {type: oauth, tokenUrl: "https://h/", client: {id: a, type: secret, secret: {env: X}}}
        """
    ).configuration
    assert [str(use) for use in workload_api_uses(made)] == [
        "listen.tls",
        "identity.agents[1]",
        "identity.agents[2]",
        "servers: b: auth",
        "servers: c: auth",
        "servers: d: auth",
    ]


def test_a_configuration_without_spiffe_needs_no_workload_api():
    made = good("identity: {workloadApi: none, agents: [{type: none}]}").configuration
    assert workload_api_uses(made) == []


ALLOW = "requests: [{name: r, action: allow}]"


@pytest.mark.parametrize(
    ("methods", "agents"),
    [
        ("{type: jwtSvid, audience: x, trustDomains: [prod]}", "['spiffe://prod/ns/a/sa/b']"),
        ("{type: jwtSvid, audience: x, trustDomains: [prod]}", "['spiffe://*/ns/a/*']"),
        ("{type: jwtSvid, audience: x, trustDomains: [prod]}", "[{trustDomain: 'p*', claims: {team: a}}]"),
        ("{type: forwarded, from: [127.0.0.1]}", "['spiffe://any/x', {trustDomain: any}, {namespace: a}]"),
        ("{type: forwarded, from: [127.0.0.1], trustDomains: [a]}", "['spiffe://a/x', {trustDomain: a}]"),
        ("{type: workload}", "['spiffe://any/x', {serviceAccount: b}]"),
        ("{type: jwt, issuer: 'https://i', audience: a, jwks: {file: x}}", "['jwt:https://i#bob', {claims: {g: x}}]"),
    ],
)
def test_agents_that_somebody_can_be(methods, agents):
    text = f"""
        identity: {{agents: [{methods}]}}
        servers: [{{name: s, endpoints: ['https://h/']}}]
        policies: [{{name: p, servers: [s], agents: {agents}, {ALLOW}}}]
    """
    assert warnings(text) == []


def test_whoever_is_let_in_unidentified_is_anonymous():
    text = f"""
        identity: {{agents: [{{type: forwarded, from: [127.0.0.1]}}]}}
        servers: [{{name: s, endpoints: ['https://h/'], requireAuth: false}}]
        policies: [{{name: p, servers: [s], agents: [anonymous], {ALLOW}}}]
    """
    assert warnings(text) == []
