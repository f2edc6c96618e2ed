"""The process of `openmcp injector`: what it is made of, and how it ends."""

import asyncio
import logging
import os
import signal
import socket
import uuid
from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec

from openmcp.config.kubernetes.api import Api, NoCluster
from openmcp.injector.certificates import BuiltIn, FromFiles, Keeper
from openmcp.injector.leases import Lease
from openmcp.injector.metrics import Metrics
from openmcp.injector.records import Records
from openmcp.injector.review import review
from openmcp.injector.server import PATH, Operations, Webhook
from openmcp.injector.settings import BuiltInTls, Settings, in_cluster
from openmcp.injector.status import StatusWriter

DRAIN: Final = 5.0
"""Seconds between no longer being ready and taking no more connections: for API servers to hear of it."""
AGAIN: Final = 5.0
"""Seconds until work that has failed begins again."""
_log = logging.getLogger("openmcp.injector")


class CannotStart(Exception):
    """The text says what is missing."""


def run(settings: Settings, version: str) -> None:
    """Serve until SIGTERM or SIGINT. Raises `CannotStart`, and `OSError` where it cannot listen."""
    try:
        import uvloop
    except ImportError:  # not on every platform
        asyncio.run(_main(settings, version))
    else:
        uvloop.run(_main(settings, version))


async def _main(settings: Settings, version: str) -> None:
    ended, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    try:
        api = await asyncio.to_thread(Api.find, f"openmcp-injector/{version}")
    except NoCluster as error:
        raise CannotStart(str(error)) from None
    if settings.namespace is None:
        settings = msgspec.structs.replace(settings, namespace=api.namespace)
    settings = in_cluster(settings, os.environ)
    injector = Injector(settings, api, version)
    try:
        await injector.start()
        injector.listening.add_done_callback(lambda listening: None if _good(listening) else ended.set())
        await ended.wait()
        if not _good(injector.listening):
            injector.listening.result()
        await injector.drain(DRAIN)
    finally:
        await injector.stop()
        await api.close()


def _good(listening: "asyncio.Future[None]") -> bool:
    return not listening.done() or listening.cancelled() or listening.exception() is None


class Injector:
    """All parts of one process. `settings.namespace` must be set."""

    def __init__(self, settings: Settings, api: Api, version: str) -> None:
        assert settings.namespace is not None
        self._settings = settings
        self._metrics = Metrics(version)
        self._records = Records()
        identity = f"{os.environ.get('POD_NAME') or socket.gethostname()}_{uuid.uuid4().hex[:12]}"
        self._leases = [Lease(api, settings.namespace, settings.status_lease, identity)]
        self._status = StatusWriter(api, self._metrics)
        self.keeper: Keeper
        if isinstance(settings.tls, BuiltInTls):
            lease = Lease(api, settings.namespace, settings.tls.lease, identity)
            self._leases.append(lease)
            self.keeper = BuiltIn(api, settings.namespace, settings.tls, lease)
        else:
            self.keeper = FromFiles(settings.tls)
        self._webhook = Webhook(settings, review, self._records, self._metrics)
        self._operations = Operations(self._faults, self._detail, self._metrics)
        self._electing: list[asyncio.Future[None]] = []
        self._working: list[asyncio.Future[None]] = []
        self.listening: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Ends when pods are admitted, with `OSError` where that cannot be."""
        self._draining = False
        self._measure()

    def _measure(self) -> None:
        served = self.keeper.served
        self._metrics.certificate(lambda: served.ends, lambda: served.taken)
        if self.keeper.unasked() is not None:
            self._metrics.trusted(lambda: not self.keeper.unasked())
        self._metrics.objects(self._status.counts)
        for lease in self._leases:
            self._metrics.leading(lease.name, lambda lease=lease: lease.held)  # type: ignore[misc]  # binds this one

    async def start(self) -> None:
        """Begin; pods are admitted as soon as there is a certificate. Raises `OSError`."""
        admin = await self._operations.start(self._settings.admin)
        _log.info("admin on http://%s:%d", *admin)
        status = self._leases[0]
        self._electing = [_kept_up(lease.run) for lease in self._leases]
        self._working = [_kept_up(self.keeper.run), _kept_up(lambda: status.while_held(self._status.run))]
        self.listening = asyncio.ensure_future(self._listen())

    async def _listen(self) -> None:
        served = self.keeper.served
        await served.first.wait()
        address = await self._webhook.start(served.tls.server_context(self._metrics.tls_refused))
        _log.info("admitting pods on https://%s:%d%s", *address, PATH)

    async def drain(self, seconds: float) -> None:
        """Say that this replica is not ready, hand over what it was elected for, and go on answering for a while."""
        _log.info("draining")
        self._draining = True
        self._webhook.drain()
        await _ended(self._electing)
        await asyncio.gather(asyncio.sleep(seconds), *(lease.release() for lease in self._leases))

    async def stop(self) -> None:
        """End; what is under way is answered first."""
        await self._webhook.stop()
        await _ended([*self._electing, *self._working, self.listening])
        await asyncio.gather(*(lease.release() for lease in self._leases))
        await self._operations.stop()
        self._records.close()

    def _faults(self) -> list[str]:
        if self._draining:
            return ["draining"]
        fault = self.keeper.fault()
        if not fault and not self.listening.done():
            fault = "not listening yet"
        return [fault] if fault else []

    def _detail(self) -> dict[str, Any]:
        said: dict[str, Any] = {
            "certificateExpires": self.keeper.served.ends or None,
            "leads": [lease.name for lease in self._leases if lease.held],
        }
        unasked = self.keeper.unasked()
        return said if unasked is None else said | {"webhook": unasked or "ok"}


def _kept_up(work: Callable[[], Awaitable[None]]) -> "asyncio.Future[None]":
    """Do it for as long as the process runs, whatever happens."""

    async def keep() -> None:
        while True:
            try:
                await work()
            except Exception:
                _log.exception("a fault of the injector; it goes on")
            await asyncio.sleep(AGAIN)

    return asyncio.ensure_future(keep())


async def _ended(tasks: list["asyncio.Future[None]"]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
