"""The decision: a pure function of who calls, on which server, what the call touches and what it carries.

All matching rules of all matching policies count: deny > requireApproval > allow > default deny, and the order in
which they are written never matters. A rule without selectors matches everything. An agent for whom a server has
no allow and no requireApproval may not use it at all. Policies in shadow mode are decided too, and change nothing.

The policies are compiled once per configuration. The rules that hold for an agent on a server are indexed by name at
its first call, and what needs no look at the arguments is decided once for each name: the cost of a decision does
not grow with the number of rules that are not about it.
"""

from collections.abc import Iterable, Sequence
from typing import Final

from openmcp.config.model import Approval, Policy
from openmcp.identity.principal import Principal
from openmcp.sidecar.mcp.methods import BASIC
from openmcp.sidecar.mcp.values import Call
from openmcp.sidecar.policy.agents import Agents
from openmcp.sidecar.policy.asked import Asked, Search, asked_by, asked_with
from openmcp.sidecar.policy.bounded import Bounded
from openmcp.sidecar.policy.combining import together
from openmcp.sidecar.policy.conditions import FALSE, TRUE, UNSURE
from openmcp.sidecar.policy.decision import (
    ALLOW,
    APPROVAL,
    DEFAULT_REASON,
    DENY,
    HIDDEN,
    MAX_FAILED,
    MIXED,
    OPEN,
    REQUIRE_APPROVAL,
    Approved,
    Decision,
    Failed,
    RuleRef,
    Shown,
    Verdict,
)
from openmcp.sidecar.policy.globs import GlobSet
from openmcp.sidecar.policy.index import NameIndex
from openmcp.sidecar.policy.rules import DEPENDS, NOTHING_FOUND, Rule
from openmcp.sidecar.types import METHOD, PROMPT, RESOURCE, TOOL, Kind, Subject

MAX_AGENTS: Final = 1024
"""Agents (per policy set) whose rules are kept indexed."""
MAX_SUBJECTS: Final = 4096
"""Names of a kind for which decisions are kept: a hostile agent inventing names must not grow memory."""

MAX_NAME: Final = 256
"""Characters of a name up to which a decision on it is kept, for the same reason."""

MAX_PATTERNS: Final = 16
"""Decisions kept for one name, by which of the rules about it hold."""

UNEVALUATED: Final = Decision(DENY, reason="policy could not be evaluated")
UNJUDGED_REASON: Final = "whether this needs an approval cannot be judged"


class Permit:
    """The right to send one call to a server. Only `PolicySet.authorize` makes one; transport takes nothing else."""

    __slots__ = ("call", "decision")

    def __init__(self, call: Call, decision: Decision, *, by: "PolicySet", approved: Approved | None = None) -> None:
        allowed = decision.verdict is ALLOW or _is_approved(call, decision, approved)
        if not allowed or not isinstance(by, PolicySet):
            raise ValueError("a permit needs a decision that allows, or the approval that it asks for")
        self.call = call
        self.decision = decision


class _Outcome:
    """A verdict and the rule that brought it about, the lowest of its rank in the order of rules."""

    __slots__ = ("reason", "rule", "verdict")

    def __init__(self, verdict: Verdict, rule: Rule | None, reason: str) -> None:
        self.verdict = verdict
        self.rule = rule
        self.reason = reason


class _Candidates:
    """The rules about one thing, some of which depend on what a call of it carries."""

    __slots__ = ("_agent", "_known", "_rules", "_subject")

    def __init__(self, agent: "AgentRules", subject: Subject, rules: Sequence[Rule]) -> None:
        self._agent = agent
        self._subject = subject
        self._rules = rules
        self._known: Bounded[tuple[int, ...], Decision] = Bounded(MAX_PATTERNS)

    def decide(self, asked: Asked) -> Decision:
        search = self._agent.search
        states = [rule.judge(self._subject, asked, search) if rule.conditional else TRUE for rule in self._rules]
        failed: list[Failed] = []
        if states.count(TRUE) != len(states):
            failed = [
                Failed(rule.ref, rule.why(self._subject, asked))
                for rule, state in zip(self._rules, states, strict=True)
                if state != TRUE
            ]
            if any(one.why != NOTHING_FOUND for one in failed):  # values of this call, which no other one has
                return self._agent.conclude(self._subject, self._rules, states, failed)
        key = tuple(states)
        known = self._known.entries.get(key)
        return known or self._known.add(key, self._agent.conclude(self._subject, self._rules, states, failed))


