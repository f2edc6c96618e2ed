"""Where servers, policies and workflows come from: `source`."""

import msgspec


class FileOrigin(msgspec.Struct, frozen=True, kw_only=True, tag="file", tag_field="type"):
    """From the file, like all the rest."""


class KubernetesOrigin(msgspec.Struct, frozen=True, kw_only=True, tag="kubernetes", tag_field="type"):
    """From the objects MCPServer, MCPPolicy and ApprovalWorkflow of one namespace (None: our own).

    Where the API server has not been heard of for `max_staleness` seconds, everything is denied (None: never).
    """

    namespace: str | None = None
    max_staleness: float | None = None


Origin = FileOrigin | KubernetesOrigin
