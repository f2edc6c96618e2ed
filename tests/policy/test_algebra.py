"""The algebra of policies: properties that hold for all of them, and a second reading of the rules that agrees.

Few names, values and conditions, so that rules meet often.
"""

import fnmatch
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from openmcp.config.model import Action, Condition, Policy, RequestRule
from openmcp.identity.principal import Principal
from openmcp.sidecar.mcp import methods
from openmcp.sidecar.mcp.surface import call_of
from openmcp.sidecar.mcp.values import Call
from openmcp.sidecar.policy.decision import ALLOW, DENY, REQUIRE_APPROVAL, Decision, Verdict
from openmcp.sidecar.policy.engine import PolicySet
from openmcp.sidecar.types import Era, Kind, Request, Subject
from tests.policy.rules import agent, call, calling, decided, when

CONDITIONS = [
    when("$.x", "eq", 1),
    when("$.x", "ne", 1),
    when("$.x", "gt", 1),
    when("$.x", "absent"),
    when("$.x", "in", [1, "a"]),
    when("$.l[*]", "eq", "a"),
    when("$.uri", "eq", "x://a"),
]
globs = st.sampled_from(["a", "b", "*", "a*", "?", "initialize", "x://a", "x://*"])
selected = st.lists(globs, max_size=2).map(tuple)


def rules_of(actions: Any) -> st.SearchStrategy[RequestRule]:
    return st.builds(
        RequestRule,
        name=st.sampled_from(["r1", "r2", "r3"]),
        action=actions,
        tools=selected,
        prompts=selected,
        resources=selected,
        methods=selected,
        when=st.lists(st.sampled_from(CONDITIONS), max_size=2).map(tuple),
        patterns=st.sampled_from([(), (), (), ("needle",)]),
        message=st.none() | st.just("no"),
    )


def policies_of(names: str, actions: Any, *modes: str) -> st.SearchStrategy[Policy]:
    """Policies with one-letter names; those of one set differ, as do the rules of one policy."""
    return st.builds(
        Policy,
        name=st.sampled_from(names),
        servers=st.lists(st.sampled_from(["s1", "s*", "t"]), min_size=1, max_size=2).map(tuple),
        agents=st.lists(st.sampled_from(["a1", "a*", "b"]), max_size=2).map(tuple),
        mode=st.sampled_from(modes),
        requests=st.lists(rules_of(actions), max_size=3, unique_by=lambda rule: rule.name).map(tuple),
    )


any_action = st.sampled_from(Action)
policy_sets = st.lists(
    policies_of("bdfh", any_action, "enforce", "enforce", "shadow"), max_size=4, unique_by=lambda policy: policy.name
)
denials = policies_of("ae", st.just(Action.DENY), "enforce")
approvals = policies_of("ae", st.just(Action.REQUIRE_APPROVAL), "enforce")
allows = policies_of("ae", st.just(Action.ALLOW), "enforce")
shadows = policies_of("ae", any_action, "shadow")

CALLS = [
    calling("a"),
    calling("b", {"x": 1}),
    calling("ab", {"x": "a", "l": ["a", "b"]}),
    calling("a", {"x": 2, "l": ["a", "a"], "uri": "x://a"}),
    calling("b", {"note": ["a needle"]}),
    call("tools/call", name="a", arguments=["x"]),
    call("prompts/get", name="a", arguments={"x": "1"}),
    call("resources/read", uri="x://a"),
    call("resources/read", uri="x://b/c/../a"),
    call("initialize"),
    call("tools/list"),
    call("completion/complete", ref={"type": "ref/prompt", "name": "b"}, argument={"name": "x", "value": "a"}),
]
ASKED = [(agent(name), server, asked) for name in ("a1", "a2", "b") for server in ("s1", "s2") for asked in CALLS]
ORDER = [DENY, REQUIRE_APPROVAL, ALLOW]


def table(policies: list[Policy]) -> list[Decision]:
    compiled = PolicySet(policies)
    return [
        decision if isinstance(decision, Decision) else decision.decision
        for caller, server, asked in ASKED
        for decision in (compiled.authorize(caller, server, asked),)
    ]


def verdicts(policies: list[Policy]) -> list[Verdict]:
    return [decision.verdict for decision in table(policies)]


def strictness(policies: list[Policy]) -> list[int]:
    return [ORDER.index(verdict) for verdict in verdicts(policies)]


# A second reading of config.md, with nothing compiled, indexed or remembered


def _matches(patterns: tuple[Any, ...], text: str) -> bool:
    return any(fnmatch.fnmatchcase(text, pattern) for pattern in patterns)


