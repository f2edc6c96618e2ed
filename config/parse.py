"""From the tree of a source to the values of the model: what each section may hold.

Every table is read by `cursor.Shape`. A key under `later` belongs to a feature this version does not have; it is
refused with words of its own, or accepted where its value says "not this feature". Adding the feature moves the
key up into `keys` with the reading that understands it.
"""

from urllib.parse import urlsplit

import msgspec

from openmcp.config import model
from openmcp.config.cursor import (
    At,
    Reading,
    Shape,
    absent,
    boolean,
    choice,
    distinct,
    empty_list,
    fixed,
    integer,
    list_of,
    some,
    string,
    tagged,
)
from openmcp.config.values import (
    address,
    duration,
    endpoint,
    file_name,
    host,
    name,
    origin,
    secret,
    sha256,
    size,
    url_path,
)
from openmcp.config.yamlsource import Mapping

listen: Reading[model.Listen] = Shape(
    model.Listen,
    {
        "mcp": address,
        "admin": address,
        "allowedOrigins": list_of(origin),
        "allowedHosts": list_of(host),
    },
    later={"tls": absent},
)


def _keys_differ(at: At) -> tuple[model.ApiKey, ...] | None:
    keys = _api_keys(at)
    entries = at.items() if keys is not None else None
    for field in ("name", "sha256"):
        values = [(entry.key(field), entry) for entry in entries or ()]
        distinct(((value, value.text()) for value, _ in values if value is not None), f"key {field}")
    return keys


_api_keys = some(
    list_of(Shape(model.ApiKey, {"name": name, "sha256": sha256}, required=("name", "sha256"))),
    "write {name: NAME, sha256: DIGEST}",
)

_agents: Reading[model.ApiKeyAgents | model.NoneAgents] = tagged(
    {
        "none": Shape(model.NoneAgents, {}, ignored=("type",)),
        "apiKey": Shape(model.ApiKeyAgents, {"keys": _keys_differ}, required=("keys",), ignored=("type",)),
    },
    later=("mtls", "jwtSvid", "jwt", "forwarded", "workload"),
)

identity: Reading[model.Identity] = Shape(
    model.Identity, {"agents": list_of(_agents)}, later={"workloadApi": fixed("none")}
)

_nothing: Reading[object] = Shape(object, {}, ignored=("type",))

state: Reading[object] = tagged({"memory": _nothing}, later=("sqlite", "redis", "dynamodb"))
source: Reading[object] = tagged({"file": _nothing}, later=("kubernetes",))
sessions: Reading[model.Sessions] = Shape(model.Sessions, {"key": secret, "lifetime": duration})


class _Output(msgspec.Struct, frozen=True):
    file: str | None


def _output(at: At) -> _Output | None:
    if isinstance(at.node, Mapping):
        return Shape(_Output, {"file": file_name}, required=("file",))(at)
    if at.text() == "stdout":
        return _Output(None)
    at.expected("stdout or {file: PATH}")
    return None


def _audit(output: _Output = _Output(None), **rest: object) -> model.Audit:  # noqa: B008 - a frozen value
    return msgspec.convert({"file": output.file, **rest}, model.Audit)


telemetry: Reading[model.Telemetry] = Shape(
    model.Telemetry,
    {
        "audit": Shape(
            _audit,
            {"output": _output, "onFailure": choice(("deny", "allow"))},
            later={"payloads": fixed("none"), "signingKey": absent},
        ),
        "logLevel": choice(("debug", "info", "warning", "error")),
    },
    later={"otlp": absent},
)


def _endpoints(at: At) -> tuple[str, ...] | None:
    urls = some(list_of(endpoint), "write the URL of the MCP server")(at)
    if urls is None:
        return None
    distinct(((item, item.text()) for item in at.items() or ()), "endpoint")
    if len({urlsplit(url).scheme for url in urls}) > 1:
        at.error("the endpoints of one server must all be http or all be https")
    return urls


def _server(*, name: str, path: str | None = None, **rest: object) -> model.Server:
    return msgspec.convert({"name": name, "path": path or f"/{name}", **rest}, model.Server)


_server_shape: Shape[model.Server] = Shape(
    _server,
    {
        "name": name,
        "path": url_path,
        "endpoints": _endpoints,
        "tls": Shape(model.ServerTls, {"ca": secret, "serverName": string}),
        "health": Shape(model.Health, {"interval": duration, "timeout": duration, "unhealthyAfter": integer(1, 1000)}),
        "timeouts": Shape(
            model.Timeouts, {"connect": duration, "request": duration, "idle": duration, "stream": duration}
        ),
        "limits": Shape(model.Limits, {"requestBytes": size, "responseBytes": size, "inFlight": integer(1, 1_000_000)}),
        "requireAuth": boolean,
    },
    required=("name", "endpoints"),
    later={
        "auth": tagged({"none": _nothing}, later=("spiffe", "jwtSvid", "header", "oauth")),
        "pinTools": fixed(False),
        "translate": fixed(False),
        "retries": absent,
        "rateLimit": empty_list,
        "stdio": absent,
        "transport": absent,
    },
)


def server(at: At) -> model.Server | None:
    """One entry of `servers`, the spec of an MCPServer."""
    value = _server_shape(at)
    tls = at.key("tls")
    if value is not None and tls is not None and urlsplit(value.endpoints[0]).scheme == "http":
        tls.error("`tls` has no meaning for http endpoints", "write https:// in the endpoints or remove `tls`")
    return value
