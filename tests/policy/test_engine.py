"""The decision: deny before allow before default deny, whatever the order, and nothing without an allow."""

import fnmatch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openmcp.config.model import Action, Policy, RequestRule
from openmcp.identity.principal import Principal
from openmcp.sidecar.mcp import methods
from openmcp.sidecar.mcp.surface import call_of
from openmcp.sidecar.policy import engine
from openmcp.sidecar.policy.decision import ALLOW, DENY, Decision
from openmcp.sidecar.policy.engine import DEFAULT_DENY, Permit, PolicySet
from openmcp.sidecar.types import Era, JsonObject, Notification, Request, Subject
from tests.policy.rules import AGENT, SERVER, agent, allow, deny, method, policy, prompt, resource, tool

ALLOWED = Decision(ALLOW, "p", "allow")


def decide(policies: list[Policy], subject: Subject, caller: Principal = AGENT, server: str = SERVER) -> Decision:
    return PolicySet(policies).decide(caller, server, [subject])


CASES: dict[str, tuple[list[Policy], Subject, Decision]] = {
    "no policies": ([], tool("t"), DEFAULT_DENY),
    "no rules": ([policy()], tool("t"), DEFAULT_DENY),
    "allowed by name": ([policy(allow(tools=["t"]))], tool("t"), ALLOWED),
    "allowed by glob": ([policy(allow(tools=["get_*"]))], tool("get_x"), ALLOWED),
    "not named": ([policy(allow(tools=["t"]))], tool("u"), DEFAULT_DENY),
    "case counts": ([policy(allow(tools=["t"]))], tool("T"), DEFAULT_DENY),
    "denied though allowed": (
        [policy(allow(), deny(tools=["t"]))],
        tool("t"),
        Decision(DENY, "p", "deny", "denied by policy p"),
    ),
    "the denial's own words": ([policy(allow(), deny(message="off"))], tool("t"), Decision(DENY, "p", "deny", "off")),
    "a denial of something else": ([policy(allow(), deny(tools=["t"]))], tool("u"), ALLOWED),
    "no selectors: everything": ([policy(allow())], resource("x://y"), ALLOWED),
    "a selector is for its kind": ([policy(allow(tools=["*"]))], prompt("p"), DEFAULT_DENY),
    "and for no method that it names": ([policy(allow(tools=["*"]))], method("x/y"), DEFAULT_DENY),
    "several selectors: any of them": ([policy(allow(tools=["a"], prompts=["b"]))], prompt("b"), ALLOWED),
    "and each for its own kind": ([policy(allow(tools=["a"], prompts=["b"]))], tool("b"), DEFAULT_DENY),
    "resources by URI": ([policy(allow(resources=["ticket://*/comments"]))], resource("ticket://7/comments"), ALLOWED),
    "methods by name": ([policy(allow(methods=["x/*"]))], method("x/y"), ALLOWED),
    "another server's rules": ([policy(allow(), servers=["other"])], tool("t"), DEFAULT_DENY),
    "servers by glob": ([policy(allow(), servers=["zen*"])], tool("t"), ALLOWED),
    "another agent's rules": ([policy(allow(), agents=["key:other"])], tool("t"), DEFAULT_DENY),
    "agents by glob": ([policy(allow(), agents=["key:*"])], tool("t"), ALLOWED),
    "a server's denial over an agent's allow": (
        [policy(deny(tools=["t"]), name="base"), policy(allow(tools=["t"]), agents=[AGENT.name])],
        tool("t"),
        Decision(DENY, "base", "deny", "denied by policy base"),
    ),
    "an agent's denial over a server's allow": (
        [policy(allow()), policy(deny(tools=["t"]), name="agent", agents=[AGENT.name])],
        tool("t"),
        Decision(DENY, "agent", "deny", "denied by policy agent"),
    ),
    "another agent's denial": (
        [policy(allow()), policy(deny(), name="agent", agents=["key:other"])],
        tool("t"),
        ALLOWED,
    ),
}


