"""Endpoints that fail calls are left out for a while, then tried by one call: outlier ejection, circuit breaking.

Only what an endpoint fails by itself counts. A call that takes too long does not: agents choose what is called, and
could have endpoints left out for all others.
"""

from collections.abc import Callable, Iterable
from typing import Final

from openmcp.config import model
from openmcp.sidecar.errors import UpstreamFailed

FAULTS: Final = frozenset(("connect", "closed", "untrusted"))
"""Kinds of `UpstreamFailed` that count."""
BUSY: Final = frozenset((502, 503, 504))
"""Answers of whoever stands before a server that is not there: they count, and say that nothing was done."""
LONGEST: Final = 10
"""How many times `ejectFor` an endpoint is left out at most."""


class _Standing:
    __slots__ = ("ejections", "failures", "row", "trying", "until")

    def __init__(self) -> None:
        self.failures = 0
        self.row = 0
        self.until = 0.0
        self.trying = False
        self.ejections = 0


class Outliers:
    """How the endpoints of one server stand, by their keys; `now` is a clock in seconds that never goes back."""

    def __init__(self, rule: model.Outliers, keys: Iterable[str], now: Callable[[], float]) -> None:
        self._rule = rule
        self._now = now
        self._standing = {key: _Standing() for key in keys}
        self._most = int(rule.max_ejected * len(self._standing))

    def admits(self, key: str) -> bool:
        """Whether an endpoint may be asked: not while it is left out, nor while another call finds out how it is."""
        standing = self._standing[key]
        return not standing.row or (self._now() >= standing.until and not standing.trying)

    def ejected(self, key: str) -> bool:
        """Whether an endpoint is left out, or has not shown yet that it is back."""
        return self._standing[key].row > 0

    def ejections(self, key: str) -> int:
        """How often it has been left out."""
        return self._standing[key].ejections

    def wait(self) -> float:
        """Seconds until the first of those that are left out is tried again."""
        until = [standing.until for standing in self._standing.values() if standing.row]
        return max(0.0, min(until, default=0.0) - self._now())

    def begin(self, key: str) -> None:
        """A call goes to an endpoint that is admitted; `end` has to follow."""
        standing = self._standing[key]
        standing.trying = standing.row > 0

    def end(self, key: str, good: bool | None) -> None:
        """It went well, or not; None where that says nothing of the endpoint."""
        standing = self._standing[key]
        standing.trying = False
        if good is None:
            return
        if good:
            standing.failures = standing.row = 0
            return
        standing.failures += 1
        if standing.row or standing.failures >= self._rule.failures:
            self._eject(standing)

    def _eject(self, standing: _Standing) -> None:
        others = sum(1 for one in self._standing.values() if one.row and one is not standing)
        if others >= self._most or self._now() < standing.until:  # calls that were under way bring no more time
            return
        standing.row += 1
        standing.ejections += 1
        standing.failures = 0
        standing.until = self._now() + self._rule.eject_for * min(2 ** (standing.row - 1), LONGEST)


def fault(failure: UpstreamFailed) -> bool | None:
    """What a failed call says of its endpoint, for `Outliers.end`."""
    return False if failure.kind in FAULTS else None
