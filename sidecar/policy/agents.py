"""Which callers a policy is about: globs on the principal, parts of a SPIFFE ID, claims."""

import re
from collections.abc import Iterable
from typing import Final

from openmcp.config.model import AgentSelector
from openmcp.identity.principal import Principal
from openmcp.sidecar.policy.globs import GlobSet

# A fixed pattern, not one that a user wrote. Source: SPIFFE-ID, section 2 (trust domain name, path segments).
_SPIFFE_ID: Final = re.compile(r"spiffe://([a-z0-9._-]+)((?:/[A-Za-z0-9._-]+)*)")
_DOTS: Final = frozenset((".", ".."))


class Agents:
    """The agents of one policy; none given: all."""

    __slots__ = ("_everyone", "_globs", "_selectors")

    def __init__(self, agents: Iterable[str | AgentSelector]) -> None:
        given = tuple(agents)
        self._everyone = not given
        self._globs = GlobSet(agent for agent in given if isinstance(agent, str))
        self._selectors = [_Selector(agent) for agent in given if isinstance(agent, AgentSelector)]

    def match(self, agent: Principal) -> bool:
        """Whether the policy is about this caller."""
        if self._everyone or self._globs.matches(agent.name):
            return True
        return any(selector.matches(agent) for selector in self._selectors)


class _Selector:
    """One `{trustDomain, namespace, serviceAccount, claims}`; what is given must match, all of it."""

    __slots__ = ("_claims", "_path", "_trust_domain")

    def __init__(self, selector: AgentSelector) -> None:
        self._trust_domain = _optional(selector.trust_domain)
        self._path = (_optional(selector.namespace), _optional(selector.service_account))
        self._claims = [(name, GlobSet((glob,))) for name, glob in selector.claims]

    def matches(self, agent: Principal) -> bool:
        return self._matches_identity(agent.name) and all(
            any(name == wanted and globs.matches(value) for name, value in agent.claims)
            for wanted, globs in self._claims
        )

    def _matches_identity(self, name: str) -> bool:
        namespace, account = self._path
        if self._trust_domain is None and namespace is None and account is None:
            return True
        parsed = parse(name)
        if parsed is None or not _fits(self._trust_domain, parsed[0]):
            return False
        if namespace is None and account is None:
            return True
        segments = parsed[1]
        if len(segments) != 4 or (segments[0], segments[2]) != ("ns", "sa"):
            return False
        return _fits(namespace, segments[1]) and _fits(account, segments[3])


def parse(name: str) -> tuple[str, list[str]] | None:
    """The trust domain and the path segments of a SPIFFE ID; None for anything else."""
    found = _SPIFFE_ID.fullmatch(name)
    if found is None:
        return None
    segments = found[2].split("/")[1:]
    return None if not _DOTS.isdisjoint(segments) else (found[1], segments)


def _optional(glob: str | None) -> GlobSet | None:
    return None if glob is None else GlobSet((glob,))


def _fits(globs: GlobSet | None, text: str) -> bool:
    return globs is None or globs.matches(text)
