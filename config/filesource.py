"""The configuration as a file or folder that may change at any time.

Polled by stat rather than watched: inotify does not see the symlink swap of a Kubernetes ConfigMap through the
mounted path, nor anything on several network file systems, and one stat a second costs nothing.
"""

import asyncio
import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator
from pathlib import Path

import msgspec

from openmcp.config.load import Loaded, load, source_files
from openmcp.config.problems import ConfigurationError
from openmcp.config.secrets import secrets_in

Stamp = tuple[int, int, int, int, int]
"""Device, inode, size and the times of content and inode in ns: what changes when a file does."""


class _Look(msgspec.Struct, frozen=True):
    """The stamps of all files at one time; None for a file that is not there."""

    sources: dict[str, Stamp | None]
    others: dict[str, Stamp | None]


def _stamp(path: str) -> Stamp | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def referenced_files(value: object) -> Iterator[str]:
    """The files of all secrets and certificates that a configuration, or a part of one, refers to."""
    return (secret.file for secret in secrets_in(value) if secret.file is not None)


class FileSource:
    """Loads the configuration at `path` and tells when it, or a file it refers to, has changed.

    A change counts when two looks, `interval` seconds apart, find the same: an editor may be half way. `sleep` waits
    between looks. Everything is called from one event loop; `changes` reads files in a thread.
    """

    def __init__(
        self,
        path: Path,
        *,
        interval: float = 1.0,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._path = path
        self._interval = interval
        self._sleep = sleep
        self._poked = asyncio.Event()
        self._referenced: frozenset[str] = frozenset()
        self._extra: frozenset[str] = frozenset()
        self._known = self._look()

    def load(self) -> Loaded:
        """Read the configuration now, as `openmcp.config.load` does; `changes` tells what happens after this."""
        result = self._accept(*self._read())
        if isinstance(result, ConfigurationError):
            raise result
        return result

    def watch(self, paths: Iterable[str | Path]) -> None:
        """Watch these files too, instead of those named by an earlier call.

        Files that the configuration refers to by `{file: PATH}` are watched anyway.
        """
        self._extra = frozenset(map(str, paths))
        self._known = self._with_others(self._known)

    def poke(self) -> None:
        """Have `changes` read everything again at once (SIGHUP)."""
        self._poked.set()

    problem = ""
    """What keeps it from being up to date: never anything, `changes` tells."""

    async def changes(self) -> AsyncGenerator[Loaded | ConfigurationError, None]:
        """After each change the new configuration, or the error that says why it cannot be used. Never ends."""
        last = self._known
        while True:
            poked = await self._wait()
            now = await asyncio.to_thread(self._look)
            if poked or (now == last and now != self._known):
                yield self._accept(*await asyncio.to_thread(self._read))
            last = now

    async def _wait(self) -> bool:
        """Until the next look is due; true where it was asked for."""
        waits = [asyncio.ensure_future(self._sleep(self._interval)), asyncio.ensure_future(self._poked.wait())]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        poked = self._poked.is_set()
        self._poked.clear()
        return poked

    def _read(self) -> tuple[_Look, Loaded | ConfigurationError]:
        look = self._look()  # before reading: a change while reading is found by the next look
        try:
            return look, load(self._path)
        except ConfigurationError as error:
            return look, error

    def _accept(self, look: _Look, result: Loaded | ConfigurationError) -> Loaded | ConfigurationError:
        if isinstance(result, Loaded):
            self._referenced = frozenset(referenced_files(result.configuration))
        self._known = self._with_others(look)
        return result

    def _look(self) -> _Look:
        try:
            files = [str(file) for file in source_files(self._path)]
        except OSError:
            files = [str(self._path)]
        others = self._referenced | self._extra
        return _Look({file: _stamp(file) for file in files}, {file: _stamp(file) for file in others})

    def _with_others(self, look: _Look) -> _Look:
        """The look with just the files referred to now: those it has as they were, so that no change is lost."""
        others = self._referenced | self._extra
        stamps = {file: look.others[file] if file in look.others else _stamp(file) for file in others}
        return _Look(look.sources, stamps)
