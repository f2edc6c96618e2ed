"""Waiting for decisions: one poller for all calls that this process holds, however many they are.

A decision of this process wakes at once. For those of others the store is read, all questions in one request, first
after a second and then less and less often, up to three; never more often than once a second.
"""

import asyncio
import logging
import random
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from openmcp.sidecar.state.records import ApprovalRecord, Status, UnknownSchema
from openmcp.sidecar.state.store import MANY, StateStore, StoreUnavailable

_log = logging.getLogger("openmcp.approvals")

FIRST: Final = 1.0
MOST: Final = 2.5
"""Seconds between two reads, before up to a fifth is added by chance, so that processes do not read in step."""

_GROWTH: Final = 1.2
_CHANCE: Final = 0.2


class Wakeup:
    """The calls that wait, by question; `clock` tells Unix milliseconds."""

    def __init__(
        self, store: StateStore, clock: Callable[[], int], *, first: float = FIRST, most: float = MOST
    ) -> None:
        self._store = store
        self._clock = clock
        self._first, self._most = first, most
        self._pause = first
        self._waiting: dict[str, dict[asyncio.Future[ApprovalRecord], str]] = {}
        self._poller: asyncio.Task[None] | None = None
        self._sooner = asyncio.Event()
        self._away = False
        self.reads = 0
        store.subscribe(self._seen)

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    async def wait(self, record: ApprovalRecord, seconds: float) -> ApprovalRecord | None:
        """The record once this request is no longer pending; None after so many seconds.

        What comes back may be of a newer generation. May raise `StoreUnavailable` at the moment of expiry alone.
        """
        left = (record.pending_until - self._clock()) / 1000
        future: asyncio.Future[ApprovalRecord] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(record.key, {})[future] = record.rid
        try:
            await self._start(record)
            async with asyncio.timeout(min(seconds, max(left, 0))):
                return await future
        except TimeoutError:
            return await self._at_the_end(record) if left <= seconds else None
        finally:
            self._forget(record.key, future)

    async def close(self) -> None:
        """End the poller; who still waits gets nothing before their time is up."""
        if self._poller is not None:
            self._poller.cancel()
            with suppress(asyncio.CancelledError):
                await self._poller

    async def _at_the_end(self, record: ApprovalRecord) -> ApprovalRecord | None:
        """What has become of a request whose time is up: it may have been decided since it was last read."""
        now = max(self._clock(), record.pending_until)
        return await self._store.get(record.key, now)

    async def _start(self, record: ApprovalRecord) -> None:
        if not self._store.shared:  # nobody else decides, but it may have happened since the record was read
            found = await self._store.get(record.key, self._clock())
            if found is not None:
                self._seen(found)
            return
        self._pause = self._first
        self._sooner.set()
        if self._poller is None or self._poller.done():
            self._poller = asyncio.get_running_loop().create_task(self._poll())

    def _forget(self, key: str, future: asyncio.Future[ApprovalRecord]) -> None:
        here = self._waiting.get(key, {})
        here.pop(future, None)
        if not here:
            self._waiting.pop(key, None)

    def _seen(self, record: ApprovalRecord) -> None:
        """Wake those whose request this record says has ended, or is not there any more."""
        for future, rid in list(self._waiting.get(record.key, {}).items()):
            if (record.rid != rid or record.status is not Status.PENDING) and not future.done():
                future.set_result(record)

    async def _poll(self) -> None:
        loop = asyncio.get_running_loop()
        last = loop.time()
        while self._waiting:
            await self._until_due(last)
            last = loop.time()
            await self._read()

    async def _until_due(self, last: float) -> None:
        """Sleep out the pause since the last read; who begins to wait shortens it to that of a beginning."""
        loop = asyncio.get_running_loop()
        chance = random.uniform(1, 1 + _CHANCE)  # noqa: S311 - spreads reads
        while True:
            self._sooner.clear()
            left = last + self._pause * chance - loop.time()
            if left <= 0:
                break
            with suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._sooner.wait()
        self._pause = min(self._pause * _GROWTH, self._most)

    async def _read(self) -> None:
        keys = list(self._waiting)[:MANY]
        if not keys:
            return
        if len(self._waiting) > MANY:  # the next ones have their turn as soon as may be
            self._pause = self._first
        self.reads += 1
        try:
            found = await self._store.get_many(keys, self._clock())
        except (StoreUnavailable, UnknownSchema) as error:
            self._failed(error)
            return
        self._away = False
        for key in keys:
            if key in found:
                self._seen(found[key])
            if key in self._waiting:
                self._waiting[key] = self._waiting.pop(key)  # to the end of the line

    def _failed(self, error: Exception) -> None:
        """Said once: calls wait on, and are answered as pending when their time is up."""
        if not self._away:
            _log.warning("cannot look for decisions: %s", error)
        self._away = True