@pytest.mark.parametrize(("policies", "subject", "decision"), CASES.values(), ids=CASES.keys())
def test_a_decision(policies: list[Policy], subject: Subject, decision: Decision) -> None:
    assert decide(policies, subject) == decision
    assert decide(policies[::-1], subject) == decision
    assert decision.word == ("allow" if decision.allowed else "deny")


@pytest.mark.parametrize("name", sorted(methods.BASIC))
def test_an_agent_with_any_allow_may_use_the_basic_methods_and_one_without_none(name: str) -> None:
    """Connecting, listing and the like need no rule of their own; what they show is judged by itself."""
    assert decide([policy(allow(tools=["t"]))], method(name)) == ALLOWED
    assert decide([policy(allow(tools=["t"]))], method(name), caller=agent("key:other")).allowed
    assert decide([policy(allow(tools=["t"]), agents=["key:other"])], method(name)) == DEFAULT_DENY
    assert decide([policy(deny(tools=["t"]))], method(name)) == DEFAULT_DENY
    assert decide([policy(allow(tools=["t"]), deny(methods=[name]))], method(name)).rule == "deny"
    assert decide([policy(allow(tools=["t"]), deny())], method(name)).rule == "deny"


def test_without_an_allow_a_denial_answers_like_what_does_not_exist() -> None:
    """Its message would tell that there is a server to be denied something on."""
    assert decide([policy(deny(message="ask security"))], tool("t")) == DEFAULT_DENY
    assert not PolicySet([policy(deny())]).rules_for(AGENT, SERVER).usable
    assert PolicySet([policy(deny(), allow(tools=["never"]))]).rules_for(AGENT, SERVER).usable


@pytest.mark.parametrize(
    ("subjects", "rule"),
    [
        ([], ""),
        ([tool("a")], "allow"),
        ([tool("a"), tool("b")], "allow"),
        ([tool("a"), tool("secret")], "deny"),
        ([tool("secret"), tool("a")], "deny"),
        ([tool("a"), prompt("a")], ""),
    ],
)
def test_all_subjects_of_a_call_have_to_be_allowed(subjects: list[Subject], rule: str) -> None:
    decision = PolicySet([policy(allow(tools=["*"]), deny(tools=["secret"]))]).decide(AGENT, SERVER, subjects)
    assert (decision.allowed, decision.rule) == (rule == "allow", rule)


CALLS: dict[str, tuple[str, JsonObject, bool]] = {
    "a tool": ("tools/call", {"name": "good"}, True),
    "another": ("tools/call", {"name": "bad"}, False),
    "completion of its prompt": ("completion/complete", {"ref": {"type": "ref/prompt", "name": "good"}}, True),
    "completion of a denied prompt": ("completion/complete", {"ref": {"type": "ref/prompt", "name": "bad"}}, False),
    "completion of its resource": (
        "completion/complete",
        {"ref": {"type": "ref/resource", "uri": "good://{id}"}},
        True,
    ),
    "completion of a denied one": (
        "completion/complete",
        {"ref": {"type": "ref/resource", "uri": "bad://{id}"}},
        False,
    ),
    "reading": ("resources/read", {"uri": "good://a"}, True),
    "reading around a corner": ("resources/read", {"uri": "good://a/../secret"}, False),
    "reading in disguise": ("resources/read", {"uri": "good://a/%73ecret"}, False),
    "subscribing": ("resources/subscribe", {"uri": "good://a"}, True),
    "subscribing to a denied one": ("resources/subscribe", {"uri": "bad://a"}, False),
    "listening": ("subscriptions/listen", {"notifications": {"toolsListChanged": True}}, True),
    "listening to its resource": (
        "subscriptions/listen",
        {"notifications": {"resourceSubscriptions": ["good://a"]}},
        True,
    ),
    "listening to a denied one too": (
        "subscriptions/listen",
        {"notifications": {"resourceSubscriptions": ["good://a", "bad://a"]}},
        False,
    ),
    "listing": ("tools/list", {}, True),
    "discovering": ("server/discover", {}, True),
}


