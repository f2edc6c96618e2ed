"""The process of `openmcp run`: signals, the event loop, reloads, and its end."""

import asyncio
import gc
import logging
import resource
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Protocol

from openmcp.config import ConfigurationError, Loaded
from openmcp.config.filesource import FileSource
from openmcp.config.secrets import SecretError
from openmcp.sidecar import build
from openmcp.sidecar.app import App, summary
from openmcp.sidecar.telemetry import log

_log = logging.getLogger("openmcp.app")


class Source(Protocol):
    """Where configurations come from."""

    def changes(self) -> AsyncIterator[Loaded | ConfigurationError]:
        """Each new one, or why it is not taken."""

    def poke(self) -> None:
        """Look now whether there is another one."""


def run(path: Path) -> int:
    """Serve the configuration at `path` until SIGTERM or SIGINT; the exit code of the command."""
    source = FileSource(path)
    try:
        loaded = source.load()
    except ConfigurationError as error:
        print(error, file=sys.stderr)
        return 1
    return serve(source, loaded, str(path))


def serve(source: Source, loaded: Loaded, name: str) -> int:
    """Serve a configuration, and those that follow from its source, which is called `name`."""
    log.configure(loaded.configuration.telemetry.log_level)
    _raise_file_limit()
    try:
        return _run_loop(source, loaded)
    except (build.BuildError, SecretError) as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"cannot listen: {error}", file=sys.stderr)
        return 3


def _run_loop(source: Source, loaded: Loaded) -> int:
    try:
        import uvloop
    except ImportError:  # not on every platform; the standard loop does the same, slower
        asyncio.run(_main(source, loaded))
    else:
        uvloop.run(_main(source, loaded))
    return 0


async def _main(source: Source, loaded: Loaded) -> None:
    app = App(loaded.configuration)
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    await app.start()
    loop.add_signal_handler(signal.SIGHUP, _poke, source, app)
    for warning in loaded.warnings:
        _log.warning("%s", warning)
    _log.info("identity: %s", app.description)
    _log.info(
        "serving %s on %s://%s:%d, admin on http://%s:%d",
        summary(loaded.configuration),
        "http" if loaded.configuration.listen.tls is None else "https",
        *app.mcp_address,
        *app.admin_address,
    )
    reloads = loop.create_task(follow(source, app))
    # What lives now lives to the end: the collector need not look at it again, and calls make little garbage.
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 10, 5)
    await ended.wait()
    _log.info("draining")
    reloads.cancel()
    await app.stop()


def _poke(source: Source, app: App) -> None:
    app.audit.reopen()
    source.poke()


async def follow(source: Source, app: App) -> None:
    """Take over each new configuration that is good."""
    async for found in source.changes():
        if isinstance(found, ConfigurationError):
            app.refused_reload(str(found))
            continue
        for warning in found.warnings:
            _log.warning("%s", warning)
        try:
            app.reload(found.configuration)
        except (build.BuildError, SecretError) as error:
            app.refused_reload(str(error))
        else:
            app.taken_reload()


def _raise_file_limit() -> None:
    """Each client and each stream is a descriptor; the soft limit of 1024 is for programs that use select."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 1 << 20), hard))
