"""An approval makes a permit of a decision that asks for it, in one place, and loosens nothing else."""

import pytest

from openmcp.config.model import RequestRule
from openmcp.sidecar.policy.decision import REQUIRE_APPROVAL, Approved, Decision, RuleRef
from openmcp.sidecar.policy.engine import Permit, PolicySet
from tests.policy.rules import AGENT, SERVER, allow, ask, calling, deny, policy, when

CALL = calling("t", {"id": 1})
ASK = RuleRef("p", "ask", "requireApproval")
SECOND = RuleRef("p", "second", "requireApproval")


def verdict(*rules: RequestRule, approved: Approved) -> Permit | Decision:
    return PolicySet([policy(*rules)]).authorize(AGENT, SERVER, approved.call, approved)


def test_an_approval_of_all_that_is_asked_is_a_permit() -> None:
    approved = Approved(CALL, frozenset((ASK, SECOND)), "apr_1")
    permit = verdict(ask(tools=["t"]), ask("second", tools=["*"]), allow(tools=["*"]), approved=approved)
    assert isinstance(permit, Permit)
    assert permit.call is CALL
    assert permit.decision.verdict is REQUIRE_APPROVAL
    assert permit.decision.approvals == (ASK, SECOND)


@pytest.mark.parametrize(
    "rules",
    [
        (ask(tools=["t"]), deny(tools=["t"])),
        (ask(tools=["t"]), ask("second", tools=["t"])),
        (ask(tools=["t"]), ask("second", tools=["t"], when=[when("$.id", "matches", "1")])),
        (ask("renamed", tools=["t"]),),
        (allow(tools=["other"]),),
        (),
    ],
    ids=["a denial", "another approval", "an approval that cannot be judged", "another rule", "no rule", "nothing"],
)
def test_it_lifts_nothing_else(rules: tuple[RequestRule, ...]) -> None:
    assert isinstance(verdict(*rules, approved=Approved(CALL, frozenset((ASK,)), "apr_1")), Decision)


def test_it_is_for_one_call_however_equal_another_one_is() -> None:
    policies = PolicySet([policy(ask(tools=["t"]))])
    approved = Approved(calling("t", {"id": 1}), frozenset((ASK,)), "apr_1")
    assert approved.call == CALL
    assert isinstance(policies.authorize(AGENT, SERVER, CALL, approved), Decision)


def test_a_permit_is_not_made_from_an_approval_elsewhere() -> None:
    decision = Decision(REQUIRE_APPROVAL, approvals=(ASK,))
    policies = PolicySet([])
    with pytest.raises(ValueError, match="approval"):
        Permit(CALL, decision, by=policies, approved=Approved(CALL, frozenset((SECOND,)), "apr_1"))
    with pytest.raises(ValueError, match="approval"):
        Permit(CALL, Decision(REQUIRE_APPROVAL), by=policies, approved=Approved(CALL, frozenset((ASK,)), "apr_1"))


def test_what_a_rule_says_in_its_own_words() -> None:
    policies = PolicySet([policy(ask(tools=["t"]), deny("no", message="off", tools=["x"]))])
    assert (policies.message_of(ASK), policies.message_of(RuleRef("p", "no", "deny"))) == ("", "off")
