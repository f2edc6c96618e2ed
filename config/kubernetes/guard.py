"""What of the sidecar's own no object of Kubernetes may have sent to a server.

Whoever writes an MCPServer says where a secret goes. Those that the file refers to sign approvals and seal sessions,
and those of the pod itself are its identity: who may write servers must not get them by naming them.
"""

import os
from collections.abc import Iterator
from typing import Final

import msgspec

from openmcp.config.model import Configuration, HeaderAuth, OAuthAuth, Secret, Server

OWN: Final = "the secret is the sidecar's own and goes to no server: mount another one for it"
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
    mine = frozenset(map(_place, _secrets(configuration)))
    return OWN if any(_place(secret) in mine or _is_of_the_pod(secret) for secret in _sent(server)) else None


def _sent(server: Server) -> Iterator[Secret]:
    auth = server.auth
    if isinstance(auth, HeaderAuth):
        yield auth.value
    elif isinstance(auth, OAuthAuth) and auth.client.secret is not None:
        yield auth.client.secret


def _secrets(value: object) -> Iterator[Secret]:
    if isinstance(value, Secret):
        yield value
    elif isinstance(value, msgspec.Struct):
        for field in value.__struct_fields__:
            yield from _secrets(getattr(value, field))
    elif isinstance(value, tuple):
        for item in value:
            yield from _secrets(item)


def _place(secret: Secret) -> tuple[str, str]:
    """Where a secret is, whatever links lead there."""
    return ("file", os.path.realpath(secret.file)) if secret.file is not None else ("env", secret.env or "")


def _is_of_the_pod(secret: Secret) -> bool:
    kind, where = _place(secret)
    return where.startswith(_FOLDERS if kind == "file" else _VARIABLES)
