"""One rule of a policy, compiled: what it is about, when it holds, and what it then says."""

from typing import TYPE_CHECKING, Final

from openmcp.config.model import Action, Approval, Policy, RequestRule
from openmcp.sidecar.policy.asked import Asked, Search
from openmcp.sidecar.policy.conditions import FALSE, TRUE, UNSURE, Conditions
from openmcp.sidecar.policy.decision import RuleRef
from openmcp.sidecar.types import PROMPT, RESOURCE, TOOL, Kind, Subject

if TYPE_CHECKING:
    from openmcp.sidecar.detection.finder import Finder

NOTHING_FOUND: Final = "no detector or pattern of it finds anything in the request"

DEPENDS: Final = 3
"""Besides the states of conditions: it depends on the arguments."""

_DENY: Final = 0
_UNJUDGED: Final = 1
_APPROVAL: Final = 2
_ALLOW: Final = 3


class Rule:
    """One compiled request rule. `order` sorts rules by what they are, never by where they are written."""

    __slots__ = (
        *("_rule", "_when", "allows", "approval", "conditional", "denies", "finder", "message", "order"),
        *("reason", "ref", "shadow"),
    )

    def __init__(self, policy: Policy, rule: RequestRule) -> None:
        self._rule = rule
        self._when = Conditions(rule.when)
        self.finder = _finder(rule)
        self.conditional: bool = bool(rule.when) or self.finder is not None
        self.denies: bool = rule.action is Action.DENY
        self.allows: bool = rule.action is Action.ALLOW
        self.approval: Approval | None = rule.approval
        self.shadow: bool = policy.mode == "shadow"
        self.ref = RuleRef(policy.name, rule.name, rule.action.value, self.shadow)
        self.message: str = rule.message or ""
        self.reason = self.message or ("" if self.allows else _reason(policy.name, rule.action))
        self.order = (policy.name, rule.name, rule.action.value, self.shadow, self.reason)

    def selectors(self, kind: Kind) -> tuple[str, ...] | None:
        """The globs on names of a kind; None where the rule has no selectors at all, and is about everything."""
        rule = self._rule
        if not (rule.tools or rule.prompts or rule.resources or rule.methods):
            return None
        if kind is TOOL:
            return rule.tools
        if kind is PROMPT:
            return rule.prompts
        return rule.resources if kind is RESOURCE else rule.methods

    def rank(self, state: int) -> int:
        """Where it stands among the rules that hold: the lowest decides."""
        if self.denies:
            return _DENY
        if self.allows:
            return _ALLOW
        return _UNJUDGED if state == UNSURE else _APPROVAL

    def judge(self, subject: Subject, asked: Asked, search: Search | None) -> int:
        """Whether its conditions hold for what is asked; `search` is that of the agent's rules. Never raises."""
        state = self._when.judge(asked.document(subject))
        if state == FALSE or self.finder is None:
            return state
        try:
            assert search is not None, "the search of an agent's rules knows all their finders"
            return state if asked.finds(self.finder, search) else FALSE
        except Exception:  # a text that cannot be searched may hold anything
            return UNSURE

    def why(self, subject: Subject, asked: Asked) -> str:
        """Why they do not, in words."""
        return self._when.why(asked.document(subject)) or NOTHING_FOUND

    def foresee(self, subject: Subject) -> int:
        """What its conditions are for every call of a thing, whatever the arguments, or DEPENDS.

        The URI of a resource is known beforehand, and is all that its conditions look at; of a template it is not.
        """
        state = TRUE
        if self._rule.when:
            if subject.kind is not RESOURCE or "{" in subject.name:
                return DEPENDS
            state = self._when.judge({"uri": subject.name})
        if state == FALSE or self.finder is None:
            return state
        return DEPENDS if self.finder.first(subject.name) is None else state


def _reason(policy: str, action: Action) -> str:
    return f"denied by policy {policy}" if action is Action.DENY else f"policy {policy} requires an approval"


def _finder(rule: RequestRule) -> "Finder | None":
    if not rule.detect and not rule.patterns:
        return None
    from openmcp.sidecar.detection.finder import Finder  # here, since few request rules look for something

    return Finder(rule.detect, rule.patterns, name=rule.name)
