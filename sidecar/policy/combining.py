"""One decision out of several: a call that touches more than one thing."""

from collections.abc import Sequence

from openmcp.sidecar.policy.decision import (
    DEFAULT_DENY,
    DENY,
    MAX_FAILED,
    REQUIRE_APPROVAL,
    Decision,
    RuleRef,
    Verdict,
)


def together(decisions: Sequence[Decision]) -> Decision:
    """The decision on several subjects of one call by those on each: the strictest."""
    if not decisions:
        return DEFAULT_DENY
    if len(decisions) == 1:
        return decisions[0]
    strictest = min(decisions, key=_strictness)
    matched = tuple(dict.fromkeys(rule for one in decisions for rule in one.matched))
    approvals = tuple(dict.fromkeys(rule for one in decisions for rule in one.approvals))
    failed = tuple(dict.fromkeys(why for one in decisions for why in one.failed))
    shadows = [one.shadow if one.shadow is not None else (one.verdict, None) for one in decisions]
    shadow = min(shadows, key=_shadow_strictness)
    return Decision(
        strictest.verdict,
        strictest.policy,
        strictest.rule,
        strictest.reason,
        matched,
        approvals if strictest.verdict is REQUIRE_APPROVAL else (),
        shadow if shadow[0] is not strictest.verdict else None,
        failed[:MAX_FAILED],
    )


def _rank(verdict: Verdict) -> int:
    if verdict is DENY:
        return 0
    return 1 if verdict is REQUIRE_APPROVAL else 2


def _strictness(decision: Decision) -> int:
    return _rank(decision.verdict)


def _shadow_strictness(shadow: tuple[Verdict, RuleRef | None]) -> int:
    return _rank(shadow[0])
