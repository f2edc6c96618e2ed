"""From the tree of a source to the `identity` of the model: our own SVID, and how callers are known."""

import re
from collections.abc import Mapping as Table

import msgspec

from openmcp.config import model
from openmcp.config.cursor import At, Reading, Shape, distinct, list_of, shortened, some, string, tagged
from openmcp.config.problems import did_you_mean
from openmcp.config.spiffevalues import trust_domains, workload_api, workload_id
from openmcp.config.values import (
    duration,
    file_name,
    name,
    network,
    no_clear_text,
    secret,
    sha256,
    url,
    warn_if_chosen,
)
from openmcp.config.yamlsource import Sequence

MAX_CLOCK_SKEW = 300.0
"""Seconds. More makes expiry meaningless: tokens of five minutes are common."""
ALGORITHMS = (
    *("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    *("ES256", "ES384", "ES512", "EdDSA"),
)
"""JOSE names of asymmetric signatures (RFC 7518, 3.1; RFC 8037, 3.1)."""
_SYMMETRIC = re.compile("HS[0-9]+", re.IGNORECASE)
_NO_NAMES = ("iss", "aud", "exp", "nbf", "iat", "jti", "nonce", "auth_time", "at_hash")


def _keys_differ(at: At) -> tuple[model.ApiKey, ...] | None:
    keys = _api_keys(at)
    entries = at.items() if keys is not None else None
    for field in ("name", "sha256"):
        values = [(entry.key(field), entry) for entry in entries or ()]
        distinct(((value, value.text()) for value, _ in values if value is not None), f"key {field}")
    return keys


_api_keys = some(
    list_of(Shape(model.ApiKey, {"name": name, "sha256": sha256}, required=("name", "sha256")), most=100_000),
    "write {name: NAME, sha256: DIGEST}",
)


def _issuer(at: At) -> str | None:
    """The `iss` of tokens, compared as it stands. A `#` in it would make `jwt:<issuer>#<sub>` ambiguous."""
    value = string(at)
    if value is None:
        return None
    if not re.fullmatch("[!-~]+", value):
        at.error(f'not an issuer: "{shortened(value)}"', "printable ASCII without blanks, just as `iss` has it")
        return None
    if "#" in value:
        at.error(
            f'not an issuer: "{shortened(value)}"', "an issuer has no fragment (#): callers are jwt:<issuer>#<sub>"
        )
        return None
    return value


def _audiences(at: At) -> tuple[str, ...] | None:
    if not isinstance(at.node, Sequence):
        only = string(at)
        return None if only is None else (only,)
    values = some(list_of(string), "write the audience that tokens for this gateway have")(at)
    distinct(((item, item.text()) for item in at.items() or ()), "audience")
    return values


def _jwks(at: At) -> model.Jwks | None:
    value = _jwks_shape(at)
    if value is None:
        return None
    ca = at.key("ca")
    if (value.url is None) == (value.file is None):
        at.error("exactly one of `url` and `file` is wanted", "write {url: URL} or {file: PATH}")
    elif ca is not None and not (value.url or "").startswith("https:"):
        ca.error("`ca` has no meaning without an https URL", "remove it")
    else:
        return value
    return None


def _jwks_url(at: At) -> str | None:
    return no_clear_text(at, url("a key set", query=True)(at), "keys that anybody on the way can change prove nothing")


_jwks_shape: Reading[model.Jwks] = Shape(model.Jwks, {"url": _jwks_url, "file": file_name, "ca": secret})


def _principal_claim(at: At) -> str | None:
    value = string(at)
    if value in _NO_NAMES:
        at.error(f"the claim `{value}` names no caller", "write sub, or another claim that the issuer gives once only")
        return None
    warn_if_chosen(at, value, "another agent's")
    return value


def _algorithm(at: At) -> str | None:
    value = string(at)
    if value is None or value in ALGORITHMS:
        return value
    if _SYMMETRIC.fullmatch(value):
        fault = "is symmetric: whoever can verify a token can make one"
    elif value.lower() == "none":
        fault = "is no signature: anybody can make such a token"
    else:
        hint = did_you_mean(value, ALGORITHMS) or f"one of: {', '.join(ALGORITHMS)}"
        at.error(f'unknown algorithm "{shortened(value)}"', hint)
        return None
    at.error(f"`{shortened(value)}` {fault}", f"one of: {', '.join(ALGORITHMS)}")
    return None


def _algorithms(at: At) -> tuple[str, ...] | None:
    values = some(list_of(_algorithm), "remove the key, or name what the issuer signs with")(at)
    if values is not None:
        distinct(((item, item.text()) for item in at.items() or ()), "algorithm")
    return values


def _clock_skew(at: At) -> float | None:
    value = duration(at)
    if value is not None and value > MAX_CLOCK_SKEW:
        at.error(f"must be at most 5m, found {at.text()}", "a token would live on for as long after its end")
        return None
    return value


def _forwarded(**values: object) -> model.ForwardedAgents:
    return msgspec.convert(
        {"networks" if key == "from" else key: value for key, value in values.items()}, model.ForwardedAgents
    )


def _networks(at: At) -> tuple[str, ...] | None:
    values = some(list_of(network), "write the addresses of the proxies: [127.0.0.1/32]")(at)
    if values is not None:
        distinct(((item, item.text()) for item in at.items() or ()), "network")
    return values


_TYPE = ("type",)
_KINDS: Table[str, Reading[model.AgentIdentification]] = {
    "mtls": Shape(model.MtlsAgents, {"trustDomains": trust_domains}, required=("trustDomains",), ignored=_TYPE),
    "jwtSvid": Shape(
        model.JwtSvidAgents,
        {"audience": string, "trustDomains": trust_domains},
        required=("audience", "trustDomains"),
        ignored=_TYPE,
    ),
    "jwt": Shape(
        model.JwtAgents,
        {
            "issuer": _issuer,
            "audience": _audiences,
            "jwks": _jwks,
            "principalClaim": _principal_claim,
            "algorithms": _algorithms,
            "clockSkew": _clock_skew,
        },
        required=("issuer", "audience", "jwks"),
        ignored=_TYPE,
    ),
    "apiKey": Shape(model.ApiKeyAgents, {"keys": _keys_differ}, required=("keys",), ignored=_TYPE),
    "forwarded": Shape(
        _forwarded, {"from": _networks, "trustDomains": trust_domains}, required=("from",), ignored=_TYPE
    ),
    "workload": Shape(model.WorkloadAgents, {}, ignored=_TYPE),
    "none": Shape(model.NoneAgents, {}, ignored=_TYPE),
}
_SEVERAL = ("jwt", "forwarded")
"""Types of which several entries make sense; of another type the first entry takes all there is to take."""

_list: Reading[tuple[model.AgentIdentification, ...]] = list_of(tagged(_KINDS))


def _agents(at: At) -> tuple[model.AgentIdentification, ...] | None:
    values = _list(at)
    items = (at.items() if values is not None else None) or []
    types = [(item, kind.text()) for item in items if (kind := item.key("type")) is not None]
    distinct(((item, kind) for item, kind in types if kind not in _SEVERAL), "type")
    issuers = (item.key("issuer") for item, kind in types if kind == "jwt")
    distinct(((issuer, issuer.text()) for issuer in issuers if issuer is not None), "issuer")
    return values


def _svid(at: At) -> model.SvidSelection | None:
    value = _svid_shape(at)
    if value is not None and (value.hint is None) == (value.id is None):
        at.error("exactly one of `hint` and `id` is wanted", "write {hint: HINT} or {id: SPIFFE-ID}")
        return None
    return value


_svid_shape: Reading[model.SvidSelection] = Shape(model.SvidSelection, {"hint": string, "id": workload_id})

identity: Reading[model.Identity] = Shape(
    model.Identity, {"workloadApi": workload_api, "svid": _svid, "agents": _agents}
)
