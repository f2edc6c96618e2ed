"""A sidecar in front of a scripted server, as `tests/net` has it."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import uvloop

from tests.fakes.workload_api import FakeWorkloadApi
from tests.net.conftest import agent, fast_clock, server, sidecar

__all__ = ["agent", "fast_clock", "server", "sidecar"]


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The loop that the product runs on."""
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture
async def workload_api(tmp_path: Path) -> AsyncIterator[FakeWorkloadApi]:
    async with FakeWorkloadApi(f"unix://{tmp_path}/api.sock") as running:
        yield running