def _single(condition: Condition, found: list[Any]) -> bool | None:
    def same(one: Any, other: Any) -> bool:
        return one == other and isinstance(one, bool) is isinstance(other, bool)

    def alike(one: Any, other: Any) -> bool:
        """Of another type, and to some server the same: what is sent here is no more than these."""
        if isinstance(other, bool):
            return type(one) in (int, float, str)
        return type(one) is not type(other) and {str(one), str(other)} in ({"1"}, {"True", "1"}, {"False", "0"})

    def holds(one: Any) -> bool | None:
        if condition.op == "gt":
            return one > 1 if type(one) in (int, float) else None
        listed = condition.value if isinstance(condition.value, tuple) else (condition.value,)
        among = any(same(one, value) for value in listed)
        if condition.op != "absent" and not among and any(alike(one, value) for value in listed):
            return None
        return {"eq": among, "in": among, "ne": not among, "absent": False}[condition.op]

    if not found:
        return condition.op in ("ne", "absent")
    answers = {holds(one) for one in found}
    return answers.pop() if len(answers) == 1 else None


def _condition(condition: Condition, document: Any) -> bool | None:
    if not isinstance(document, dict):
        return None
    if condition.path == "$.l[*]":
        return _single(condition, document.get("l", []))
    key = condition.path[2:]
    return _single(condition, [document[key]] if key in document else [])


def _document(asked: Call, subject: Subject) -> Any:
    params = asked.message.params
    if subject.kind is Kind.RESOURCE:
        return {"uri": subject.name}
    if asked.method == "completion/complete":
        return {params["argument"]["name"]: params["argument"]["value"]}
    return params.get("arguments", {})


def _holds(rule: RequestRule, asked: Call, subject: Subject) -> bool | None:
    everything = not (rule.tools or rule.prompts or rule.resources or rule.methods)
    if not everything and not _matches(getattr(rule, f"{subject.kind}s"), subject.name):
        return False
    answers = {_condition(condition, _document(asked, subject)) for condition in rule.when}
    if rule.patterns:
        answers.add("needle" in json.dumps(asked.message.params))
    return False if False in answers else None if None in answers else True


def reference(policies: list[Policy], caller: Principal, server: str, asked: Call, shadow: bool = False) -> Verdict:
    """The verdict; `shadow`: with shadow policies enforced too."""
    applying = [
        rule
        for one in policies
        if (one.mode == "enforce" or shadow) and _matches(one.servers, server)
        if not one.agents or _matches(one.agents, caller.name)
        for rule in one.requests
    ]
    if all(rule.action is Action.DENY for rule in applying):
        return DENY
    return min((_one(applying, asked, subject) for subject in asked.subjects), key=ORDER.index)


def _one(applying: list[RequestRule], asked: Call, subject: Subject) -> Verdict:
    answers = [(rule.action, _holds(rule, asked, subject)) for rule in applying]
    if any(answer is not False for action, answer in answers if action is Action.DENY):
        return DENY
    if any(answer is None for action, answer in answers if action is Action.REQUIRE_APPROVAL):
        return DENY
    if (Action.REQUIRE_APPROVAL, True) in answers:
        return REQUIRE_APPROVAL
    basic = subject.kind is Kind.METHOD and subject.name in methods.BASIC
    return ALLOW if basic or (Action.ALLOW, True) in answers else DENY


@given(policy_sets)
def test_decisions_are_those_of_the_written_rules(policies: list[Policy]) -> None:
    found = table(policies)
    assert [decision.verdict for decision in found] == [reference(policies, *asked) for asked in ASKED]
    with_shadow = [decision.shadow[0] if decision.shadow else decision.verdict for decision in found]
    assert with_shadow == [reference(policies, *asked, shadow=True) for asked in ASKED]


@given(policy_sets, denials, st.integers(0, 4))
def test_another_denial_never_allows_more(policies: list[Policy], more: Policy, at: int) -> None:
    before, after = strictness(policies), strictness([*policies[:at], more, *policies[at:]])
    assert [pair for pair in zip(before, after, strict=True) if pair[1] > pair[0]] == []


@given(policy_sets, approvals)
def test_another_approval_lets_nothing_more_pass_unseen(policies: list[Policy], more: Policy) -> None:
    """It may turn a denial into a question, and open the basic methods; it lets no tool, prompt or resource pass."""
    before, after = verdicts(policies), verdicts([*policies, more])
    changed = [
        asked[2].method
        for asked, old, new in zip(ASKED, before, after, strict=True)
        if new is ALLOW and old is not ALLOW and asked[2].method not in methods.BASIC
    ]
    assert changed == []


