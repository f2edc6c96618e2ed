"""What "Policy: how it decides" promises, sentence by sentence: each test is named after the sentence it holds."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from openmcp.config.model import Action, AgentSelector, Approval, Policy, RequestRule
from openmcp.identity.principal import Principal
from openmcp.sidecar.detection import finder
from openmcp.sidecar.mcp.surface import call_of
from openmcp.sidecar.mcp.values import Call
from openmcp.sidecar.policy.decision import (
    ALLOW,
    DEFAULT_DENY,
    DENY,
    MAX_FAILED,
    REQUIRE_APPROVAL,
    Decision,
    Failed,
    RuleRef,
    Shown,
    Verdict,
)
from openmcp.sidecar.policy.engine import Permit, PolicySet
from openmcp.sidecar.types import Era, Notification, Request
from tests.policy.rules import (
    AGENT,
    SERVER,
    agent,
    allow,
    ask,
    call,
    calling,
    decided,
    deny,
    policy,
    prompt,
    resource,
    tool,
    when,
)

SUPPORT = "spiffe://prod.acme.example/ns/support-ai/sa/bot"


def verdict(policies: list[Policy], asked: Call, caller: Principal = AGENT) -> Verdict:
    return decided(policies, asked, caller).verdict


# "Selectors in a rule: tools, prompts, resources (globs), methods for the rest. One without selectors matches all."

SELECTORS: dict[str, tuple[Any, Call, Verdict]] = {
    "tools": (allow(tools=["get_*"]), calling("get_ticket"), ALLOW),
    "tools, another": (allow(tools=["get_*"]), calling("set_ticket"), DENY),
    "prompts": (allow(prompts=["sum*"]), call("prompts/get", name="summary"), ALLOW),
    "resources": (allow(resources=["ticket://*/comments"]), call("resources/read", uri="ticket://7/comments"), ALLOW),
    "methods": (allow(methods=["completion/*"]), call("ping"), ALLOW),
    "methods, for the rest": (allow(methods=["tools/call"]), calling("get_ticket"), DENY),
    "a rule without selectors matches all": (allow(), calling("anything"), ALLOW),
    "of every kind": (allow(), call("resources/read", uri="x://y"), ALLOW),
}


@pytest.mark.parametrize(("rule", "asked", "expected"), SELECTORS.values(), ids=SELECTORS.keys())
def test_selectors(rule: Any, asked: Call, expected: Verdict) -> None:
    assert verdict([policy(rule)], asked) is expected


@pytest.mark.parametrize(
    "uri", ["file:///docs/../etc/passwd", "file:///docs/%2e%2e/etc/passwd", "file:///etc/passwd", "FILE:///etc/passwd"]
)
def test_resource_uris_are_canonicalised_first(uri: str) -> None:
    rules = policy(allow(resources=["file:///docs/*"]), deny(resources=["file:///etc/*"]))
    assert verdict([rules], call("resources/read", uri=uri)) is DENY


def test_a_resource_is_judged_in_each_of_its_forms() -> None:
    only_written = policy(allow(resources=["file:///docs/../docs/a"]))
    only_canonical = policy(allow(resources=["file:///docs/a"]))
    asked = call("resources/read", uri="file:///docs/../docs/a")
    assert verdict([only_written], asked) is DENY
    assert verdict([only_canonical], asked) is DENY
    both = policy(allow(resources=["file:///docs/../docs/a", "file:///docs/a"]))
    assert verdict([both], asked) is ALLOW


# "agents: globs on the principal, or mappings {trustDomain, namespace, serviceAccount, claims: {k: glob}}"

AGENTS: dict[str, tuple[Any, Principal, bool]] = {
    "a glob": ("spiffe://prod.acme.example/ns/support-ai/sa/*", Principal(SUPPORT, "mtls"), True),
    "a glob on another": ("spiffe://prod.acme.example/ns/sales/sa/*", Principal(SUPPORT, "mtls"), False),
    "a key": ("key:*", agent("key:ci"), True),
    "anonymous": ("anonymous", agent("anonymous"), True),
    "a user of an issuer": ("jwt:https://idp/#ann", Principal("jwt:https://idp/#ann", "jwt"), True),
    "a mapping": (AgentSelector(trust_domain="prod.*", namespace="support-ai"), Principal(SUPPORT, "mtls"), True),
    "a mapping that does not fit": (AgentSelector(namespace="sales"), Principal(SUPPORT, "mtls"), False),
    "claims": (
        AgentSelector(claims=(("team", "support*"),)),
        Principal("jwt:i#s", "jwt", (("team", "support-2"),)),
        True,
    ),
    "claims that differ": (
        AgentSelector(claims=(("team", "s"),)),
        Principal("jwt:i#s", "jwt", (("team", "t"),)),
        False,
    ),
}


@pytest.mark.parametrize(("selector", "caller", "fits"), AGENTS.values(), ids=AGENTS.keys())
def test_agents(selector: Any, caller: Principal, fits: bool) -> None:
    policies = [policy(allow(), agents=[selector])]
    assert verdict(policies, calling("t"), caller) is (ALLOW if fits else DENY)


# "All matching rules of all matching policies count: deny > requireApproval > allow > default deny."

PRECEDENCE: dict[str, tuple[list[Any], Verdict]] = {
    "deny": ([deny()], DENY),
    "deny over requireApproval": ([ask(), deny()], DENY),
    "deny over allow": ([allow(), deny()], DENY),
    "deny over both": ([allow(), ask(), deny()], DENY),
    "requireApproval": ([ask()], REQUIRE_APPROVAL),
    "requireApproval over allow": ([allow(), ask()], REQUIRE_APPROVAL),
    "allow": ([allow()], ALLOW),
    "default deny": ([allow(tools=["other"]), ask(tools=["another"])], DENY),
    "default deny without rules": ([], DENY),
}


@pytest.mark.parametrize("split", [False, True], ids=["in one policy", "in several"])
@pytest.mark.parametrize(("rules", "expected"), PRECEDENCE.values(), ids=PRECEDENCE.keys())
def test_deny_over_require_approval_over_allow_over_default_deny(
    rules: list[Any], expected: Verdict, split: bool
) -> None:
    for given in (rules, rules[::-1]):
        policies = [policy(rule, name=f"p{i}") for i, rule in enumerate(given)] if split else [policy(*given)]
        assert verdict(policies, calling("t")) is expected


@pytest.mark.parametrize(("rule", "expected"), [(deny(), DENY), (ask(), REQUIRE_APPROVAL)])
def test_an_agent_level_allow_never_lifts_a_server_level_deny_or_approval(rule: Any, expected: Verdict) -> None:
    policies = [policy(rule, name="server"), policy(allow(), name="agent", agents=[AGENT.name])]
    assert verdict(policies, calling("t")) is expected


def test_several_require_approval_all_of_them() -> None:
    policies = [
        policy(ask("b", workflow="leads"), ask("a", workflow="finance"), allow(), name="p"),
        policy(ask("c", workflow="security"), name="o"),
        policy(ask("other", tools=["u"]), name="q"),
    ]
    compiled = PolicySet(policies)
    decision = compiled.authorize(AGENT, SERVER, calling("t"))
    assert isinstance(decision, Decision)
    refs = [
        RuleRef("o", "c", "requireApproval"),
        RuleRef("p", "a", "requireApproval"),
        RuleRef("p", "b", "requireApproval"),
    ]
    assert list(decision.approvals) == refs
    workflows = [compiled.approval_of(rule) for rule in decision.approvals]
    assert [asked.workflow for asked in workflows if asked is not None] == ["security", "finance", "leads"]
    assert compiled.approval_of(RuleRef("p", "allow", "allow")) is None
    assert decided([*policies, policy(deny(), name="z")], calling("t")).approvals == ()


# "when: ... over the arguments"; operators have tests of their own

ARGUMENTS: dict[str, tuple[Any, Call, Verdict]] = {
    "of a tool": (allow(when=[when("$.id", "matches", "[0-9]+")]), calling("t", {"id": "7"}), ALLOW),
    "of a tool, others": (allow(when=[when("$.id", "matches", "[0-9]+")]), calling("t", {"id": "x"}), DENY),
    "of a tool, none": (allow(when=[when("$.id", "absent")]), calling("t"), ALLOW),
    "of a tool, no object": (allow(when=[when("$.id", "absent")]), call("tools/call", name="t", arguments=["a"]), DENY),
    "of a prompt": (
        allow(prompts=["p"], when=[when("$.lang", "in", ["en", "de"])]),
        call("prompts/get", name="p", arguments={"lang": "de"}),
        ALLOW,
    ),
    "of a resource: its URI": (
        allow(resources=["*"], when=[when("$.uri", "matches", "ticket://[0-9]{1,12}")]),
        call("resources/read", uri="ticket://7"),
        ALLOW,
    ),
    "of a resource, another": (
        allow(resources=["*"], when=[when("$.uri", "matches", "ticket://[0-9]{1,12}")]),
        call("resources/read", uri="ticket://7/x"),
        DENY,
    ),
    "of a resource, both forms": (
        deny(resources=["*"], when=[when("$.uri", "eq", "x://a/secret")]),
        call("resources/read", uri="x://a/b/../secret"),
        DENY,
    ),
    "of a resource, nothing that the agent adds": (
        allow(resources=["*"], when=[when("$.ok", "exists")]),
        call("resources/read", uri="x://a", ok=True, arguments={"ok": True}),
        DENY,
    ),
    "of a completion": (
        allow(prompts=["p"], when=[when("$.customer", "eq", "c1")]),
        call(
            "completion/complete",
            ref={"type": "ref/prompt", "name": "p"},
            argument={"name": "customer", "value": "c1"},
        ),
        ALLOW,
    ),
    "of a completion, those before it": (
        allow(prompts=["p"], when=[when("$.customer", "eq", "c1")]),
        call(
            "completion/complete",
            ref={"type": "ref/prompt", "name": "p"},
            argument={"name": "text", "value": ""},
            context={"arguments": {"customer": "c2"}},
        ),
        DENY,
    ),
    "of a completion, no object": (
        allow(prompts=["p"], when=[when("$.customer", "absent")]),
        call("completion/complete", ref={"type": "ref/prompt", "name": "p"}, argument="customer"),
        DENY,
    ),
    "of a completion for a resource, its URI too": (
        allow(resources=["*"], when=[when("$.uri", "eq", "x://{id}"), when("$.id", "eq", "7")]),
        call(
            "completion/complete",
            ref={"type": "ref/resource", "uri": "x://{id}"},
            argument={"name": "id", "value": "7"},
        ),
        ALLOW,
    ),
    "and no agent names that URI itself": (
        allow(resources=["*"], when=[when("$.uri", "eq", "x://good")]),
        call(
            "completion/complete",
            ref={"type": "ref/resource", "uri": "x://{uri}"},
            argument={"name": "uri", "value": "x://good"},
        ),
        DENY,
    ),
    "of another method: its params": (
        allow(methods=["logging/setLevel"], when=[when("$.level", "eq", "error")]),
        call("logging/setLevel", level="error"),
        ALLOW,
    ),
    "without _meta": (
        deny(methods=["ping"], when=[when("$._meta", "exists")]),
        call("ping", _meta={"x": 1}),
        ALLOW,
    ),
}


@pytest.mark.parametrize(("rule", "asked", "expected"), ARGUMENTS.values(), ids=ARGUMENTS.keys())
def test_conditions_look_at_the_arguments(rule: Any, asked: Call, expected: Verdict) -> None:
    rules = [rule, allow("rest")] if rule.action == "deny" else [rule]
    assert verdict([policy(*rules)], asked) is expected


ALL: dict[str, tuple[list[Any], Verdict]] = {
    "both": ([when("$.a", "eq", 1), when("$.b", "eq", 2)], ALLOW),
    "the first alone": ([when("$.a", "eq", 1), when("$.b", "eq", 3)], DENY),
    "the second alone": ([when("$.a", "eq", 2), when("$.b", "eq", 2)], DENY),
}


@pytest.mark.parametrize(("conditions", "expected"), ALL.values(), ids=ALL.keys())
def test_all_conditions_must_hold(conditions: list[Any], expected: Verdict) -> None:
    assert verdict([policy(allow(when=conditions))], calling("t", {"a": 1, "b": 2})) is expected


FALSE_, UNSURE_ = [when("$.x", "eq", "no")], [when("$.x", "gt", 5)]
UNCERTAIN: dict[str, tuple[list[Any], Verdict, str]] = {
    "an allow needs certainty": ([allow(when=UNSURE_)], DENY, ""),
    "a denial holds in doubt": ([allow(), deny(when=UNSURE_)], DENY, "deny"),
    "an approval in doubt denies": ([allow(), ask(when=UNSURE_)], DENY, "ask"),
    "after every denial": ([allow(), ask(when=UNSURE_), deny("z")], DENY, "z"),
    "before another approval": ([allow(), ask(when=UNSURE_), ask("a")], DENY, "ask"),
    "a false condition wins over doubt": ([allow(), deny(when=FALSE_ + UNSURE_)], ALLOW, "allow"),
    "also for approvals": ([allow(), ask(when=FALSE_ + UNSURE_)], ALLOW, "allow"),
}


@pytest.mark.parametrize(("rules", "expected", "rule"), UNCERTAIN.values(), ids=UNCERTAIN.keys())
def test_what_is_unsure_is_denied(rules: list[Any], expected: Verdict, rule: str) -> None:
    decision = decided([policy(*rules)], calling("t", {"x": "text"}))
    assert (decision.verdict, decision.rule) == (expected, rule)


def test_an_approval_that_cannot_be_judged_tells_the_agent_no_more() -> None:
    decision = decided([policy(ask(when=UNSURE_))], calling("t", {"x": "s3cret"}))
    assert (decision.reason, decision.approvals) == ("whether this needs an approval cannot be judged", ())


# "An agent for whom a server has no allow and no requireApproval rule may not use that server at all."


@pytest.mark.parametrize(
    ("policies", "usable"),
    [
        ([], False),
        ([policy(deny())], False),
        ([policy(allow(), shadow=True)], False),
        ([policy(ask(), shadow=True), policy(deny(), name="q")], False),
        ([policy(allow(), agents=["key:other"])], False),
        ([policy(allow(), servers=["other"])], False),
        ([policy(allow(tools=["never"]))], True),
        ([policy(ask(tools=["never"]))], True),
        ([policy(allow(when=[when("$.x", "exists")]))], True),
    ],
)
def test_an_agent_without_allow_or_require_approval_may_not_use_the_server_at_all(
    policies: list[Policy], usable: bool
) -> None:
    assert PolicySet(policies).rules_for(AGENT, SERVER).usable is usable
    for asked in (call("initialize"), call("ping"), call("tools/list")):
        assert verdict(policies, asked) is (ALLOW if usable else DENY)


def test_what_is_denied_by_default_and_what_does_not_exist_answer_alike() -> None:
    """Whether the policy knows a name, knows it for others, or for other arguments, shows in no answer."""
    policies = [
        policy(allow(tools=["mine"]), allow("if", tools=["conditional"], when=[when("$.x", "eq", 1)])),
        policy(allow(tools=["theirs"]), name="q", agents=["key:other"]),
        policy(deny(), name="r", agents=["key:nobody"]),
    ]
    answers = {
        (decision.verdict, decision.policy, decision.rule, decision.reason)
        for name in ("theirs", "conditional", "unknown")
        for decision in (decided(policies, calling(name)),)
    }
    assert answers == {(DENY, "", "", DEFAULT_DENY.reason)}


# "Lists show just what a call would be let through for, approval-gated entries included and marked so"

SOME, DIGITS = [when("$.x", "eq", 1)], [when("$.uri", "matches", "t://[0-9]+")]
SHOWN: dict[str, tuple[list[Any], Any, Shown]] = {
    "no rule": ([allow(tools=["u"])], tool("t"), Shown.HIDDEN),
    "allowed": ([allow()], tool("t"), Shown.OPEN),
    "denied": ([allow(), deny()], tool("t"), Shown.HIDDEN),
    "denied with other arguments": ([allow(), deny(when=SOME)], tool("t"), Shown.OPEN),
    "allowed with some arguments": ([allow(when=SOME)], tool("t"), Shown.OPEN),
    "approval": ([ask()], tool("t"), Shown.APPROVAL),
    "approval over allow": ([ask(), allow()], tool("t"), Shown.APPROVAL),
    "approval with some arguments, allowed with others": ([ask(when=SOME), allow()], tool("t"), Shown.MIXED),
    "approval with some arguments, allowed with some": ([ask(when=SOME), allow(when=SOME)], tool("t"), Shown.MIXED),
    "approval with some arguments alone": ([ask(when=SOME)], tool("t"), Shown.APPROVAL),
    "approval and denied": ([ask(), deny()], tool("t"), Shown.HIDDEN),
    "a prompt": ([ask(prompts=["p"]), allow(tools=["p"])], prompt("p"), Shown.APPROVAL),
    "a resource by its URI": ([allow(when=DIGITS)], resource("t://7"), Shown.OPEN),
    "a resource, another": ([allow(when=DIGITS)], resource("t://x"), Shown.HIDDEN),
    "a resource that is denied by its URI": ([allow(), deny(when=DIGITS)], resource("t://7"), Shown.HIDDEN),
    "a resource that cannot be judged": (
        [allow(), deny(when=[when("$.uri", "gt", 1)])],
        resource("t://7"),
        Shown.HIDDEN,
    ),
    "an approval of it that cannot": ([allow(), ask(when=[when("$.uri", "gt", 1)])], resource("t://7"), Shown.HIDDEN),
    "an allow of it that cannot": ([allow(when=[when("$.uri", "gt", 1)])], resource("t://7"), Shown.HIDDEN),
    "a template": ([allow(when=DIGITS)], resource("t://{id}"), Shown.OPEN),
    "a template, denied for some": ([allow(), deny(when=DIGITS)], resource("t://{id}"), Shown.OPEN),
    "a denial by what is found": ([allow(), deny(patterns=["secret"])], tool("t"), Shown.OPEN),
    "which is in its own name": ([allow(), deny(patterns=["secret"])], tool("a_secret"), Shown.HIDDEN),
    "an allow by what is found": ([allow(patterns=["hello"])], tool("t"), Shown.OPEN),
}


@pytest.mark.parametrize(("rules", "subject", "expected"), SHOWN.values(), ids=SHOWN.keys())
def test_lists_show_what_a_call_would_be_let_through_for(rules: list[Any], subject: Any, expected: Shown) -> None:
    compiled = PolicySet([policy(*rules)])
    assert compiled.rules_for(AGENT, SERVER).shows(subject) is expected
    assert compiled.rules_for(AGENT, SERVER).shows(subject) is expected, "also when it is remembered"
    in_shadow = [policy(deny(), ask(), allow(), name="shadow", shadow=True)]
    assert PolicySet([policy(*rules), *in_shadow]).rules_for(AGENT, SERVER).shows(subject) is expected


# "mode: enforce, or shadow: decide and record, but let pass"

SHADOWS: dict[str, tuple[list[Any], list[Any], tuple[Verdict, str] | None]] = {
    "would deny": ([allow()], [deny()], (DENY, "deny")),
    "would ask": ([allow()], [ask()], (REQUIRE_APPROVAL, "ask")),
    "would allow": ([allow(tools=["u"])], [allow("more")], (ALLOW, "more")),
    "would open the server": ([], [allow("more")], (ALLOW, "more")),
    "would deny what is denied": ([deny(), allow()], [deny("too")], None),
    "would allow what is allowed": ([allow()], [allow("too")], None),
    "would allow what is denied": ([deny(), allow()], [allow("too")], None),
    "would deny something else": ([allow()], [deny(tools=["u"])], None),
    "would deny other arguments": ([allow()], [deny(when=SOME)], None),
    "would deny by its condition": ([allow()], [deny(when=[when("$.x", "absent")])], (DENY, "deny")),
}


@pytest.mark.parametrize(("rules", "shadow", "expected"), SHADOWS.values(), ids=SHADOWS.keys())
def test_a_policy_in_shadow_mode_lets_pass_and_tells(
    rules: list[Any], shadow: list[Any], expected: tuple[Verdict, str] | None
) -> None:
    without = decided([policy(*rules)], calling("t"))
    decision = decided([policy(*rules), policy(*shadow, name="trial", shadow=True)], calling("t"))
    assert decision.verdict is without.verdict
    assert (decision.policy, decision.rule, decision.reason) == (without.policy, without.rule, without.reason)
    told = None if decision.shadow is None else (decision.shadow[0], decision.shadow[1])
    wanted = None if expected is None else (expected[0], RuleRef("trial", expected[1], str(shadow[0].action), True))
    assert told == wanted


# "Requests can be restricted by the same patterns"

FOUND: dict[str, tuple[Call, Verdict]] = {
    "in an argument": (calling("t", {"text": "it is s3cret-77"}), DENY),
    "deep in one": (calling("t", {"a": [{"b": ["s3cret-77"]}]}), DENY),
    "in a key": (calling("t", {"s3cret-77": 1}), DENY),
    "in the name": (calling("s3cret-77", {}), DENY),
    "in _meta": (calling("t", {}, _meta={"x": "s3cret-77"}), DENY),
    "in the progress token": (calling("t", {}, _meta={"progressToken": "s3cret-77"}), DENY),
    "in a URI": (call("resources/read", uri="x://s3cret-77"), DENY),
    "nowhere": (calling("t", {"text": "s3cret"}), ALLOW),
}


@pytest.mark.parametrize(("asked", "expected"), FOUND.values(), ids=FOUND.keys())
def test_a_rule_with_patterns_matches_what_they_find_in_a_request(asked: Call, expected: Verdict) -> None:
    assert verdict([policy(allow(), deny(patterns=["s3cret-[0-9]+"]))], asked) is expected
    ascending = [deny("other", patterns=["zzz"]), deny(patterns=["s3cret-[0-9]+"]), deny("third", detect=["email"])]
    assert verdict([policy(allow(), *ascending)], asked) is expected


def test_conditions_and_patterns_both_have_to_hold() -> None:
    rules = policy(allow(), deny(when=[when("$.to", "eq", "out")], patterns=["s3cret"]))
    calls = [{"to": "out", "x": "s3cret"}, {"to": "in", "x": "s3cret"}, {"to": "out", "x": "fine"}]
    assert [verdict([rules], calling("t", arguments)) for arguments in calls] == [DENY, ALLOW, ALLOW]


def test_a_request_is_searched_once_whatever_the_number_of_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    searched = []
    policies = PolicySet([policy(allow(), *(deny(f"d{i}", patterns=[f"s{i}"]) for i in range(5)))])
    before = finder.texts
    monkeypatch.setattr(finder, "texts", lambda document: searched.append(document) or before(document))
    assert isinstance(policies.authorize(AGENT, SERVER, calling("t", {"a": "text"})), Permit)
    whole = {"name": "t", "arguments": {"a": "text"}}
    assert [document for document in searched if document == whole] == [whole]


# "... every rule that matched, the conditions that failed with the values seen, ... and the one that decided"


def test_the_decision_names_what_matched_what_failed_and_what_decided() -> None:
    policies = [
        policy(
            allow("a", tools=["get_*"]),
            ask("big", tools=["get_*"], when=[when("$.n", "gt", 10)]),
            deny("odd", when=[when("$.n", "gt", 10), when("$.who", "eq", "me")]),
            deny("others", tools=["set_*"]),
            deny("vague", [when("$.n", "matches", "x")], tools=["other"]),
        ),
        policy(deny("trial", when=[when("$.n", "lt", 10)]), name="s", shadow=True),
    ]
    decision = decided(policies, calling("get_x", {"n": 5, "who": "you"}))
    assert decision == Decision(
        ALLOW,
        "p",
        "a",
        "",
        matched=(RuleRef("p", "a", "allow"), RuleRef("s", "trial", "deny", True)),
        shadow=(DENY, RuleRef("s", "trial", "deny", True)),
        failed=(
            Failed(RuleRef("p", "big", "requireApproval"), "$.n gt 10: found 5"),
            Failed(RuleRef("p", "odd", "deny"), '$.n gt 10: found 5; $.who eq "me": found "you"'),
        ),
    )


def test_a_rule_that_holds_in_doubt_is_told_with_its_doubt() -> None:
    decision = decided([policy(allow(), deny(when=[when("$.n", "gt", 1)]))], calling("t", {"n": "x"}))
    doubt = Failed(RuleRef("p", "deny", "deny"), '$.n gt 1 cannot be judged: found "x"')
    assert (RuleRef("p", "deny", "deny") in decision.matched, decision.failed) == (True, (doubt,))


def test_of_several_subjects_the_strictest_decides_and_all_is_told() -> None:
    policies = [
        policy(
            allow(resources=["x://*"], methods=["*"]),
            ask(resources=["x://ask"]),
            deny(resources=["x://no"]),
            allow("if", resources=["*"], when=[when("$.uri", "eq", "x://if")]),
        ),
        policy(deny("trial", resources=["x://b"]), name="s", shadow=True),
    ]

    def listening(*uris: str) -> Decision:
        asked = call("subscriptions/listen", notifications={"resourceSubscriptions": list(uris)})
        return decided(policies, asked)

    assert listening("x://a").verdict is ALLOW
    assert listening("x://a", "x://ask").verdict is REQUIRE_APPROVAL
    assert [ref.rule for ref in listening("x://a", "x://ask").approvals] == ["ask"]
    assert (listening("x://a", "x://ask", "x://no").verdict, listening("x://ask", "x://no").rule) == (DENY, "deny")
    assert listening("x://ask", "x://no").approvals == ()
    assert listening("x://a", "y://other").verdict is DENY
    assert listening("x://a", "x://b").shadow == (DENY, RuleRef("s", "trial", "deny", True))
    assert listening("x://no", "x://b").shadow is None
    assert [one.why for one in listening("x://a", "x://ask").failed] == [
        '$.uri eq "x://if": found "x://a"',
        '$.uri eq "x://if": found "x://ask"',
    ]
    assert len(listening(*(f"x://{i}" for i in range(500))).failed) == MAX_FAILED


# An error denies


HALF = "\ud800"
"""Half of a character, which no text in UTF-8 can hold: the parser lets none through, and matching one fails."""


def test_an_error_in_evaluating_policy_denies() -> None:
    policies = PolicySet([policy(allow(), allow("some", tools=["*x"]))])
    denied = Decision(DENY, reason="policy could not be evaluated")
    assert policies.authorize(AGENT, SERVER, calling(HALF)) == denied
    assert policies.decide(AGENT, SERVER, [tool(HALF)]) == denied
    assert policies.decide(AGENT, SERVER, [tool("t"), tool(HALF)]) == denied
    assert policies.rules_for(AGENT, SERVER).shows(tool(HALF)) is Shown.HIDDEN


def test_an_error_in_matching_the_agent_leaves_it_without_rules() -> None:
    policies = PolicySet([policy(allow()), policy(allow(), name="q", agents=["*x"])])
    assert not policies.rules_for(agent(HALF), SERVER).usable
    assert policies.decide(agent(HALF), SERVER, [tool("t")]).verdict is DENY
    assert policies.rules_for(agent(HALF), SERVER).shows(tool("t")) is Shown.HIDDEN


def test_an_error_in_a_condition_is_unsure() -> None:
    odd = [when("$.x", "matches", ".*")]
    arguments = {"x": HALF}
    assert verdict([policy(allow(when=odd))], calling("t", arguments)) is DENY
    assert verdict([policy(allow(), deny(when=odd))], calling("t", arguments)) is DENY
    assert decided([policy(allow(), ask(when=odd))], calling("t", arguments)).verdict is DENY


def test_a_search_that_fails_denies_what_it_should_keep_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: object) -> None:
        raise RecursionError

    monkeypatch.setattr(finder, "texts", broken)
    looking = {"patterns": ["x"]}
    assert decided([policy(allow(), deny(**looking))], calling("t")).rule == "deny"
    assert verdict([policy(allow(**looking))], calling("t")) is DENY
    assert verdict([policy(allow(), ask(**looking))], calling("t")) is DENY


def test_notifications_are_decided_like_requests() -> None:
    told = call_of(Notification("notifications/progress", {"progress": 7}), Era.LEGACY, "2025-11-25")
    rules = policy(allow(), deny(methods=["notifications/progress"], when=[when("$.progress", "gt", 5)]))
    assert verdict([rules], told) is DENY


# decision(x) = decision(decode(encode(x)))


@pytest.mark.parametrize("encode", [json.dumps, lambda value: json.dumps(value, ensure_ascii=False, indent=1)])
def test_the_decision_on_what_is_sent_is_that_on_what_came(encode: Callable[[object], str]) -> None:
    rules = policy(allow(when=[when("$.x", "in", [1, 1.5, "é", "\u2028", True, "a\tb"])]))
    for value in (1, 1.0, 1.5, "é", "\u2028", True, "a\tb", None, [], "1", "2"):
        sent = json.loads(encode({"name": "t", "arguments": {"x": value}}))
        asked = call_of(Request(1, "tools/call", sent), Era.LEGACY, "2025-11-25")
        assert decided([rules], asked) == decided([rules], calling("t", {"x": value}))


def test_an_approval_tells_what_was_configured() -> None:
    asked = Approval(workflow="leads", show=("$.id",), bind=("$.id",), duration=60.0, max_uses=3)
    rule = RequestRule(name="r", action=Action.REQUIRE_APPROVAL, approval=asked)
    assert PolicySet([policy(rule)]).approval_of(RuleRef("p", "r", "requireApproval")) == asked
