"""One of the replicas is elected: whoever holds a Lease (coordination.k8s.io/v1) of the API server.

As with client-go, clocks of different machines are never compared: a holder counts as gone when its Lease has not
changed for its duration by our own clock. Work that must not be done twice is made safe by conditional writes besides:
a process that was paused may believe for a moment that it still holds the Lease.
"""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Final

from openmcp.config.kubernetes.api import Api, ApiError, ApiUnreachable, route

DURATION: Final = 15.0
"""Seconds after which a holder that says nothing is succeeded."""
DEADLINE: Final = 10.0
"""Seconds after its last renewal that a holder stops: before anybody else may begin."""
PERIOD: Final = 2.0
"""Seconds between two looks."""
_log = logging.getLogger("openmcp.injector")

JsonObject = dict[str, Any]


class Lease:
    """Tries to hold the Lease `name` for as long as `run` runs. `identity` names this process, unlike any other.

    `clock` tells seconds that never jump back; `wall` what the Lease shows to people.
    """

    def __init__(
        self,
        api: Api,
        namespace: str,
        name: str,
        identity: str,
        *,
        clock: Callable[[], float] = time.monotonic,
        period: float = PERIOD,
    ) -> None:
        """Raises `ValueError` where the names are none. `period` is for tests; the others are in proportion to it."""
        self._collection = route("apis", "coordination.k8s.io", "v1", "namespaces", namespace, "leases")
        self._path = self._collection + route(name)
        self._api = api
        self.name = name
        self._identity = identity
        self._clock = clock
        self._scale = period / PERIOD
        self._ours_until = 0.0
        self._seen: tuple[str, float] = ("", 0.0)
        self._lost = asyncio.Event()
        self._won = asyncio.Event()
        self._failing = ""

    @property
    def held(self) -> bool:
        """Whether we are the one now."""
        return self._clock() < self._ours_until

    async def run(self) -> None:
        """Try, renew and try again, until cancelled; call `release` afterwards."""
        while True:
            await self._look()
            await asyncio.sleep(PERIOD * self._scale * random.uniform(0.9, 1.1))  # noqa: S311 - spreads load, no secret

    async def release(self) -> None:
        """Let somebody else have it at once, where it is ours."""
        if not self.held:
            return
        self._end()
        with suppress(ApiError, ApiUnreachable, TimeoutError):
            async with asyncio.timeout(DEADLINE * self._scale):
                lease = await self._api.get(self._path)
                if _spec(lease).get("holderIdentity") == self._identity:
                    await self._api.replace(self._path, lease | {"spec": _spec(lease) | self._said("", 1)})

    async def while_held(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do `work` whenever we are the one, and cancel it when we are not. Never ends."""
        while True:
            await self._won.wait()
            task = asyncio.ensure_future(work())
            lost = asyncio.ensure_future(self._lost.wait())
            try:
                await asyncio.wait((task, lost), return_when=asyncio.FIRST_COMPLETED)
                if task.done() and not task.cancelled():
                    _log.error("work under the Lease %s ended, and begins again", self.name, exc_info=task.exception())
                    await asyncio.sleep(PERIOD * self._scale)
            finally:
                task.cancel()
                lost.cancel()
                await asyncio.gather(task, lost, return_exceptions=True)

    async def _look(self) -> None:
        try:
            async with asyncio.timeout(self._patience()):
                await self._try()
            self._told("")
        except (ApiError, ApiUnreachable) as error:
            if not (isinstance(error, ApiError) and error.status == 409):  # somebody was faster
                self._told(str(error))
        except TimeoutError:
            self._told("no answer in time")
        if not self.held and self._won.is_set():
            _log.warning("no longer the holder of the Lease %s", self.name)
            self._end()

    def _patience(self) -> float:
        """Until a holder would have to stop."""
        whole = DEADLINE * self._scale
        return min(whole, max(0.05, self._ours_until - self._clock())) if self._won.is_set() else whole

    async def _try(self) -> None:
        asked = self._clock()  # what is renewed is held from before it was asked for
        try:
            lease = await self._api.get(self._path)
        except ApiError as error:
            if error.status != 404:
                raise
            await self._api.create(
                self._collection,
                {
                    "apiVersion": "coordination.k8s.io/v1",
                    "kind": "Lease",
                    "metadata": {"name": self.name},
                    "spec": self._said(self._identity, 0) | {"leaseTransitions": 0},
                },
            )
            self._begin(asked)
            return
        spec = _spec(lease)
        holder = str(spec.get("holderIdentity") or "")
        if holder not in ("", self._identity) and not self._gone(lease, spec):
            self._ours_until = 0.0
            return
        said = self._said(self._identity, 0)
        if holder == self._identity:
            said |= {"acquireTime": spec.get("acquireTime") or said["acquireTime"]}
        else:
            said |= {"leaseTransitions": _whole(spec.get("leaseTransitions")) + 1}
        await self._api.replace(self._path, lease | {"spec": spec | said})
        self._begin(asked)

    def _gone(self, lease: JsonObject, spec: JsonObject) -> bool:
        """Whether its holder has said nothing for as long as it wanted to be waited for."""
        version, now = str(lease.get("metadata", {}).get("resourceVersion")), self._clock()
        if version != self._seen[0]:
            self._seen = (version, now)
        duration = _whole(spec.get("leaseDurationSeconds")) or DURATION
        return now - self._seen[1] >= duration * self._scale

    def _said(self, holder: str, duration: int) -> JsonObject:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        return {
            "holderIdentity": holder,
            "leaseDurationSeconds": duration or int(DURATION),
            "acquireTime": now,
            "renewTime": now,
        }

    def _begin(self, asked: float) -> None:
        self._ours_until = asked + DEADLINE * self._scale
        if not self._won.is_set():
            _log.info("holder of the Lease %s", self.name)
        self._lost.clear()
        self._won.set()

    def _end(self) -> None:
        self._ours_until = 0.0
        self._won.clear()
        self._lost.set()

    def _told(self, failure: str) -> None:
        """Say once that the Lease cannot be had, and why."""
        if failure and failure != self._failing:
            _log.warning("the Lease %s cannot be read or written: %s", self.name, failure)
        self._failing = failure


def _spec(lease: JsonObject) -> JsonObject:
    spec = lease.get("spec")
    return spec if isinstance(spec, dict) else {}


def _whole(value: object) -> int:
    return value if isinstance(value, int) else 0
