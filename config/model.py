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


class WebTls(msgspec.Struct, frozen=True, kw_only=True, tag="web", tag_field="type"):
    """TLS on the listener under the web PKI, from PEM files that are read anew when they change. With `client_ca`
    clients may present certificates of that CA; a SPIFFE ID in one counts for `type: mtls`."""

    certificate: Secret
    key: Secret
    client_ca: Secret | None = None


class SpiffeTls(msgspec.Struct, frozen=True, kw_only=True, tag="spiffe", tag_field="type"):
    """TLS on the listener with our SVID; agents may present theirs, of these trust domains."""

    trust_domains: tuple[str, ...]


class Listen(msgspec.Struct, frozen=True, kw_only=True):
    """Where agents (`mcp`) and operators (`admin`) connect, and which browsers and names are accepted.

    `url` is how clients reach the listener where that is not what they say in `Host` (behind a proxy that ends TLS):
    `https://gateway.example`, without a path.
    """

    mcp: Address = Address(host="127.0.0.1", port=15001)
    admin: Address = Address(host="127.0.0.1", port=15020)
    tls: WebTls | SpiffeTls | None = None
    url: str | None = None
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


class MtlsAgents(msgspec.Struct, frozen=True, kw_only=True, tag="mtls", tag_field="type"):
    """Callers known by the SVID of their connection, of these trust domains."""

    trust_domains: tuple[str, ...]


class JwtSvidAgents(msgspec.Struct, frozen=True, kw_only=True, tag="jwtSvid", tag_field="type"):
    """Callers known by a JWT-SVID in `Authorization: Bearer`, for `audience` and no other, of these trust domains."""

    audience: str
    trust_domains: tuple[str, ...]


class Jwks(msgspec.Struct, frozen=True, kw_only=True):
    """Where the keys of an issuer come from: exactly one of `url` (with `ca`, where its CA is not one of the system's)
    and `file`."""

    url: str | None = None
    file: str | None = None
    ca: Secret | None = None


class JwtAgents(msgspec.Struct, frozen=True, kw_only=True, tag="jwt", tag_field="type"):
    """Callers known by a JWT of `issuer` in `Authorization: Bearer`, for one of the audiences: `jwt:<issuer>#<sub>`,
    where `principal_claim` says which claim stands for `sub`. `algorithms` are JOSE names, asymmetric ones alone;
    `clock_skew` is in seconds."""

    issuer: str
    audience: tuple[str, ...]
    jwks: Jwks
    principal_claim: str = "sub"
    algorithms: tuple[str, ...] = ("RS256", "PS256", "ES256", "ES384", "EdDSA")
    clock_skew: float = 30.0


class ForwardedAgents(msgspec.Struct, frozen=True, kw_only=True, tag="forwarded", tag_field="type"):
    """Callers known by the `X-Forwarded-Client-Cert` of a proxy, from these networks alone (`from` in YAML; CIDR);
    `trust_domains` limits whom it may speak for (empty: any)."""

    networks: tuple[str, ...]
    trust_domains: tuple[str, ...] = ()


class WorkloadAgents(msgspec.Struct, frozen=True, kw_only=True, tag="workload", tag_field="type"):
    """Sidecar mode: a caller over loopback is the agent of this pod, known by our own SVID."""


AgentIdentification = (
    MtlsAgents | JwtSvidAgents | JwtAgents | ApiKeyAgents | ForwardedAgents | WorkloadAgents | NoneAgents
)


class SvidSelection(msgspec.Struct, frozen=True, kw_only=True):
    """Which SVID is ours where there are several: by its `hint` or its `id` (one of them)."""

    hint: str | None = None
    id: str | None = None


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """Who we are and how callers are identified; the first entry of `agents` that applies decides; none applies: 401.

    `workload_api` is the address of the Workload API (`unix:///path` or `tcp://ip:port`); None: the environment's
    `SPIFFE_ENDPOINT_SOCKET`, if it is set; the empty text (`none` in YAML): there is none.
    """

    workload_api: str | None = None
    svid: SvidSelection = SvidSelection()
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


class Server(msgspec.Struct, frozen=True, kw_only=True):
    """One MCP server behind the sidecar: its path on the listener and one or more equal endpoints (URLs)."""

    name: str
    path: str
    endpoints: tuple[str, ...]
    auth: ServerAuth | None = None
    tls: ServerTls = ServerTls()
    health: Health = Health()
    timeouts: Timeouts = Timeouts()
    limits: Limits = Limits()
    require_auth: bool = True
    pin_tools: PinTools | None = None


class Action(StrEnum):
    """What a request rule does."""

    ALLOW = "allow"
    DENY = "deny"
    REQUIRE_APPROVAL = "requireApproval"


class ResponseAction(StrEnum):
    """What a response rule does with what it finds."""

    BLOCK = "block"
    REDACT = "redact"


class Operator(StrEnum):
    """How a condition compares what its path finds with its value."""

    EQ = "eq"
    NE = "ne"
    IN = "in"
    NOT_IN = "notIn"
    MATCHES = "matches"
    GLOB = "glob"
    LT = "lt"
    LTE = "lte"
    GT = "gt"
    GTE = "gte"
    EXISTS = "exists"
    ABSENT = "absent"
    CIDR = "cidr"
    LENGTH_AT_MOST = "lengthAtMost"


Value = str | int | float | bool | None
"""A value that conditions compare with; numbers, texts and booleans are never equal to each other."""


