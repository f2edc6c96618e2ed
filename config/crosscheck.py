"""What no single section can know: whether the parts of a configuration fit together."""

from collections.abc import Iterable, Mapping
from urllib.parse import urlsplit

from openmcp.config.cursor import At
from openmcp.config.globs import matches
from openmcp.config.model import Action, Address, ApiKeyAgents, Configuration, Policy
from openmcp.config.problems import Mark, Report, did_you_mean

_LOOPBACK = ("localhost", "::1", "[::1]")
_ANYWHERE = ("0.0.0.0", "::")  # noqa: S104 - compared with, not bound to


def cross_check(
    made: Configuration,
    sections: Mapping[str, At],
    servers: Mapping[str, At],
    policies: Mapping[str, At],
    report: Report,
) -> None:
    """Report errors and warnings about how the sections fit; the mappings give their places by name."""
    _listeners(made, sections.get("listen"))
    _own_listener(made, servers)
    _identification(made, sections.get("identity"), report, servers)
    for policy in made.policies:
        _policy(made, policy, policies[policy.name])
        _workflows(made, policies[policy.name])
    for server in made.servers:
        at = servers[server.name]
        if not any(_opens(policy, server.name) for policy in made.policies):
            at.warn(
                f'no policy allows anybody anything on "{server.name}"',
                "write a policy for it with a rule that says action: allow",
            )
        if server.health.timeout > server.health.interval:
            (at.key("health") or at).warn("the timeout is longer than the interval")


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address on `host`."""
    return host.lower() in _LOOPBACK or host.startswith("127.")


def _listeners(made: Configuration, at: At | None) -> None:
    if at is None:
        return
    mcp, admin = made.listen.mcp, made.listen.admin
    if mcp == admin and mcp.port != 0:
        at.error(f"`mcp` and `admin` have the same address {_shown(mcp)}")
    if not is_loopback(mcp.host) and not made.listen.allowed_hosts:
        (at.key("mcp") or at).warn(
            f"clients that call this machine by a name are refused: {_shown(mcp)} is reached from elsewhere "
            "and `allowedHosts` is empty",
            "write the names that clients use: allowedHosts: [gateway.example]",
        )


def _shown(address: Address) -> str:
    return f"[{address.host}]:{address.port}" if ":" in address.host else f"{address.host}:{address.port}"


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
    here = is_loopback(target) and (is_loopback(listener.host) or listener.host in _ANYWHERE)
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


def _policy(made: Configuration, policy: Policy, at: At) -> None:
    if not policy.requests:
        at.warn(f'policy "{policy.name}" has no rules')
    for item, text in _items(at, "servers"):
        if not any(matches(text, server.name) for server in made.servers):
            item.warn(f'no server is named "{text}"', _names(server.name for server in made.servers))
    callers = _callers(made)
    for item, text in _items(at, "agents"):
        if made.identity.agents and not any(matches(text, caller) for caller in callers):
            item.warn(f'no caller that `identity.agents` identifies is named "{text}"', _names(callers))


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


def _callers(made: Configuration) -> list[str]:
    """The names of all principals that can call."""
    names: list[str] = []
    for method in made.identity.agents:
        names += [f"key:{key.name}" for key in method.keys] if isinstance(method, ApiKeyAgents) else ["anonymous"]
    return names


def _opens(policy: Policy, server: str) -> bool:
    """Whether a policy allows anybody anything on a server."""
    allows = any(rule.action is Action.ALLOW for rule in policy.requests)
    return allows and any(matches(glob, server) for glob in policy.servers)
