"""A sidecar in front of a scripted server, as `tests/net` has it."""

import asyncio
from collections.abc import Callable

import uvloop

from tests.net.conftest import agent, fast_clock, server, sidecar

__all__ = ["agent", "fast_clock", "server", "sidecar"]


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The loop that the product runs on."""
    return {"uvloop": uvloop.new_event_loop}
