"""What Envoy AI Gateway is told of policy: never more than policy allows. Its conditions are evaluated here in CEL."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import celpy
import pytest

from openmcp.config.plan import CannotPlan, Plan
from tests.config.planning import KEYS, found, kinds, planned

KEY = f"{{type: apiKey, keys: {KEYS}}}"
TOKEN = '{type: jwt, issuer: "https://idp", audience: a, jwks: {url: "https://idp/jwks.json"}}'
STATE = "state: {type: sqlite, path: a.db}\napprovals: {workflows: [{name: w, approvers: ['token:t']}]}\n"


def plan_of(folder: Path, method: str, *policies: str, url: str = "https://g.example", server: str = "") -> Plan:
    listed = "".join(f"  - {{name: p{index}, servers: [s], {text}}}\n" for index, text in enumerate(policies))
    text = f"listen: {{url: '{url}'}}\n" if url else ""
    text += f"identity: {{workloadApi: none, agents: [{method}]}}\n{STATE}"
    text += f'servers: [{{name: s, endpoints: ["http://s.svc/mcp"]{server}}}]\npolicies:\n{listed}'
    return planned(folder, text, "ai")


def allowed(made: Plan, tool: str, headers: dict[str, str] | None = None, claims: dict[str, Any] | None = None) -> bool:
    """Decide as Envoy AI Gateway does: the first rule that holds, and one that cannot be evaluated does not."""
    authorization = found(made, "MCPRoute")["securityPolicy"]["authorization"]
    auth = {"jwt": {"claims": {"exp": 4_000_000_000} | (claims or {}), "scopes": []}}
    request = {"headers": headers or {}, "auth": auth, "mcp": {"tool": tool, "backend": "s", "method": "tools/call"}}
    environment = celpy.Environment()
    for rule in authorization["rules"]:
        program = environment.program(environment.compile(rule["cel"]))
        try:
            holds = program.evaluate({"request": celpy.json_to_cel(request)})
        except celpy.CELEvalError:
            continue
        if holds:
            return bool(rule["action"] == "Allow")
    return bool(authorization["defaultAction"] == "Allow")


def test_names_too_long_to_be_held_against_a_denial_are_denied(tmp_path: Path) -> None:
    everything = "requests: [{name: all, tools: ['*'], action: allow}]"
    made = plan_of(tmp_path, KEY, everything, "requests: [{name: d, tools: ['delete_*'], action: deny}]")
    assert [allowed(made, "x" * size, ONE) for size in (128, 129)] == [True, False]
    many = [f"delete_{index}_*" for index in range(150)]
    with pytest.raises(CannotPlan, match="more than an MCPRoute takes"):
        plan_of(tmp_path, KEY, everything, f"requests: [{{name: d, tools: {many}, action: deny}}]")


AUTH = "{type: header, name: Authorization, value: {env: T}, allowHttp: true}"
ONE, TWO = {"x-openmcp-agent": "one"}, {"x-openmcp-agent": "two"}


def test_tools_by_name_and_glob_for_each_agent(tmp_path: Path) -> None:
    made = plan_of(
        tmp_path,
        KEY,
        "agents: ['key:one'], requests: [{name: r, tools: ['get_*', 'a.b', 'list?'], action: allow}]",
        "agents: ['key:two'], requests: [{name: r, tools: [search], action: allow}]",
        "requests: [{name: d, tools: ['get_secret*'], action: deny}]",
    )
    tools = ["get_a", "get_secrets", "a.b", "axb", "list1", "list", "search", "get_a\nb", "xget_a"]
    assert [tool for tool in tools if allowed(made, tool, ONE)] == ["get_a", "a.b", "list1", "get_a\nb"]
    assert [tool for tool in tools if allowed(made, tool, TWO)] == ["search"]
    assert [tool for tool in tools if allowed(made, tool)] == []


def test_an_allow_under_a_condition_is_none_and_a_deny_under_one_always_holds(tmp_path: Path) -> None:
    when = "when: [{path: $.x, op: eq, value: 1}]"
    made = plan_of(
        tmp_path,
        KEY,
        f"agents: ['key:one'], requests: [{{name: a, tools: [t], action: allow, {when}}}]",
        f"agents: ['key:two'], requests: [{{name: all, action: allow}}, {{name: d, tools: [u], action: deny, {when}}}]",
    )
    assert [tool for tool in ("t", "u") if allowed(made, tool, ONE)] == []
    assert [tool for tool in ("t", "u") if allowed(made, tool, TWO)] == ["t"]
    told = [str(one) for one in made.warnings]
    assert "policies: p0: a: cannot be checked: not allowed" in told
    assert "policies: p1: d: cannot be checked: always denied" in told


def test_rules_for_resources_alone_allow_no_tool(tmp_path: Path) -> None:
    made = plan_of(tmp_path, KEY, "requests: [{name: r, resources: ['a://*'], action: allow}]")
    assert not allowed(made, "t", ONE)


def test_tokens_by_subject_and_claim(tmp_path: Path) -> None:
    made = plan_of(
        tmp_path,
        TOKEN,
        "agents: ['jwt:https://idp#alice', 'jwt:https://idp#team-*', {claims: {group: ops}}], "
        "requests: [{name: r, tools: [t], action: allow}]",
        "agents: ['jwt:https://idp#team-b'], requests: [{name: r, tools: [t], action: deny}]",
    )
    callers: list[dict[str, Any]] = [
        {"sub": "alice"}, {"sub": "team-a"}, {"sub": "team-b"}, {"sub": "bob"}, {"sub": "bob", "group": "ops"},
        {"sub": "bob", "group": ["dev", "ops"]}, {"sub": "bob", "group": "dev"}, {"sub": ["alice"]}, {},
    ]  # fmt: skip
    assert [caller for caller in callers if allowed(made, "t", claims=caller)] == [
        {"sub": "alice"}, {"sub": "team-a"}, {"sub": "bob", "group": "ops"}, {"sub": "bob", "group": ["dev", "ops"]},
    ]  # fmt: skip
    oauth = found(made, "MCPRoute")["securityPolicy"]["oauth"]
    assert oauth["protectedResourceMetadata"] == {"resource": "https://g.example/s"}


def test_a_deny_for_those_who_cannot_be_told_is_for_everybody(tmp_path: Path) -> None:
    made = plan_of(
        tmp_path,
        TOKEN,
        "requests: [{name: r, action: allow}]",
        "agents: [{claims: {group: 'dev*'}}], requests: [{name: d, tools: [t], action: deny}]",
    )
    assert not allowed(made, "t", claims={"sub": "alice", "group": "ops"})
    assert allowed(made, "u", claims={"sub": "alice"})


def test_nobody_is_asked_for_an_approval(tmp_path: Path) -> None:
    rule = "{name: a, tools: [t], action: requireApproval, approval: {workflow: w}}"
    made = plan_of(tmp_path, KEY, f"requests: [{{name: r, action: allow}}, {rule}]")
    assert not allowed(made, "t", ONE)
    assert allowed(made, "u", ONE)
    assert "policies: p0: a: nobody is asked: denied" in [str(one) for one in made.warnings]


def test_without_a_way_to_know_callers_there_is_no_route(tmp_path: Path) -> None:
    made = plan_of(tmp_path, "{type: forwarded, from: [10.0.0.0/8]}", "requests: [{name: r, action: allow}]")
    assert "MCPRoute s" not in kinds(made)


def test_who_is_anonymous_by_configuration_is_let_in(tmp_path: Path) -> None:
    rule = "requests: [{name: r, tools: [t], action: allow}]"
    made = plan_of(tmp_path, "{type: none}", f"agents: [anonymous], {rule}", f"agents: ['key:a'], {rule}")
    assert allowed(made, "t")
    assert not allowed(made, "u")


@pytest.mark.parametrize(
    ("method", "url", "server", "why"),
    [
        (TOKEN, "", "", "listen.url"),
        (KEY, "", f", auth: {AUTH}", "say prefix"),
    ],
)
def test_what_cannot_be_said_is_not_planned(tmp_path: Path, method: str, url: str, server: str, why: str) -> None:
    with pytest.raises(CannotPlan, match=why):
        plan_of(tmp_path, method, "requests: [{name: r, action: allow}]", url=url, server=server)


def test_a_key_that_only_the_secret_has_calls_nothing(tmp_path: Path) -> None:
    made = plan_of(tmp_path, KEY, "requests: [{name: r, action: allow}]")
    assert allowed(made, "t", ONE)
    assert not allowed(made, "t", {"x-openmcp-agent": "former"})
