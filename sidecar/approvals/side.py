"""The approver's side of a process: the console and the channels of a configuration, which may change."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from openmcp.config.model import Approvals
from openmcp.sidecar.approvals.channels.making import PATH, Outlets
from openmcp.sidecar.approvals.service import ApprovalService
from openmcp.sidecar.approvals.values import Event

if TYPE_CHECKING:
    from openmcp.sidecar.approvals.console.server import Console


class ApproverSide:
    """What `approvals` asks for: a console where there is one, and channels. aiohttp is loaded for a console alone.

    `on_result` and `on_refused` are those of `channels.making.Outlets`. Raises `CannotServe`.
    """

    def __init__(
        self,
        approvals: Approvals,
        service: ApprovalService,
        clock: Callable[[], int],
        on_result: Callable[[str, str], None] = lambda channel, result: None,
        on_refused: Callable[[], None] = lambda: None,
    ) -> None:
        self._approvals = approvals
        self._outlets = Outlets(service, clock, lambda: self.url, on_result, on_refused)
        self._console: Console | None = None
        if approvals.console is not None:
            from openmcp.sidecar.approvals.console import making, server

            self._console = server.Console(service, making.settings(approvals), clock, self._outlets.notes)
            self._console.mount(PATH, self._outlets.slack)

    @property
    def url(self) -> str:
        """Where browsers find the console, once it has been started; empty where there is none."""
        return self._console.url if self._console is not None else ""

    async def start(self) -> None:
        """Listen, and tell channels. Raises `OSError`."""
        where = self._approvals.console
        if self._console is not None and where is not None:
            await self._console.start(where.listen.host, where.listen.port)
        await self._outlets.configure(self._approvals)

    async def configure(self, approvals: Approvals) -> None:
        """Take over what has changed; `console` changes with a restart alone."""
        if self._console is not None:
            from openmcp.sidecar.approvals.console import making

            self._console.configure(making.settings(approvals))
        await self._outlets.configure(approvals)

    async def stop(self) -> None:
        """End all of it; answers under way have a moment."""
        if self._console is not None:
            await self._console.stop()
        await self._outlets.stop()

    def heed(self, event: Event) -> None:
        """Take up what has happened to a request in this process."""
        self._outlets.heed(event)

    def faults(self) -> Mapping[str, str]:
        """What is wrong with each channel by its name, empty where nothing is."""
        return self._outlets.faults()
