"""How callers of a server are known at the gateway: one route for each way, and the SecurityPolicy of each.

Envoy asks a request for all that a policy names, so ways that exclude each other are routes of their own, told apart by
the header that carries the proof. The last one takes what the others leave.
"""

import itertools
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
from openmcp.config.plan.access import Access, access, as_globs, names
from openmcp.config.plan.conditions import cel_like, cel_text, deny_rules, portions, rules_of
from openmcp.config.plan.tokens import provider, token_rules
from openmcp.config.plan.values import AGENT_HEADER, SUBJECT_HEADER, Document, Notices, Target, object_name

CERTIFICATE_ID: Final = "connection.uri_san_peer_certificate"
"""The SPIFFE ID of a client's certificate in CEL; without one, nothing can be said of it: no rule holds."""

_MOST_KEYS: Final = 256
_MOST_ISSUERS: Final = 16


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
    keys = api_keys(configuration)
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
    authorization = rules_of([{"name": "keys", "action": "Allow", "principal": {"headers": values}}], configuration)
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
    methods = issuers(configuration)
    if len(methods) > _MOST_ISSUERS:
        notices.warn("identity.agents", f"Envoy Gateway takes {_MOST_ISSUERS} issuers: tokens of others let nobody in")
        methods = methods[:_MOST_ISSUERS]
    rules: list[Document] = []
    for found in methods:
        rules += token_rules(found, who, (configuration, server, notices))
    if not any(rule["action"] == "Allow" for rule in rules):
        return None
    providers = [provider(index, method, target, notices) for index, method in methods]
    return Door(
        kind="jwt",
        header="authorization",
        named=SUBJECT_HEADER,
        policy={"jwt": {"providers": providers}, "authorization": rules_of(rules, configuration)},
    )


def _by_certificate_or_none(configuration: Configuration, who: Access, context: _Context) -> Door | None:
    _, server, notices = context
    rules: list[Document] = []
    for domain in domains(configuration):
        rules += _certificate_rules(domain, who, server, notices)
    if not _closed(configuration, server) and who.allows_name("anonymous"):
        # who presents something is never anonymous
        empty = ["!connection.mtls"] * bool(domains(configuration))
        if any(
            isinstance(method, ApiKeyAgents | JwtAgents | JwtSvidAgents) for method in configuration.identity.agents
        ):
            empty += [f"!('{header}' in request.headers)" for header in ("authorization", "x-api-key")]
        rules.append({"name": "anonymous", "action": "Allow", "cel": " && ".join(empty) or "true"})
    if not any(rule["action"] == "Allow" for rule in rules):
        return None
    kind = "certificate" if domains(configuration) else "anonymous"
    return Door(kind=kind, header=None, named=None, policy={"authorization": rules_of(rules, configuration)})


def _certificate_rules(domain: str, who: Access, server: Server, notices: Notices) -> list[Document]:
    beginning, place = f"spiffe://{domain}/", f"servers: {server.name}"

    def exact(some: list[str]) -> Document:
        return {"cel": f"{CERTIFICATE_ID} in [{', '.join(cel_text(beginning + one) for one in some)}]"}

    allowed = names(as_globs(who.agents, domain), beginning, place, notices)
    rules = deny_rules("certificate", as_globs(who.denied, domain), beginning, exact, (place, notices))
    if rules is None:
        return []
    patterns = [("", "")] if allowed.everyone else list(allowed.patterns)
    for some in portions(allowed.exact):
        rules.append({"name": "certificate", "action": "Allow", **exact(some)})
    for before, after in patterns:
        rules.append(
            {"name": "certificate", "action": "Allow", "cel": cel_like(CERTIFICATE_ID, beginning + before, after)}
        )
    return rules


def domains(configuration: Configuration) -> tuple[str, ...]:
    """The trust domains whose certificates make somebody known; behind `none`, which takes all, nobody asks for one."""
    methods = configuration.identity.agents
    asked = itertools.takewhile(lambda method: not isinstance(method, NoneAgents), methods)
    first = next((method for method in asked if isinstance(method, MtlsAgents)), None)
    return first.trust_domains if first is not None else ()


def api_keys(configuration: Configuration) -> list[ApiKey]:
    """The keys that make somebody known; the first entry refuses those of others."""
    return next((list(one.keys) for one in configuration.identity.agents if isinstance(one, ApiKeyAgents)), [])


def issuers(configuration: Configuration) -> list[tuple[int, JwtAgents]]:
    """The issuers of tokens, with their places; the first entry of an issuer decides."""
    found: dict[str, tuple[int, JwtAgents]] = {}
    for index, method in enumerate(configuration.identity.agents):
        if isinstance(method, JwtAgents):
            found.setdefault(method.issuer, (index, method))
    return list(found.values())


def _closed(configuration: Configuration, server: Server) -> bool:
    """Whether nobody may come without a proof."""
    return server.require_auth and not any(isinstance(made, NoneAgents) for made in configuration.identity.agents)


_METHODS: Final = {_by_key: ApiKeyAgents, _by_token: JwtAgents}