@pytest.mark.parametrize(("name", "params", "allowed"), CALLS.values(), ids=CALLS.keys())
def test_what_a_call_touches_decides(name: str, params: JsonObject, allowed: bool) -> None:
    policies = PolicySet(
        [
            policy(allow(tools=["good"], prompts=["good"], resources=["good://*"])),
            policy(deny(resources=["*secret*"]), name="base"),
        ]
    )
    call = call_of(Request(1, name, params), Era.LEGACY, "2025-11-25")
    verdict = policies.authorize(AGENT, SERVER, call)
    assert isinstance(verdict, Permit) is allowed
    if isinstance(verdict, Permit):
        assert (verdict.call, verdict.decision.allowed) == (call, True)


def test_notifications_of_an_agent_without_rules_go_nowhere() -> None:
    call = call_of(Notification("notifications/cancelled", {}), Era.LEGACY, "2025-11-25")
    assert PolicySet([]).authorize(AGENT, SERVER, call) == DEFAULT_DENY
    assert isinstance(PolicySet([policy(allow(tools=["t"]))]).authorize(AGENT, SERVER, call), Permit)


def test_nobody_makes_a_permit_out_of_a_denial() -> None:
    call = call_of(Request(1, "ping", {}), Era.LEGACY, "2025-11-25")
    with pytest.raises(ValueError, match="decision that allows"):
        Permit(call, DEFAULT_DENY, by=PolicySet([]))
    with pytest.raises((ValueError, TypeError), match="decision that allows|PolicySet object expected"):
        Permit(call, ALLOWED, by=object())  # type: ignore[arg-type]  # the point of the test; compiled, the type decides


# The algebra: few names, so that rules meet often

globs = st.sampled_from(["a", "b", "*", "a*", "?", "initialize", "x://a", "x://*"])
selected = st.lists(globs, max_size=2).map(tuple)
rules = st.builds(
    RequestRule,
    name=st.sampled_from(["r1", "r2"]),
    action=st.sampled_from((Action.ALLOW, Action.DENY)),
    tools=selected,
    prompts=selected,
    resources=selected,
    methods=selected,
    message=st.none() | st.just("no"),
)
policies = st.builds(
    Policy,
    name=st.sampled_from(["p1", "p2"]),
    servers=st.lists(st.sampled_from(["s1", "s*", "t"]), min_size=1, max_size=2).map(tuple),
    agents=st.lists(st.sampled_from(["a1", "a*", "b"]), max_size=2).map(tuple),
    requests=st.lists(rules, max_size=3).map(tuple),
)
policy_sets = st.lists(policies, max_size=4)
SUBJECTS = [
    *(tool(name) for name in ("a", "b", "ab")),
    *(prompt(name) for name in ("a", "b")),
    *(resource(uri) for uri in ("x://a", "x://b")),
    *(method(name) for name in ("initialize", "tools/list", "x/y")),
]
ASKED = [
    (agent(name), server, subject) for name in ("a1", "a2", "b") for server in ("s1", "s2") for subject in SUBJECTS
]


def table(given_policies: list[Policy]) -> list[bool]:
    compiled = PolicySet(given_policies)
    return [compiled.decide(caller, server, [subject]).allowed for caller, server, subject in ASKED]


