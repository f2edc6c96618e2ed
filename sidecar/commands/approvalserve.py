"""`openmcp approvals serve`: the approver's side in a process of its own, beside sidecars that share its store."""

import asyncio
import logging
import signal
from contextlib import suppress
from pathlib import Path
from typing import Final

from openmcp.config import ConfigurationError, Loaded
from openmcp.config.filesource import FileSource
from openmcp.config.model import Console as Where
from openmcp.sidecar.approvals.console import making
from openmcp.sidecar.approvals.console.server import Console
from openmcp.sidecar.approvals.making import configure, make_service, wall_clock
from openmcp.sidecar.approvals.service import ApprovalService
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
    configuration = loaded.configuration
    ended, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    store = open_store(configuration.state)
    service = make_service(configuration.approvals, store, _tell)
    console = Console(service, making.settings(configuration.approvals), wall_clock)
    where = (configuration.approvals.console or Where()).listen
    try:
        await console.start(where.host, where.port)
        loop.add_signal_handler(signal.SIGHUP, source.poke)
        for warning in loaded.warnings:
            _log.warning("%s", warning)
        _log.info("approvers decide at %s", console.url)
        tasks = [loop.create_task(_follow(path, source, service, console)), loop.create_task(_sweep(service))]
        await ended.wait()
        for task in tasks:
            task.cancel()
    finally:
        await console.stop()
        await service.close()
        await store.close()


async def _follow(path: Path, source: FileSource, service: ApprovalService, console: Console) -> None:
    """Take over each new configuration that is good: workflows, and who may log in."""
    async for found in source.changes():
        if isinstance(found, ConfigurationError):
            _log.error("%s was changed and is not good; what was there before holds: %s", path, found)
            continue
        configure(service, found.configuration.approvals)
        console.configure(making.settings(found.configuration.approvals))
        _log.info("took over the changed configuration; state and console.listen change only with a restart")


async def _sweep(service: ApprovalService) -> None:
    while True:
        with suppress(StoreUnavailable, UnknownSchema):
            await service.sweep()
        await asyncio.sleep(_LOOK)


def _tell(event: Event) -> None:
    record = event.record
    subject = f"{record.method} {record.name}"
    about = {"id": record.rid, "agent": record.agent, "server": record.server, "subject": subject, "by": event.by}
    _log.info("approval %s", event.kind.value, extra=about)
