"""A sidecar in front of a stdio server that does what the test wants, and a look at what is left of it."""

import asyncio
import re
import sys
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import uvloop

from openmcp.sidecar.bridge.stdio import StdioEndpoint
from tests.net.conftest import fast_clock
from tests.support.gate import Gate, configuration, gate
from tests.support.process import ROOT

__all__ = ["Behind", "behind", "fast_clock"]

PATIENCE = 10.0
SERVER = str(ROOT / "tests" / "fixtures" / "stdio_server.py")


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The loop that the product runs on, and the one it falls back to: they start processes each in their own way."""
    return {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}


class Behind:
    """Runs sidecars before stdio servers; knows all of their processes by a variable of their environment."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._run = uuid.uuid4().hex
        self._sidecar: Gate | None = None

    def config(self, *arguments: str, server: dict[str, Any] | None = None, **stdio: Any) -> dict[str, Any]:
        """Return a configuration with the fixture server, called with these arguments; keywords are keys of `stdio`."""
        config = configuration(**(server or {}))
        del config["servers"][0]["endpoints"]
        env = {"TEST_RUN": self._run} | stdio.pop("env", {})
        config["servers"][0]["stdio"] = {"command": sys.executable, "args": [SERVER, *arguments], "env": env, **stdio}
        return config

    def gate(
        self, *arguments: str, server: dict[str, Any] | None = None, **stdio: Any
    ) -> AbstractAsyncContextManager[Gate]:
        """Run a sidecar, and see at its end that nothing is left running."""
        return self._gate(self.config(*arguments, server=server, **stdio))

    @asynccontextmanager
    async def _gate(self, config: dict[str, Any]) -> AsyncIterator[Gate]:
        async with gate(self._folder, config) as running:
            self._sidecar = running
            yield running
            self._sidecar = None
        assert self.processes() == []

    def processes(self) -> list[int]:
        """Return the processes that there are, with all that they have started."""
        wanted = f"TEST_RUN={self._run}".encode()
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                if wanted in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
            except OSError:
                continue
        return sorted(found)

    async def left(self, count: int) -> list[int]:
        """Wait until there are so many processes; for none, until the sidecar has seen that as well, a moment later."""
        async with asyncio.timeout(PATIENCE):
            found = self.processes()
            while len(found) != count or not (count or await self._all_seen()):  # others' children
                await asyncio.sleep(0.02)
                found = self.processes()
            return found

    async def _all_seen(self) -> bool:
        shown = await self._sidecar.page("/metrics") if self._sidecar is not None else ""
        return re.search(r"^openmcp_stdio_processes\{.*\} [1-9]", shown, re.MULTILINE) is None


def talks(sidecar: Gate) -> list[Any]:
    """The conversations with processes."""
    (endpoint,) = next(iter(sidecar.app.snapshot.routes.values())).upstream.endpoints
    assert isinstance(endpoint, StdioEndpoint)
    return list(endpoint._all)


def talk(sidecar: Gate) -> Any:
    """The only one."""
    (only,) = talks(sidecar)
    return only


async def until(holds: Callable[[], object]) -> None:
    """Wait for what has no event of its own, such as a line in the log."""
    async with asyncio.timeout(PATIENCE):
        while not holds():  # noqa: ASYNC110 - looks at what others do
            await asyncio.sleep(0.01)


@pytest.fixture
def behind(tmp_path: Path) -> Behind:
    """What runs sidecars before stdio servers."""
    return Behind(tmp_path)
