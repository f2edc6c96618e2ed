"""The configuration as values: what `gateway.yaml` and the CRDs say, parsed and valid.

Only the parser makes these from outside input; everything here may be trusted further in.
Units: durations are seconds (float), sizes are bytes (int). Names follow the YAML keys in snake_case.
"""

from enum import StrEnum
from typing import Literal

import msgspec


class Secret(msgspec.Struct, frozen=True, kw_only=True):
    """A secret by reference, never inline: exactly one of `file` (path) and `env` (variable name)."""

    file: str | None = None
    env: str | None = None


class Address(msgspec.Struct, frozen=True, kw_only=True):
    """A TCP address to listen on; `host` is an IP literal or a name, `port` 0 means any free one."""

    host: str
    port: int


class Listen(msgspec.Struct, frozen=True, kw_only=True):
    """Where agents (`mcp`) and operators (`admin`) connect, and which browsers and names are accepted."""

    mcp: Address = Address(host="127.0.0.1", port=15001)
    admin: Address = Address(host="127.0.0.1", port=15020)
    allowed_origins: tuple[str, ...] = ()
    allowed_hosts: tuple[str, ...] = ()


class ApiKey(msgspec.Struct, frozen=True, kw_only=True):
    """One API key: the caller becomes `key:<name>`; `sha256` is the lower-case hex digest of the key."""

    name: str
    sha256: str


class ApiKeyAgents(msgspec.Struct, frozen=True, kw_only=True, tag="apiKey", tag_field="type"):
    """Callers known by an API key in `X-API-Key` or `Authorization: Bearer`."""

    keys: tuple[ApiKey, ...]


class NoneAgents(msgspec.Struct, frozen=True, kw_only=True, tag="none", tag_field="type"):
    """Every caller is `anonymous`; has to be written to be had."""


AgentIdentification = ApiKeyAgents | NoneAgents


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """How callers are identified; the first entry that applies decides; none applies: 401."""

    agents: tuple[AgentIdentification, ...] = ()


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """Active health checks of a server's endpoints (seconds; consecutive failures)."""

    interval: float = 10.0
    timeout: float = 2.0
    unhealthy_after: int = 3


class Timeouts(msgspec.Struct, frozen=True, kw_only=True):
    """Per server, seconds: to connect; to the head of the answer; between events; of a whole stream."""

    connect: float = 5.0
    request: float = 60.0
    idle: float = 300.0
    stream: float = 3600.0


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Per server: bytes of one request and one response message, calls under way at once."""

    request_bytes: int = 4 * 1024 * 1024
    response_bytes: int = 16 * 1024 * 1024
    in_flight: int = 256


class ServerTls(msgspec.Struct, frozen=True, kw_only=True):
    """TLS to the upstream under the web PKI: `ca` replaces the system's roots, `server_name` the host's name."""

    ca: Secret | None = None
    server_name: str | None = None


class Server(msgspec.Struct, frozen=True, kw_only=True):
    """One MCP server behind the sidecar: its path on the listener and one or more equal endpoints (URLs)."""

    name: str
    path: str
    endpoints: tuple[str, ...]
    tls: ServerTls = ServerTls()
    health: Health = Health()
    timeouts: Timeouts = Timeouts()
    limits: Limits = Limits()
    require_auth: bool = True


class Action(StrEnum):
    """What a request rule does."""

    ALLOW = "allow"
    DENY = "deny"


class RequestRule(msgspec.Struct, frozen=True, kw_only=True):
    """One request rule; without selectors it matches every request. Selectors are globs (`*`, `?`)."""

    name: str
    action: Action
    tools: tuple[str, ...] = ()
    prompts: tuple[str, ...] = ()
    resources: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    message: str | None = None


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """Request rules for some agents (all, where empty) on some servers, named by globs."""

    name: str
    servers: tuple[str, ...]
    agents: tuple[str, ...] = ()
    requests: tuple[RequestRule, ...] = ()


class Sessions(msgspec.Struct, frozen=True, kw_only=True):
    """Sealing of session ids: the key (32 bytes, base64; absent: made at start) and how long one lives."""

    key: Secret | None = None
    lifetime: float = 86400.0


class Audit(msgspec.Struct, frozen=True, kw_only=True):
    """The record: where to (`None` is standard output, else a path) and what a refused write means."""

    file: str | None = None
    on_failure: Literal["deny", "allow"] = "deny"


class Telemetry(msgspec.Struct, frozen=True, kw_only=True):
    """The record and the log of the process itself."""

    audit: Audit = Audit()
    log_level: Literal["debug", "info", "warning", "error"] = "info"


class Configuration(msgspec.Struct, frozen=True, kw_only=True):
    """The whole of one configuration."""

    listen: Listen = Listen()
    identity: Identity = Identity()
    servers: tuple[Server, ...] = ()
    policies: tuple[Policy, ...] = ()
    sessions: Sessions = Sessions()
    telemetry: Telemetry = Telemetry()
