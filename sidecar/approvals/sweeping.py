"""Now and then, what has ended by time is written down, so that it is told of and found in the history."""

import asyncio
import logging
import random
from contextlib import suppress
from typing import Final

from openmcp.sidecar.approvals.service import ApprovalService
from openmcp.sidecar.state.records import UnknownSchema
from openmcp.sidecar.state.store import StoreUnavailable

_log = logging.getLogger("openmcp.approvals")

EVERY: Final = 30.0
"""Seconds; up to a fifth is added by chance, since every process that shares the state does it."""


class Sweeping:
    """A task that sweeps until it is stopped. That something has ended never depends on it."""

    def __init__(self, service: ApprovalService, every: float = EVERY) -> None:
        self._service = service
        self._every = every
        self._task: asyncio.Task[None] | None = None
        self._away = False

    @property
    def running(self) -> bool:
        """Whether it was started."""
        return self._task is not None

    def start(self) -> None:
        """Begin, in the event loop that runs."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        """End it; a sweep that is under way is given up."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._every * random.uniform(1, 1.2))  # noqa: S311 - spreads reads
            try:
                await self._service.sweep()
                self._away = False
            except (StoreUnavailable, UnknownSchema) as error:
                if not self._away:
                    _log.warning("cannot write down what has ended: %s", error)
                self._away = True
