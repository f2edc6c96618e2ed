"""The processes of the demo: started in groups of their own, ready before they are used, ended with it."""

import asyncio
import signal
import socket
import sys
import urllib.request
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

START_SECONDS: Final = 20.0
"""Generous: a machine under load imports the MCP SDK in seconds."""
STOP_SECONDS: Final = 5.0
GLANCE: Final = 0.03
"""Seconds between two looks at a process that starts; it has no event to wait for."""
LOG_LINES: Final = 15


class Failed(Exception):
    """Something that the demo needs did not work; the text says what, for people."""


class Child:
    """One running process; what it prints goes to the file `log`."""

    def __init__(self, name: str, process: asyncio.subprocess.Process, log: Path) -> None:
        self.name = name
        self.log = log
        self._process = process

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def check(self) -> None:
        """Raise Failed where it has ended, with the end of what it printed."""
        if self._process.returncode is not None:
            printed = self.log.read_text(errors="replace").splitlines()[-LOG_LINES:]
            told = "".join(f"\n  {line}" for line in printed)
            raise Failed(f"{self.name} ended with exit code {self._process.returncode}{told}")

    async def until(self, ready: Callable[[], bool]) -> None:
        """Wait until `ready`, which is asked in a thread; raises Failed where it ends first or takes too long."""
        try:
            async with asyncio.timeout(START_SECONDS):
                while not await asyncio.to_thread(ready):
                    self.check()
                    await asyncio.sleep(GLANCE)
        except TimeoutError:
            raise Failed(f"{self.name} was not ready after {START_SECONDS:.0f} s; it printed to {self.log}") from None

    async def stop(self) -> None:
        """SIGTERM; SIGKILL where that is not enough."""
        with suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(self._process.wait(), STOP_SECONDS)
        except TimeoutError:
            with suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()


@asynccontextmanager
async def child(name: str, module: str, arguments: Sequence[str], folder: Path) -> AsyncIterator[Child]:
    """Run a Python module in `folder`, and end it with the block.

    Its process group is its own: Ctrl-C in a terminal goes to a whole group, and who ends when is decided here.
    """
    log = folder / f"{name}.log"
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            module,
            *arguments,
            cwd=folder,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            process_group=0,
        )
    running = Child(name, process, log)
    try:
        yield running
    finally:
        await running.stop()


def listening(port: int) -> bool:
    """Whether a loopback port takes connections."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def answers(url: str) -> bool:
    """Whether a GET of `url` gives 200."""
    try:
        with urllib.request.urlopen(url, timeout=1) as answer:  # noqa: S310  # an URL of our own, on loopback
            return bool(answer.status == 200)
    except OSError:  # also of a status beyond 399
        return False
