"""Who gets in by a plan: never anybody whom policy gives nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from openmcp.config.model import Configuration
from openmcp.config.plan import CannotPlan
from openmcp.config.plan.conditions import cel_sound
from tests.config.planning import KEYS, found, kinds, planned

FIT = "request.method in ['POST', 'GET', 'DELETE'] && !request.path.contains('?')"
ORIGIN = f"{FIT} && !('origin' in request.headers)"
ID = "connection.uri_san_peer_certificate"
SERVER = 'servers: [{name: s, endpoints: ["http://s.tools.svc:80/mcp"]}]\n'
BY_KEY = f"{{type: apiKey, keys: {KEYS}}}"
BY_TOKEN = '{type: jwt, issuer: "https://idp", audience: a, jwks: {url: "https://idp/jwks.json"}}'
TOKEN_CLAIMS = "metadata.filter_metadata['envoy.filters.http.jwt_authn']['jwt-0']"
BY_CERTIFICATE = "{type: mtls, trustDomains: [td.example]}"


def allow(*agents: str) -> str:
    listed = ", ".join(f'"{agent}"' for agent in agents)
    return f"  - {{name: p{len(listed)}, agents: [{listed}], servers: [s], requests: [{{name: r, action: allow}}]}}\n"


def deny(*agents: str, tools: str = "") -> str:
    listed = ", ".join(f'"{agent}"' for agent in agents)
    more = f", tools: [{tools}]" if tools else ""
    rule = f"{{name: r, action: deny{more}}}"
    return f"  - {{name: d{len(listed)}, agents: [{listed}], servers: [s], requests: [{rule}]}}\n"


def configuration(methods: str, policies: str, server: str = SERVER, listen: str = "") -> str:
    tls = "tls: {certificate: {file: c}, key: {file: k}, clientCa: {file: a}}"
    head = f"listen: {{{tls}{listen}}}\nidentity: {{workloadApi: none, agents: [{methods}]}}\n"
    return f"{head}{server}policies:\n{policies}"


def rules(folder: Path, methods: str, policies: str, name: str = "s", server: str = SERVER) -> list[object]:
    made = planned(folder, configuration(methods, policies, server))
    authorization = found(made, "SecurityPolicy", name)["authorization"]
    assert authorization["defaultAction"] == "Deny"
    listed: list[object] = authorization["rules"]
    return listed


def test_keys_are_let_in_by_their_names(tmp_path: Path) -> None:
    assert rules(tmp_path, BY_KEY, allow("key:o*")) == [
        {
            "name": "keys-0",
            "action": "Allow",
            "principal": {"headers": [{"name": "x-openmcp-agent", "values": ["one"]}]},
            "cel": ORIGIN,
        }
    ]


def test_a_key_that_everything_is_denied_to_is_not_let_in(tmp_path: Path) -> None:
    (rule,) = rules(tmp_path, BY_KEY, allow("key:*") + deny("key:two"))
    assert rule["principal"]["headers"][0]["values"] == ["one"]


def test_a_key_that_some_tools_are_denied_to_is_let_in_with_a_warning(tmp_path: Path) -> None:
    made = planned(tmp_path, configuration(BY_KEY, allow("key:*") + deny("key:two", tools="t")))
    assert any("not enforced: d9/r (deny)" in str(one) for one in made.warnings)


def test_who_needs_an_approval_for_everything_is_not_let_in(tmp_path: Path) -> None:
    approval = "{name: r, action: requireApproval, approval: {workflow: w}}"
    policies = f"  - {{name: p, agents: ['key:one'], servers: [s], requests: [{approval}]}}\n"
    text = configuration(BY_KEY, policies)
    text += "approvals: {workflows: [{name: w, approvers: ['token:t']}]}\nstate: {type: sqlite, path: a.db}\n"
    made = planned(tmp_path, text)
    assert "HTTPRoute s" not in kinds(made)


def test_rules_in_shadow_let_nobody_in(tmp_path: Path) -> None:
    shadow = allow("key:one").replace("servers:", "mode: shadow, servers:")
    assert "HTTPRoute s" not in kinds(planned(tmp_path, configuration(BY_KEY, shadow)))


@pytest.mark.parametrize(
    ("agent", "condition"),
    [
        ("spiffe://td.example/a", f"{ID} in ['spiffe://td.example/a']"),
        ("spiffe://td.example/*", f"{ID}.startsWith('spiffe://td.example/')"),
        ("*", f"{ID}.startsWith('spiffe://td.example/')"),
        (
            "spiffe://td.example/a/*/z",
            f"{ID}.startsWith('spiffe://td.example/a/') && {ID}.endsWith('/z') && size({ID}) >= 24",
        ),
    ],
)
def test_certificates_are_let_in_by_their_ids(tmp_path: Path, agent: str, condition: str) -> None:
    (rule,) = rules(tmp_path, BY_CERTIFICATE, allow(agent))
    assert rule == {"name": "certificate-0", "action": "Allow", "cel": f"{ORIGIN} && {condition}"}


@pytest.mark.parametrize("agent", ["spiffe://td.example/?", "spiffe://td.example/*/a/*", "spiffe://*/a"])
def test_who_cannot_be_told_is_not_let_in_and_the_reader_hears_of_it(tmp_path: Path, agent: str) -> None:
    made = planned(tmp_path, configuration(BY_CERTIFICATE, allow(agent)))
    assert "HTTPRoute s" not in kinds(made)
    assert any(f'the agents "{agent}" cannot be told' in str(one) for one in made.warnings)


def test_nobody_is_let_in_where_those_who_are_denied_cannot_be_told(tmp_path: Path) -> None:
    made = planned(tmp_path, configuration(BY_CERTIFICATE, allow("*") + deny("spiffe://td.example/a/*")))
    assert "HTTPRoute s" not in kinds(made)


def test_who_is_denied_everything_is_denied_before_others_are_allowed(tmp_path: Path) -> None:
    made = rules(tmp_path, BY_CERTIFICATE, allow("*") + deny("spiffe://td.example/a"))
    assert [rule["action"] for rule in made] == ["Deny", "Allow"]


def test_tokens_are_let_in_by_their_subject(tmp_path: Path) -> None:
    (rule,) = rules(tmp_path, BY_TOKEN, allow("jwt:https://idp#alice", "jwt:https://other#bob", "key:x"))
    claims = [{"name": "sub", "values": ["alice"]}]
    assert rule == {
        "name": "jwt-0-names-0",
        "action": "Allow",
        "principal": {"jwt": {"provider": "jwt-0", "claims": claims}},
        "cel": f"{ORIGIN} && {cel_sound(TOKEN_CLAIMS, 'sub', Configuration())}",
    }


def test_ways_in_are_told_apart_by_their_headers(tmp_path: Path) -> None:
    text = configuration(f"{BY_KEY}, {BY_TOKEN}, {BY_CERTIFICATE}", allow("*"))
    made = planned(tmp_path, text)
    ways = {
        name: found(made, "HTTPRoute", name)["rules"][0]["matches"][0].get("headers", [{}])[0].get("name")
        for name in ("s", "s.key", "s.jwt")
    }
    assert ways == {"s": None, "s.key": "x-api-key", "s.jwt": "authorization"}
    keys = found(made, "SecurityPolicy", "s.key")["apiKeyAuth"]
    assert keys["extractFrom"] == [{"headers": ["X-API-Key"]}]


def test_who_presents_something_is_never_anonymous(tmp_path: Path) -> None:
    (rule,) = rules(tmp_path, f"{BY_KEY}, {{type: none}}", allow("anonymous", "key:one"))
    plain = "!('authorization' in request.headers) && !('x-api-key' in request.headers)"
    assert rule == {"name": "anonymous-0", "action": "Allow", "cel": f"{ORIGIN} && {plain}"}


def test_none_is_an_explicit_allow(tmp_path: Path) -> None:
    (rule,) = rules(tmp_path, "{type: none}", allow("anonymous"))
    assert rule == {"name": "anonymous-0", "action": "Allow", "cel": ORIGIN}


def test_origins_that_are_listed_are_let_in(tmp_path: Path) -> None:
    text = configuration("{type: none}", allow("*"), listen=", allowedOrigins: ['https://a.example']")
    (rule,) = found(planned(tmp_path, text), "SecurityPolicy", "s")["authorization"]["rules"]
    assert (
        rule["cel"]
        == f"{FIT} && (!('origin' in request.headers) || request.headers['origin'] in ['https://a.example'])"
    )


@pytest.mark.parametrize("method", ["{type: jwtSvid, audience: a, trustDomains: [td.example]}", "{type: workload}"])
def test_methods_that_the_gateway_does_not_have_let_nobody_in(tmp_path: Path, method: str) -> None:
    text = configuration(method, allow("*")).replace("workloadApi: none", "workloadApi: 'unix:///s'")
    made = planned(tmp_path, text)
    assert "HTTPRoute s" not in kinds(made)
    assert any(str(one).startswith("identity.agents[0]: not at the gateway") for one in made.warnings)


def test_no_proof_of_a_caller_goes_to_a_server(tmp_path: Path) -> None:
    made = planned(tmp_path, configuration(BY_KEY, allow("*")))
    removed = found(made, "HTTPRoute")["rules"][0]["filters"][1]["requestHeaderModifier"]["remove"]
    assert removed == ["Authorization", "X-API-Key", "X-Forwarded-Client-Cert", "x-openmcp-agent", "x-openmcp-subject"]
    early = found(made, "ClientTrafficPolicy")["headers"]
    assert early["earlyRequestHeaders"] == {"remove": ["x-openmcp-agent", "x-openmcp-subject"]}
    assert early["xForwardedClientCert"] == {"mode": "Sanitize"}


def test_our_own_proof_stays(tmp_path: Path) -> None:
    auth = "auth: {type: header, name: authorization, prefix: 'Bearer ', value: {env: TOKEN}}"
    server = f'servers: [{{name: s, endpoints: ["https://s.example/mcp"], {auth}}}]\n'
    made = planned(tmp_path, configuration(BY_TOKEN, allow("*"), server))
    filters = found(made, "HTTPRoute")["rules"][0]["filters"]
    assert "Authorization" not in filters[1]["requestHeaderModifier"]["remove"]
    assert found(made, "HTTPRouteFilter")["credentialInjection"]["overwrite"] is True


def test_names_of_keys_and_of_tokens_are_in_headers_of_their_own(tmp_path: Path) -> None:
    made = planned(tmp_path, configuration(f"{BY_KEY}, {BY_TOKEN}", allow("*")))
    key = found(made, "SecurityPolicy", "s.key")["apiKeyAuth"]["forwardClientIDHeader"]
    (claim,) = found(made, "SecurityPolicy", "s")["jwt"]["providers"][0]["claimToHeaders"]
    assert (key, claim["header"]) == (
        "x-openmcp-agent",
        "x-openmcp-subject",
    )  # Envoy's filter for tokens removes its own


def test_whoever_comes_without_a_certificate_is_heard(tmp_path: Path) -> None:
    server = SERVER.replace("name: s,", "name: s, requireAuth: false,")
    made = planned(tmp_path, configuration(BY_CERTIFICATE, allow("anonymous"), server))
    validation = found(made, "ClientTrafficPolicy")["tls"]["clientValidation"]
    assert sorted(validation) == ["caCertificateRefs", "mode"]  # subjectAltNames would require a certificate
    assert validation["mode"] == "VerifyIfGiven"
    (rule,) = found(made, "SecurityPolicy", "s")["authorization"]["rules"]
    assert rule["cel"] == f"{ORIGIN} && !connection.mtls"


def test_more_keys_than_a_rule_takes_are_told_of(tmp_path: Path) -> None:
    keys = ", ".join(f"{{name: k{index}, sha256: '{index:064x}'}}" for index in range(257))
    made = planned(tmp_path, configuration(f"{{type: apiKey, keys: [{keys}]}}", allow("*")))
    (rule,) = found(made, "SecurityPolicy", "s")["authorization"]["rules"]
    assert len(rule["principal"]["headers"][0]["values"]) == 256
    assert "servers: s: Envoy Gateway takes 256 keys in a rule: others are not let in" in map(str, made.warnings)


@pytest.mark.parametrize("mode", ["direct", "behind"])
def test_a_request_is_for_one_of_the_names_of_the_gateway(tmp_path: Path, mode: str) -> None:
    listen = (
        "listen: {url: 'https://G.example:8443', allowedHosts: ['b.example:1', '10.0.0.1', 'under_score', gateway]}\n"
    )
    rest = f"identity: {{workloadApi: none, agents: [{{type: none}}]}}\n{SERVER}policies:\n{allow('*')}"
    made = planned(tmp_path, listen + rest, mode)
    assert found(made, "HTTPRoute")["hostnames"] == ["g.example", "b.example", "gateway"]
    (listener,) = found(made, "Gateway")["listeners"]
    assert (listener["port"], "hostname" in listener) == (8443, False)
    told = [str(one) for one in made.warnings if one.place == "listen.allowedHosts"]
    assert mode == "behind" or told == [
        "listen.allowedHosts: 10.0.0.1 cannot be the hostname of a route: it is not let in",
        "listen.allowedHosts: under_score cannot be the hostname of a route: it is not let in",
        "listen.allowedHosts: Envoy does not look at the port of a Host",
    ]


def test_a_gateway_without_a_name_is_warned_of(tmp_path: Path) -> None:
    made = planned(tmp_path, configuration("{type: none}", allow("*")))
    assert "hostnames" not in found(made, "HTTPRoute")
    assert any("a request for any Host is let in" in str(one) for one in made.warnings)


@pytest.mark.parametrize("mode", ["direct", "behind"])
def test_hosts_beyond_those_of_a_route_are_not_let_in(tmp_path: Path, mode: str) -> None:
    hosts = ", ".join(f"h{index}.example" for index in range(20))
    listen = f", url: 'https://g.example', allowedHosts: [{hosts}]"
    made = planned(tmp_path, configuration(BY_KEY, allow("key:one"), listen=listen), mode)
    assert found(made, "HTTPRoute")["hostnames"] == ["g.example", *(f"h{index}.example" for index in range(15))]
    assert "listen.allowedHosts: a route takes 16 hostnames: the others are not let in" in map(str, made.warnings)


def test_issuers_beyond_those_of_a_policy_let_nobody_in(tmp_path: Path) -> None:
    issuers = ", ".join(BY_TOKEN.replace("idp", f"idp{index}") for index in range(20))
    made = planned(tmp_path, configuration(issuers, allow("*")))
    policy = found(made, "SecurityPolicy", "s")
    assert len(policy["jwt"]["providers"]) == len(policy["authorization"]["rules"]) == 16
    assert any("takes 16 issuers" in str(one) for one in made.warnings)


@pytest.mark.parametrize(("mode", "warned"), [("direct", False), ("ai", True)])
def test_two_hosts_are_not_held_by_routes_without_hostnames(tmp_path: Path, mode: str, warned: bool) -> None:
    listen = ", url: 'https://g.example', allowedHosts: [more.example]"
    made = planned(tmp_path, configuration(BY_KEY, allow("key:one"), listen=listen), mode)
    told = [str(one) for one in made.warnings if one.place == "listen.allowedHosts"]
    assert told == ["listen.allowedHosts: an MCPRoute has no hostnames: a request for any Host is let in"] * warned


@pytest.mark.parametrize(
    "agent",
    ["{namespace: a/sa/b, serviceAccount: c}", "{claims: {nonce: x}}", "{claims: {a.b: x}}", "{claims: {g: '*'}}"],
)
def test_selectors_that_envoy_would_read_otherwise_let_nobody_in(tmp_path: Path, agent: str) -> None:
    policies = f"  - {{name: p, agents: [{agent}], servers: [s], requests: [{{name: r, action: allow}}]}}\n"
    made = planned(tmp_path, configuration(f"{BY_TOKEN}, {BY_CERTIFICATE}", policies))
    assert "HTTPRoute s" not in kinds(made)


def test_a_dot_in_the_claim_that_names_callers_lets_nobody_in(tmp_path: Path) -> None:
    token = BY_TOKEN.replace("audience: a", "audience: a, principalClaim: acme.id")
    made = planned(tmp_path, configuration(token, allow("*")))
    assert "HTTPRoute s" not in kinds(made)
    assert any("a dot for a claim within a claim" in str(one) for one in made.warnings)


def test_certificates_behind_none_let_nobody_in(tmp_path: Path) -> None:
    made = planned(tmp_path, configuration(f"{{type: none}}, {BY_CERTIFICATE}", allow("spiffe://td.example/*")))
    assert "HTTPRoute s" not in kinds(made)


def test_long_ids_and_many_origins_stay_in_what_a_condition_may_have(tmp_path: Path) -> None:
    ids = [f"spiffe://td.example/{'x' * 1000}{index}" for index in range(20)]
    made = rules(tmp_path, BY_CERTIFICATE, allow(*ids))
    assert max(len(rule["cel"]) for rule in made) <= 4096
    assert sum(rule["cel"].count("spiffe://") for rule in made) == 20
    origins = ", ".join(f"'https://{index}.{'x' * 60}.example'" for index in range(80))
    text = configuration(BY_CERTIFICATE, allow(*ids), listen=f", allowedOrigins: [{origins}]")
    with pytest.raises(CannotPlan, match="more in one condition"):
        planned(tmp_path, text)


def test_what_does_not_hold_is_noted_on_the_route_in_what_kubernetes_takes(tmp_path: Path) -> None:
    listed = ", ".join(f"{{name: {'n' * 240}{index}, action: allow, tools: [t{index}]}}" for index in range(900))
    made = planned(tmp_path, configuration(BY_KEY, f"  - {{name: p, servers: [s], requests: [{listed}]}}\n"))
    (route,) = [document for document in made.documents if document["kind"] == "HTTPRoute"]
    note = route["metadata"]["annotations"]["openmcp.dev/not-enforced"]
    assert len(note) < 70_000
    assert note.endswith("(allow) and more: 900 in all")
