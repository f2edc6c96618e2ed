"""From the settings of telemetry to the record and the exporter."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from openmcp.config.model import Audit, Otlp
from openmcp.config.secrets import SecretError, read
from openmcp.config.secrets import name as secret_name
from openmcp.sidecar.build.errors import BuildError
from openmcp.sidecar.stages.payloads import Payloads
from openmcp.sidecar.telemetry.audit import AuditLog
from openmcp.sidecar.telemetry.metrics import Metrics
from openmcp.sidecar.telemetry.signing import KeyUnusable, Signer

if TYPE_CHECKING:
    from openmcp.sidecar.telemetry.otlp import Exporter


def record(settings: Audit, on_change: Callable[[OSError | None], None]) -> tuple[AuditLog, Payloads | None]:
    """The record, which is begun, and what writes messages into it, if they are kept. Raises `BuildError`.

    Without a signing key, the hashes of removed texts have a key of this process.
    """
    signer = _signer(settings)
    log = AuditLog(
        Path(settings.file) if settings.file is not None else None,
        deny_on_failure=settings.on_failure == "deny",
        on_change=on_change,
        rotation=settings.rotate,
        signer=signer,
    )
    if settings.payloads == "none":
        return log, None
    return log, Payloads(signer.removal_key() if signer is not None else os.urandom(32))


def _signer(settings: Audit) -> Signer | None:
    if settings.signing_key is None:
        return None
    try:
        return Signer(read(settings.signing_key))
    except SecretError as error:
        raise BuildError(f"telemetry.audit.signingKey: {error}") from error
    except KeyUnusable as error:
        raise BuildError(f"telemetry.audit.signingKey: {secret_name(settings.signing_key)} {error}") from error


def exporter(settings: Otlp | None, version: str, metrics: Metrics) -> "Exporter | None":
    """What exports to a collector, where one is configured. Raises `BuildError`."""
    if settings is None:
        return None
    try:
        from openmcp.sidecar.telemetry.otlp import Exporter
    except ImportError as error:
        raise BuildError(f"telemetry.otlp needs the extra: pip install 'openmcp[otlp]' ({error})") from error
    try:
        return Exporter(settings, version, metrics)
    except (SecretError, ValueError) as error:
        raise BuildError(f"telemetry.otlp: {error}") from error
