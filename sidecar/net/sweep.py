"""One coarse clock for all deadlines of the network: cheaper than a timer for each request."""

import asyncio
from collections.abc import Callable
from typing import Final

INTERVAL: Final = 0.25
"""Seconds between sweeps: the precision of every network timeout."""


class Sweeper:
    """Calls its members' `sweep(now)` four times a second while the loop runs; `now` is the loop's time."""

    def __init__(self) -> None:
        self._members: list[Callable[[float], None]] = []
        self._handle: asyncio.TimerHandle | None = None

    def add(self, sweep: Callable[[float], None]) -> None:
        """Call `sweep` from now on."""
        self._members.append(sweep)

    def remove(self, sweep: Callable[[float], None]) -> None:
        """Call it no more."""
        self._members.remove(sweep)

    def start(self) -> None:
        """Begin; needs a running loop."""
        self._handle = asyncio.get_running_loop().call_later(INTERVAL, self._tick)

    def stop(self) -> None:
        """End; may be called twice."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        self._handle = loop.call_later(INTERVAL, self._tick)
        now = loop.time()
        for sweep in tuple(self._members):
            sweep(now)
