"""How callers of a server are known at the gateway: one route for each way, and the SecurityPolicy of each.

Envoy asks a request for all that a policy names, so ways that exclude each other are routes of their own, told apart by
the header that carries the proof. The last one takes what the others leave.
"""

from collections.abc import Callable
from typing import Final

import msgspec

from openmcp.config.model import (
    ApiKey,
    ApiKeyAgents,
    Configuration,
    ForwardedAgents,
    JwtAgents,
    JwtSvidAgents,
    MtlsAgents,
    NoneAgents,
    Server,
    WorkloadAgents,
)
from openmcp.config.plan.access import Access, Agents, Names, access, as_globs, names
from openmcp.config.plan.values import AGENT_HEADER, SUBJECT_HEADER, Document, Notices, Target, duration, object_name

CERTIFICATE_ID: Final = "connection.uri_san_peer_certificate"
"""The SPIFFE ID of a client's certificate in CEL; without one, nothing can be said of it: no rule holds."""

_MOST_KEYS: Final = 256


class Door(msgspec.Struct, frozen=True, kw_only=True):
    """One way in: the `header` whose presence tells it from others (None: the last one), the spec of its
    SecurityPolicy without target, and the header that has the caller's name then (None: there is none)."""

    kind: str
    header: str | None
    policy: Document
    named: str | None


def doors(configuration: Configuration, server: Server, target: Target, notices: Notices) -> list[Door]:
    """The ways in to a server, the last one without a header of its own; none: nobody may use the server."""
    who = access(configuration, server)
    made = [
        door(configuration, who, (target, server, notices))
        for door in (_by_key, _by_token)
        if any(isinstance(method, _METHODS[door]) for method in configuration.identity.agents)
    ]
    found = [door for door in made if door is not None]
    last = _by_certificate_or_none(configuration, who, (target, server, notices))
    found += [last] if last is not None else []
    if not found:
        notices.warn(f"servers: {server.name}", "nobody that Envoy can tell may use it: there is no route")
        return []
    return [*found[:-1], msgspec.structs.replace(found[-1], header=None)]


def warn_of_methods(configuration: Configuration, notices: Notices) -> None:
    """Say which methods of identification the gateway does not have."""
    reasons = {
        JwtSvidAgents: "Envoy has no keys of a trust domain from the Workload API",
        ForwardedAgents: "the gateway is itself the proxy that callers come to",
        WorkloadAgents: "callers come over the network, not from this pod",
    }
    for index, method in enumerate(configuration.identity.agents):
        for kind, reason in reasons.items():
            if isinstance(method, kind):
                notices.warn(f"identity.agents[{index}]", f"not at the gateway: {reason}; such callers are not let in")


_Context = tuple[Target, Server, Notices]


def _by_key(configuration: Configuration, who: Access, context: _Context) -> Door | None:
    target, server, notices = context
    keys = [key for method in configuration.identity.agents if isinstance(method, ApiKeyAgents) for key in method.keys]
    allowed = [key.name for key in keys if who.allows_name(f"key:{key.name}")]
    if not allowed:
        return None
    tokens = any(isinstance(method, JwtAgents) for method in configuration.identity.agents)
    if tokens:
        notices.warn("identity.agents", "API keys are taken in X-API-Key alone, as Authorization is for JWTs")
    elif not _closed(configuration, server):
        notices.warn("identity.agents", "API keys are taken in X-API-Key alone, as others may come without one")
    alone = not tokens and _closed(configuration, server)
    secret = key_secret(keys, target, notices)
    if len(allowed) > _MOST_KEYS:
        notices.warn(
            f"servers: {server.name}", f"Envoy Gateway takes {_MOST_KEYS} keys in a rule: others are not let in"
        )
    values = [{"name": AGENT_HEADER, "values": allowed[:_MOST_KEYS]}]
    authorization = _rules([{"name": "keys", "action": "Allow", "principal": {"headers": values}}], configuration)
    return Door(
        kind="key",
        header="x-api-key",
        named=AGENT_HEADER,
        policy={
            "apiKeyAuth": {
                "credentialRefs": [{"name": secret}],
                "extractFrom": [{"headers": ["X-API-Key", "Authorization"] if alone else ["X-API-Key"]}],
                "forwardClientIDHeader": AGENT_HEADER,
                "sanitize": True,
            },
            "authorization": authorization,
        },
    )


