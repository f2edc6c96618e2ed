"""Which source a file asks for. What Kubernetes takes is imported where it is asked for alone."""

from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path
from typing import Protocol

from openmcp.config.filesource import FileSource
from openmcp.config.kubernetes.credentials import NoCluster
from openmcp.config.load import Loaded
from openmcp.config.model import Configuration, KubernetesOrigin, Server
from openmcp.config.problems import ConfigurationError

__all__ = ["NoCluster", "Source", "opened"]


class Source(Protocol):
    """A configuration that may change (`FileSource`, `KubernetesSource`)."""

    def watch(self, paths: Iterable[str | Path]) -> None:
        """Watch these files too, instead of those named by an earlier call."""

    def poke(self) -> None:
        """Have `changes` read everything again at once."""

    def changes(self) -> AsyncIterator[Loaded | ConfigurationError]:
        """After each change the new configuration, or why it cannot be used. Never ends."""


def opened(file: FileSource, fault: Callable[[Configuration, Server], str | None]) -> tuple[Source, Loaded]:
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
