"""Which source a file asks for. What Kubernetes takes is imported where it is asked for alone."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable
from pathlib import Path
from typing import Final, Protocol

from openmcp.config.filesource import FileSource
from openmcp.config.kubernetes.credentials import NoCluster
from openmcp.config.load import Loaded
from openmcp.config.model import Configuration, KubernetesOrigin, Server
from openmcp.config.problems import ConfigurationError

__all__ = ["NoCluster", "Source", "loaded", "opened"]

PATIENCE: Final = 15.0
"""Seconds for a command to learn the objects."""


class Source(Protocol):
    """A configuration that may change (`FileSource`, `KubernetesSource`)."""

    def watch(self, paths: Iterable[str | Path]) -> None:
        """Watch these files too, instead of those named by an earlier call."""

    def poke(self) -> None:
        """Have `changes` read everything again at once."""

    @property
    def problem(self) -> str:
        """What keeps it from being up to date; empty where nothing does."""

    def changes(self) -> AsyncGenerator[Loaded | ConfigurationError, None]:
        """After each change the new configuration, or why it cannot be used. Never ends."""


def unknown(configuration: Configuration, server: Server) -> None:
    """For those who use no servers: nothing is known of what keeps one from being used."""


def opened(file: FileSource, fault: Callable[[Configuration, Server], str | None] = unknown) -> tuple[Source, Loaded]:
    """The source that `file` asks for, and the configuration that it begins with. `fault` as for `KubernetesSource`.

    Raises `ConfigurationError`, and `NoCluster` where nothing says how to reach the API server. Blocks.
    """
    loaded = file.load()
    if not isinstance(loaded.configuration.source, KubernetesOrigin):
        return file, loaded
    from openmcp.config.kubernetes.api import Api
    from openmcp.config.kubernetes.source import KubernetesSource

    source = KubernetesSource(file, Api.find(), fault=fault)
    return source, source.load()


def loaded(path: Path) -> Loaded:
    """The configuration at `path` now, with the objects of Kubernetes where it says so, for a command that runs once.

    Raises `ConfigurationError`, and `NoCluster` where the objects cannot be had. Blocks.
    """
    source, found = opened(FileSource(path))
    return asyncio.run(_first(source)) if found.closed else found


async def _first(source: Source) -> Loaded:
    changes = source.changes()
    try:
        async with asyncio.timeout(PATIENCE):
            found = await anext(changes)
    except TimeoutError:
        raise NoCluster(f"the objects cannot be had: {source.problem}") from None
    finally:
        await changes.aclose()
    if isinstance(found, ConfigurationError):
        raise found
    return found