@given(policy_sets, allows)
def test_another_allow_never_denies_more(policies: list[Policy], more: Policy) -> None:
    before, after = strictness(policies), strictness([*policies, more])
    assert [pair for pair in zip(before, after, strict=True) if pair[1] < pair[0]] == []


@given(policy_sets, shadows)
def test_a_shadow_policy_changes_nothing_but_what_is_told_of_shadows(policies: list[Policy], more: Policy) -> None:
    def without_shadows(decision: Decision) -> Decision:
        matched = tuple(rule for rule in decision.matched if not rule.shadow)
        failed = tuple(one for one in decision.failed if not one.rule.shadow)
        return msgspec.structs.replace(decision, shadow=None, matched=matched, failed=failed)

    enforced = [one for one in policies if one.mode == "enforce"]
    before, after = table(enforced), table([*policies, more])
    assert [without_shadows(decision) for decision in after] == before


@given(policy_sets, st.randoms(use_true_random=False))
def test_order_never_matters(policies: list[Policy], random: Any) -> None:
    """Neither for the verdict nor for what is told of it."""
    turned = [
        msgspec.structs.replace(one, requests=tuple(random.sample(one.requests, len(one.requests))))
        for one in random.sample(policies, len(policies))
    ]
    assert table(turned) == table(policies)


@given(policy_sets)
def test_the_decision_on_what_was_encoded_and_decoded_is_the_same(policies: list[Policy]) -> None:
    def again(asked: Call) -> Call:
        params = json.loads(json.dumps(asked.message.params))
        return call_of(Request(2, asked.method, params), Era.LEGACY, "2025-11-25")

    compiled = PolicySet(policies)
    for caller, server, asked in ASKED:
        assert decided_by(compiled, caller, server, again(asked)) == decided_by(compiled, caller, server, asked)


@given(policy_sets)
def test_what_decides_is_among_what_matched(policies: list[Policy]) -> None:
    for decision, (_, _, asked) in zip(table(policies), ASKED, strict=True):
        named = [rule for rule in decision.matched if (rule.policy, rule.rule, rule.shadow) == named_by(decision)]
        basic = decision.allowed and asked.method in methods.BASIC
        assert named or not decision.policy or basic
        assert set(decision.approvals) <= set(decision.matched)
        assert bool(decision.approvals) is (decision.verdict is REQUIRE_APPROVAL)


@given(policy_sets, st.lists(st.sampled_from(ASKED), max_size=60))
def test_what_was_asked_before_changes_no_decision(
    policies: list[Policy], asked: list[tuple[Principal, str, Call]]
) -> None:
    """With memories of few entries, which are cleared all the time."""
    used = PolicySet(policies)
    used._agents._limit = 2
    used._shared._limit = 2
    for caller, server, one in asked:
        for names in (used.rules_for(caller, server)._tools, used.rules_for(caller, server)._resources):
            names.fixed._limit = names.depending._limit = 1
        assert decided_by(used, caller, server, one) == decided(policies, one, caller, server)


def decided_by(policies: PolicySet, caller: Principal, server: str, asked: Call) -> Decision:
    decision = policies.authorize(caller, server, asked)
    return decision if isinstance(decision, Decision) else decision.decision


def named_by(decision: Decision) -> tuple[str, str, bool]:
    return decision.policy, decision.rule, False


@given(st.lists(st.sampled_from(CONDITIONS), min_size=1, max_size=3), st.sampled_from(["a", None, True, [], {}, 1.5]))
def test_what_is_unsure_never_allows(conditions: list[Condition], value: Any) -> None:
    """Where a denial under some conditions holds, an allow under the same does not let pass unless they are true."""
    rule = RequestRule(name="r", action=Action.ALLOW, when=tuple(conditions))
    states = [_condition(condition, {"x": value}) for condition in conditions]
    verdict = decided([Policy(name="p", servers=("zendesk",), requests=(rule,))], calling("t", {"x": value})).verdict
    assert (verdict is ALLOW) is all(state is True for state in states)


@pytest.mark.parametrize("members", [{"x": 1, "X": 2}, {"X": 2}, {"x\0": 1, "x": 1}])
def test_keys_that_can_be_read_as_others_are_unsure(members: dict[str, Any]) -> None:
    rule = RequestRule(name="r", action=Action.ALLOW, when=(when("$.x", "in", [1, 2]),))
    assert decided([Policy(name="p", servers=("zendesk",), requests=(rule,))], calling("t", members)).verdict is DENY
