"""What one server's calls are given besides one attempt: how often they are tried again, and which tools may be."""

from collections.abc import Callable, Sequence
from typing import Final

from openmcp.config.model import Server
from openmcp.sidecar.net.outliers import Outliers
from openmcp.sidecar.net.values import Patience, Terms
from openmcp.sidecar.policy.globs import GlobSet

LONGEST_PAUSE: Final = 1.0
SPARE: Final = 10.0
"""Attempts in a second that a budget has besides its share, so that a server with few calls has some; and those that
are saved up when nothing fails."""


class Budget:
    """How many calls may be tried again: a share of all, and `SPARE` in a second."""

    def __init__(self, share: float, now: Callable[[], float]) -> None:
        self._share = share
        self._now = now
        self._left = SPARE
        self._at = now()

    def earn(self) -> None:
        """A call begins."""
        self._left = min(self._left + self._share, 2 * SPARE)

    def take(self) -> bool:
        """Whether a call may be tried again; that counts."""
        now = self._now()
        self._left = min(self._left + (now - self._at) * SPARE, 2 * SPARE)
        self._at = now
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True


class Resending:
    """The attempts of one server's calls. `chance` gives a number from 0 to 1, `count` says how often calls were tried
    again, by what was wrong before."""

    def __init__(
        self, server: Server, keys: Sequence[str], now: Callable[[], float], chance: Callable[[], float]
    ) -> None:
        retries = server.retries
        self.now = now
        self.attempts = retries.attempts if retries is not None else 0
        self.budget = Budget(retries.budget if retries is not None else 0.0, now)
        self.outliers = Outliers(server.outliers, keys, now) if server.outliers is not None else None
        self.count: dict[str, int] = {}
        self._backoff = retries.backoff if retries is not None else 0.0
        self._chance = chance

    def pause(self, again: int) -> float:
        """Seconds to wait before the attempt of this number (from 1 on): any part of a time that doubles."""
        longest: float = min(self._backoff * 2 ** (again - 1), LONGEST_PAUSE)
        return longest * self._chance()


class ToolTerms:
    """What a server's configuration says of calls of single tools."""

    def __init__(self, server: Server, usual: Patience) -> None:
        self._usual = usual
        self._times = [
            (GlobSet((glob,)), Patience(seconds, seconds, seconds)) for glob, seconds in server.timeouts.tools
        ]
        self._repeatable = GlobSet(server.retries.tools if server.retries is not None else ())

    def of(self, tool: str) -> Terms:
        """The terms of a call of this tool."""
        patience = next((patience for globs, patience in self._times if globs.matches(tool)), self._usual)
        return Terms(patience, self._repeatable.matches(tool))


def resending(
    server: Server, keys: Sequence[str], now: Callable[[], float], chance: Callable[[], float]
) -> Resending | None:
    """What the configuration wants; None where calls have one attempt at each endpoint, and no endpoint is left out."""
    if server.retries is None and server.outliers is None:
        return None
    return Resending(server, keys, now, chance)


def tool_terms(server: Server, usual: Patience) -> ToolTerms | None:
    """The terms of single tools; None where all have the usual ones."""
    if not server.timeouts.tools and (server.retries is None or not server.retries.tools):
        return None
    return ToolTerms(server, usual)
