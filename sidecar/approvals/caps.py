"""How much one agent may ask of people: requests that are open at a time, messages to channels within an hour."""

from collections import deque
from typing import Final

from openmcp.sidecar.approvals.values import Limits
from openmcp.sidecar.state.records import Status
from openmcp.sidecar.state.store import MANY, StateStore

_COUNTED: Final = 500
"""Pending requests of all agents that are looked through."""

_HOUR: Final = 3_600_000
_MAX_AGENTS: Final = 10_000


class Caps:
    """Counts of this process; those of others are seen in the store, where they may lag by what is being opened."""

    def __init__(self, store: StateStore, limits: Limits) -> None:
        self._store = store
        self._limits = limits
        self._open: dict[str, dict[str, int]] = {}
        self._told: dict[str, deque[int]] = {}

    async def admit(self, agent: str, key: str, until: int, now: int) -> bool:
        """Whether an agent may open one more request, which then counts until it ends; else nothing has changed."""
        mine = self._running(agent, now)
        most = self._limits.open_requests
        if len(mine) >= most:
            await self._drop_decided(mine, now)
            if len(mine) >= most:
                return False
        mine[key] = until  # before the store is asked: many may ask at once
        page = await self._store.list_pending(now, _COUNTED)
        others = sum(record.agent == agent and record.key not in mine for record in page.records)
        if len(mine) + others > most:
            self.release(agent, key)
            return False
        return True

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
