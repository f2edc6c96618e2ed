"""What every attack needs: a hostile server, a sidecar in front of it, an agent's connection."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import uvloop

from tests.support.gate import Gate, configuration, gate
from tests.support.hostile import Hostile, hostile
from tests.support.raw import Connection


@pytest.fixture(scope="session")
def event_loop_policy() -> uvloop.EventLoopPolicy:
    """The loop that the product runs on."""
    return uvloop.EventLoopPolicy()


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
