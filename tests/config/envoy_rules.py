"""What Envoy decides by a plan, said again in a few lines: routes, API keys, tokens, rules in CEL.

`tests/real/test_plan_envoy.py` holds what is assumed here against a real Envoy.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import celpy

from openmcp.config.plan import Plan

Json = Mapping[str, Any]
_ENVIRONMENT = celpy.Environment()


@dataclass(frozen=True)
class Asking:
    """A request as Envoy sees it: headers in lower case, the SPIFFE ID of the certificate, and what of its tokens and
    keys is true: the claims of its token where the signature is good, keys by their name."""

    path: str
    headers: Mapping[str, str]
    certificate: str | None = None
    claims: Json | None = None
    keys: Mapping[str, str] = field(default_factory=dict)
    host: str = "g.example"


@functools.cache
def _program(text: str) -> Any:
    return _ENVIRONMENT.program(_ENVIRONMENT.compile(text))


def holds(text: str, about: Json) -> bool:
    """Whether a condition in CEL is true; one that cannot be evaluated is not."""
    try:
        found = _program(text).evaluate({name: celpy.json_to_cel(value) for name, value in about.items()})
        return isinstance(found, celpy.celtypes.BoolType | bool) and bool(found)
    except celpy.CELEvalError:
        return False


def lets_in(made: Plan, asking: Asking) -> bool:
    """Whether one of the routes that may be taken for a request lets it in."""
    routes = [
        document
        for document in made.documents
        if document["kind"] == "HTTPRoute" and _matches(document["spec"], asking)
    ]
    narrowest = max((_headers(route["spec"]) for route in routes), default=0)
    return any(_decides(made, route, asking) for route in routes if _headers(route["spec"]) == narrowest)


def lets_call(made: Plan, asking: Asking, tool: str) -> bool:
    """Whether Envoy AI Gateway lets a request call a tool."""
    for document in made.documents:
        if document["kind"] == "MCPRoute" and document["spec"]["path"] == asking.path:
            return _lets_call(document["spec"]["securityPolicy"], asking, tool)
    return False


def _lets_call(policy: Json, asking: Asking, tool: str) -> bool:
    headers, claims = dict(asking.headers), {}
    if "apiKeyAuth" in policy:
        name = _key(policy["apiKeyAuth"], asking)
        if name is None:
            return False
        headers[policy["apiKeyAuth"]["forwardClientIDHeader"]] = name
    if "oauth" in policy:
        (claims,) = _tokens({"providers": [{"name": "oauth", **policy["oauth"]}]}, asking).values() or ({},)
        if not claims:
            return False
    mcp = {"tool": tool, "backend": "s", "method": "tools/call"}
    about = {"request": {"headers": headers, "auth": {"jwt": {"claims": claims, "scopes": []}}, "mcp": mcp}}
    for rule in policy["authorization"]["rules"]:
        if holds(rule["cel"], about):
            return bool(rule["action"] == "Allow")
    return bool(policy["authorization"]["defaultAction"] == "Allow")


def _headers(spec: Json) -> int:
    return len(spec["rules"][0]["matches"][0].get("headers", ()))


def _matches(spec: Json, asking: Asking) -> bool:
    if asking.host not in spec.get("hostnames", [asking.host]):
        return False
    (match,) = spec["rules"][0]["matches"]
    named = all(re.fullmatch(one["value"], asking.headers.get(one["name"], "")) for one in match.get("headers", ()))
    return match["path"] == {"type": "Exact", "value": asking.path} and named


def _decides(made: Plan, route: Json, asking: Asking) -> bool:
    (policy,) = [
        document["spec"]
        for document in made.documents
        if document["kind"] == "SecurityPolicy"
        and document["spec"]["targetRefs"][0]["name"] == route["metadata"]["name"]
        if document["spec"]["targetRefs"][0]["kind"] == "HTTPRoute"
    ]
    headers, tokens = dict(asking.headers), {}
    if "apiKeyAuth" in policy:
        name = _key(policy["apiKeyAuth"], asking)
        if name is None:
            return False
        headers[policy["apiKeyAuth"]["forwardClientIDHeader"]] = name
    if "jwt" in policy:
        tokens = _tokens(policy["jwt"], asking)
        if not tokens:
            return False
    certificate = {} if asking.certificate is None else {"uri_san_peer_certificate": asking.certificate}
    about = {
        "request": {"headers": headers, "method": "POST", "path": asking.path},
        "connection": {"mtls": asking.certificate is not None, **certificate},
        "metadata": {"filter_metadata": {"envoy.filters.http.jwt_authn": tokens}},
    }
    for rule in policy["authorization"].get("rules", ()):
        if _is_of(rule.get("principal", {}), headers, tokens) and holds(rule.get("cel", "true"), about):
            return bool(rule["action"] == "Allow")
    return bool(policy["authorization"]["defaultAction"] == "Allow")


def _key(method: Json, asking: Asking) -> str | None:
    for source in method["extractFrom"]:
        for header in source["headers"]:
            if value := asking.headers.get(header.lower()):
                return asking.keys.get(value.removeprefix("Bearer "))
    return None


def _tokens(method: Json, asking: Asking) -> dict[str, Json]:
    claims = asking.claims
    if claims is None or not asking.headers.get("authorization", "").startswith("Bearer "):
        return {}
    given = claims.get("aud")
    audience = given if isinstance(given, list) else [given]
    fitting = [one for one in method["providers"] if one["issuer"] == claims.get("iss")]
    return {one["name"]: claims for one in fitting if set(audience) & set(one["audiences"])}


def _is_of(principal: Json, headers: Mapping[str, str], tokens: Mapping[str, Json]) -> bool:
    named = all(headers.get(one["name"]) in one["values"] for one in principal.get("headers", ()))
    wanted = principal.get("jwt")
    if wanted is None:
        return named
    claims = tokens.get(wanted["provider"])
    return named and claims is not None and all(_claim(claims, one) for one in wanted["claims"])


def _claim(claims: Json, wanted: Json) -> bool:
    found: Any = claims
    for part in wanted["name"].split("."):  # Envoy Gateway takes a dot for a claim within a claim
        found = found.get(part) if isinstance(found, Mapping) else None
    if wanted.get("valueType", "String") == "String":
        return isinstance(found, str) and found in wanted["values"]
    return isinstance(found, list) and any(one in wanted["values"] for one in found if isinstance(one, str))
