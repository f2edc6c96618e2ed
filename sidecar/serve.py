"""The process of `openmcp run`: signals, the event loop, reloads, and its end."""

import asyncio
import gc
import logging
import resource
import signal
import sys
from pathlib import Path

import msgspec

from openmcp.config import ConfigurationError, Loaded
from openmcp.config.filesource import FileSource
from openmcp.config.kubernetes.opening import NoCluster, Source, opened
from openmcp.config.model import Address, FileOrigin
from openmcp.config.secrets import SecretError
from openmcp.sidecar import build
from openmcp.sidecar.app import UNSERVED, App, Origin
from openmcp.sidecar.build import changes, usable
from openmcp.sidecar.errors import cannot_listen
from openmcp.sidecar.policy.engine import PolicySet
from openmcp.sidecar.telemetry import log

_log = logging.getLogger("openmcp.app")


def run(path: Path, admin: Address | None = None, log_level: str | None = None) -> int:
    """Serve the configuration at `path` until SIGTERM or SIGINT, with `admin` instead of `listen.admin` and `log_level`
    instead of `telemetry.logLevel`; the exit code of the command."""
    try:
        source, loaded = opened(FileSource(path), usable.fault)
    except ConfigurationError as error:
        print(error, file=sys.stderr)
        return 1
    except NoCluster as error:
        print(f"{path}: source: {error}", file=sys.stderr)
        return 3
    return serve(source, loaded, str(path), admin, log_level)


def serve(source: Source, loaded: Loaded, name: str, admin: Address | None = None, log_level: str | None = None) -> int:
    """Serve a configuration, and those that follow from its source, which is called `name`; otherwise as `run`."""
    log.configure(log_level or loaded.configuration.telemetry.log_level)
    _raise_file_limit()
    try:
        return _run_loop(source, loaded, admin)
    except (build.BuildError, SecretError) as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(cannot_listen(error), file=sys.stderr)
        return 3


def _run_loop(source: Source, loaded: Loaded, admin: Address | None) -> int:
    try:
        import uvloop
    except ImportError:  # not on every platform; the standard loop does the same, slower
        asyncio.run(_main(source, loaded, admin))
    else:
        uvloop.run(_main(source, loaded, admin))
    return 0


async def _main(source: Source, loaded: Loaded, admin: Address | None) -> None:
    loaded = _listening(loaded, admin)
    app = App(loaded.configuration, loaded.closed, source if isinstance(source, Origin) else None)
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    try:
        await app.start()
    except BaseException:
        await asyncio.to_thread(app.audit.close, UNSERVED)
        raise
    loop.add_signal_handler(signal.SIGHUP, _poke, source, app)
    for warning in loaded.warnings:
        _log.warning("%s", warning)
    _log.info("identity: %s", app.description)
    _log.info(
        "serving %s on %s://%s:%d, admin on http://%s:%d",
        changes.summary(loaded.configuration),
        "http" if loaded.configuration.listen.tls is None else "https",
        *app.mcp_address,
        *app.admin_address,
    )
    reloads = loop.create_task(follow(source, app, admin))
    # What lives now lives to the end: the collector need not look at it again, and calls make little garbage.
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 10, 5)
    await ended.wait()
    _log.info("draining")
    reloads.cancel()
    await app.stop()


def _listening(loaded: Loaded, admin: Address | None) -> Loaded:
    """The configuration with another address for probes and scrapes, if one is given."""
    if admin is None:
        return loaded
    made = loaded.configuration
    listen = msgspec.structs.replace(made.listen, admin=admin)
    return msgspec.structs.replace(loaded, configuration=msgspec.structs.replace(made, listen=listen))


def _poke(source: Source, app: App) -> None:
    app.audit.reopen()
    source.poke()


async def follow(source: Source, app: App, admin: Address | None = None) -> None:
    """Take over each new configuration that is good, with `admin` instead of `listen.admin`."""
    async for found in source.changes():
        if isinstance(found, ConfigurationError):
            app.refused_reload(str(found))
            continue
        if isinstance(source, FileSource) and not isinstance(found.configuration.source, FileOrigin):
            app.refused_reload("source: its type changes only with a restart")
            continue
        for warning in found.warnings:
            _log.warning("%s", warning)
        policies = await asyncio.to_thread(PolicySet, found.configuration.policies)
        try:
            app.reload(_listening(found, admin).configuration, found.closed, policies)
        except (build.BuildError, SecretError) as error:
            app.refused_reload(str(error))
        else:
            app.taken_reload()


def _raise_file_limit() -> None:
    """Each client and each stream is a descriptor; the soft limit of 1024 is for programs that use select."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 1 << 20), hard))
