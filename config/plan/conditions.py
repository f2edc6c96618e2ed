"""Conditions in CEL, and rules made of them: what Envoy asks of a request before it lets it in."""

from collections.abc import Callable, Iterable
from typing import Final

from openmcp.config.model import Configuration, JwtSvidAgents
from openmcp.config.plan.access import Agents, names
from openmcp.config.plan.values import CannotPlan, Document, Notices

LONGEST: Final = 4096
"""Characters of one condition."""
_ROOM: Final = 2048
"""Of these, for names that are listed in one; the rest is for what else it says."""
_MOST_NAMES: Final = 128
_MAX_SUBJECT: Final = 256
"""Characters of a token's subject, as the sidecar takes it."""


def cel_like(subject: str, before: str, after: str) -> str:
    """A condition in CEL: a text begins and ends so."""
    if not after:
        return f"{subject}.startsWith({cel_text(before)})"
    # as long as both together: the two may not overlap
    return (
        f"{subject}.startsWith({cel_text(before)}) && {subject}.endsWith({cel_text(after)}) && "
        f"size({subject}) >= {len(before) + len(after)}"
    )


def cel_text(text: str) -> str:
    """A text in CEL."""
    plain = text.replace("\\", "\\\\").replace("'", "\\'")
    return "'" + "".join(one if one.isprintable() else f"\\U{ord(one):08x}" for one in plain) + "'"


def cel_sound(token: str, claim: str, configuration: Configuration) -> str:
    """A condition on the claims of a token that the sidecar has and Envoy has not: it ends, is not bound to a key, and
    says in `claim` who calls, by a text that can be a name. Where JWT-SVIDs are taken, what says that it is one is not
    for its issuer."""
    who = f"{token}[{cel_text(claim)}]"
    name = f"size({who}) > 0 && size({who}) <= {_MAX_SUBJECT} && !{who}.contains('#')"
    blanks = f"!{who}.startsWith(' ') && !{who}.endsWith(' ')"
    sound = f"double({token}['exp']) > 0.0 && !('cnf' in {token}) && {name} && {blanks}"
    if not any(isinstance(method, JwtSvidAgents) for method in configuration.identity.agents):
        return sound
    return f"{sound} && (!('sub' in {token}) || !{token}['sub'].startsWith('spiffe://'))"


def cel_origin(configuration: Configuration) -> str:
    """A condition on the `Origin` of a request: there is none, or it is listed."""
    origins = ", ".join(cel_text(origin) for origin in configuration.listen.allowed_origins)
    here = "!('origin' in request.headers)"
    return f"({here} || request.headers['origin'] in [{origins}])" if origins else here


def _cel_fit(configuration: Configuration) -> str:
    """A condition on what sidecars pass on from anybody: a method of MCP, no query (which they take off, and Envoy
    cannot), an `Origin` that is listed, if any."""
    fit = "request.method in ['POST', 'GET', 'DELETE'] && !request.path.contains('?')"
    return f"{fit} && {cel_origin(configuration)}"


def rules_of(rules: list[Document], configuration: Configuration) -> Document:
    """The rules, with what nobody may do: what a sidecar would pass on from nobody is let in by none.

    A condition that cannot be evaluated is no match: what allows is never a negation of what failed. Raises
    `CannotPlan`.
    """
    fit = _cel_fit(configuration)
    made = []
    for index, rule in enumerate(rules):
        named = {**rule, "name": f"{rule['name']}-{index}"}
        if rule["action"] == "Allow":
            own = rule.get("cel", "true")
            named["cel"] = fit if own == "true" else f"{fit} && {own}"
        if len(str(named.get("cel", ""))) > LONGEST:
            raise CannotPlan("listen.allowedOrigins, policies: more in one condition than Envoy Gateway takes")
        made.append(named)
    return {"defaultAction": "Deny", "rules": made}


def deny_rules(
    name: str, agents: Agents, beginning: str, exact: Callable[[list[str]], Document], told: tuple[str, Notices]
) -> list[Document] | None:
    """The rules for those of `agents` whose names begin with `beginning`, to whom nothing is allowed; None where they
    cannot be told from others."""
    place, notices = told
    unheard = Notices()
    denied = names(agents, beginning, place, unheard)
    if denied.everyone:
        return None
    beyond = unheard.warnings or any(not isinstance(agent, str) for agent in agents)
    if denied.patterns or denied.claims or beyond:
        notices.warn(place, f"a rule denies everything to agents that Envoy cannot tell: no caller of {name} is let in")
        return None
    return [{"name": f"{name}-denied", "action": "Deny", **exact(some)} for some in portions(denied.exact)]


def portions(some: Iterable[str]) -> list[list[str]]:
    """Names in lists that are short enough for one rule."""
    made: list[list[str]] = []
    room = 0
    for name in some:
        size = len(cel_text(name)) + 80  # what stands before each of them
        if room < size or len(made[-1]) == _MOST_NAMES:
            made.append([])
            room = max(_ROOM, size)
        made[-1].append(name)
        room -= size
    return made
