"""The record, the export and the log: `telemetry`."""

from typing import Literal

import msgspec

from openmcp.config.model.basics import Secret


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
