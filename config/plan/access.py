"""Who may use a server at all: the part of policy that Envoy can hold, as conditions on a caller.

An agent may use a server where a rule allows something. Arguments, tools, responses and approvals are not seen by
Envoy. What cannot be said exactly is left out of what is allowed, never let in.
"""

import msgspec

from openmcp.config.globs import covers, is_literal, overlap
from openmcp.config.model import Action, AgentSelector, Configuration, Policy, RequestRule, Server
from openmcp.config.plan.values import Notices
from openmcp.identity.bearer import OF_ONE_TOKEN
from openmcp.identity.globs import matches

Agents = tuple[str | AgentSelector, ...]


class Access(msgspec.Struct, frozen=True):
    """Whose calls a server takes: `agents` of its allow rules, without those that a rule denies everything to."""

    agents: Agents
    denied: Agents = ()

    def allows_name(self, name: str) -> bool:
        """Whether a caller without claims may use the server."""
        return _any(self.agents, name) and not _any(self.denied, name)


def access(configuration: Configuration, server: Server) -> Access:
    """Who has an allow rule for this server."""
    allowed: list[str | AgentSelector] = []
    denied: list[str | AgentSelector] = []
    for policy in policies_of(configuration, server):
        if any(rule.action == Action.ALLOW for rule in policy.requests):
            allowed += policy.agents or ("*",)
        if any(rule.action == Action.DENY and _denies_all(rule) for rule in policy.requests):
            denied += policy.agents or ("*",)
    return Access(tuple(dict.fromkeys(allowed)), tuple(dict.fromkeys(denied)))


def policies_of(configuration: Configuration, server: Server) -> list[Policy]:
    """The policies that hold for a server and have an effect."""
    return [
        policy
        for policy in configuration.policies
        if policy.mode == "enforce" and any(matches(glob, server.name) for glob in policy.servers)
    ]


def unseen_rules(configuration: Configuration, server: Server) -> list[str]:
    """The rules for a server that Envoy does not see the subject of, as `policy/rule`, with what is lost."""
    found = []
    for policy in policies_of(configuration, server):
        found += [
            f"{policy.name}/{rule.name} ({rule.action.value})"
            for rule in policy.requests
            if not (rule.action == Action.DENY and _denies_all(rule)) and not _allows_all(rule)
        ]
        found += [f"{policy.name}/{rule.name} ({rule.action.value} in responses)" for rule in policy.responses]
    return found


def warn_of_rules(configuration: Configuration, server: Server, notices: Notices) -> None:
    """Say which rules do not hold."""
    if rules := unseen_rules(configuration, server):
        notices.warn(
            f"servers: {server.name}",
            f"Envoy sees no tools, arguments or responses and asks nobody: not enforced: {', '.join(rules)}; "
            "put the sidecar behind the gateway (--sidecar) to have these rules hold",
        )


def _allows_all(rule: RequestRule) -> bool:
    return rule.action == Action.ALLOW and not _narrows(rule)


def _denies_all(rule: RequestRule) -> bool:
    return not _narrows(rule)


def _narrows(rule: RequestRule) -> bool:
    return any(
        (rule.tools, rule.prompts, rule.resources, rule.methods, rule.when, rule.detect, rule.patterns),
    )


def _any(agents: Agents, name: str) -> bool:
    return any(_means(agent, name) for agent in agents)


def _means(agent: str | AgentSelector, name: str) -> bool:
    return isinstance(agent, str) and matches(agent, name)


class Names(msgspec.Struct, frozen=True):
    """Callers whose names begin with a text: `everyone`, those of a few `exact` names (without that beginning), those
    whose names begin and end so (`patterns`), those whose claims are so (each tuple: all of them)."""

    everyone: bool = False
    exact: tuple[str, ...] = ()
    patterns: tuple[tuple[str, str], ...] = ()
    claims: tuple[tuple[tuple[str, str], ...], ...] = ()


def names(agents: Agents, beginning: str, place: str, notices: Notices) -> Names:
    """What of `agents` is about callers whose names begin with `beginning`; what cannot be said is left out."""
    exact: list[str] = []
    patterns: list[tuple[str, str]] = []
    claims: list[tuple[tuple[str, str], ...]] = []
    for agent in agents:
        if isinstance(agent, AgentSelector):
            claims += _claims(agent, beginning, place, notices)
        elif covers(agent, f"{beginning}*"):
            return Names(everyone=True)
        elif is_literal(agent):
            exact += [agent.removeprefix(beginning)] * agent.startswith(beginning)
        elif overlap(agent, f"{beginning}*"):
            patterns += _pattern(agent, beginning, place, notices)
    return Names(False, tuple(exact), tuple(patterns), tuple(claims))


def _pattern(glob: str, beginning: str, place: str, notices: Notices) -> list[tuple[str, str]]:
    """The beginning and the end of what a glob with one star means."""
    before, _, after = glob.partition("*")
    if glob.count("*") == 1 and "?" not in glob and before.startswith(beginning):
        return [(before.removeprefix(beginning), after)]
    notices.warn(place, f'the agents "{glob}" cannot be told by Envoy, and are not let in')
    return []


def _claims(agent: AgentSelector, beginning: str, place: str, notices: Notices) -> list[tuple[tuple[str, str], ...]]:
    is_spiffe = beginning.startswith("spiffe://")
    if _by_id(agent) != is_spiffe or (is_spiffe and agent.claims):
        return []  # a certificate has no claims
    if any(name in OF_ONE_TOKEN for name, _ in agent.claims):
        return []  # these say nothing of a caller
    if is_spiffe or not all(is_literal(glob) for _, glob in agent.claims):
        notices.warn(place, "agents told by parts of their ID or by globs on claims: not by Envoy, and not let in")
        return []
    return [agent.claims]


def _by_id(agent: AgentSelector) -> bool:
    return (agent.trust_domain, agent.namespace, agent.service_account) != (None, None, None)


def as_globs(agents: Agents, domain: str) -> Agents:
    """`agents`, where those told by parts of their SPIFFE ID are written as globs on IDs of this trust domain as far as
    that says the same."""
    return tuple(glob for agent in agents for glob in _as_glob(agent, domain))


def _as_glob(agent: str | AgentSelector, domain: str) -> Agents:
    if isinstance(agent, str) or agent.claims or not _by_id(agent):
        return (agent,)
    if agent.trust_domain is not None and not matches(agent.trust_domain, domain):
        return ()
    if "/" in f"{agent.namespace}{agent.service_account}":
        return ()  # each is one part of an ID: nobody is so
    if agent.namespace is None and agent.service_account is None:
        return (f"spiffe://{domain}/*",)
    if agent.namespace and agent.service_account and is_literal(agent.namespace + agent.service_account):
        return (f"spiffe://{domain}/ns/{agent.namespace}/sa/{agent.service_account}",)
    return (agent,)
