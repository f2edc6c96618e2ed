"""Whom the methods of `identity.agents` can identify, and whether a policy means any of them."""

from collections.abc import Iterator

import msgspec

from openmcp.config.globs import overlap
from openmcp.config.model import (
    AgentIdentification,
    AgentSelector,
    ApiKeyAgents,
    Configuration,
    ForwardedAgents,
    JwtAgents,
    JwtSvidAgents,
    MtlsAgents,
    WorkloadAgents,
)
from openmcp.identity.globs import matches


class Callers(msgspec.Struct, frozen=True):
    """Callers that one method can identify: a glob on their names, whether they have a SPIFFE ID (of this trust domain;
    empty: of any) and whether they have claims."""

    glob: str
    domain: str | None = None
    claims: bool = False

    def may_be(self, agent: str | AgentSelector) -> bool:
        """Whether one of them may be meant by an entry of a policy's `agents`."""
        if isinstance(agent, str):
            return overlap(agent, self.glob)
        by_id = (agent.trust_domain, agent.namespace, agent.service_account) != (None, None, None)
        if by_id and self.domain is None:
            return False
        if agent.trust_domain is not None and self.domain and not matches(agent.trust_domain, self.domain):
            return False
        return self.claims or not agent.claims


def callers(made: Configuration) -> list[Callers]:
    """All that can call; who is let in unidentified is `anonymous`."""
    found = [caller for method in made.identity.agents for caller in _of(method)]
    if not all(server.require_auth for server in made.servers):
        found.append(Callers("anonymous"))
    return list(dict.fromkeys(found))


def _of(method: AgentIdentification) -> Iterator[Callers]:
    if isinstance(method, ApiKeyAgents):
        yield from (Callers(f"key:{key.name}") for key in method.keys)
    elif isinstance(method, JwtAgents):
        yield Callers(f"jwt:{method.issuer}#*", claims=True)
    elif isinstance(method, WorkloadAgents):
        yield Callers("spiffe://*", "")
    elif isinstance(method, MtlsAgents | JwtSvidAgents | ForwardedAgents):
        claims = isinstance(method, JwtSvidAgents)
        domains = method.trust_domains
        yield from (Callers(f"spiffe://{domain}/*", domain, claims) for domain in domains)
        if not domains:
            yield Callers("spiffe://*", "")
    else:
        yield Callers("anonymous")
