"""The decision: deny before allow before default deny, whatever the order, and nothing without an allow."""

import pytest

from openmcp.config.model import Policy
from openmcp.identity.principal import Principal
from openmcp.sidecar.mcp import methods
from openmcp.sidecar.mcp.surface import call_of
from openmcp.sidecar.policy import engine
from openmcp.sidecar.policy.decision import ALLOW, DEFAULT_DENY, DENY, Decision, Verdict
from openmcp.sidecar.policy.engine import Permit, PolicySet
from openmcp.sidecar.types import Era, JsonObject, Notification, Request, Subject
from tests.policy.rules import AGENT, SERVER, agent, allow, deny, method, policy, prompt, resource, tool

Said = tuple[Verdict, str, str, str]
"""The verdict, the policy and the rule that decided, and the reason that the agent may see."""

ALLOWED: Said = (ALLOW, "p", "allow", "")
BY_DEFAULT: Said = (DENY, "", "", "no policy allows this")


def said(decision: Decision) -> Said:
    return decision.verdict, decision.policy, decision.rule, decision.reason


def decide(policies: list[Policy], subject: Subject, caller: Principal = AGENT, server: str = SERVER) -> Said:
    return said(PolicySet(policies).decide(caller, server, [subject]))


CASES: dict[str, tuple[list[Policy], Subject, Said]] = {
    "no policies": ([], tool("t"), BY_DEFAULT),
    "no rules": ([policy()], tool("t"), BY_DEFAULT),
    "allowed by name": ([policy(allow(tools=["t"]))], tool("t"), ALLOWED),
    "allowed by glob": ([policy(allow(tools=["get_*"]))], tool("get_x"), ALLOWED),
    "not named": ([policy(allow(tools=["t"]))], tool("u"), BY_DEFAULT),
    "case counts": ([policy(allow(tools=["t"]))], tool("T"), BY_DEFAULT),
    "denied though allowed": (
        [policy(allow(), deny(tools=["t"]))],
        tool("t"),
        (DENY, "p", "deny", "denied by policy p"),
    ),
    "the denial's own words": ([policy(allow(), deny(message="off"))], tool("t"), (DENY, "p", "deny", "off")),
    "a denial of something else": ([policy(allow(), deny(tools=["t"]))], tool("u"), ALLOWED),
    "no selectors: everything": ([policy(allow())], resource("x://y"), ALLOWED),
    "a selector is for its kind": ([policy(allow(tools=["*"]))], prompt("p"), BY_DEFAULT),
    "and for no method that it names": ([policy(allow(tools=["*"]))], method("x/y"), BY_DEFAULT),
    "several selectors: any of them": ([policy(allow(tools=["a"], prompts=["b"]))], prompt("b"), ALLOWED),
    "and each for its own kind": ([policy(allow(tools=["a"], prompts=["b"]))], tool("b"), BY_DEFAULT),
    "resources by URI": ([policy(allow(resources=["ticket://*/comments"]))], resource("ticket://7/comments"), ALLOWED),
    "methods by name": ([policy(allow(methods=["x/*"]))], method("x/y"), ALLOWED),
    "another server's rules": ([policy(allow(), servers=["other"])], tool("t"), BY_DEFAULT),
    "servers by glob": ([policy(allow(), servers=["zen*"])], tool("t"), ALLOWED),
    "another agent's rules": ([policy(allow(), agents=["key:other"])], tool("t"), BY_DEFAULT),
    "agents by glob": ([policy(allow(), agents=["key:*"])], tool("t"), ALLOWED),
    "a server's denial over an agent's allow": (
        [policy(deny(tools=["t"]), name="base"), policy(allow(tools=["t"]), agents=[AGENT.name])],
        tool("t"),
        (DENY, "base", "deny", "denied by policy base"),
    ),
    "an agent's denial over a server's allow": (
        [policy(allow()), policy(deny(tools=["t"]), name="agent", agents=[AGENT.name])],
        tool("t"),
        (DENY, "agent", "deny", "denied by policy agent"),
    ),
    "another agent's denial": (
        [policy(allow()), policy(deny(), name="agent", agents=["key:other"])],
        tool("t"),
        ALLOWED,
    ),
}


@pytest.mark.parametrize(("policies", "subject", "decision"), CASES.values(), ids=CASES.keys())
def test_a_decision(policies: list[Policy], subject: Subject, decision: Said) -> None:
    assert decide(policies, subject) == decision
    assert decide(policies[::-1], subject) == decision


@pytest.mark.parametrize("name", sorted(methods.BASIC))
def test_an_agent_with_any_allow_may_use_the_basic_methods_and_one_without_none(name: str) -> None:
    """Connecting, listing and the like need no rule of their own; what they show is judged by itself."""
    assert decide([policy(allow(tools=["t"]))], method(name)) == ALLOWED
    assert decide([policy(allow(tools=["t"]))], method(name), caller=agent("key:other")) == ALLOWED
    assert decide([policy(allow(tools=["t"]), agents=["key:other"])], method(name)) == BY_DEFAULT
    assert decide([policy(deny(tools=["t"]))], method(name)) == BY_DEFAULT
    assert decide([policy(allow(tools=["t"]), deny(methods=[name]))], method(name))[2] == "deny"
    assert decide([policy(allow(tools=["t"]), deny())], method(name))[2] == "deny"


def test_without_an_allow_a_denial_answers_like_what_does_not_exist() -> None:
    """Its message would tell that there is a server to be denied something on."""
    assert decide([policy(deny(message="ask security"))], tool("t")) == BY_DEFAULT
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
    "reading around a corner": ("resources/read", {"uri": "good://a/b/../secret"}, False),
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
        Permit(call, Decision(ALLOW), by=object())  # type: ignore[arg-type]  # the point of the test; compiled, the type decides


def test_memory_is_bounded_whatever_names_agents_invent() -> None:
    used = PolicySet([policy(allow(tools=["a*"]))])
    rules_of_agent = used.rules_for(AGENT, SERVER)
    for number in range(2 * engine.MAX_SUBJECTS):
        assert rules_of_agent.decide(tool(f"a{number}")).allowed
    assert len(rules_of_agent._tools.fixed.entries) <= engine.MAX_SUBJECTS
    for number in range(2 * engine.MAX_AGENTS):
        used.rules_for(agent(f"key:{number}"), SERVER)
    assert len(used._agents.entries) <= engine.MAX_AGENTS

    long = tool("a" * 1_000_000)
    fresh = PolicySet([policy(allow(tools=["a*"]))]).rules_for(AGENT, SERVER)
    assert fresh.decide(long).allowed
    assert said(fresh.decide(tool("b" * 1_000_000))) == BY_DEFAULT
    assert not fresh._tools.fixed.entries, "names of a megabyte are judged, not kept"