class _Names:
    """What is known about the names of one kind: decisions that need no arguments, and where they are needed."""

    __slots__ = ("_index", "_kind", "_rules", "depending", "fixed", "shown")

    def __init__(self, kind: Kind, rules: Sequence[Rule]) -> None:
        self._kind = kind
        self._rules = rules
        self._index: NameIndex | None = None
        self.fixed: Bounded[str, Decision] = Bounded(MAX_SUBJECTS)
        self.depending: Bounded[str, _Candidates] = Bounded(MAX_SUBJECTS)
        self.shown: Bounded[str, Shown] = Bounded(MAX_SUBJECTS)

    def about(self, name: str) -> list[Rule]:
        """The rules about a name, in the order of rules."""
        index = self._index
        if index is None:
            selectors = [(number, rule.selectors(self._kind)) for number, rule in enumerate(self._rules)]
            always = [number for number, globs in selectors if globs is None]
            index = NameIndex(always, [(glob, number) for number, globs in selectors for glob in globs or ()])
            self._index = index
        return [self._rules[number] for number in index.lookup(name)]


class AgentRules:
    """What an agent may do on a server. Agents under the same policies share one.

    `names_resources`: an enforced rule selects resources, so that what none of them allows is meant to be denied.
    `asks`: an enforced rule requires an approval.
    """

    __slots__ = (
        "_any_shadow",
        "_basis",
        "_methods",
        "_prompts",
        "_resources",
        "_shadow_basis",
        "_tools",
        "asks",
        "names_resources",
        "search",
    )

    def __init__(self, given: Iterable[Rule]) -> None:
        rules = sorted(given, key=_order)
        self._basis = _basis(rule for rule in rules if not rule.shadow)
        self._shadow_basis = _basis(rules)
        self._any_shadow = any(rule.shadow for rule in rules)
        self.names_resources = any(rule.selectors(RESOURCE) for rule in rules if not rule.shadow)
        self.asks: bool = any(not (rule.denies or rule.allows or rule.shadow) for rule in rules)
        finders = [rule.finder for rule in rules if rule.finder is not None]
        self.search: Search | None = Search(finders) if finders else None
        self._tools = _Names(TOOL, rules)
        self._prompts = _Names(PROMPT, rules)
        self._resources = _Names(RESOURCE, rules)
        self._methods = _Names(METHOD, rules)

    @property
    def usable(self) -> bool:
        """Whether the agent may use the server at all."""
        return self._basis is not None

    def known(self, subject: Subject) -> Decision | None:
        """The decision on a subject where it is known without a look at the call."""
        return self._names(subject.kind).fixed.entries.get(subject.name)

    def decide(self, subject: Subject, asked: Asked | None = None) -> Decision:
        """The decision on one subject of a call, by what is asked of it (None: nothing is known of the call)."""
        names = self._names(subject.kind)
        known = names.fixed.entries.get(subject.name)
        if known is not None:
            return known
        candidates = names.depending.entries.get(subject.name)
        if candidates is None:
            rules = names.about(subject.name)
            kept = len(subject.name) <= MAX_NAME
            if not any(rule.conditional for rule in rules):
                decision = self.conclude(subject, rules, [TRUE] * len(rules), [])
                return names.fixed.add(subject.name, decision) if kept else decision
            candidates = _Candidates(self, subject, rules)
            if kept:
                names.depending.add(subject.name, candidates)
        return candidates.decide(asked if asked is not None else asked_with(None, (subject,)))

    def shows(self, subject: Subject) -> Shown:
        """What a list may show of a thing: what some call of it could be let through for, or asked approval for."""
        names = self._names(subject.kind)
        shown = names.shown.entries.get(subject.name)
        if shown is not None:
            return shown
        try:
            shown = self._foreseen(subject, names.about(subject.name))
        except Exception:  # what cannot be judged is not shown
            return HIDDEN
        return names.shown.add(subject.name, shown) if len(subject.name) <= MAX_NAME else shown

    def conclude(
        self, subject: Subject, rules: Sequence[Rule], states: Sequence[int], failed: Sequence[Failed]
    ) -> Decision:
        """The decision by the rules about a subject and the states of their conditions."""
        holding = [
            (rule, state)
            for rule, state in zip(rules, states, strict=True)
            if state == TRUE or (state == UNSURE and not rule.allows)
        ]
        outcome = self._outcome(subject, holding, shadow=False)
        deciding = outcome.rule.ref if outcome.rule is not None else None
        return Decision(
            outcome.verdict,
            deciding.policy if deciding is not None else "",
            deciding.rule if deciding is not None else "",
            outcome.reason,
            tuple(rule.ref for rule, _ in holding),
            tuple(rule.ref for rule, _ in holding if not (rule.denies or rule.allows or rule.shadow))
            if outcome.verdict is REQUIRE_APPROVAL
            else (),
            self._shadow(subject, holding, outcome.verdict),
            tuple(failed[:MAX_FAILED]),
        )

    def _shadow(
        self, subject: Subject, holding: Sequence[tuple[Rule, int]], verdict: Verdict
    ) -> tuple[Verdict, RuleRef | None] | None:
        """What the verdict would be with the shadow policies enforced, where that is another one."""
        if not self._any_shadow:
            return None
        other = self._outcome(subject, holding, shadow=True)
        if other.verdict is verdict:
            return None
        return other.verdict, other.rule.ref if other.rule is not None else None

    def _outcome(self, subject: Subject, holding: Sequence[tuple[Rule, int]], *, shadow: bool) -> _Outcome:
        """The verdict of the rules that hold; those of shadow policies count where `shadow` says so."""
        basis = self._shadow_basis if shadow else self._basis
        if basis is None:
            return _Outcome(DENY, None, DEFAULT_REASON)
        counting = [(rule.rank(state), rule) for rule, state in holding if shadow or not rule.shadow]
        if not counting:
            if subject.kind is METHOD and subject.name in BASIC:
                return _Outcome(ALLOW, basis, "")
            return _Outcome(DENY, None, DEFAULT_REASON)
        lowest = min(rank for rank, _ in counting)
        rule = next(rule for rank, rule in counting if rank == lowest)
        if rule.denies:
            return _Outcome(DENY, rule, rule.reason)
        if rule.allows:
            return _Outcome(ALLOW, rule, "")
        if lowest == rule.rank(UNSURE):
            return _Outcome(DENY, rule, UNJUDGED_REASON)
        return _Outcome(REQUIRE_APPROVAL, rule, rule.reason)

    def _foreseen(self, subject: Subject, rules: Sequence[Rule]) -> Shown:
        """What the enforced rules about a thing make of its calls."""
        allowed = approved = always = False
        for rule in rules:
            state = FALSE if rule.shadow else rule.foresee(subject)
            if state == FALSE:
                continue
            if state != DEPENDS and (rule.denies or (state == UNSURE and not rule.allows)):
                return HIDDEN
            if rule.allows:
                allowed = allowed or state != UNSURE
            elif not rule.denies:
                approved = True
                always = always or state == TRUE
        if approved:
            return MIXED if allowed and not always else APPROVAL
        return OPEN if allowed else HIDDEN

    def _names(self, kind: Kind) -> _Names:
        if kind is TOOL:
            return self._tools
        if kind is METHOD:
            return self._methods
        return self._resources if kind is RESOURCE else self._prompts


