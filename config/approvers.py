"""From the tree of a source to the `approvals` of the model, but for the workflows: who logs in how, and limits."""

from typing import Final

from openmcp.config import model
from openmcp.config.addresses import address, shown
from openmcp.config.channels import channels
from openmcp.config.cursor import At, Reading, Shape, distinct, integer, list_of, string
from openmcp.config.serverauth import scopes
from openmcp.config.values import (
    duration,
    name,
    no_clear_text,
    origin,
    secret,
    sha256,
    url,
    warn_if_chosen,
)
from openmcp.identity.addresses import is_this_machine

LONGEST_HOLD: Final = 300.0
"""Seconds: a call that is held takes a connection and one of `limits.inFlight`."""


def _console(at: At) -> model.Console | None:
    value = _console_shape(at)
    if value is None or value.url is not None or is_this_machine(value.listen.host):
        return value
    hint = "write how browsers reach it: url: https://approvals.example"
    at.error(f"`url` is required: {shown(value.listen)} is reached from elsewhere", hint)
    return None


def _console_url(at: At) -> str | None:
    return no_clear_text(at, origin(at), "whoever is on the way could approve")


_console_shape: Reading[model.Console] = Shape(model.Console, {"listen": address, "url": _console_url})


def _issuer(at: At) -> str | None:
    return no_clear_text(at, url("an OpenID Connect issuer")(at), "whoever is on the way could approve")


def _scopes(at: At) -> tuple[str, ...] | None:
    values = scopes(at)
    if values is not None and "openid" not in values:
        at.error("the scope `openid` is missing", "write [openid, ...]")
        return None
    return values


def _user_claim(at: At) -> str | None:
    value = string(at)
    warn_if_chosen(at, value, "an approver's")
    return value


def _oidc(at: At) -> model.Oidc | None:
    value = _oidc_shape(at)
    ca = at.key("ca")
    if value is not None and ca is not None and not value.issuer.startswith("https:"):
        ca.error("`ca` has no meaning with an http issuer", "remove it")
        return None
    return value


_oidc_shape: Reading[model.Oidc] = Shape(
    model.Oidc,
    {
        "issuer": _issuer,
        "clientId": string,
        "clientSecret": secret,
        "groupsClaim": string,
        "userClaim": _user_claim,
        "scopes": _scopes,
        "ca": secret,
    },
    required=("issuer", "clientId"),
)

_token_list: Reading[tuple[model.ApproverToken, ...]] = list_of(
    Shape(model.ApproverToken, {"name": name, "sha256": sha256}, required=("name", "sha256"))
)


def _tokens(at: At) -> tuple[model.ApproverToken, ...] | None:
    values = _token_list(at)
    entries = at.items() if values is not None else None
    for field in ("name", "sha256"):
        given = [entry.key(field) for entry in entries or ()]
        distinct(((value, value.text()) for value in given if value is not None), f"token {field}")
    return values


_AT_ONCE = "0s"  # a duration that only these two keys have: calls are not held


def _hold(at: At) -> float | None:
    value = 0.0 if at.text() == _AT_ONCE else duration(at)
    if value is not None and value > LONGEST_HOLD:
        at.error(f"must be at most 5m, found {at.text()}", "the agent repeats its call and finds the grant")
        return None
    return value


approvals: Reading[model.Approvals] = Shape(
    model.Approvals,
    {
        "console": _console,
        "oidc": _oidc,
        "tokens": _tokens,
        "channels": channels,
        "hold": _hold,
        "holdWithProgress": _hold,
        "maxOpen": integer(1, 500),
        "notificationsPerHour": integer(1, 10_000),
        "cooldown": duration,
    },
    ignored=("workflows",),  # read by themselves: each may also be an object of its own
)
