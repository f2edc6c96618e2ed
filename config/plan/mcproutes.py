"""Routes of Envoy AI Gateway, which sees tools: an MCPRoute for each server, with policy as far as it can hold it.

It decides on calls of tools alone. What is allowed under conditions that it cannot check is denied here, and what is
denied under such conditions is denied always: nothing passes that policy would deny, but for prompts, resources and
what servers answer.
"""

import re
from collections.abc import Iterable
from typing import Final

import msgspec

from openmcp.config.globs import is_literal
from openmcp.config.model import (
    Action,
    Configuration,
    HeaderAuth,
    JwtAgents,
    NoneAgents,
    Policy,
    RequestRule,
    Server,
)
from openmcp.config.plan.access import Agents, names, policies_of
from openmcp.config.plan.backends import Upstream
from openmcp.config.plan.callers import api_keys, issuers, key_secret
from openmcp.config.plan.conditions import LONGEST, cel_like, cel_origin, cel_sound, cel_text
from openmcp.config.plan.elsewhere import warn_of_ai
from openmcp.config.plan.gateway import LISTENER, hostname
from openmcp.config.plan.tokens import keys_of
from openmcp.config.plan.values import (
    AGENT_HEADER,
    AI,
    ENVOY,
    CannotPlan,
    Document,
    Notices,
    Target,
    document,
    object_name,
    part_name,
    reference,
)
from openmcp.identity.globs import matches

_RULES: Final = 32
_LONGEST_TOOL: Final = 128
_LONGEST_DENIAL: Final = 2048
"""Characters of a tool's name and of a condition that denies, up to which Envoy AI Gateway is sure to evaluate it: one
that costs more than it allows holds for nothing."""


class _Callers(msgspec.Struct, frozen=True):
    """How callers are known: the part of the route's `policy` that does it, the `beginning` of their names, the
    `subject` that is the rest of the name in CEL, all their names where these are few, and the condition under which
    what they present is `sound`."""

    policy: Document
    beginning: str
    subject: str
    known: tuple[str, ...] = ()
    sound: str = "true"


def mcp_routes(
    configuration: Configuration, server: Server, up: Upstream, context: tuple[Target, Notices]
) -> list[Document]:
    """The Backend of a server and its MCPRoute; nothing where nobody could be let in. Raises `CannotPlan`."""
    target, notices = context
    place = f"servers: {server.name}"
    if len(up.backends) != 1:
        raise CannotPlan(f"{place}: endpoints: an MCPRoute takes one Backend: give them one TLS name (tls.serverName)")
    callers = _callers(configuration, server, target, notices)
    if callers is None:
        notices.warn(place, "nobody that Envoy AI Gateway can tell may use it: there is no route")
        return []
    rules = _rules(configuration, server, callers, notices)
    _warn(configuration, server, up, notices)
    spec = {
        "parentRefs": [{**reference("Gateway", target.name), "sectionName": LISTENER}],
        "path": server.path,
        "backendRefs": [_backend(server, up, target, notices)],
        "securityPolicy": {**callers.policy, "authorization": {"defaultAction": "Deny", "rules": rules}},
    }
    return [*up.documents, document(AI, "MCPRoute", object_name(server.name), target.namespace, spec)]


def _warn(configuration: Configuration, server: Server, up: Upstream, notices: Notices) -> None:
    place = f"servers: {server.name}"
    notices.warn(
        place, f"agents see its tools as {up.backends[0]}__TOOL, and may use its prompts and resources as they like"
    )
    if any(policy.responses for policy in policies_of(configuration, server)):
        notices.warn(place, "Envoy AI Gateway does not look into responses: their rules do not hold")
    warn_of_ai(configuration, server, notices)


