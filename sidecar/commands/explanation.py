"""A decision told to people and to machines: what matched, what did not and why, and what decided."""

import json
from collections.abc import Iterator
from typing import Any, Final

from openmcp.config.model import Approval
from openmcp.sidecar.commands.common import printable
from openmcp.sidecar.commands.questions import Question
from openmcp.sidecar.mcp.values import Call
from openmcp.sidecar.policy.decision import APPROVAL, DENY, HIDDEN, MIXED, Decision, RuleRef, Shown
from openmcp.sidecar.policy.engine import AgentRules, Permit, PolicySet
from openmcp.sidecar.types import METHOD

_LISTED: Final = {
    HIDDEN: "not shown",
    APPROVAL: "shown, marked [requires approval]",
    MIXED: "shown, marked [may require approval]",
}


class Explanation:
    """One decision with all that led to it."""

    def __init__(self, policies: PolicySet, question: Question, call: Call) -> None:
        self._policies = policies
        self._question = question
        self._call = call
        verdict = policies.authorize(question.principal, question.server, call)
        self.decision: Decision = verdict.decision if isinstance(verdict, Permit) else verdict
        self._rules: AgentRules = policies.rules_for(question.principal, question.server)

    def lines(self) -> Iterator[str]:
        """For people, line by line."""
        decision = self.decision
        yield f"agent    {printable(self._question.agent)}{_claims(self._question)}"
        yield f"server   {printable(self._question.server)}"
        yield f"asks     {self._asked()}"
        yield f"decision {decision.word}: {self._why()}"
        if decision.verdict is DENY:
            yield f"         the agent is told: {printable(decision.reason)}"
        listed = self._listed()
        if listed is not None:
            yield f"lists    {_LISTED.get(listed, 'shown')}"
        yield from self._approvals()
        yield from self._matched()
        yield from self._failed()
        yield from self._shadow()

    def told(self) -> dict[str, Any]:
        """For machines."""
        decision, listed = self.decision, self._listed()
        return {
            "agent": self._question.agent,
            "server": self._question.server,
            "method": self._call.method,
            "subjects": [{"kind": subject.kind.value, "name": subject.name} for subject in self._call.subjects],
            "decision": decision.word,
            "policy": decision.policy or None,
            "rule": decision.rule or None,
            "reason": decision.reason or None,
            "usable": self._rules.usable,
            "listed": None if listed is None else listed.value,
            "matched": [_named(rule) for rule in decision.matched],
            "failed": [{**_named(one.rule), "why": one.why} for one in decision.failed],
            "approvals": [{**_named(rule), **_terms(self._policies.approval_of(rule))} for rule in decision.approvals],
            "shadow": self._shadow_told(),
        }

    def _asked(self) -> str:
        arguments = self._question.arguments
        said = "" if arguments is None else f" {printable(json.dumps(arguments, ensure_ascii=False))}"
        name = f" {printable(self._call.name)}" if self._call.name else ""
        others = [
            subject.name for subject in self._call.subjects if subject.name not in (self._call.name, self._call.method)
        ]
        also = f" (judged also as {', '.join(map(printable, others))})" if others else ""
        return f"{self._call.method}{name}{said}{also}"

    def _why(self) -> str:
        decision = self.decision
        if not self._rules.usable:
            return "this agent may not use the server, no rule allows it anything there"
        if not decision.policy:
            return "no rule allows it"
        if decision.allowed and self._call.subjects[0].kind is METHOD and not decision.matched:
            return "open to every agent that may use the server"
        return f"by {decision.policy}/{decision.rule}"

    def _listed(self) -> Shown | None:
        """What lists show of the thing that is asked for; None for a method."""
        subjects = [subject for subject in self._call.subjects if subject.kind is not METHOD]
        if len(subjects) != len(self._call.subjects):
            return None
        return strictest([self._rules.shows(subject) for subject in subjects])

    def _approvals(self) -> Iterator[str]:
        for rule in self.decision.approvals:
            asked = self._policies.approval_of(rule)
            if asked is not None:
                yield f"approval {rule.policy}/{rule.rule}: {', '.join(_words(asked))}"

    def _matched(self) -> Iterator[str]:
        yield "matched" if self.decision.matched else "matched  nothing"
        for rule in self.decision.matched:
            decides = (rule.policy, rule.rule) == (self.decision.policy, self.decision.rule) and not rule.shadow
            yield f"  {_row(rule)}{'   <- decides' if decides else ''}"

    def _failed(self) -> Iterator[str]:
        if self.decision.failed:
            yield "conditions"
        for one in self.decision.failed:
            yield f"  {_row(one.rule)}"
            yield f"      {printable(one.why)}"

    def _shadow(self) -> Iterator[str]:
        if self.decision.shadow is not None:
            verdict, rule = self.decision.shadow
            by = f" by {rule.policy}/{rule.rule}" if rule is not None else ""
            yield f"shadow   {verdict.value}{by}, were the policies in shadow mode enforced"

    def _shadow_told(self) -> dict[str, Any] | None:
        if self.decision.shadow is None:
            return None
        verdict, rule = self.decision.shadow
        return {
            "decision": verdict.value,
            "policy": rule.policy if rule is not None else None,
            "rule": rule.rule if rule is not None else None,
        }


def strictest(shown: list[Shown]) -> Shown:
    """What a list shows of a thing that has several names: what all of them allow."""
    for one in (HIDDEN, APPROVAL, MIXED):
        if one in shown:
            return one
    return shown[0]


def _row(rule: RuleRef) -> str:
    return f"{rule.action:<15} {rule.policy}/{rule.rule}{' (shadow)' if rule.shadow else ''}"


def _named(rule: RuleRef) -> dict[str, Any]:
    return {"policy": rule.policy, "rule": rule.rule, "action": rule.action, "shadow": rule.shadow}


def _claims(question: Question) -> str:
    claims = ", ".join(f"{name}={value}" for name, value in question.claims)
    return f" ({printable(claims)})" if claims else ""


def _terms(asked: Approval | None) -> dict[str, Any]:
    if asked is None:
        return {}
    return {
        "workflow": asked.workflow,
        "show": list(asked.show),
        "bind": None if asked.bind is None else list(asked.bind),
        "durationSeconds": asked.duration,
        "maxDurationSeconds": asked.max_duration,
        "maxUses": asked.max_uses,
    }


def _words(asked: Approval) -> Iterator[str]:
    yield f"workflow {asked.workflow}"
    if asked.show:
        yield f"shows {' '.join(asked.show)}"
    yield f"holds for {'the whole arguments' if asked.bind is None else ' '.join(asked.bind) or 'any arguments'}"
    yield f"{asked.duration:g} s"
    if asked.max_uses is not None:
        yield f"at most {asked.max_uses} uses"
