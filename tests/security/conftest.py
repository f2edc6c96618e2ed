"""What every attack needs: a hostile server, a sidecar in front of it, an agent's connection."""

import logging
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import uvloop

from tests.support.gate import Gate, configuration, gate
from tests.support.hostile import Hostile, hostile
from tests.support.raw import Connection

FAULTS = ("asyncio", "openmcp.net", "openmcp.pipeline")


def pytest_configure(config: pytest.Config) -> None:
    """The plugin's new way to choose a loop holds for all tests or none; here the old one is right."""
    config.addinivalue_line("filterwarnings", "ignore:Overriding the .event_loop_policy. fixture")


@pytest.fixture(scope="session")
def event_loop_policy() -> uvloop.EventLoopPolicy:
    """The loop that the product runs on."""
    return uvloop.EventLoopPolicy()


@pytest.fixture(autouse=True)
def no_faults(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Whatever the attack: no exception that only a log has seen."""
    yield
    faults = [record for record in caplog.get_records("call") if record.levelno >= logging.ERROR]
    assert not [
        record.getMessage() for record in faults if record.name in ("asyncio", "openmcp.net", "openmcp.pipeline")
    ]


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