class Condition(msgspec.Struct, frozen=True, kw_only=True):
    """A condition on a call's arguments: `path` is JSONPath (base grammar of jsonpath-ng) over them.

    `value` is one value, for `in`, `notIn` and `cidr` several; None for `exists` and `absent`.
    """

    path: str
    op: Operator
    value: Value | tuple[Value, ...] = None


class Approval(msgspec.Struct, frozen=True, kw_only=True):
    """What a human is asked where a rule requires approval; durations in seconds.

    `show` and `bind` are JSONPath: what the approver sees in the clear, and the values the grant holds for (None: the
    whole arguments).
    """

    workflow: str
    show: tuple[str, ...] = ()
    bind: tuple[str, ...] | None = None
    duration: float = 1800.0
    max_duration: float | None = None
    max_uses: int | None = None


class RequestRule(msgspec.Struct, frozen=True, kw_only=True):
    """One request rule; without selectors it matches every request. Selectors are globs (`*`, `?`).

    All of `when` must hold. With `detect` (named detectors) or `patterns` (RE2, searched) the rule matches only a
    request in which one of them finds something.
    """

    name: str
    action: Action
    tools: tuple[str, ...] = ()
    prompts: tuple[str, ...] = ()
    resources: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    when: tuple[Condition, ...] = ()
    detect: tuple[str, ...] = ()
    patterns: tuple[str, ...] = ()
    message: str | None = None
    approval: Approval | None = None


class Binary(msgspec.Struct, frozen=True, kw_only=True):
    """Binary content that a response rule is about: media types by glob, and more than `over` bytes (decoded)."""

    types: tuple[str, ...] = ("*",)
    over: int = 0


class ResponseRule(msgspec.Struct, frozen=True, kw_only=True):
    """One response rule: what is looked for (`detect`, `patterns`, `binary`), where, and what becomes of it.

    `except_` (RE2, searched in what was found) lists what is fine; `paths` (JSONPath over the result, the error or the
    params of a message) limits the places. The selectors limit the rule to what answers calls of these; without any
    it holds for everything that a server says.
    """

    name: str
    action: ResponseAction
    detect: tuple[str, ...] = ()
    patterns: tuple[str, ...] = ()
    binary: Binary | None = None
    except_: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    tools: tuple[str, ...] = ()
    prompts: tuple[str, ...] = ()
    resources: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()


class AgentSelector(msgspec.Struct, frozen=True, kw_only=True):
    """Agents by the parts of their SPIFFE ID (`spiffe://<trust domain>/ns/<namespace>/sa/<service account>`) or by
    claims, each a glob; all that are given must match."""

    trust_domain: str | None = None
    namespace: str | None = None
    service_account: str | None = None
    claims: tuple[tuple[str, str], ...] = ()


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """Rules for some agents (all, where empty) on some servers, named by globs.

    A policy in mode `shadow` is decided and recorded, and has no effect.
    """

    name: str
    servers: tuple[str, ...]
    agents: tuple[str | AgentSelector, ...] = ()
    mode: Literal["enforce", "shadow"] = "enforce"
    requests: tuple[RequestRule, ...] = ()
    responses: tuple[ResponseRule, ...] = ()


class Workflow(msgspec.Struct, frozen=True, kw_only=True):
    """Who decides on requests for approval: `approvers` in the forms `oidc:group:NAME`, `oidc:user:NAME`, `slack:ID`,
    `email:ADDRESS`, `token:NAME`; how many of them are `required`; how long a request waits (seconds)."""

    name: str
    approvers: tuple[str, ...]
    required: int = 1
    pending_for: float = 1800.0


class Approvals(msgspec.Struct, frozen=True, kw_only=True):
    """The approval workflows that rules name."""

    workflows: tuple[Workflow, ...] = ()


class Sessions(msgspec.Struct, frozen=True, kw_only=True):
    """Sealing of session ids: the key (32 bytes, base64; absent: made at start) and how long one lives."""

    key: Secret | None = None
    lifetime: float = 86400.0


class Rotation(msgspec.Struct, frozen=True, kw_only=True):
    """When the record's file is set aside and how many such files are kept (0: all)."""

    size: int
    keep: int = 0


class Audit(msgspec.Struct, frozen=True, kw_only=True):
    """The record: where to (`None` is standard output, else a path), what a refused write means, whether messages are
    kept (after redaction), and the key (Ed25519, PEM) that signs its checkpoints."""

    file: str | None = None
    rotate: Rotation | None = None
    on_failure: Literal["deny", "allow"] = "deny"
    payloads: Literal["none", "redacted"] = "none"
    signing_key: Secret | None = None


class Otlp(msgspec.Struct, frozen=True, kw_only=True):
    """Where traces, metrics and logs are exported: an OTLP endpoint (gRPC), its CA and headers, and the share of
    traces that are begun here and exported (a trace that the agent samples always is)."""

    endpoint: str
    ca: Secret | None = None
    headers: tuple[tuple[str, Secret], ...] = ()
    sample: float = 1.0


class Telemetry(msgspec.Struct, frozen=True, kw_only=True):
    """The record, the export to a collector, and the log of the process itself."""

    audit: Audit = Audit()
    otlp: Otlp | None = None
    log_level: Literal["debug", "info", "warning", "error"] = "info"


class Configuration(msgspec.Struct, frozen=True, kw_only=True):
    """The whole of one configuration."""

    listen: Listen = Listen()
    identity: Identity = Identity()
    servers: tuple[Server, ...] = ()
    policies: tuple[Policy, ...] = ()
    approvals: Approvals = Approvals()
    sessions: Sessions = Sessions()
    telemetry: Telemetry = Telemetry()