class _Compiled:
    """A policy with its agents and servers compiled."""

    __slots__ = ("_agents", "_servers", "rules")

    def __init__(self, policy: Policy) -> None:
        self._servers = GlobSet(policy.servers)
        self._agents = Agents(policy.agents)
        self.rules = tuple(Rule(policy, rule) for rule in policy.requests)

    def applies(self, agent: Principal, server: str) -> bool:
        return self._servers.matches(server) and self._agents.match(agent)


class PolicySet:
    """All policies of one configuration, compiled. Nothing of it raises; what cannot be evaluated is denied."""

    def __init__(self, policies: Iterable[Policy]) -> None:
        self._policies = tuple(_Compiled(policy) for policy in policies)
        self._approvals = {rule.ref: rule.approval for policy in self._policies for rule in policy.rules}
        self._messages = {rule.ref: rule.message for policy in self._policies for rule in policy.rules}
        self._agents: Bounded[tuple[Principal, str], AgentRules] = Bounded(MAX_AGENTS)
        self._shared: Bounded[tuple[int, ...], AgentRules] = Bounded(MAX_AGENTS)

    def rules_for(self, agent: Principal, server: str) -> AgentRules:
        """The rules that hold for an agent on a server."""
        known = self._agents.entries.get((agent, server))
        if known is not None:
            return known
        try:
            return self._agents.add((agent, server), self._compiled(agent, server))
        except Exception:  # an agent that cannot be matched is one without rules
            return AgentRules(())

    def decide(self, agent: Principal, server: str, subjects: Sequence[Subject], arguments: object = None) -> Decision:
        """The decision on what touches all of `subjects`: a denied one denies it, and all have to be allowed.

        `arguments` are what conditions look at (None: there are none); a resource is judged by its own URI.
        """
        try:
            rules = self.rules_for(agent, server)
            asked = asked_with(arguments, subjects)
            return together([rules.decide(subject, asked) for subject in subjects])
        except Exception:  # whatever went wrong
            return UNEVALUATED

    def authorize(
        self, agent: Principal, server: str, call: Call, approved: Approved | None = None
    ) -> Permit | Decision:
        """A permit for the call, or the decision that refuses it.

        `approved` is what a human has approved: it counts where it covers every rule that wants this call approved,
        and lifts nothing else.
        """
        decision = self._decide_call(self.rules_for(agent, server), call)
        if decision.verdict is ALLOW:
            return Permit(call, decision, by=self)
        if _is_approved(call, decision, approved):
            return Permit(call, decision, by=self, approved=approved)
        return decision

    def approval_of(self, rule: RuleRef) -> Approval | None:
        """What a requireApproval rule (one of a decision's `approvals`) asks of whom."""
        return self._approvals.get(rule)

    def message_of(self, rule: RuleRef) -> str:
        """What a requireApproval rule says in its own words; empty where it says nothing."""
        return self._messages.get(rule, "")

    def _decide_call(self, rules: AgentRules, call: Call) -> Decision:
        try:
            subjects = call.subjects
            if len(subjects) == 1:
                known = rules.known(subjects[0])
                if known is not None:
                    return known
            asked = asked_by(call)
            return together([rules.decide(subject, asked) for subject in subjects])
        except Exception:  # whatever went wrong
            return UNEVALUATED

    def _compiled(self, agent: Principal, server: str) -> AgentRules:
        applying = tuple(i for i, policy in enumerate(self._policies) if policy.applies(agent, server))
        known = self._shared.entries.get(applying)
        return known or self._shared.add(
            applying, AgentRules(rule for i in applying for rule in self._policies[i].rules)
        )


def _is_approved(call: Call, decision: Decision, approved: Approved | None) -> bool:
    """Whether exactly this call was approved, and under every rule that wants that."""
    if approved is None or decision.verdict is not REQUIRE_APPROVAL or approved.call is not call:
        return False
    return bool(decision.approvals) and approved.rules.issuperset(decision.approvals)


def _order(rule: Rule) -> tuple[str, str, str, bool, str]:
    return rule.order


def _basis(rules: Iterable[Rule]) -> Rule | None:
    """The rule by which an agent may use a server at all."""
    given = list(rules)
    allowing = (rule for rule in given if rule.allows)
    return next(allowing, None) or next((rule for rule in given if not rule.denies), None)
