"""The MCP servers behind the sidecar, and how we prove to them who we are: `servers`."""

from typing import Literal

import msgspec

from openmcp.config.model.basics import Secret


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """Active health checks of a server's endpoints (seconds; consecutive failures)."""

    interval: float = 10.0
    timeout: float = 2.0
    unhealthy_after: int = 3


class Timeouts(msgspec.Struct, frozen=True, kw_only=True):
    """Per server, seconds: to connect; to the head of the answer; between events; of a whole stream. `tools` are globs
    with how long a call of such a tool may take in all, whichever way it is answered; the first that matches counts."""

    connect: float = 5.0
    request: float = 60.0
    idle: float = 300.0
    stream: float = 3600.0
    tools: tuple[tuple[str, float], ...] = ()


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Per server: bytes of one request and one response message, calls under way at once."""

    request_bytes: int = 4 * 1024 * 1024
    response_bytes: int = 16 * 1024 * 1024
    in_flight: int = 256


class Retries(msgspec.Struct, frozen=True, kw_only=True):
    """How often a call is tried again, and which: `attempts` after the first one; after the request was sent only
    methods without effect, and tools that one of the globs `tools` names.

    `backoff` is the most that is waited before the first of them (seconds, doubled each time), `budget` the share of
    all calls that may be repeated.
    """

    attempts: int = 2
    tools: tuple[str, ...] = ()
    backoff: float = 0.025
    budget: float = 0.2


class Outliers(msgspec.Struct, frozen=True, kw_only=True):
    """Endpoints that fail calls are left out for a while: after `failures` in a row for `eject_for` seconds, longer
    each time it happens again; never more than the share `max_ejected` of them at once."""

    failures: int = 5
    eject_for: float = 30.0
    max_ejected: float = 0.5


class RateLimit(msgspec.Struct, frozen=True, kw_only=True):
    """`requests` in `per` seconds, `burst` (absent: `requests`) of them at once, for each agent, each tool, or each
    pair of them: `by`. With `agents` (globs) it is about these callers alone; with `tools` (globs), or by tool, about
    calls of tools alone. `shared`: counted in Redis, for all gateways together."""

    requests: int
    per: float
    by: tuple[Literal["agent", "tool"], ...] = ()
    burst: int | None = None
    agents: tuple[str, ...] = ()
    tools: tuple[str, ...] = ()
    shared: bool = False


class ServerTls(msgspec.Struct, frozen=True, kw_only=True):
    """TLS to the upstream under the web PKI: `ca` replaces the system's roots, `server_name` the host's name."""

    ca: Secret | None = None
    server_name: str | None = None


class SpiffeAuth(msgspec.Struct, frozen=True, kw_only=True, tag="spiffe", tag_field="type"):
    """mTLS with SVIDs: ours to the server, and the server's has one of these IDs (globs, `*` and `?`)."""

    server_ids: tuple[str, ...]


class JwtSvidAuth(msgspec.Struct, frozen=True, kw_only=True, tag="jwtSvid", tag_field="type"):
    """Our JWT-SVID for `audience` in `Authorization: Bearer`."""

    audience: str
    allow_http: bool = False


class HeaderAuth(msgspec.Struct, frozen=True, kw_only=True, tag="header", tag_field="type"):
    """A secret in a header: `prefix` (such as `Bearer `, as it is) and the secret behind it."""

    name: str
    value: Secret
    prefix: str = ""
    allow_http: bool = False


class OAuthClient(msgspec.Struct, frozen=True, kw_only=True):
    """How we prove to the token endpoint who we are.

    `jwtSvid`: an assertion of RFC 7523 (`client-assertion-type:jwt-bearer`); `jwtSvidSpiffe`: the same with the type of
    draft-ietf-oauth-spiffe-client-auth (`jwt-spiffe`); `secret`: a client secret by HTTP Basic. `audience` is that of
    the assertion (None: the token endpoint's URL).
    """

    id: str
    type: Literal["jwtSvid", "jwtSvidSpiffe", "secret"]
    secret: Secret | None = None
    audience: str | None = None


class OAuthAuth(msgspec.Struct, frozen=True, kw_only=True, tag="oauth", tag_field="type"):
    """An access token by the client credentials grant (RFC 6749, 4.4), in `Authorization: Bearer`.

    `resource` names the server (RFC 8707); `ca` is the CA of the token endpoint where it is not one of the system's.
    """

    token_url: str
    client: OAuthClient
    resource: str | None = None
    scopes: tuple[str, ...] = ()
    ca: Secret | None = None
    allow_http: bool = False


ServerAuth = SpiffeAuth | JwtSvidAuth | HeaderAuth | OAuthAuth
"""How we prove to an MCP server who we are. `allow_http`: the credential may go to an http endpoint that is not on
this machine, in the clear."""


class PinTools(msgspec.Struct, frozen=True, kw_only=True):
    """Trust on first sight: a tool whose definition changed is withheld. `tools` are pairs of a tool's name and the
    digest it is pinned to (64 hexadecimal digits); `file` keeps what was first seen across restarts."""

    tools: tuple[tuple[str, str], ...] = ()
    file: str | None = None


class ProcessLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What each process of a program may take: `memory` of its own in bytes, open files, seconds of CPU in its life.
    Absent: what the sidecar itself may."""

    memory: int | None = None
    open_files: int | None = None
    cpu: float | None = None


class Stdio(msgspec.Struct, frozen=True, kw_only=True):
    """A server that is a program here, which speaks MCP on its standard input and output. Its environment is `env` and
    our `PATH`. `share`: `session`, each legacy session has a process and the modern era is not served; `server`, one
    process serves all agents, of the modern era alone; None: both, as its clients come. There are at most `processes`,
    and `per_agent` for the sessions of one agent; one that is not used for `idle` seconds ends."""

    command: str
    args: tuple[str, ...] = ()
    env: tuple[tuple[str, str | Secret], ...] = ()
    cwd: str | None = None
    share: Literal["session", "server"] | None = None
    processes: int = 32
    per_agent: int = 16
    idle: float = 900.0
    limits: ProcessLimits = ProcessLimits()


class Compat(msgspec.Struct, frozen=True, kw_only=True):
    """What old agents need: with `sse` those that speak the HTTP+SSE of 2024-11-05 reach the server as well."""

    sse: bool = False


class Server(msgspec.Struct, frozen=True, kw_only=True):
    """One MCP server behind the sidecar: its path on the listener and either one or more equal endpoints (URLs), or a
    program (`stdio`). `transport` is what its endpoints speak: Streamable HTTP, or the HTTP+SSE of 2024-11-05."""

    name: str
    path: str
    endpoints: tuple[str, ...] = ()
    stdio: Stdio | None = None
    transport: Literal["http", "sse"] = "http"
    compat: Compat = Compat()
    auth: ServerAuth | None = None
    tls: ServerTls = ServerTls()
    health: Health = Health()
    timeouts: Timeouts = Timeouts()
    limits: Limits = Limits()
    require_auth: bool = True
    translate: bool = False
    pin_tools: PinTools | None = None
    retries: Retries | None = None
    outliers: Outliers | None = None
    rate_limit: tuple[RateLimit, ...] = ()
