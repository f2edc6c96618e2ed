"""A scripted server and a sidecar in front of it, as `tests/security` has them."""

import asyncio
from collections.abc import Callable

import uvloop

from tests.security.conftest import agent, server, sidecar

__all__ = ["agent", "server", "sidecar"]


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The loop that the product runs on."""
    return {"uvloop": uvloop.new_event_loop}
