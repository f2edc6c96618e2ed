"""Which revision a message speaks, decided once from body and header together.

Source: basic/versioning and basic/transports of each revision; a body with modern `_meta` is stateless
(2026-07-28), anything else belongs to the legacy era with its `initialize` handshake.
"""

from typing import Final

from openmcp.sidecar.errors import HEADER_MISMATCH, INVALID_PARAMS, UNSUPPORTED_VERSION, Refused
from openmcp.sidecar.types import LEGACY, MODERN, Era, JsonObject, Notification, Request

MODERN_VERSIONS: Final = ("2026-07-28",)
LEGACY_VERSIONS: Final = ("2025-11-25", "2025-06-18", "2025-03-26")
SUPPORTED_VERSIONS: Final = MODERN_VERSIONS + LEGACY_VERSIONS
OLDEST_VERSION: Final = "2024-11-05"
"""Not named, since its transport is another one; but some servers answer initialize with it, and clients then repeat
it."""
UNDECLARED_VERSION: Final = "2025-03-26"
"""What a legacy client without the header speaks (2025-06-18, "Protocol Version Header")."""

META_VERSION: Final = "io.modelcontextprotocol/protocolVersion"
META_CAPABILITIES: Final = "io.modelcontextprotocol/clientCapabilities"
META_SUBSCRIPTION: Final = "io.modelcontextprotocol/subscriptionId"


def meta_of(params: JsonObject) -> JsonObject:
    """The `_meta` of some params or result; empty where there is none."""
    meta = params.get("_meta")
    return meta if type(meta) is dict else {}


def determine(message: Request | Notification, header: str | None) -> tuple[Era, str]:
    """The era and protocol version of a client's message; raises `Refused` (400) where they cannot be had."""
    meta = meta_of(message.params)
    if header in MODERN_VERSIONS or META_VERSION in meta:
        return MODERN, _modern_version(message, meta, header)
    return LEGACY, legacy_version(header)


def legacy_version(header: str | None) -> str:
    """The version that a legacy client's header names; raises `Refused` for one nobody knows."""
    if header is None:
        return UNDECLARED_VERSION
    if header not in LEGACY_VERSIONS and header != OLDEST_VERSION:
        raise unsupported(header)
    return header


def unsupported(requested: str, supported: tuple[str, ...] = SUPPORTED_VERSIONS) -> Refused:
    """The UnsupportedProtocolVersionError of 2026-07-28, which legacy clients can read as well."""
    return Refused(
        400,
        UNSUPPORTED_VERSION,
        "Unsupported protocol version",
        reason="unsupported_version",
        data={"supported": list(supported), "requested": requested},
    )


def _modern_version(message: Request | Notification, meta: JsonObject, header: str | None) -> str:
    version, capabilities = meta.get(META_VERSION), meta.get(META_CAPABILITIES)
    if header in MODERN_VERSIONS and header == version and type(capabilities) is dict:
        return header
    if isinstance(message, Notification) and META_VERSION not in meta:
        return header or MODERN_VERSIONS[0]  # the revision defines no metadata for notifications
    for key in (META_VERSION, META_CAPABILITIES):
        if key not in meta:
            raise Refused(400, INVALID_PARAMS, f"params._meta lacks the required key {key}", reason="malformed")
    if type(version) is not str or type(capabilities) is not dict:
        raise Refused(400, INVALID_PARAMS, "params._meta has a protocol field of the wrong type", reason="malformed")
    if header != version:
        raise Refused(
            400,
            HEADER_MISMATCH,
            "MCP-Protocol-Version header does not match the protocol version in params._meta",
            reason="header_mismatch",
        )
    if version not in MODERN_VERSIONS:
        raise unsupported(version, MODERN_VERSIONS)  # which the server may still refuse, and name its own
    return version
