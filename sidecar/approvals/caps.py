"""How much one agent may ask of people: requests that are open at a time, messages to channels within an hour."""

from collections import deque
from typing import Final

from openmcp.sidecar.approvals.values import Limits
from openmcp.sidecar.state.records import Status
from openmcp.sidecar.state.store import MANY, StateStore

_COUNTED: Final = 500
"""Pending requests of all agents that are looked through."""

_FRESH: Final = 30_000
_FRESH_TO_REFUSE: Final = 2_000
"""Milliseconds for which a count of what other processes opened serves: all pending requests are read for it."""

_HOUR: Final = 3_600_000
_MAX_AGENTS: Final = 10_000


class Caps:
    """Counts of this process; what others open is seen in the store, up to half a minute later."""

    def __init__(self, store: StateStore, limits: Limits) -> None:
        self._store = store
        self._limits = limits
        self._open: dict[str, dict[str, int]] = {}
        self._counted: dict[str, tuple[int, int]] = {}
        self._told: dict[str, deque[int]] = {}

    async def admit(self, agent: str, key: str, until: int, now: int) -> bool:
        """Whether an agent may open one more request, which then counts until it ends; else nothing has changed."""
        mine = self._running(agent, now)
        most = self._limits.open_requests
        if key in mine:
            return True  # the same question, which is being put at this very moment, or has been
        if len(mine) >= most:
            await self._drop_decided(mine, now)
            if len(mine) >= most:
                return False
        mine[key] = until  # before the store is asked: many may ask at once
        if len(mine) + await self._others(agent, now, _FRESH) <= most:
            return True
        if len(mine) + await self._others(agent, now, _FRESH_TO_REFUSE) <= most:
            return True
        self.release(agent, key)
        return False

    async def _others(self, agent: str, now: int, fresh: int) -> int:
        """Requests of an agent that this process has not opened, counted less than `fresh` milliseconds ago."""
        known = self._counted.get(agent)
        if known is not None and now - known[1] < fresh:
            return known[0]
        mine = self._open.get(agent, {})
        page = await self._store.list_pending(now, _COUNTED)
        others = sum(record.agent == agent and record.key not in mine for record in page.records)
        if len(self._counted) >= _MAX_AGENTS:
            self._counted.clear()
        self._counted[agent] = others, now
        return others

    def release(self, agent: str, key: str) -> None:
        """A request that was not opened after all."""
        self._open.get(agent, {}).pop(key, None)

    def may_tell(self, agent: str, now: int) -> bool:
        """Whether channels are told of one more request of this agent; that counts."""
        if len(self._told) >= _MAX_AGENTS and agent not in self._told:
            self._told = {one: times for one, times in self._told.items() if times and times[-1] > now - _HOUR}
        times = self._told.setdefault(agent, deque())
        while times and times[0] <= now - _HOUR:
            times.popleft()
        if len(times) >= self._limits.notifications_per_hour:
            return False
        times.append(now)
        return True

    def _running(self, agent: str, now: int) -> dict[str, int]:
        if len(self._open) >= _MAX_AGENTS and agent not in self._open:
            self._open = {one: mine for one, mine in self._open.items() if any(end > now for end in mine.values())}
        mine = self._open.setdefault(agent, {})
        for key in [key for key, until in mine.items() if until <= now]:
            del mine[key]
        return mine

    async def _drop_decided(self, mine: dict[str, int], now: int) -> None:
        keys = list(mine)[:MANY]
        found = await self._store.get_many(keys, now)
        for key in keys:
            if key in found and found[key].status is not Status.PENDING:
                mine.pop(key, None)
