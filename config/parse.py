"""From the tree of a source to the values of the model: what each section may hold.

Every table is read by `cursor.Shape`, which refuses keys that it does not know.
"""

from urllib.parse import urlsplit

import msgspec

from openmcp.config import model
from openmcp.config.cursor import (
    At,
    Reading,
    Shape,
    boolean,
    choice,
    integer,
    list_of,
    pairs,
    some,
    string,
    unique,
)
from openmcp.config.resilience import outliers, rate_limit, retries, timeouts
from openmcp.config.serverauth import NoAuth, auth, check_endpoints
from openmcp.config.stdio import check_place, stdio
from openmcp.config.values import duration, file_name, name, secret, size, tool_digest, url, url_path
from openmcp.config.yamlsource import Mapping, Scalar

sessions: Reading[model.Sessions] = Shape(model.Sessions, {"key": secret, "lifetime": duration})


endpoint: Reading[str] = url("an MCP server")
endpoint_list: Reading[tuple[str, ...]] = unique(
    some(list_of(endpoint, most=100), "write the URL of the MCP server"), "endpoint"
)


def endpoints(at: At) -> tuple[str, ...] | None:
    urls = endpoint_list(at)
    if urls is not None and len({urlsplit(url).scheme for url in urls}) > 1:
        at.error("the endpoints of one server must all be http or all be https")
    return urls


class _NotPinned(msgspec.Struct, frozen=True):
    """`pinTools: false`; None would say that the key was refused."""


_NOT_PINNED = _NotPinned()


def pinning(at: At) -> model.PinTools | _NotPinned | None:
    if isinstance(at.node, Mapping):
        return pins(at)
    if isinstance(at.node, Scalar) and isinstance(at.node.value, bool):
        return model.PinTools() if at.node.value else _NOT_PINNED
    at.expected("true, false or a mapping", "write {tools: {NAME: DIGEST}, file: PATH}")
    return None


pins: Reading[model.PinTools] = Shape(model.PinTools, {"tools": pairs(tool_digest), "file": file_name})


def _server(
    *,
    name: str,
    path: str | None = None,
    auth: model.ServerAuth | NoAuth | None = None,
    pin_tools: model.PinTools | _NotPinned = _NOT_PINNED,
    **rest: object,
) -> model.Server:
    read = {
        "name": name,
        "path": path or f"/{name}",
        "auth": None if isinstance(auth, NoAuth) else auth,
        "pin_tools": pin_tools if isinstance(pin_tools, model.PinTools) else None,
    }
    return msgspec.convert({**read, **rest}, model.Server)


server_shape: Shape[model.Server] = Shape(
    _server,
    {
        "name": name,
        "path": url_path,
        "endpoints": endpoints,
        "stdio": stdio,
        "transport": choice(("http", "sse")),
        "compat": Shape(model.Compat, {"sse": boolean}),
        "auth": auth,
        "tls": Shape(model.ServerTls, {"ca": secret, "serverName": string}),
        "health": Shape(model.Health, {"interval": duration, "timeout": duration, "unhealthyAfter": integer(1, 1000)}),
        "timeouts": timeouts,
        "limits": Shape(model.Limits, {"requestBytes": size, "responseBytes": size, "inFlight": integer(1, 1_000_000)}),
        "requireAuth": boolean,
        "translate": boolean,
        "pinTools": pinning,
        "retries": retries,
        "outliers": outliers,
        "rateLimit": rate_limit,
    },
    required=("name",),
)


def server(at: At) -> model.Server | None:
    """One entry of `servers`, the spec of an MCPServer."""
    value = server_shape(at)
    placed = not isinstance(at.node, Mapping) or check_place(at)
    if value is None or not placed:
        return None
    tls = at.key("tls")
    if tls is not None and urlsplit(value.endpoints[0]).scheme == "http":
        tls.error("`tls` has no meaning for http endpoints", "write https:// in the endpoints or remove `tls`")
    check_endpoints(value, at)
    return value