def _callers(configuration: Configuration, server: Server, target: Target, notices: Notices) -> _Callers | None:
    """A route asks for all that its policy names: for tokens where there are some, else for keys."""
    methods = configuration.identity.agents
    tokens, keys = issuers(configuration), api_keys(configuration)
    if tokens and (keys or len(tokens) > 1):
        notices.warn("identity.agents", "an MCPRoute has one way to know callers: tokens of the first issuer are taken")
    opened = not server.require_auth or any(isinstance(method, NoneAgents) for method in methods)
    if opened and (tokens or keys):
        notices.warn(f"servers: {server.name}", "whoever presents nothing is not let in: an MCPRoute asks everybody")
    if tokens:
        return _by_token(configuration, server, tokens[0], (target, notices))
    if keys:
        policy = {
            "apiKeyAuth": {
                "credentialRefs": [{"name": key_secret(keys, target, notices)}],
                "extractFrom": [{"headers": ["X-API-Key", "Authorization"]}],
                "forwardClientIDHeader": AGENT_HEADER,
                "sanitize": True,
            }
        }
        return _Callers(policy, "key:", f"request.headers['{AGENT_HEADER}']", tuple(key.name for key in keys))
    if opened:
        return _Callers({}, "anonymous", "''", ("",))
    return None


def _by_token(
    configuration: Configuration, server: Server, found: tuple[int, JwtAgents], context: tuple[Target, Notices]
) -> _Callers:
    index, method = found
    host = hostname(configuration)
    if host is None:
        raise CannotPlan("listen.url: with tokens, Envoy AI Gateway has to say where it is: write https://NAME")
    resource = f"https://{host}{server.path}"
    oauth = {
        "issuer": method.issuer,
        "audiences": list(method.audience),
        "jwks": keys_of(index, method, *context),
        "protectedResourceMetadata": {"resource": resource},
    }
    subject = f"request.auth.jwt.claims[{cel_text(method.principal_claim)}]"
    sound = cel_sound("request.auth.jwt.claims", method.principal_claim, configuration)
    return _Callers({"oauth": oauth}, f"jwt:{method.issuer}#", subject, sound=sound)


def _backend(server: Server, up: Upstream, target: Target, notices: Notices) -> Document:
    made = {**reference("Backend", up.backends[0], ENVOY), "path": up.path}
    if not isinstance(server.auth, HeaderAuth):
        return made
    secret = part_name(server.name, "credential")
    place = f"servers: {server.name}: auth"
    bearer = server.auth.name.lower() == "authorization"
    if bearer and server.auth.prefix != "Bearer ":
        raise CannotPlan(f"{place}: Envoy AI Gateway writes `Bearer ` before what is in Authorization: say prefix")
    before = "" if bearer or not server.auth.prefix else f", {server.auth.prefix!r} before it"
    notices.need(f"Secret {target.namespace}/{secret}", f"under `apiKey`: the secret of {place}{before}")
    return {**made, "securityPolicy": {"apiKey": {"secretRef": {"name": secret}, "header": server.auth.name}}}


def _rules(configuration: Configuration, server: Server, callers: _Callers, notices: Notices) -> list[Document]:
    """First what is denied, then what is allowed: the first rule that holds decides."""
    denied: list[Document] = []
    allowed: list[Document] = []
    beyond_doubt = _both(cel_origin(configuration), callers.sound)
    for policy in policies_of(configuration, server):
        place = f"policies: {policy.name}"
        tools = _tools(policy, place, notices)
        if tools.denied and (who := _who_is_denied(policy.agents, callers, place, notices)):
            denied.append({"action": "Deny", "cel": _both(who, tools.denied)})
        if tools.allowed and (who := _who_is_allowed(policy.agents, callers, place, notices)):
            allowed.append({"action": "Allow", "cel": _both(beyond_doubt, _both(who, tools.allowed))})
    rules = denied + allowed
    most = {"Deny": _LONGEST_DENIAL, "Allow": LONGEST}
    if len(rules) > _RULES or any(len(str(rule["cel"])) > most[str(rule["action"])] for rule in rules):
        raise CannotPlan(f"servers: {server.name}: its policies are more than an MCPRoute takes: use --sidecar")
    return rules


class _Tools(msgspec.Struct, frozen=True):
    """Conditions on the tool that is called; empty: none is."""

    denied: str
    allowed: str


