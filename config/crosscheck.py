"""What no single section can know: whether the parts of a configuration fit together."""

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from urllib.parse import urlsplit

from openmcp.config.addresses import shown
from openmcp.config.callers import callers
from openmcp.config.cursor import At
from openmcp.config.globs import Names
from openmcp.config.identitycheck import check_identity
from openmcp.config.model import Action, Address, Configuration, Policy
from openmcp.config.policycheck import check_policies
from openmcp.config.problems import Mark, Report, did_you_mean
from openmcp.config.resilience import check_resilience
from openmcp.identity.addresses import is_this_machine

_ANYWHERE = ("0.0.0.0", "::")  # noqa: S104 - compared with, not bound to


def cross_check(
    made: Configuration,
    sections: Mapping[str, At],
    servers: Mapping[str, At],
    policies: dict[str, At],
    report: Report,
    *,
    alone: bool,
) -> None:
    """Report errors and warnings about how the sections fit; the mappings give their places by name.

    `alone`: there are objects and nothing else, so who may call is said elsewhere."""
    _listeners(made, sections.get("listen"))
    _own_listener(made, servers)
    if not alone:
        _identification(made, sections.get("identity"), report, servers)
    check_identity(made, sections, servers)
    names = Names(server.name for server in made.servers)
    for policy in made.policies:
        _policy(made, policy, policies[policy.name], names)
        _workflows(made, policies[policy.name])
    check_policies(made.policies, names, policies)
    _payloads(made, sections.get("telemetry"))
    modes = _opening_modes(made.policies, names)
    for server in made.servers:
        at = servers[server.name]
        _users(modes.get(server.name, frozenset()), server.name, at)
        check_resilience(made, server, at)
        if server.health.timeout > server.health.interval:
            (at.key("health") or at).warn("the timeout is longer than the interval")


def _listeners(made: Configuration, at: At | None) -> None:
    if at is None:
        return
    mcp, admin = made.listen.mcp, made.listen.admin
    if mcp == admin and mcp.port != 0:
        at.error(f"`mcp` and `admin` have the same address {shown(mcp)}")
    if not is_this_machine(mcp.host) and not made.listen.allowed_hosts and made.listen.url is None:
        (at.key("mcp") or at).warn(
            f"clients that call this machine by a name are refused: {shown(mcp)} is reached from elsewhere "
            "and `allowedHosts` is empty",
            "write the names that clients use: allowedHosts: [gateway.example]",
        )


def _own_listener(made: Configuration, servers: Mapping[str, At]) -> None:
    for server in made.servers:
        for url in server.endpoints:
            if _leads_to(url, made.listen.mcp):
                at = servers[server.name].key("endpoints") or servers[server.name]
                at.error(f"{url} is the listener of this gateway: a call would go round for ever")


def _leads_to(url: str, listener: Address) -> bool:
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    if port != listener.port:
        return False
    target = parts.hostname or ""
    here = is_this_machine(target) and (is_this_machine(listener.host) or listener.host in _ANYWHERE)
    return here or target == listener.host.lower()


def _identification(made: Configuration, at: At | None, report: Report, servers: Mapping[str, At]) -> None:
    if made.identity.agents or not made.servers:
        return
    mark = at.mark if at is not None else Mark(next(iter(servers.values())).mark.file)
    report.warn(
        mark,
        "identity.agents",
        "no caller can be identified: every call is refused with 401",
        "write agents: [{type: apiKey, keys: [...]}], or agents: [{type: none}] where everybody may call",
    )


def _policy(made: Configuration, policy: Policy, at: At, names: Names) -> None:
    if not policy.requests and not policy.responses:
        at.warn(f'policy "{policy.name}" has no rules')
    for item, text in _items(at, "servers"):
        if not names.matching(text):
            item.warn(f'no server is named "{text}"', _names(server.name for server in made.servers))
    known = callers(made)
    for agent, (item, text) in zip(policy.agents, _items(at, "agents"), strict=True):
        if not made.identity.agents or any(caller.may_be(agent) for caller in known):
            continue
        what = f'is named "{text}"' if isinstance(agent, str) else "has this SPIFFE ID and these claims"
        item.warn(f"no caller that `identity.agents` identifies {what}", _names(caller.glob for caller in known))


def _workflows(made: Configuration, at: At) -> None:
    """Every workflow that a rule names must be there."""
    known = [workflow.name for workflow in made.approvals.workflows]
    rules = at.key("requests")
    for rule in (rules.items() if rules is not None else None) or ():
        approval = rule.key("approval")
        named = approval.key("workflow") if approval is not None else None
        if named is not None and named.text() not in known:
            hint = did_you_mean(named.text(), known) or f"approvals.workflows: {_names(known)}"
            named.error(f'no workflow is named "{named.text()}"', hint)


def _items(at: At, key: str) -> list[tuple[At, str]]:
    found = at.key(key)
    return [(item, item.text()) for item in (found.items() if found is not None else None) or ()]


def _names(names: Iterable[str]) -> str:
    listed = list(names)
    return f"there are: {', '.join(listed[:5])}{', ...' if len(listed) > 5 else ''}" if listed else "there are none"


def _users(modes: AbstractSet[str], server: str, at: At) -> None:
    """Warn where nobody may use a server; `modes` are those of the policies that allow anything on it."""
    if "enforce" in modes:
        return
    if modes:
        hint = "a policy in mode shadow is recorded and opens nothing: write mode: enforce, or another policy"
        at.warn(f'only policies in mode shadow allow anybody anything on "{server}"', hint)
    else:
        hint = "write a policy for it with a rule that says action: allow"
        at.warn(f'no policy allows anybody anything on "{server}"', hint)


def _opening_modes(policies: Iterable[Policy], names: Names) -> dict[str, set[str]]:
    """By server, the modes of the policies that allow anything there, by themselves or after an approval."""
    found: dict[str, set[str]] = {}
    for policy in policies:
        if any(rule.action is not Action.DENY for rule in policy.requests):
            for glob in policy.servers:
                for name in names.matching(glob):
                    found.setdefault(name, set()).add(policy.mode)
    return found


def _payloads(made: Configuration, at: At | None) -> None:
    audit = at.key("audit") if at is not None else None
    payloads = audit.key("payloads") if audit is not None else None
    if payloads is None or made.telemetry.audit.payloads == "none":
        return
    if not any(policy.responses and policy.mode == "enforce" for policy in made.policies):
        payloads.warn(
            "no policy has a response rule: messages are recorded as they are, nothing is redacted",
            "write responses: [{name: NAME, detect: [...], action: redact}] in a policy",
        )
