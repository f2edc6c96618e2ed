"""The decision: a pure function of who calls, on which server, and what the call touches.

All matching rules of all matching policies count: deny > allow > default deny (order never matters). A rule
without selectors matches everything. An agent for whom a server has no allow rule may not use it at all.
The policies are compiled once per configuration; what an agent may do on a server is indexed at its first
call, so that the cost of a decision does not grow with the number of rules.
"""

from collections.abc import Iterable
from typing import Final, Generic, TypeVar

from openmcp.config.model import Action, Policy, RequestRule
from openmcp.identity.principal import Principal
from openmcp.sidecar.mcp.methods import BASIC
from openmcp.sidecar.mcp.values import Call
from openmcp.sidecar.policy.decision import ALLOW, DENY, Decision
from openmcp.sidecar.policy.globs import GlobSet
from openmcp.sidecar.types import METHOD, PROMPT, RESOURCE, TOOL, Subject

MAX_AGENTS: Final = 1024
"""Agents (per policy set) whose rules are kept indexed."""
MAX_SUBJECTS: Final = 4096
"""Decisions kept per agent and server: a hostile agent inventing names must not grow memory."""

MAX_NAME: Final = 256
"""Characters of a name up to which a decision on it is kept, for the same reason."""

DEFAULT_REASON: Final = "no policy allows this"


DEFAULT_DENY: Final = Decision(DENY, reason=DEFAULT_REASON)


class Permit:
    """The right to send one call to a server. Only `PolicySet.authorize` makes one; transport takes nothing else."""

    __slots__ = ("call", "decision")

    def __init__(self, call: Call, decision: Decision, *, by: "PolicySet") -> None:
        if not decision.allowed or not isinstance(by, PolicySet):
            raise ValueError("a permit needs a decision that allows")
        self.call = call
        self.decision = decision


K = TypeVar("K")
V = TypeVar("V")


class _Bounded(Generic[K, V]):
    """A dictionary that forgets everything when it is full: simple, and cheap to look up."""

    __slots__ = ("_limit", "entries")

    def __init__(self, limit: int) -> None:
        self.entries: dict[K, V] = {}
        self._limit = limit

    def add(self, key: K, value: V) -> V:
        if len(self.entries) >= self._limit:
            self.entries.clear()
        self.entries[key] = value
        return value


class _Rule:
    """One compiled request rule."""

    __slots__ = ("_any", "_selectors", "decision")

    def __init__(self, policy: Policy, rule: RequestRule) -> None:
        self._selectors = {
            TOOL: GlobSet(rule.tools),
            PROMPT: GlobSet(rule.prompts),
            RESOURCE: GlobSet(rule.resources),
            METHOD: GlobSet(rule.methods),
        }
        self._any = not (rule.tools or rule.prompts or rule.resources or rule.methods)
        allowed = rule.action is Action.ALLOW
        reason = "" if allowed else rule.message or f"denied by policy {policy.name}"
        self.decision = Decision(ALLOW if allowed else DENY, policy.name, rule.name, reason)

    def matches(self, subject: Subject) -> bool:
        return self._any or self._selectors[subject.kind].matches(subject.name)


class AgentRules:
    """What one agent may do on one server."""

    __slots__ = ("_allows", "_denies", "_known")

    def __init__(self, rules: Iterable[_Rule]) -> None:
        given = tuple(rules)
        self._denies = [rule for rule in given if not rule.decision.allowed]
        self._allows = [rule for rule in given if rule.decision.allowed]
        self._known: _Bounded[Subject, Decision] = _Bounded(MAX_SUBJECTS)

    @property
    def usable(self) -> bool:
        """Whether the agent may use the server at all."""
        return bool(self._allows)

    def decide(self, subject: Subject) -> Decision:
        """The decision on one subject."""
        known = self._known.entries.get(subject)
        if known is not None:
            return known
        decision = self._judge(subject)
        return self._known.add(subject, decision) if len(subject.name) <= MAX_NAME else decision

    def _judge(self, subject: Subject) -> Decision:
        if not self._allows:
            return DEFAULT_DENY
        for rule in self._denies:
            if rule.matches(subject):
                return rule.decision
        for rule in self._allows:
            if rule.matches(subject):
                return rule.decision
        if subject.kind is METHOD and subject.name in BASIC:
            return self._allows[0].decision
        return DEFAULT_DENY


class _Scoped:
    """A policy with its agents and servers compiled."""

    __slots__ = ("agents", "rules", "servers")

    def __init__(self, policy: Policy) -> None:
        self.servers = GlobSet(policy.servers)
        self.agents = GlobSet(agent for agent in policy.agents if isinstance(agent, str)) if policy.agents else None
        self.rules = tuple(_Rule(policy, rule) for rule in policy.requests)

    def applies(self, agent: Principal, server: str) -> bool:
        return self.servers.matches(server) and (self.agents is None or self.agents.matches(agent.name))


class PolicySet:
    """All policies of one configuration, compiled."""

    def __init__(self, policies: Iterable[Policy]) -> None:
        self._policies = tuple(_Scoped(policy) for policy in policies)
        self._agents: _Bounded[tuple[Principal, str], AgentRules] = _Bounded(MAX_AGENTS)

    def rules_for(self, agent: Principal, server: str) -> AgentRules:
        """The rules that hold for an agent on a server."""
        key = (agent, server)
        known = self._agents.entries.get(key)
        if known is not None:
            return known
        rules = (rule for policy in self._policies if policy.applies(agent, server) for rule in policy.rules)
        return self._agents.add(key, AgentRules(rules))

    def decide(self, agent: Principal, server: str, subjects: Iterable[Subject]) -> Decision:
        """The decision on a call that touches all of `subjects`: one denied subject denies it."""
        rules = self.rules_for(agent, server)
        decision = DEFAULT_DENY
        for subject in subjects:
            decision = rules.decide(subject)
            if not decision.allowed:
                return decision
        return decision

    def authorize(self, agent: Principal, server: str, call: Call) -> Permit | Decision:
        """A permit for the call, or the decision that refuses it."""
        decision = self.decide(agent, server, call.subjects)
        return Permit(call, decision, by=self) if decision.allowed else decision
