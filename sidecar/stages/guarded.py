"""The way of calls to approvals, which are loaded when a configuration first wants some: others have none in memory."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from openmcp.sidecar.mcp.values import Call
from openmcp.sidecar.policy.decision import Decision
from openmcp.sidecar.policy.engine import Permit
from openmcp.sidecar.stages.context import Flow
from openmcp.sidecar.stages.record import Recorder
from openmcp.sidecar.types import JsonObject

if TYPE_CHECKING:
    from openmcp.sidecar.stages.approvals import Approvals


class Guarded:
    """Approvals that may not be there; `load` makes them. What is asked of them where they are not has its answer."""

    def __init__(self, recorder: Recorder, load: "Callable[[], Approvals]") -> None:
        self.recorder = recorder
        self.loaded: Approvals | None = None
        self._load = load
        self._stopping = False

    def load(self) -> "Approvals":
        """They are there from now on."""
        if self.loaded is None:
            self.loaded = self._load()
            if self._stopping:
                self.loaded.holding.release()
        return self.loaded

    async def settle(self, flow: Flow, call: Call, decision: Decision) -> Permit | None:
        """See `Approvals.settle`."""
        return await self.load().settle(flow, call, decision)

    async def intercept(self, flow: Flow, call: Call) -> bool:
        """See `Approvals.intercept`."""
        return self.loaded is not None and await self.loaded.intercept(flow, call)

    def owns(self, server: str, agent: str, identifier: object) -> bool:
        """Whether a task is one of ours, for this agent."""
        return self.loaded is not None and self.loaded.tasks.owns(server, agent, identifier)

    def sweep(self, now: float) -> None:
        """Keep held calls alive; `now` is the loop's time."""
        if self.loaded is not None:
            self.loaded.holding.sweep(now)

    def held(self) -> dict[str, int]:
        """How many calls are held, by server."""
        return self.loaded.holding.counts() if self.loaded is not None else {}

    def report(self) -> JsonObject:
        """How approvals stand, for /readyz."""
        return self.loaded.report() if self.loaded is not None else {"state": "none"}

    def release(self) -> None:
        """Let all held calls go, and hold no more."""
        self._stopping = True
        if self.loaded is not None:
            self.loaded.holding.release()

    async def close(self, patience: float) -> None:
        """Let tasks that are under way finish within so many seconds, then cut them off."""
        if self.loaded is not None:
            await self.loaded.tasks.close(patience)
