"""Warnings about what policies make of each other: what another one leaves nothing of, servers nobody may use.

Best effort, without false alarms: one rule is held against one other, not against several together.
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence

import msgspec

from openmcp.config.cursor import At
from openmcp.config.globs import Names, beginning, covers, overlap
from openmcp.config.model import Action, AgentSelector, Policy, RequestRule
from openmcp.config.rulecheck import check_request_rule, check_response_rule

KINDS = ("tools", "prompts", "resources", "methods")
Agents = tuple[str | AgentSelector, ...]


class Scope(msgspec.Struct, frozen=True, cache_hash=True):
    """What a policy holds for: the servers that are there for it, and agents (none: all)."""

    servers: frozenset[str]
    agents: Agents

    def holds(self, other: "Scope") -> bool:
        """Whether it surely contains all agents and servers of another one."""
        if not other.servers or not other.servers <= self.servers:
            return False
        return not self.agents or (bool(other.agents) and all(self._holds_agent(agent) for agent in other.agents))

    def _holds_agent(self, agent: str | AgentSelector) -> bool:
        if isinstance(agent, AgentSelector):
            return agent in self.agents or "*" in self.agents
        return any(isinstance(mine, str) and covers(mine, agent) for mine in self.agents)

    def meets(self, other: "Scope") -> bool:
        """Whether some agent may be in both, on a server of both."""
        if self.servers.isdisjoint(other.servers):
            return False
        return not self.agents or not other.agents or any(_meet(a, b) for a in self.agents for b in other.agents)


def _meet(one: str | AgentSelector, other: str | AgentSelector) -> bool:
    return isinstance(one, AgentSelector) or isinstance(other, AgentSelector) or overlap(one, other)


class Placed(msgspec.Struct, frozen=True, eq=False):
    """A request rule with its policy, what that holds for, and its place."""

    policy: Policy
    scope: Scope
    rule: RequestRule
    at: At

    def globs(self, kind: str) -> tuple[str, ...]:
        """What the rule selects of a kind."""
        found: tuple[str, ...] = getattr(self.rule, kind)
        return found

    @property
    def selects_all(self) -> bool:
        """Whether the rule has no selectors."""
        return not any(self.globs(kind) for kind in KINDS)

    @property
    def unconditional(self) -> bool:
        """Whether the rule holds whatever a call carries, and has an effect."""
        return self.policy.mode == "enforce" and not (self.rule.when or self.rule.detect or self.rule.patterns)


class Index:
    """Rules by the beginnings of what they select: most have nothing to do with each other."""

    def __init__(self, rules: Iterable[Placed]) -> None:
        given = list(rules)
        self.for_all = [rule for rule in given if rule.selects_all]
        self._entries: dict[tuple[str, str], list[tuple[str, Placed]]] = {}
        for rule in given:
            for kind in KINDS:
                for glob in rule.globs(kind):
                    self._entries.setdefault((kind, beginning(glob)), []).append((glob, rule))
        self._keys = sorted(self._entries)

    def near(self, kind: str, glob: str) -> Iterator[tuple[str, Placed]]:
        """The globs of a kind, with their rules, that may have a text in common with this one."""
        begins = beginning(glob)
        if begins != glob:  # any longer beginning will do
            at = bisect_left(self._keys, (kind, begins + "\0"))
            while at < len(self._keys) and self._keys[at][0] == kind and self._keys[at][1].startswith(begins):
                yield from self._entries[self._keys[at]]
                at += 1
        for size in range(len(begins) + 1):
            yield from self._entries.get((kind, begins[:size]), ())

    def about(self, kind: str) -> Iterator[Placed]:
        """The rules that select anything of a kind."""
        return (rule for key in self._keys if key[0] == kind for _, rule in self._entries[key])


class Comparison:
    """The rules of all policies, held against each other."""

    def __init__(self, rules: Iterable[Placed]) -> None:
        given = list(rules)
        opening = [rule for rule in given if rule.rule.action is not Action.DENY]
        self._opening = Index(opening)
        self._opened = frozenset[str]().union(*(rule.scope.servers for rule in opening))
        self._closing = Index(rule for rule in given if rule.rule.action is not Action.ALLOW and rule.unconditional)
        self._scopes: dict[tuple[Scope, Scope], bool] = {}

    def effect(self, rule: Placed) -> None:
        """Warn where an unconditional rule of more weight holds wherever a rule, or one of its selectors, does."""
        whole = next((other for other in self._closing.for_all if self._prevails(other, rule)), None)
        covered = [] if whole is not None or rule.selects_all else self._covered(rule)
        if covered:
            in_all = set.intersection(*(set(map(id, others)) for _, _, others in covered))
            whole = next((other for other in covered[0][2] if id(other) in in_all), None)
        hint = "remove it, or narrow the other"
        if whole is not None:
            rule.at.warn(f'rule "{rule.rule.name}" has no effect: {_does(whole)} all of it', hint)
            return
        for glob, item, others in covered:
            if others:
                item.warn(f'"{glob}" has no effect here: {_does(others[0])} all of it', hint)

    def _covered(self, rule: Placed) -> list[tuple[str, At, list[Placed]]]:
        """Each glob of a rule with the rules that prevail over it."""
        return [
            (
                glob,
                item,
                [
                    other
                    for its, other in self._closing.near(kind, glob)
                    if covers(its, glob) and self._prevails(other, rule)
                ],
            )
            for kind in KINDS
            for glob, item in zip(rule.globs(kind), _entries(rule.at, kind), strict=True)
        ]

    def _prevails(self, other: Placed, rule: Placed) -> bool:
        """Whether a rule weighs more than another one, for all its agents and servers."""
        if other.rule.action is not Action.DENY and rule.rule.action is not Action.ALLOW:
            return False
        pair = (other.scope, rule.scope)
        if pair not in self._scopes:
            self._scopes[pair] = other.scope.holds(rule.scope)
        return self._scopes[pair]

    def purpose(self, rule: Placed) -> None:
        """Warn about a denial that takes nothing from any rule.

        One with a message is the answer that agents get, and `methods` take from what every agent may do. A policy
        for all agents is a guard against rules to come: there it is enough that some rule is about the same kind.
        """
        if rule.rule.message is not None or rule.rule.methods or rule.selects_all:
            return
        if rule.scope.servers.isdisjoint(self._opened):
            return  # which is said of the servers themselves
        if not any(other.scope.meets(rule.scope) for other in self._taken(rule)):
            rule.at.warn(
                f'rule "{rule.rule.name}" denies nothing that another rule allows',
                "what no rule allows is denied anyway: remove it, or give it a `message`, which agents are then told",
            )

    def _taken(self, rule: Placed) -> Iterator[Placed]:
        """The rules that select something that a denial selects as well."""
        yield from self._opening.for_all
        for kind in KINDS:
            if rule.globs(kind) and not rule.scope.agents:
                yield from self._opening.about(kind)
            for glob in rule.globs(kind):
                yield from (other for its, other in self._opening.near(kind, glob) if overlap(its, glob))


def check_policies(policies: Sequence[Policy], servers: Names, places: dict[str, At]) -> None:
    """Warn about the rules of all policies; `servers` are the names of those there are, `places` those of the policies
    by name."""
    rules: list[Placed] = []
    for policy in policies:
        at = places[policy.name]
        for response, place in zip(policy.responses, _entries(at, "responses"), strict=True):
            check_response_rule(response, place)
        there = frozenset[str]().union(*map(servers.matching, policy.servers))
        scope = Scope(there, policy.agents)
        for request, place in zip(policy.requests, _entries(at, "requests"), strict=True):
            check_request_rule(request, place)
            rules.append(Placed(policy, scope, request, place))
    comparison = Comparison(rules)
    for rule in rules:
        if rule.rule.action is Action.DENY:
            comparison.purpose(rule)
        else:
            comparison.effect(rule)


def _entries(at: At, key: str) -> list[At]:
    found = at.key(key)
    return (found.items() if found is not None else None) or []


def _does(rule: Placed) -> str:
    verb = "denies" if rule.rule.action is Action.DENY else "requires approval for"
    return f'rule "{rule.rule.name}" of policy "{rule.policy.name}" {verb}'
