"""Whether who we are, how callers are known and where we listen fit together."""

import ipaddress
from collections.abc import Mapping

from openmcp.config.addresses import shown
from openmcp.config.cursor import At
from openmcp.config.model import (
    ApiKeyAgents,
    Configuration,
    ForwardedAgents,
    JwtAgents,
    JwtSvidAgents,
    JwtSvidAuth,
    MtlsAgents,
    NoneAgents,
    SpiffeTls,
    SvidSelection,
    WebTls,
    WorkloadAgents,
)
from openmcp.config.uses import Use, workload_api_uses
from openmcp.identity.addresses import is_this_machine

_NO_SUCH = "the Workload API gives what this needs, and `identity.workloadApi` is none"


def check_identity(made: Configuration, sections: Mapping[str, At], servers: Mapping[str, At]) -> None:
    """Report errors and warnings; the mappings give the places of sections and servers by name."""
    identity, listen = sections.get("identity"), sections.get("listen")
    entries = _entries(identity, "agents")
    if made.identity.workload_api == "":
        _without_workload_api(made, sections, servers)
    local = is_this_machine(made.listen.mcp.host)
    for method, at in zip(made.identity.agents, entries, strict=True):
        if isinstance(method, MtlsAgents):
            _mtls(made, method, at)
        elif isinstance(method, ForwardedAgents):
            _forwarded(at)
        elif isinstance(method, WorkloadAgents) and not local:
            at.warn(
                f"{shown(made.listen.mcp)} is reached from elsewhere, and only callers over loopback are our workload",
                "this is for a sidecar beside its agent: write mcp: 127.0.0.1:15001",
            )
    _never_asked(made, entries, local)
    _shared_audiences(made, servers)
    if listen is not None:
        _in_the_clear(made, listen, local)
        _unused_client_ca(made, listen)


def _entries(at: At | None, key: str) -> list[At]:
    found = at.key(key) if at is not None else None
    return (found.items() if found is not None else None) or []


def _without_workload_api(made: Configuration, sections: Mapping[str, At], servers: Mapping[str, At]) -> None:
    identity = sections.get("identity")
    for use in workload_api_uses(made):
        place = _place(use, sections, servers)
        if place is not None:
            place.error(_NO_SUCH, "write its address, or take another type here")
    svid = identity.key("svid") if identity is not None else None
    if svid is not None and made.identity.svid != SvidSelection():
        svid.error("`svid` has no meaning with `workloadApi: none`", "remove one of them")


def _place(use: Use, sections: Mapping[str, At], servers: Mapping[str, At]) -> At | None:
    if use.where == "agents":
        return _entries(sections.get("identity"), "agents")[use.index]
    if use.where == "auth":
        return servers[use.server].key("auth")
    section, key = ("listen", "tls") if use.where == "tls" else ("state", "credentials")
    at = sections.get(section)
    return at.key(key) if at is not None else None


def _mtls(made: Configuration, method: MtlsAgents, at: At) -> None:
    tls = made.listen.tls
    if tls is None:
        at.error(
            "`type: mtls` needs TLS on the listener",
            "write listen.tls: {type: spiffe, trustDomains: [...]}, or certificate, key and clientCa",
        )
    elif isinstance(tls, WebTls) and tls.client_ca is None:
        at.error("`listen.tls` asks for no client certificates", "write clientCa there, or type: spiffe")
    elif isinstance(tls, SpiffeTls):
        for item in _entries(at, "trustDomains"):
            if item.text() not in tls.trust_domains:
                item.error(
                    f"`listen.tls` refuses agents of {item.text()}", "add it to listen.tls.trustDomains, or remove it"
                )


def _forwarded(at: At) -> None:
    for item in _entries(at, "from"):
        if ipaddress.ip_network(item.text()).prefixlen == 0:
            item.warn(
                f"{item.text()} is everybody: any caller may say who it is", "write the addresses of the proxies alone"
            )


def _never_asked(made: Configuration, entries: list[At], local: bool) -> None:
    """Entries behind one that takes every caller who presents no token and no key."""
    for index, method in enumerate(made.identity.agents):
        if isinstance(method, NoneAgents):
            kind, robbed = "none", MtlsAgents | ForwardedAgents | WorkloadAgents
        elif isinstance(method, WorkloadAgents) and local:
            kind, robbed = "workload", MtlsAgents
        else:
            continue
        for other, at in list(zip(made.identity.agents, entries, strict=True))[index + 1 :]:
            if isinstance(other, robbed):
                at.warn(f"never applies: `type: {kind}` before it takes such callers", "put that one last")
        return


def _shared_audiences(made: Configuration, servers: Mapping[str, At]) -> None:
    """A JWT-SVID is a bearer token: who gets it can show it to all others that take its audience."""
    taken = {method.audience: "this gateway" for method in made.identity.agents if isinstance(method, JwtSvidAgents)}
    for server in made.servers:
        auth, place = server.auth, servers[server.name].key("auth")
        audience = place.key("audience") if isinstance(auth, JwtSvidAuth) and place is not None else None
        if not isinstance(auth, JwtSvidAuth) or audience is None:
            continue
        other = taken.setdefault(auth.audience, f'server "{server.name}"')
        if other != f'server "{server.name}"':
            audience.warn(
                f'{other} takes the same audience: server "{server.name}" could call there with our token, as us',
                "an audience of its own for each",
            )


def _in_the_clear(made: Configuration, listen: At, local: bool) -> None:
    bearer = any(isinstance(method, JwtSvidAgents | JwtAgents | ApiKeyAgents) for method in made.identity.agents)
    encrypted = made.listen.tls is not None or (made.listen.url or "").startswith("https:")
    if bearer and not local and not encrypted:
        (listen.key("mcp") or listen).warn(
            f"agents send their keys and tokens to {shown(made.listen.mcp)} in the clear",
            "write `tls`, or `url: https://...` where a proxy or a mesh ends TLS before it",
        )


def _unused_client_ca(made: Configuration, listen: At) -> None:
    tls = listen.key("tls")
    client_ca = tls.key("clientCa") if tls is not None else None
    if client_ca is not None and not any(isinstance(method, MtlsAgents) for method in made.identity.agents):
        client_ca.warn(
            "client certificates are verified, and nobody is known by them",
            "write agents: [{type: mtls, trustDomains: [...]}]",
        )
