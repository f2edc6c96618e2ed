"""What a stopwatch counts."""

from __future__ import annotations

import asyncio
import time

from tests.support.stopwatch import stopwatch

STILL = 0.5


async def test_it_counts_what_is_waited_for_and_no_standstill() -> None:
    async with stopwatch() as took, asyncio.timeout(60):
        while took() < STILL:  # noqa: ASYNC110 - it has no event
            await asyncio.sleep(0.01)
        began, before = time.monotonic(), took()
        time.sleep(STILL)  # noqa: ASYNC251 - the loop stands still
        at_once = took()
        await asyncio.sleep(0)
        assert max(at_once, took()) - before < time.monotonic() - began - STILL / 2
