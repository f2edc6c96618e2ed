"""Callers with a token of an issuer: providers of Envoy Gateway, and rules on claims."""

from typing import Final

from openmcp.config.model import Configuration, Jwks, JwtAgents, Server
from openmcp.config.plan.access import Access, names
from openmcp.config.plan.conditions import cel_like, cel_sound, cel_text, deny_rules, portions
from openmcp.config.plan.values import SUBJECT_HEADER, Document, Notices, Target, duration, object_name

_MOST_AUDIENCES: Final = 8
_LONGEST_CLAIM: Final = 253
_DEFAULTS: Final = JwtAgents(issuer="", audience=(), jwks=Jwks())


def provider(index: int, method: JwtAgents, target: Target, notices: Notices) -> Document:
    """One issuer of tokens."""
    where = f"identity.agents[{index}]"
    if len(method.audience) > _MOST_AUDIENCES:
        notices.warn(f"{where}.audience", "Envoy Gateway takes eight audiences: the others are not let in")
    return {
        "name": f"jwt-{index}",
        "issuer": method.issuer,
        "audiences": list(method.audience[:_MOST_AUDIENCES]),
        **keys_of(index, method, target, notices),
        "claimToHeaders": [{"claim": method.principal_claim, "header": SUBJECT_HEADER}],
        "extractFrom": {"headers": [{"name": "Authorization", "valuePrefix": "Bearer "}]},
    }


def keys_of(index: int, method: JwtAgents, target: Target, notices: Notices) -> Document:
    """Where the keys of an issuer come from, as a part of its provider."""
    where = f"identity.agents[{index}]"
    if method.algorithms != _DEFAULTS.algorithms:
        notices.warn(f"{where}.algorithms", "Envoy takes every algorithm that fits a key of the set")
    if method.clock_skew != _DEFAULTS.clock_skew:
        notices.warn(f"{where}.clockSkew", "Envoy lets clocks differ by a minute")
    if method.jwks.url is None:
        keys = object_name(target.name, "jwks", str(index))
        notices.need(f"ConfigMap {target.namespace}/{keys}", f"under the key `jwks`: the key set of {where}.jwks.file")
        return {"localJWKS": {"type": "ValueRef", "valueRef": {"group": "", "kind": "ConfigMap", "name": keys}}}
    if method.jwks.ca is not None:
        notices.warn(
            f"{where}.jwks.ca", "Envoy fetches the key set by the system's roots: no token is let in before it can"
        )
    return {"remoteJWKS": {"uri": method.jwks.url, "cacheDuration": duration(300)}}


def token_rules(
    found: tuple[int, JwtAgents], who: Access, context: tuple[Configuration, Server, Notices]
) -> list[Document]:
    """Rules for tokens of one issuer; none that allows: nobody gets in by one."""
    index, method = found
    configuration, server, notices = context
    beginning, place = f"jwt:{method.issuer}#", f"servers: {server.name}"
    name, claim = f"jwt-{index}", method.principal_claim
    if not _is_plain(claim):
        notices.warn(
            f"identity.agents[{index}].principalClaim",
            "Envoy Gateway takes a dot for a claim within a claim: nobody is let in by these tokens",
        )
        return []

    def exact(some: list[str]) -> Document:
        return {"principal": {"jwt": {"provider": name, "claims": [{"name": claim, "values": some}]}}}

    allowed = names(who.agents, beginning, place, notices)
    rules = deny_rules(name, who.denied, beginning, exact, (place, notices))
    if rules is None:
        return []
    token = f"metadata.filter_metadata['envoy.filters.http.jwt_authn']['{name}']"
    sound = cel_sound(token, claim, configuration)
    conditions = [f"{token}['iss'] == {cel_text(method.issuer)}"] if allowed.everyone else []
    conditions += [cel_like(f"{token}[{cel_text(claim)}]", *pattern) for pattern in allowed.patterns]
    rules += [{"name": name, "action": "Allow", "cel": f"{sound} && {condition}"} for condition in conditions]
    rules += [
        {"name": f"{name}-names", "action": "Allow", "cel": sound, **exact(some)} for some in portions(allowed.exact)
    ]
    for claims in allowed.claims:
        if not all(_is_plain(wanted) for wanted, _ in claims):
            notices.warn(place, "agents told by claims with a dot in their name: not by Envoy, and not let in")
            continue
        rules += ({**rule, "cel": sound} for rule in _claim_rules(name, claims))
    return rules


def _is_plain(claim: str) -> bool:
    return "." not in claim and len(claim) <= _LONGEST_CLAIM


def _claim_rules(provider: str, claims: tuple[tuple[str, str], ...]) -> list[Document]:
    """Rules for tokens with all of these claims: as they are, or each in a list."""
    made: list[Document] = []
    for kind in ("String", "StringArray"):
        wanted = [{"name": name, "valueType": kind, "values": [value]} for name, value in claims]
        principal = {"jwt": {"provider": provider, "claims": wanted}}
        made.append({"name": f"{provider}-claims", "action": "Allow", "principal": principal})
    return made