def key_secret(keys: list[ApiKey], target: Target, notices: Notices) -> str:
    """The name of the Secret with the keys of callers, which somebody has to make."""
    secret = object_name(target.name, "api-keys")
    notices.need(
        f"Secret {target.namespace}/{secret}",
        f"the API keys in the clear, each under the name of its caller ({', '.join(key.name for key in keys)}): "
        "the configuration has their digests alone",
    )
    return secret


def _by_token(configuration: Configuration, who: Access, context: _Context) -> Door | None:
    target, server, notices = context
    methods = [
        (index, method) for index, method in enumerate(configuration.identity.agents) if isinstance(method, JwtAgents)
    ]
    rules: list[Document] = []
    for index, method in methods:
        rules += _token_rules(index, method, who, server, notices)
    if not any(rule["action"] == "Allow" for rule in rules):
        return None
    providers = [provider(index, method, target, notices) for index, method in methods]
    return Door(
        kind="jwt",
        header="authorization",
        named=SUBJECT_HEADER,
        policy={"jwt": {"providers": providers}, "authorization": _rules(rules, configuration)},
    )


def provider(index: int, method: JwtAgents, target: Target, notices: Notices) -> Document:
    """One issuer of tokens."""
    where = f"identity.agents[{index}]"
    if len(method.audience) > 8:
        notices.warn(f"{where}.audience", "Envoy Gateway takes eight audiences: the others are not let in")
    return {
        "name": f"jwt-{index}",
        "issuer": method.issuer,
        "audiences": list(method.audience[:8]),
        **keys_of(index, method, target, notices),
        "claimToHeaders": [{"claim": method.principal_claim, "header": SUBJECT_HEADER}],
        "extractFrom": {"headers": [{"name": "Authorization", "valuePrefix": "Bearer "}]},
    }


def keys_of(index: int, method: JwtAgents, target: Target, notices: Notices) -> Document:
    """Where the keys of an issuer come from, as a part of its provider."""
    where = f"identity.agents[{index}].jwks"
    if method.jwks.url is None:
        keys = object_name(target.name, "jwks", str(index))
        notices.need(f"ConfigMap {target.namespace}/{keys}", f"under the key `jwks`: the key set of {where}.file")
        return {"localJWKS": {"type": "ValueRef", "valueRef": {"group": "", "kind": "ConfigMap", "name": keys}}}
    if method.jwks.ca is not None:
        notices.warn(f"{where}.ca", "Envoy fetches the key set by the system's roots: no token is let in before it can")
    return {"remoteJWKS": {"uri": method.jwks.url, "cacheDuration": duration(300)}}


def _token_rules(index: int, method: JwtAgents, who: Access, server: Server, notices: Notices) -> list[Document]:
    beginning, place = f"jwt:{method.issuer}#", f"servers: {server.name}"
    name, claim = f"jwt-{index}", method.principal_claim

    def exact(some: list[str]) -> Document:
        return {"principal": {"jwt": {"provider": name, "claims": [{"name": claim, "values": some}]}}}

    allowed = names(who.agents, beginning, place, notices)
    rules = _deny_rules(name, names(who.denied, beginning, place, notices), who.denied, exact, (place, notices))
    if rules is None:
        return []
    token = f"metadata.filter_metadata['envoy.filters.http.jwt_authn']['{name}']"
    conditions = [f"{token}['iss'] == {cel_text(method.issuer)}"] if allowed.everyone else []
    conditions += [cel_like(f"{token}[{cel_text(claim)}]", *pattern) for pattern in allowed.patterns]
    rules += [{"name": name, "action": "Allow", "cel": condition} for condition in conditions]
    rules += [{"name": f"{name}-names", "action": "Allow", **exact(some)} for some in _chunks(allowed.exact, 128)]
    return [*rules, *(rule for claims in allowed.claims for rule in _claim_rules(name, claims))]


def _claim_rules(provider: str, claims: tuple[tuple[str, str], ...]) -> list[Document]:
    """Rules for tokens with all of these claims: as they are, or each in a list."""
    made: list[Document] = []
    for kind in ("String", "StringArray"):
        wanted = [{"name": name, "valueType": kind, "values": [value]} for name, value in claims]
        principal = {"jwt": {"provider": provider, "claims": wanted}}
        made.append({"name": f"{provider}-claims", "action": "Allow", "principal": principal})
    return made


