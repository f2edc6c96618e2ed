"""What of the sidecar's own no object of Kubernetes may have sent to a server.

Whoever writes an MCPServer says where a secret goes. Those that the file refers to sign approvals and seal sessions,
and those of the pod itself are its identity: who may write servers must not get them by naming them.
"""

import os
from collections.abc import Iterator
from typing import Final

from openmcp.config.model import Configuration, HeaderAuth, JwtSvidAgents, JwtSvidAuth, OAuthAuth, Secret, Server
from openmcp.config.secrets import secrets_in

OWN: Final = "the secret is the sidecar's own and goes to no server: mount another one for it"
PROGRAM: Final = "`stdio` starts a program beside the sidecar's identity: only the file may, write the server there"
OURS: Final = "a JWT-SVID for this audience is for others: whoever is sent one would be this sidecar to them"
_CLOUDS: Final = (
    "sts.amazonaws.com",
    "api://AzureADTokenExchange",
    "//iam.googleapis.com/",
    "https://iam.googleapis.com/",
)
"""How the audiences begin for which clouds give a role: to sidecars the account of approvals."""
_TOKENS: Final = (
    "kubernetes.io/",
    "eks.amazonaws.com/",
    "pods.eks.amazonaws.com/",
    "azure/",
    "tokens/",
    "workload-spiffe",
)
_FOLDERS: Final = (
    *(f"{run}/secrets/{name}" for run in ("/var/run", "/run") for name in _TOKENS),
    *("/proc/", "/sys/", "/dev/"),
)
"""Where Kubernetes and clouds mount the tokens of a pod, and where the kernel shows its environment."""
_VARIABLES: Final = ("AWS_", "AZURE_", "GOOGLE_")
"""How the credentials of clouds begin."""


def fault(configuration: Configuration, server: Server) -> str | None:
    """Why a server of an object cannot be had beside the rest of the configuration; None where nothing is wrong."""
    if server.stdio is not None:
        return PROGRAM
    audience = _audience(server)
    if audience is not None and (audience.startswith(_CLOUDS) or audience in _taken(configuration)):
        return OURS
    sent = list(_sent(server))
    mine = frozenset(map(_place, secrets_in(configuration))) if sent else frozenset()
    return OWN if any(_place(secret) in mine or _is_of_the_pod(secret) for secret in sent) else None


def _audience(server: Server) -> str | None:
    """For which audience JWT-SVIDs are sent to it, or to the token endpoint that it names."""
    if isinstance(server.auth, JwtSvidAuth):
        return server.auth.audience
    if isinstance(server.auth, OAuthAuth) and server.auth.client.type != "secret":
        return server.auth.client.audience or server.auth.token_url
    return None


def _taken(configuration: Configuration) -> Iterator[str]:
    """The audiences by which callers prove to sidecars who they are, and we to the servers of the file."""
    yield from (one.audience for one in configuration.identity.agents if isinstance(one, JwtSvidAgents))
    yield from (audience for audience in map(_audience, configuration.servers) if audience is not None)


def _sent(server: Server) -> Iterator[Secret]:
    auth = server.auth
    if isinstance(auth, HeaderAuth):
        yield auth.value
    elif isinstance(auth, OAuthAuth) and auth.client.secret is not None:
        yield auth.client.secret


def _place(secret: Secret) -> tuple[str, str]:
    """Where a secret is, whatever links lead there."""
    return ("file", os.path.realpath(secret.file)) if secret.file is not None else ("env", secret.env or "")


def _is_of_the_pod(secret: Secret) -> bool:
    """As the path is written too: where objects are only looked at, /var/run may lead elsewhere."""
    kind, where = _place(secret)
    if kind == "env":
        return where.startswith(_VARIABLES)
    return where.startswith(_FOLDERS) or os.path.normpath(secret.file or "").startswith(_FOLDERS)
