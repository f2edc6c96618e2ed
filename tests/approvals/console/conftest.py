"""A console, and browsers that are closed afterwards."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from tests.approvals.console.site import Browser, Site


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    made = Site()
    await made.start()
    yield made
    await made.console.stop()


@pytest.fixture
async def browser(site: Site) -> AsyncIterator[Callable[..., Awaitable[Browser]]]:
    opened = []

    async def make(name: str | None = None) -> Browser:
        one = Browser(site)
        opened.append(one)
        if name:
            assert (await one.log_in(name)).status == 303
        return one

    yield make
    for one in opened:
        await one.close()
