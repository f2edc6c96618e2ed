"""Follows a stream of the Workload API for as long as the process lives: opened again whenever it breaks or ends."""

import asyncio
import logging
import random
from collections.abc import Callable
from typing import Final, Generic, Protocol, TypeVar

from openmcp.identity.material import CallFailed

SHORTEST: Final = 0.2
LONGEST: Final = 3.0
"""Seconds between two attempts, at first and after many that failed."""
FIRST_ANSWER: Final = 60.0
"""Seconds for the first update of a stream: the agent may have to ask others who we are."""
_log = logging.getLogger("openmcp.identity")

Update = TypeVar("Update")
Read = TypeVar("Read", covariant=True)


class Stream(Protocol[Read]):
    """An open stream, as workload_api.py gives it."""

    async def read(self) -> Read | None:
        """The next update; None at the end. Raises `CallFailed`."""

    def close(self) -> None:
        """End it."""


class Follower(Generic[Update]):
    """Hands each update to `take`, and each failure to `failed`. `trouble` is why there is no stream now, or None."""

    def __init__(
        self,
        open_: Callable[[], Stream[Update]],
        take: Callable[[Update], None],
        failed: Callable[[CallFailed], None],
    ) -> None:
        self._open = open_
        self._take = take
        self._failed = failed
        self._limit: asyncio.Timeout | None = None
        self._task: asyncio.Task[None] | None = None
        self._updates = 0
        self.trouble: CallFailed | None = None

    def start(self) -> None:
        """Begin, in the running event loop."""
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """End the stream, and wait until it has ended."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
            self._task = None

    def reopen(self) -> None:
        """Give up a stream that is open and brings nothing: the agent may be gone without a sign."""
        if self._limit is not None:
            self._limit.reschedule(asyncio.get_running_loop().time())

    async def _run(self) -> None:
        pause = SHORTEST
        while True:
            before = self._updates
            trouble = await self._follow()
            if self._updates > before:
                pause = SHORTEST
            if trouble is not None:
                self.trouble = trouble
                self._failed(trouble)
            await asyncio.sleep(random.uniform(pause / 2, pause))  # noqa: S311 - keeps workloads apart, hides nothing
            pause = min(pause * 2, LONGEST)

    async def _follow(self) -> CallFailed | None:
        """Open the stream and read until it ends; why it brought nothing or broke, None where it only has to be
        opened again."""
        before = self._updates
        try:
            await self._read_all()
        except CallFailed as failed:
            return failed
        except TimeoutError:
            if self._updates > before:
                return None
            return CallFailed("unreachable", "no answer")
        except Exception as fault:  # an update must never end the following of updates
            _log.exception("reading from the Workload API failed")
            return CallFailed("refused", type(fault).__name__)
        return None if self._updates > before else CallFailed("refused", "ended without an update")

    async def _read_all(self) -> None:
        stream = self._open()
        try:
            async with asyncio.timeout(FIRST_ANSWER) as self._limit:
                while (update := await stream.read()) is not None:
                    self._limit.reschedule(None)
                    self._updates += 1
                    self.trouble = None
                    self._take(update)
        finally:
            self._limit = None
            stream.close()
