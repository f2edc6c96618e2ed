"""Who we are and how callers are known: `identity`."""

import msgspec

from openmcp.config.model.basics import Secret


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