def _tools(policy: Policy, place: str, notices: Notices) -> _Tools:
    denied: list[str] = []
    allowed: list[str] = []
    for rule in policy.requests:
        globs = rule.tools or (() if rule.prompts or rule.resources or rule.methods else ("*",))
        if not globs:
            continue
        if rule.action == Action.ALLOW and not _unseen(rule):
            allowed += globs
        elif rule.action == Action.ALLOW:
            notices.warn(f"{place}: {rule.name}", "cannot be checked: not allowed")
        else:
            denied += globs
            if rule.action == Action.REQUIRE_APPROVAL:
                notices.warn(f"{place}: {rule.name}", "nobody is asked: denied")
            elif _unseen(rule):
                notices.warn(f"{place}: {rule.name}", "cannot be checked: always denied")
    doubtful = any(not is_literal(glob) for glob in denied) and "*" not in denied
    beyond = f"size(request.mcp.tool) > {_LONGEST_TOOL} || " if doubtful else ""
    return _Tools(beyond + _one_of(denied), _one_of(allowed))


def _unseen(rule: RequestRule) -> bool:
    return bool(rule.when or rule.detect or rule.patterns)


def _one_of(globs: list[str]) -> str:
    if "*" in globs:
        return "true"
    plain = [cel_text(glob) for glob in dict.fromkeys(globs) if is_literal(glob)]
    parts = [f"request.mcp.tool in [{', '.join(plain)}]"] if plain else []
    expressions = "|".join(_expression(glob) for glob in dict.fromkeys(globs) if not is_literal(glob))
    parts += [f"request.mcp.tool.matches({cel_text(f'(?s)^(?:{expressions})$')})"] if expressions else []
    return " || ".join(parts)


def _expression(glob: str) -> str:
    """RE2, of which everything is quoted that is no letter or digit."""
    return "".join({"*": ".*", "?": "."}.get(one) or re.sub(r"([^A-Za-z0-9_])", r"\\\1", one) for one in glob)


def _both(who: str, tools: str) -> str:
    if "true" in (who, tools):
        return tools if who == "true" else who
    return f"({who}) && ({tools})"


def _who_is_allowed(agents: Agents, callers: _Callers, place: str, notices: Notices) -> str:
    """A condition that holds for none but these; empty: it would for nobody."""
    if callers.known:  # by name, also where it is everybody: the Secret may have keys that the configuration has not
        some = _among_known(agents, callers)
        if not callers.policy:
            return "true" if some else ""
        return _in(callers.subject, some) if some else ""
    found = names(agents or ("*",), callers.beginning, place, notices)
    if found.everyone:
        return "true"
    parts = [_in(callers.subject, found.exact)] if found.exact else []
    parts += [cel_like(callers.subject, *pattern) for pattern in found.patterns]
    for claims in found.claims:
        parts.append(" && ".join(_has_claim(name, value) for name, value in claims))
    return " || ".join(f"({part})" if len(parts) > 1 else part for part in parts)


def _who_is_denied(agents: Agents, callers: _Callers, place: str, notices: Notices) -> str:
    """A condition that holds for all of these, perhaps for more; empty: it would for nobody."""
    if callers.known:
        some = _among_known(agents, callers)
        if len(some) == len(callers.known):
            return "true"
        return _in(callers.subject, some) if some else ""
    unheard = Notices()
    found = names(agents or ("*",), callers.beginning, place, unheard)
    if found.everyone or found.claims or unheard.warnings:
        if not found.everyone:
            notices.warn(place, "its agents cannot be told: what it denies is denied to everybody")
        return "true"
    parts = [_in(callers.subject, found.exact)] if found.exact else []
    return " || ".join([*parts, *(f"({cel_like(callers.subject, *pattern)})" for pattern in found.patterns)])


def _among_known(agents: Agents, callers: _Callers) -> list[str]:
    globs = [agent for agent in agents if isinstance(agent, str)] if agents else ["*"]
    return [name for name in callers.known if any(matches(glob, callers.beginning + name) for glob in globs)]


def _in(subject: str, some: Iterable[str]) -> str:
    return f"{subject} in [{', '.join(cel_text(one) for one in some)}]"


def _has_claim(name: str, value: str) -> str:
    claim, text = f"request.auth.jwt.claims[{cel_text(name)}]", cel_text(value)
    return f"({claim} == {text} || (type({claim}) == list && {text} in {claim}))"
