"""`openmcp approvals serve`: the approver's side in a process of its own, beside sidecars that share its store."""

import asyncio
import logging
import signal
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from openmcp.config import ConfigurationError, Loaded
from openmcp.config.kubernetes.opening import Source
from openmcp.config.model import Approvals, Console
from openmcp.sidecar.approvals.making import configure, make_service, wall_clock
from openmcp.sidecar.approvals.recording import line_of
from openmcp.sidecar.approvals.service import ApprovalService
from openmcp.sidecar.approvals.side import ApproverSide
from openmcp.sidecar.approvals.values import Event
from openmcp.sidecar.commands.approvalrecord import PATIENCE, log_of
from openmcp.sidecar.commands.approvalstore import opened_store
from openmcp.sidecar.state.records import UnknownSchema
from openmcp.sidecar.state.store import StateStore, StoreUnavailable
from openmcp.sidecar.telemetry import log
from openmcp.sidecar.telemetry.audit import AuditLog

_log = logging.getLogger("openmcp.approvals")
_LOOK: Final = 5.0
"""Seconds between two looks for what has ended by time."""


def run(path: Path, source: Source, loaded: Loaded) -> None:
    """Serve until SIGTERM. Raises `BuildError`, `CannotOpen`, `CannotServe` and `OSError`."""
    log.configure(loaded.configuration.telemetry.log_level)
    asyncio.run(_main(path, source, loaded))


async def _main(path: Path, source: Source, loaded: Loaded) -> None:
    ended, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    audit = log_of(loaded.configuration.telemetry.audit, "approvals", _log_audit)
    try:
        async with opened_store(loaded.configuration) as store:
            await _serve(path, source, loaded, store, audit, ended)
    finally:
        if await asyncio.to_thread(audit.close, PATIENCE):
            _log.info("the record ends with seq %d, chain %s", audit.head.seq, audit.head.value.hex())
        else:
            _log.error("the last lines of the record could not be written")


async def _serve(
    path: Path, source: Source, loaded: Loaded, store: StateStore, audit: AuditLog, ended: asyncio.Event
) -> None:
    approvals, loop = _with_console(loaded.configuration.approvals), asyncio.get_running_loop()
    service = make_service(approvals, store, lambda event: _tell(event, side, audit))
    service.recording = lambda: audit.accepting
    side = ApproverSide(approvals, service, wall_clock)
    tasks: list[asyncio.Task[None]] = []
    try:
        await side.start()
        loop.add_signal_handler(signal.SIGHUP, _poke, source, audit)
        for warning in loaded.warnings:
            _log.warning("%s", warning)
        _log.info("approvers decide at %s", side.url)
        tasks += [loop.create_task(_follow(path, source, service, side)), loop.create_task(_sweep(service))]
        await ended.wait()
    finally:
        for task in tasks:
            task.cancel()
        await side.stop()
        await service.close()


def _poke(source: Source, audit: AuditLog) -> None:
    audit.reopen()
    source.poke()


def _log_audit(error: OSError | None) -> None:
    if error is None:
        _log.warning("the record is written again")
    else:
        _log.error("the record cannot be written: %s", error)


def _with_console(approvals: Approvals) -> Approvals:
    """The console is what this is for: where nothing is said of it, it is at its usual place."""
    return approvals if approvals.console is not None else msgspec.structs.replace(approvals, console=Console())


async def _follow(path: Path, source: Source, service: ApprovalService, side: ApproverSide) -> None:
    """Take over each new configuration that is good: workflows, channels, and who may log in."""
    async for found in source.changes():
        if isinstance(found, ConfigurationError):
            _log.error("%s was changed and is not good; what was there before holds: %s", path, found)
            continue
        approvals = _with_console(found.configuration.approvals)
        configure(service, approvals)
        await side.configure(approvals)
        _log.info("took over the changed configuration; state and approvals.console change only with a restart")


async def _sweep(service: ApprovalService) -> None:
    while True:
        with suppress(StoreUnavailable, UnknownSchema):
            await service.sweep()
        await asyncio.sleep(_LOOK)


def _tell(event: Event, side: ApproverSide, audit: AuditLog) -> None:
    audit.write(line_of(event))
    record = event.record
    subject = f"{record.method} {record.name}"
    about = {"id": record.rid, "agent": record.agent, "server": record.server, "subject": subject, "by": event.by}
    _log.info("approval %s", event.kind.value, extra=about)
    side.heed(event)