def reference(given_policies: list[Policy], caller: Principal, server: str, subject: Subject) -> bool:
    """The rules of config.md once more, with nothing compiled, indexed or remembered."""

    def matches(patterns: tuple[str, ...], text: str) -> bool:
        return any(fnmatch.fnmatchcase(text, pattern) for pattern in patterns)

    applying = [
        rule
        for one in given_policies
        if matches(one.servers, server) and (not one.agents or matches(one.agents, caller.name))
        for rule in one.requests
    ]
    if not any(rule.action is Action.ALLOW for rule in applying):
        return False

    def hits(rule: RequestRule) -> bool:
        everything = not (rule.tools or rule.prompts or rule.resources or rule.methods)
        return everything or matches(getattr(rule, f"{subject.kind}s"), subject.name)

    if any(rule.action is Action.DENY and hits(rule) for rule in applying):
        return False
    basic = subject.kind == "method" and subject.name in methods.BASIC
    return basic or any(rule.action is Action.ALLOW and hits(rule) for rule in applying)


@given(policy_sets)
def test_decisions_are_those_of_the_written_rules(given_policies: list[Policy]) -> None:
    assert table(given_policies) == [reference(given_policies, *asked) for asked in ASKED]


@given(policy_sets, policies, st.integers(0, 4))
def test_another_denial_never_allows_more(given_policies: list[Policy], more: Policy, at: int) -> None:
    denials = tuple(rule for rule in more.requests if rule.action is Action.DENY)
    added = Policy(name=more.name, servers=more.servers, agents=more.agents, requests=denials)
    before, after = table(given_policies), table([*given_policies[:at], added, *given_policies[at:]])
    assert [pair for pair in zip(before, after, strict=True) if pair == (False, True)] == []


@given(policy_sets, policies)
def test_another_allow_never_denies_more(given_policies: list[Policy], more: Policy) -> None:
    allows = tuple(rule for rule in more.requests if rule.action is Action.ALLOW)
    added = Policy(name=more.name, servers=more.servers, agents=more.agents, requests=allows)
    before, after = table(given_policies), table([*given_policies, added])
    assert [pair for pair in zip(before, after, strict=True) if pair == (True, False)] == []


@given(policy_sets, st.randoms(use_true_random=False))
def test_order_never_matters(given_policies: list[Policy], random: object) -> None:
    def shuffled(items: list[Policy] | tuple[RequestRule, ...]) -> list[object]:
        return random.sample(list(items), len(items))  # type: ignore[attr-defined]  # hypothesis' Random

    turned = [
        Policy(name=one.name, servers=one.servers, agents=one.agents, requests=tuple(shuffled(one.requests)))  # type: ignore[arg-type]  # rules again
        for one in shuffled(given_policies)
        if isinstance(one, Policy)
    ]
    assert table(turned) == table(given_policies)


@given(policy_sets, st.lists(st.sampled_from(ASKED), max_size=60))
def test_what_was_asked_before_changes_no_decision(
    given_policies: list[Policy], asked: list[tuple[Principal, str, Subject]]
) -> None:
    """With memories of three entries, which are cleared all the time."""
    used = PolicySet(given_policies)
    used._agents._limit = 2
    for caller, server, subject in asked:
        used.rules_for(caller, server)._known._limit = 3
        fresh = PolicySet(given_policies).decide(caller, server, [subject])
        assert used.decide(caller, server, [subject]) == fresh


def test_memory_is_bounded_whatever_names_agents_invent() -> None:
    used = PolicySet([policy(allow(tools=["a*"]))])
    rules_of_agent = used.rules_for(AGENT, SERVER)
    for number in range(2 * engine.MAX_SUBJECTS):
        assert rules_of_agent.decide(tool(f"a{number}")).allowed
    assert len(rules_of_agent._known.entries) <= engine.MAX_SUBJECTS
    for number in range(2 * engine.MAX_AGENTS):
        used.rules_for(agent(f"key:{number}"), SERVER)
    assert len(used._agents.entries) <= engine.MAX_AGENTS

    long = tool("a" * 1_000_000)
    fresh = used.rules_for(agent("key:new"), SERVER)
    assert fresh.decide(long).allowed
    assert fresh.decide(tool("b" * 1_000_000)) == DEFAULT_DENY
    assert not fresh._known.entries, "names of a megabyte are judged, not kept"
