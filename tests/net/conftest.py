"""A scripted server and a sidecar in front of it, with a fast clock and without health checks in between."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
import uvloop

from openmcp.sidecar.net import health, sweep
from openmcp.sidecar.net.pool import Upstream
from tests.support.gate import Gate, configuration, gate
from tests.support.hostile import Hostile, hostile
from tests.support.inlined import COMPILED
from tests.support.raw import Connection


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The loop that the product runs on, and for the sources the one it falls back to: their transports are not the
    same, whether what they call is compiled or not."""
    return {"uvloop": uvloop.new_event_loop} | ({} if COMPILED else {"asyncio": asyncio.new_event_loop})


@pytest.fixture(autouse=True)
def fast_clock() -> Iterator[None]:
    """Enforce time limits to a hundredth of a second, so that tests can use short ones."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweep, "INTERVAL", 0.01)
        yield


@pytest.fixture(autouse=True)
def no_checks() -> Iterator[None]:
    """Let no health check mix with the requests that a test counts."""

    async def never(upstream: Upstream) -> None:
        await asyncio.Event().wait()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(health, "watch", never)
        yield


@pytest.fixture
async def server() -> AsyncIterator[Hostile]:
    """A server that behaves until the test gives it another handler."""
    async with hostile() as running:
        yield running


@pytest.fixture
async def sidecar(server: Hostile, tmp_path: Path) -> AsyncIterator[Gate]:
    """A sidecar in front of the server."""
    async with gate(tmp_path, configuration(server.url)) as running:
        yield running


@pytest.fixture
async def agent(sidecar: Gate) -> AsyncIterator[Connection]:
    """A connection of alice's."""
    async with sidecar.connect() as connection:
        yield connection
