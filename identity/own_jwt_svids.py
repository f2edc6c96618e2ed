"""Our JWT-SVIDs, one for each audience, kept until half of the time that was left when they came.

A token on its way must not expire there, and agents and servers must not wait for one: past its half it is renewed,
and while that fails the old one serves until shortly before its end.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from openmcp.identity.material import JwtSvid, NoIdentity

MARGIN: Final = 10.0
"""Seconds before its end that a token is no longer used; a tenth of its time where that is shorter."""
PATIENCE: Final = 0.5
"""Seconds that a call waits for a renewal while the old token still serves."""
RETRY: Final = 5.0
"""Seconds that an old token serves after a renewal failed, until the next."""
AFTER_FAILURE: Final = 1.0
"""Seconds in which a failure without an old token answers for itself: callers do not queue up behind each other."""


class _Kept:
    __slots__ = ("fresh_until", "token", "usable_until")

    def __init__(self, svid: JwtSvid, now: float) -> None:
        left = svid.expires - now
        self.token = svid.token
        self.fresh_until = now + left / 2
        self.usable_until = svid.expires - min(MARGIN, left / 10)


class JwtSvids:
    """`fetch` gives a new JWT-SVID for an audience and raises `NoIdentity`; `clock` gives Unix seconds."""

    def __init__(self, fetch: Callable[[str], Awaitable[JwtSvid]], clock: Callable[[], float]) -> None:
        self._fetch = fetch
        self._clock = clock
        self._kept: dict[str, _Kept] = {}
        self._fetching: dict[str, asyncio.Task[None]] = {}
        self._failures: dict[str, tuple[float, str]] = {}

    def cached(self, audience: str) -> str | None:
        """The token for an audience; None where it has to be fetched or renewed."""
        kept = self._kept.get(audience)
        return kept.token if kept is not None and self._clock() < kept.fresh_until else None

    async def get(self, audience: str) -> str:
        """The token for an audience, fetched once for all who wait. Raises `NoIdentity`."""
        if (token := self.cached(audience)) is not None:
            return token
        if self._usable(audience) is None and (failure := self._failures.get(audience)) and self._clock() < failure[0]:
            raise NoIdentity(failure[1])
        task = self._fetching.get(audience)
        if task is None:
            task = self._fetching[audience] = asyncio.create_task(self._renew(audience))
        while True:
            await asyncio.wait({task}, timeout=None if self._usable(audience) is None else PATIENCE)
            if (token := self._usable(audience)) is not None:
                return token
            if task.done():
                raise NoIdentity(self._failures.get(audience, (0.0, "our identity is changing"))[1])

    def forget(self, audience: str) -> None:
        """Do not use the token for this audience again."""
        self._kept.pop(audience, None)

    def clear(self) -> None:
        """Forget all tokens, those on their way too: they are another's."""
        for task in self._fetching.values():
            task.cancel()
        self._kept.clear()
        self._fetching.clear()
        self._failures.clear()

    async def stop(self) -> None:
        """End what is under way; who waits gets `NoIdentity`."""
        tasks = set(self._fetching.values())
        self.clear()
        if tasks:
            await asyncio.wait(tasks)

    def _usable(self, audience: str) -> str | None:
        kept = self._kept.get(audience)
        return kept.token if kept is not None and self._clock() < kept.usable_until else None

    async def _renew(self, audience: str) -> None:
        try:
            svid = await self._fetch(audience)
        except NoIdentity as failure:
            now = self._clock()
            self._failures[audience] = (now + AFTER_FAILURE, str(failure))
            if kept := self._kept.get(audience):
                kept.fresh_until = min(now + RETRY, kept.usable_until)
        else:
            self._kept[audience] = _Kept(svid, self._clock())
        finally:
            if self._fetching.get(audience) is asyncio.current_task():
                del self._fetching[audience]
