"""From the tree of a source to `servers[].auth` of the model: how we prove to an MCP server who we are."""

import re
from collections.abc import Iterable, Iterator
from urllib.parse import urlsplit

import msgspec

from openmcp.config import model
from openmcp.config.cursor import (
    At,
    Reading,
    Shape,
    boolean,
    choice,
    list_of,
    shortened,
    some,
    string,
    tagged,
    unique,
)
from openmcp.config.spiffevalues import server_ids
from openmcp.config.values import no_clear_text, secret, url
from openmcp.identity.addresses import is_this_machine

TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
OURS = re.compile(
    "host|connection|keep-alive|te|trailer|transfer-encoding|upgrade|expect|via|content-.*|accept|accept-.*|user-agent|"
    "proxy-connection|mcp-.*|last-event-id|traceparent|tracestate|baggage|x-forwarded-.*|forwarded|origin"
)
"""Headers that frame a message, say what is in it, or are made from the call (RFC 9110, 7.6.1; MCP transports)."""
SCOPE = re.compile(r"[!#-\[\]-~]+")
PREFIX = re.compile("[!-~][ -~]*")
RESOURCE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:[!-~]+")


class NoAuth(msgspec.Struct, frozen=True):
    """`auth: {type: none}`; None would say that the key was refused."""


def header_name(at: At) -> str | None:
    value = string(at)
    if value is None:
        return None
    if not TOKEN.fullmatch(value):
        at.error(f'not the name of a header: "{shortened(value)}"', "letters, digits and -, such as X-API-Key")
        return None
    if OURS.fullmatch(value.lower()):
        at.error(
            f"the header {shortened(value)} is not for a secret",
            "it belongs to the protocol: Authorization or X-API-Key is usual",
        )
        return None
    return value


def prefix(at: At) -> str | None:
    value = string(at)
    if value is not None and not PREFIX.fullmatch(value):
        at.error(
            "not what can stand before a secret",
            'printable ASCII, with a blank at the end where one is wanted: "Bearer "',
        )
        return None
    return value


def header(at: At) -> model.HeaderAuth | None:
    value = header_shape(at)
    if value is not None and value.prefix and value.prefix[-1].isalnum():
        (at.key("prefix") or at).warn(
            f'the secret follows "{value.prefix}" without a blank', f'write "{value.prefix} " where one is wanted'
        )
    return value


header_shape: Reading[model.HeaderAuth] = Shape(
    model.HeaderAuth,
    {"name": header_name, "value": secret, "prefix": prefix, "allowHttp": boolean},
    required=("name", "value"),
    ignored=("type",),
)


def client(at: At) -> model.OAuthClient | None:
    value = client_shape(at)
    if value is None:
        return None
    given, audience = at.key("secret"), at.key("audience")
    if value.type == "secret" and given is None:
        at.error(
            "`secret` is required with `type: secret`", "write secret: {file: PATH}, or type: jwtSvid to have none"
        )
    elif value.type != "secret" and given is not None:
        given.error(f"`secret` has no meaning with `type: {value.type}`", "the client is known by its SVID: remove it")
    elif value.type == "secret" and audience is not None:
        audience.error("`audience` has no meaning with `type: secret`", "it is that of a JWT-SVID: remove it")
    else:
        return value
    return None


client_shape: Reading[model.OAuthClient] = Shape(
    model.OAuthClient,
    {"id": string, "type": choice(("jwtSvid", "jwtSvidSpiffe", "secret")), "secret": secret, "audience": string},
    required=("id", "type"),
)


def resource(at: At) -> str | None:
    """An absolute URI without a fragment (RFC 8707, 2)."""
    value = string(at)
    if value is not None and (not RESOURCE.fullmatch(value) or "#" in value):
        at.error(
            f'not a resource: "{shortened(value)}"', "an absolute URI without a fragment, the URL of the MCP server"
        )
        return None
    return value


def scope(at: At) -> str | None:
    """One scope (RFC 6749, 3.3)."""
    value = string(at)
    if value is not None and not SCOPE.fullmatch(value):
        at.error(f'not a scope: "{shortened(value)}"', "each an entry of the list, without blanks and quotes")
        return None
    return value


scopes: Reading[tuple[str, ...]] = unique(
    some(list_of(scope, most=100), "remove the key to ask for what the server gives by default"), "scope"
)
"""Scopes to ask for, at least one."""


token_url: Reading[str] = url("a token endpoint", query=True)


def oauth(at: At) -> model.OAuthAuth | None:
    value = oauth_shape(at)
    given, ca = at.key("tokenUrl"), at.key("ca")
    if value is None or given is None:
        return None
    secure = value.token_url.startswith("https:")
    if ca is not None and not secure:
        ca.error("`ca` has no meaning with an http URL", "write https:// in tokenUrl or remove `ca`")
        return None
    if value.allow_http:
        return value
    checked = no_clear_text(given, value.token_url, "a token would be seen on the way")
    return None if checked is None else value


oauth_shape: Reading[model.OAuthAuth] = Shape(
    model.OAuthAuth,
    {
        "tokenUrl": token_url,
        "client": client,
        "resource": resource,
        "scopes": scopes,
        "ca": secret,
        "allowHttp": boolean,
    },
    required=("tokenUrl", "client"),
    ignored=("type",),
)

auth: Reading[model.ServerAuth | NoAuth] = tagged(
    {
        "spiffe": Shape(model.SpiffeAuth, {"serverIds": server_ids}, required=("serverIds",), ignored=("type",)),
        "jwtSvid": Shape(
            model.JwtSvidAuth, {"audience": string, "allowHttp": boolean}, required=("audience",), ignored=("type",)
        ),
        "header": header,
        "oauth": oauth,
        "none": Shape(NoAuth, {}, ignored=("type",)),
    }
)


def check_endpoints(server: model.Server, at: At) -> None:
    """Report where the way we prove who we are and the endpoints of a server do not go together."""
    place, tls = at.key("auth"), at.key("tls")
    if server.auth is None or place is None:
        return
    if isinstance(server.auth, model.SpiffeAuth):
        for url in _clear(server.endpoints):
            place.error(f"`type: spiffe` is mTLS, and {shortened(url)} is http", "write https:// in the endpoints")
            break
        if tls is not None:
            tls.error("`tls` has no meaning with `auth: {type: spiffe}`", "serverIds say whom we trust: remove `tls`")
    elif not server.auth.allow_http:
        for url in _clear(server.endpoints):
            if not is_this_machine(urlsplit(url).hostname or ""):
                hint = "write https:// in the endpoints, or allowHttp: true where the way is encrypted otherwise"
                place.error(f"the credential would go to {shortened(url)} in the clear", hint)
                break


def _clear(endpoints: Iterable[str]) -> Iterator[str]:
    return (url for url in endpoints if urlsplit(url).scheme == "http")
