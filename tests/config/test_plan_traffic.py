"""How calls go to servers by a plan: times, retries, limits, TLS, endpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from openmcp.config.plan import CannotPlan, Plan
from openmcp.config.plan.values import duration, object_name, quantity
from tests.config.planning import KEYS, found, planned

HEAD = "listen: {tls: {certificate: {file: c}, key: {file: k}}, url: 'https://g.example'}\nidentity: {workloadApi: %s, "
POLICY = "policies: [{name: p, servers: ['*'], requests: [{name: r, action: allow}]}]\n"


def plan_of(folder: Path, server: str, methods: str = f"{{type: apiKey, keys: {KEYS}}}", mode: str = "direct") -> Plan:
    api = "'unix:///s'" if "spiffe" in server else "none"
    servers = f"servers: [{{name: s, {server}}}]\n"
    return planned(folder, f"{HEAD % api}agents: [{methods}]}}\n{servers}{POLICY}", mode)


def traffic(folder: Path, more: str) -> tuple[dict[str, Any], list[str]]:
    made = plan_of(folder, f'endpoints: ["http://s.svc/mcp"], {more}')
    return found(made, "BackendTrafficPolicy"), [str(one) for one in made.warnings]


@pytest.mark.parametrize("more", ["", "retries: {attempts: 5, tools: ['*']}"])
def test_nothing_is_sent_again_that_a_server_may_have_served(tmp_path: Path, more: str) -> None:
    spec, _ = traffic(tmp_path, more)
    safe = ["connect-failure", "refused-stream", "reset-before-request"]
    assert spec["retry"]["retryOn"] == {"triggers": safe}


def test_streams_may_last(tmp_path: Path) -> None:
    spec, _ = traffic(tmp_path, "timeouts: {connect: 1500ms, idle: 90s, stream: 2h}")
    http = {"requestTimeout": "0s", "streamIdleTimeout": "1m30s", "maxStreamDuration": "2h"}
    assert spec["timeout"] == {"tcp": {"connectTimeout": "1s500ms"}, "http": http}


def test_envoy_has_no_limits_of_its_own_on_what_goes_on_at_once(tmp_path: Path) -> None:
    made = plan_of(tmp_path, 'endpoints: ["http://s.svc/mcp"]', mode="behind")
    assert set(found(made, "BackendTrafficPolicy")["circuitBreaker"].values()) == {2**32 - 1}
    spec, _ = traffic(tmp_path, "limits: {inFlight: 3000}")
    assert spec["circuitBreaker"].items() >= {"maxConnections": 3000, "maxParallelRequests": 3000}.items()


@pytest.mark.parametrize(
    ("limit", "rule", "warned"),
    [
        ("{requests: 5, per: 1s}", {"limit": {"requests": 5, "unit": "Second"}}, ""),
        ("{requests: 5, per: 1h, burst: 5}", {"limit": {"requests": 5, "unit": "Hour"}}, ""),
        ("{requests: 5, per: 1h, burst: 1}", {"limit": {"requests": 5, "unit": "Hour"}}, "no burst"),
        ("{requests: 5, per: 10s}", {"limit": {"requests": 30, "unit": "Minute"}}, "30 in one"),
        (
            "{by: [agent], requests: 5, per: 1m}",
            {
                "clientSelectors": [{"headers": [{"name": "x-openmcp-agent", "type": "Distinct"}]}],
                "limit": {"requests": 5, "unit": "Minute"},
            },
            "",
        ),
    ],
)
def test_rate_limits(tmp_path: Path, limit: str, rule: dict[str, Any], warned: str) -> None:
    spec, warnings = traffic(tmp_path, f"rateLimit: [{limit}]")
    assert spec["rateLimit"] == {"type": "Local", "local": {"rules": [rule]}}
    about = [text for text in warnings if text.startswith("servers: s: rateLimit[0]")]
    assert len(about) == bool(warned)
    assert all(warned in text for text in about)


def test_limits_for_all_are_about_everybody_where_there_are_others(tmp_path: Path) -> None:
    limits = "{by: [agent], requests: 5, per: 1s}, {requests: 9, per: 1s}, {requests: 99, per: 1m}"
    spec, _ = traffic(tmp_path, f"rateLimit: [{limits}]")
    told = [rule["clientSelectors"] for rule in spec["rateLimit"]["local"]["rules"]]
    everybody = [{"path": {"type": "PathPrefix", "value": "/"}}]
    assert told == [[{"headers": [{"name": "x-openmcp-agent", "type": "Distinct"}]}], everybody, everybody]


@pytest.mark.parametrize("limit", ["{by: [tool], requests: 5, per: 1s}", "{tools: [a], requests: 5, per: 1s}"])
def test_limits_of_tools_are_not_made_limits_of_everything(tmp_path: Path, limit: str) -> None:
    spec, warnings = traffic(tmp_path, f"rateLimit: [{limit}]")
    assert "rateLimit" not in spec
    assert "servers: s: rateLimit[0]: Envoy sees no tools: this limit is not held" in warnings


def test_the_ids_of_a_server_are_checked_and_not_its_name(tmp_path: Path) -> None:
    ids = "serverIds: ['spiffe://td.example/s', 'spiffe://td.example/more/*']"
    made = plan_of(tmp_path, f"endpoints: ['https://10.0.0.1:1/mcp'], auth: {{type: spiffe, {ids}}}")
    assert found(made, "BackendTLSPolicy")["validation"] == {
        "hostname": "s.invalid",
        "subjectAltNames": [{"type": "URI", "uri": "spiffe://td.example/s"}],
        "caCertificateRefs": [{"group": "", "kind": "ConfigMap", "name": "s.ca"}],
    }
    told = [str(one) for one in made.warnings]
    assert any("serverIds: Envoy Gateway compares at most five whole IDs" in text for text in told)
    assert "servers: s: auth: Envoy Gateway cannot present our SVID: the server will refuse" in told


@pytest.mark.parametrize(("other", "warned"), [("td.example", 0), ("more.example", 1)])
def test_cas_of_servers_are_not_tied_to_their_domains(tmp_path: Path, other: str, warned: int) -> None:
    ids = f"serverIds: ['spiffe://td.example/s', 'spiffe://{other}/t']"
    made = plan_of(tmp_path, f"endpoints: ['https://s.svc/mcp'], auth: {{type: spiffe, {ids}}}")
    assert sum("serverIds: Envoy does not tie a CA" in str(one) for one in made.warnings) == warned


@pytest.mark.parametrize(
    ("server", "why"),
    [
        ("endpoints: ['https://10.0.0.1/mcp']", "checks names alone"),
        ("endpoints: ['https://a/mcp'], auth: {type: spiffe, serverIds: ['spiffe://td.example/*']}", "a glob alone"),
        ("endpoints: ['http://a/mcp', 'http://b/']", "one path"),
        ("endpoints: ['http://my_server/mcp']", "letters, digits and - in names alone"),
        ("endpoints: ['https://a/mcp'], tls: {serverName: my_server}", "takes the name of a host alone"),
        (f"endpoints: {[f'https://a{index}/mcp' for index in range(17)]}", "takes 16 TLS names"),
        (f"endpoints: ['http://a/mcp'], path: /{'a' * 960}", "takes 960 characters"),
    ],
)
def test_what_could_be_planned_less_strictly_alone_is_not_planned(tmp_path: Path, server: str, why: str) -> None:
    with pytest.raises(CannotPlan, match=why):
        plan_of(tmp_path, server)


def test_names_and_addresses_are_backends_of_their_own(tmp_path: Path) -> None:
    made = plan_of(tmp_path, "endpoints: ['http://a.svc/mcp', 'http://10.0.0.1/mcp', 'http://[fd00::1]:81/mcp']")
    assert found(made, "Backend", "s.0")["endpoints"] == [{"fqdn": {"hostname": "a.svc", "port": 80}}]
    assert found(made, "Backend", "s.1")["endpoints"] == [
        {"ip": {"address": "10.0.0.1", "port": 80}},
        {"ip": {"address": "fd00::1", "port": 81}},
    ]
    assert any("keep sessions in memory" in str(one) for one in made.warnings)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]", "127.9.9.9"])
def test_loopback_is_warned_of(tmp_path: Path, host: str) -> None:
    made = plan_of(tmp_path, f"endpoints: ['http://{host}:80/mcp']")
    assert any("is the pod of Envoy itself" in str(one) for one in made.warnings)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (0.025, "25ms"), (1.5, "1s500ms"), (86400, "24h"), (3661, "1h1m1s"), (0.0001, "0s")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(("size", "text"), [(4194304, "4Mi"), (1024, "1Ki"), (1000, "1000"), (3 * 1024**3, "3Gi")])
def test_quantities(size: int, text: str) -> None:
    assert quantity(size) == text


def test_names_differ_where_texts_do() -> None:
    texts = ["a", "A", "a.b", "a-b", "a_b", "x" * 70, "x" * 71, "-", "a--b"]
    names = [object_name(text) for text in texts]
    assert len(set(names)) == len(texts)
    assert all(len(name) <= 63 and name[0].isalnum() and name[-1].isalnum() for name in names)
    assert names[0] == "a"


def test_a_limit_of_agents_counts_by_each_header_that_names_one(tmp_path: Path) -> None:
    token = '{type: jwt, issuer: "https://idp", audience: a, jwks: {url: "https://idp/jwks.json"}}'
    server = 'endpoints: ["http://s.svc/mcp"], rateLimit: [{by: [agent], requests: 5, per: 1s}]'
    made = plan_of(tmp_path, server, f"{{type: apiKey, keys: {KEYS}}}, {token}")
    rules = found(made, "BackendTrafficPolicy")["rateLimit"]["local"]["rules"]
    headers = [rule["clientSelectors"][0]["headers"][0]["name"] for rule in rules]
    assert headers == ["x-openmcp-subject", "x-openmcp-agent"]


@pytest.mark.parametrize("mode", ["direct", "ai"])
def test_a_server_that_is_a_program_is_left_to_the_sidecar(tmp_path: Path, mode: str) -> None:
    made = plan_of(tmp_path, "stdio: {command: program, share: session}", mode=mode)
    assert not {"HTTPRoute", "MCPRoute", "Backend"} & {document["kind"] for document in made.documents}
    assert "servers: s: has no endpoint over HTTP: only a sidecar can serve it (--sidecar)" in map(str, made.warnings)
    behind = plan_of(tmp_path, "stdio: {command: program, share: session}", mode="behind")
    (rule,) = found(behind, "HTTPRoute")["rules"]
    assert rule["matches"] == [{"path": {"type": "Exact", "value": "/s"}}]


def test_the_addresses_of_old_agents_lead_to_the_sidecar(tmp_path: Path) -> None:
    made = plan_of(tmp_path, 'endpoints: ["http://s.svc/mcp"], compat: {sse: true}', mode="behind")
    (rule,) = found(made, "HTTPRoute")["rules"]
    assert [match["path"] for match in rule["matches"]] == [
        {"type": "Exact", "value": "/s"},
        {"type": "PathPrefix", "value": "/s/messages"},
    ]
    assert any("only one has the agent's stream" in str(warning) for warning in made.warnings)


def test_no_rule_to_the_sidecars_is_without_a_path(tmp_path: Path) -> None:
    server = "{name: %s, endpoints: ['http://s.svc/mcp']%s}"
    servers = [server % (f"s{index}", ", compat: {sse: true}" if index < 2 else "") for index in range(62)]
    text = f"{HEAD % 'none'}agents: [{{type: none}}]}}\nservers: [{', '.join(servers)}]\n{POLICY}"
    (rule,) = found(planned(tmp_path, text, "behind"), "HTTPRoute")["rules"]
    assert len(rule["matches"]) == 64


def test_who_needs_translation_is_not_served(tmp_path: Path) -> None:
    _, warnings = traffic(tmp_path, "translate: true, transport: sse, compat: {sse: true}")
    assert "servers: s: translate: Envoy does not translate: clients of another era get nowhere" in warnings
    assert (
        "servers: s: transport: Envoy routes the path alone: the addresses that a server of HTTP+SSE names get nowhere"
        in warnings
    )
    assert (
        "servers: s: compat.sse: Envoy passes Streamable HTTP on as it is: agents of 2024-11-05 get nowhere" in warnings
    )


def test_a_shared_limit_is_one_for_all_ways_in(tmp_path: Path) -> None:
    token = '{type: jwt, issuer: "https://idp", audience: a, jwks: {url: "https://idp/jwks.json"}}'
    limits = "rateLimit: [{requests: 5, per: 1s, shared: true}, {requests: 9, per: 1h}]"
    state = "state: {type: redis, url: 'rediss://redis'}\n"
    head = f"{HEAD % 'none'}agents: [{{type: apiKey, keys: {KEYS}}}, {token}]}}\n{state}"
    made = planned(tmp_path, f"{head}servers: [{{name: s, endpoints: ['http://s.svc/mcp'], {limits}}}]\n{POLICY}")
    rules = found(made, "BackendTrafficPolicy")["rateLimit"]["global"]["rules"]
    assert [rule["shared"] for rule in rules] == [True, True]


@pytest.mark.parametrize(
    ("limit", "rule", "said"),
    [
        (
            "{requests: 5, per: 1s, agents: ['key:o*']}",
            {"requests": 5, "unit": "Second"},
            "for all callers, not",
        ),
        ("{requests: 9, per: 8760h}", {"requests": 9, "unit": "Year"}, ""),
        ("{requests: 1, per: 20000h}", {"requests": 1, "unit": "Year"}, "one request in each, which is more"),
    ],
)
def test_limits_that_envoy_cannot_hold_as_they_are(tmp_path: Path, limit: str, rule: dict[str, Any], said: str) -> None:
    spec, warnings = traffic(tmp_path, f"rateLimit: [{limit}]")
    assert spec["rateLimit"]["local"]["rules"] == [{"limit": rule}]
    assert [said in text for text in warnings if "rateLimit[0]" in text] == [True] * bool(said)


def test_calls_at_once_are_counted_for_each_way_in(tmp_path: Path) -> None:
    token = '{type: jwt, issuer: "https://idp", audience: a, jwks: {url: "https://idp/jwks.json"}}'
    server = 'endpoints: ["http://s.svc/mcp"], limits: {inFlight: 7}'
    made = plan_of(tmp_path, server, f"{{type: apiKey, keys: {KEYS}}}, {token}")
    assert any(str(one).startswith("servers: s: limits.inFlight: each Envoy, and each way") for one in made.warnings)
