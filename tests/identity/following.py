"""A source that follows the Workload API, as tests watch it."""

import asyncio
import time
from collections.abc import Callable

from openmcp.identity.material import SvidChoice
from openmcp.identity.source import SvidSource

PATIENCE = 20.0


class Watched(SvidSource):
    """A source that can be waited for, on a clock that is `ahead` seconds ahead of the true one."""

    def __init__(self, address: str, *, hint: str | None = None, id: str | None = None) -> None:
        super().__init__(address, SvidChoice(hint, id), clock=lambda: time.time() + self.ahead)
        self.ahead = 0.0
        self._changed = asyncio.Event()
        self.subscribe(self._changed.set)

    async def change(self) -> None:
        """Wait for the next change of our material, or for one since the last call."""
        async with asyncio.timeout(PATIENCE):
            await self._changed.wait()
        self._changed.clear()

    async def __aenter__(self) -> "Watched":
        self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()


async def until(holds: Callable[[], object]) -> None:
    """Wait for what has no event of its own, such as a failure."""
    async with asyncio.timeout(PATIENCE):
        while not holds():  # noqa: ASYNC110 - looks at what another task does, which has no event
            await asyncio.sleep(0.01)
