"""`openmcp approvals serve`: the approver's side in a process of its own, beside sidecars that share its store."""

import asyncio
import logging
import signal
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from openmcp.config import ConfigurationError, Loaded
from openmcp.config.filesource import FileSource
from openmcp.config.model import Approvals, Console
from openmcp.sidecar.approvals.making import configure, make_service, wall_clock
from openmcp.sidecar.approvals.service import ApprovalService
from openmcp.sidecar.approvals.side import ApproverSide
from openmcp.sidecar.approvals.values import Event
from openmcp.sidecar.state.opening import open_store
from openmcp.sidecar.state.records import UnknownSchema
from openmcp.sidecar.state.store import StoreUnavailable
from openmcp.sidecar.telemetry import log

_log = logging.getLogger("openmcp.approvals")
_LOOK: Final = 5.0
"""Seconds between two looks for what has ended by time."""


def run(path: Path, source: FileSource, loaded: Loaded) -> None:
    """Serve until SIGTERM. Raises `CannotOpen`, `CannotServe` and `OSError`."""
    log.configure(loaded.configuration.telemetry.log_level)
    asyncio.run(_main(path, source, loaded))


async def _main(path: Path, source: FileSource, loaded: Loaded) -> None:
    approvals = _with_console(loaded.configuration.approvals)
    ended, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    store = open_store(loaded.configuration.state)
    service = make_service(approvals, store, lambda event: _tell(event, side))
    side = ApproverSide(approvals, service, wall_clock)
    tasks: list[asyncio.Task[None]] = []
    try:
        await side.start()
        loop.add_signal_handler(signal.SIGHUP, source.poke)
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
        await store.close()


def _with_console(approvals: Approvals) -> Approvals:
    """The console is what this is for: where nothing is said of it, it is at its usual place."""
    return approvals if approvals.console is not None else msgspec.structs.replace(approvals, console=Console())


async def _follow(path: Path, source: FileSource, service: ApprovalService, side: ApproverSide) -> None:
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


def _tell(event: Event, side: ApproverSide) -> None:
    record = event.record
    subject = f"{record.method} {record.name}"
    about = {"id": record.rid, "agent": record.agent, "server": record.server, "subject": subject, "by": event.by}
    _log.info("approval %s", event.kind.value, extra=about)
    side.heed(event)
