"""Time for what is promised in seconds, on machines that stand still for some now and then."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

_TICK = 0.05


@asynccontextmanager
async def stopwatch() -> AsyncIterator[Callable[[], float]]:
    """What is yielded tells the seconds since then, without those in which this process did not run at all: whoever
    shares the machine with it did not either."""
    began = due = time.monotonic()
    lost = 0.0

    def late() -> float:
        by = time.monotonic() - due
        return by if by > _TICK else 0.0  # less is what any loop is late by

    async def tick() -> None:
        nonlocal due, lost
        while True:
            due = time.monotonic() + _TICK
            await asyncio.sleep(_TICK)
            lost += late()

    ticking = asyncio.create_task(tick())
    try:
        yield lambda: time.monotonic() - began - lost - late()
    finally:
        ticking.cancel()
