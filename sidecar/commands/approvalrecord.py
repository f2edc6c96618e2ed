"""The records of processes that decide and are no sidecar: what is decided there is written down there.

A file has one writer, so each has its own, beside the sidecar's: of `audit.jsonl`, `audit.approvals.jsonl` is that of
`approvals serve`, and `audit.approvals-cli.jsonl` that of the commands, which take turns.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec

from openmcp.config.model import Audit
from openmcp.sidecar.approvals.recording import line_of
from openmcp.sidecar.approvals.values import Event
from openmcp.sidecar.build.telemetry import record
from openmcp.sidecar.telemetry.audit import AuditLog

PATIENCE: Final = 5.0
"""Seconds to wait for one's turn at the file, and for the last line to be out."""


class NotRecorded(Exception):
    """The record cannot be written; the text says where, and what has happened all the same."""


def beside(path: str, part: str) -> str:
    """The file of another process: `audit.jsonl` becomes `audit.<part>.jsonl`, a name without a suffix gets one."""
    file = Path(path)
    return str(file.with_name(f"{file.stem}.{part}{file.suffix}"))


def log_of(audit: Audit, part: str, on_change: Callable[[OSError | None], None]) -> AuditLog:
    """The record of this process, begun, in its own file or on standard output. Raises `BuildError`."""
    file = beside(audit.file, part) if audit.file is not None else None
    return record(msgspec.structs.replace(audit, file=file, payloads="none"), on_change)[0]


@contextmanager
def recorded(audit: Audit) -> Iterator[Callable[[Event], None]]:
    """What a command brings about goes into the record before it ends. Raises `NotRecorded` before anything is done, or
    after it, and `BuildError`.

    Where the sidecar's record is on standard output, which here is for people, there is none of commands: votes are in
    the state's history, and in the line of each call that the sidecar makes under their grant.
    """
    if audit.file is None:
        yield lambda event: None
        return
    where, faults = beside(audit.file, "approvals-cli"), list[OSError]()
    log = log_of(audit, "approvals-cli", lambda error: faults.append(error) if error is not None else None)
    must = audit.on_failure == "deny"
    try:
        if must and not _begun(log):
            raise NotRecorded(f"nothing was done, for the record {where} cannot be written: {faults[-1].strerror}")
        yield lambda event: log.write(line_of(event))
    finally:
        done = log.close(PATIENCE)
    if must and not done:
        raise NotRecorded(f"done, but the record {where} could not be written")


def _begun(log: AuditLog) -> bool:
    """Whether the record takes lines, within so many seconds."""
    end = time.monotonic() + PATIENCE
    while not (taken := log.flush(0.2) and log.accepting) and time.monotonic() < end:
        pass
    return taken