def _deny_rules(
    name: str, denied: Names, agents: Agents, exact: Callable[[list[str]], Document], told: tuple[str, Notices]
) -> list[Document] | None:
    """The rules for callers that nothing is allowed to; None where they cannot be told from others."""
    if denied.everyone:
        return None
    if denied.patterns or denied.claims or any(not isinstance(agent, str) for agent in agents):
        told[1].warn(
            told[0], f"a rule denies everything to agents that Envoy cannot tell: no caller of {name} is let in"
        )
        return None
    return [{"name": f"{name}-denied", "action": "Deny", **exact(some)} for some in _chunks(denied.exact, 128)]


def _by_certificate_or_none(configuration: Configuration, who: Access, context: _Context) -> Door | None:
    _, server, notices = context
    rules: list[Document] = []
    for domain in domains(configuration):
        rules += _certificate_rules(domain, who, server, notices)
    if not _closed(configuration, server) and who.allows_name("anonymous"):
        # who presents something is never anonymous
        empty = ["!connection.mtls"] * bool(domains(configuration))
        if any(isinstance(method, ApiKeyAgents | JwtAgents) for method in configuration.identity.agents):
            empty += [f"!('{header}' in request.headers)" for header in ("authorization", "x-api-key")]
        rules.append({"name": "anonymous", "action": "Allow", "cel": " && ".join(empty) or "true"})
    if not any(rule["action"] == "Allow" for rule in rules):
        return None
    kind = "certificate" if domains(configuration) else "anonymous"
    return Door(kind=kind, header=None, named=None, policy={"authorization": _rules(rules, configuration)})


def _certificate_rules(domain: str, who: Access, server: Server, notices: Notices) -> list[Document]:
    beginning, place = f"spiffe://{domain}/", f"servers: {server.name}"

    def exact(some: list[str]) -> Document:
        return {"cel": f"{CERTIFICATE_ID} in [{', '.join(cel_text(beginning + one) for one in some)}]"}

    allowed = names(as_globs(who.agents, domain), beginning, place, notices)
    denied = as_globs(who.denied, domain)
    rules = _deny_rules("certificate", names(denied, beginning, place, notices), denied, exact, (place, notices))
    if rules is None:
        return []
    patterns = [("", "")] if allowed.everyone else list(allowed.patterns)
    for some in _chunks(allowed.exact, 10):
        rules.append({"name": "certificate", "action": "Allow", **exact(some)})
    for before, after in patterns:
        rules.append(
            {"name": "certificate", "action": "Allow", "cel": cel_like(CERTIFICATE_ID, beginning + before, after)}
        )
    return rules


def domains(configuration: Configuration) -> tuple[str, ...]:
    """The trust domains whose certificates make somebody known."""
    found = [
        one for made in configuration.identity.agents if isinstance(made, MtlsAgents) for one in made.trust_domains
    ]
    return tuple(dict.fromkeys(found))


def _closed(configuration: Configuration, server: Server) -> bool:
    """Whether nobody may come without a proof."""
    return server.require_auth and not any(isinstance(made, NoneAgents) for made in configuration.identity.agents)


def _rules(rules: list[Document], configuration: Configuration) -> Document:
    """The rules, with what browsers may not do: a request with an `Origin` that is not listed is let in by none.

    A condition that cannot be evaluated is no match: what allows is never a negation of what failed.
    """
    origins = ", ".join(cel_text(origin) for origin in configuration.listen.allowed_origins)
    here = "!('origin' in request.headers)"
    if origins:
        here = f"({here} || request.headers['origin'] in [{origins}])"
    made = []
    for index, rule in enumerate(rules):
        named = {**rule, "name": f"{rule['name']}-{index}"}
        if rule["action"] == "Allow":
            own = rule.get("cel", "true")
            named["cel"] = here if own == "true" else f"{here} && {own}"
        made.append(named)
    return {"defaultAction": "Deny", "rules": made}


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


def _chunks(items: tuple[str, ...], size: int) -> list[list[str]]:
    return [list(items[at : at + size]) for at in range(0, len(items), size)]


_METHODS: Final = {_by_key: ApiKeyAgents, _by_token: JwtAgents}
