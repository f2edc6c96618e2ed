"""Why a caller is not identified, as exceptions: refused, not to be judged now, or not before keys are asked for."""

from typing import Protocol


class Refused(Exception):
    """A credential was presented and is not good.

    `reason` is one of a few fixed words, for metrics; `why` says it in plain words, without quotes and without anything
    of what was presented.
    """

    def __init__(self, reason: str, why: str) -> None:
        super().__init__(why)
        self.reason = reason
        self.why = why


class Unavailable(Exception):
    """What was presented cannot be judged now: there are no keys, or we have no identity ourselves. As `Refused`."""

    def __init__(self, reason: str, why: str) -> None:
        super().__init__(why)
        self.reason = reason
        self.why = why


class Refreshing(Protocol):
    """Keys that can be asked for again."""

    async def refresh(self) -> None:
        """Ask, bounded in time and rate; never raises."""


class KeysNeeded(Exception):
    """A token is signed by a key that is not known yet: after `source.refresh()` it can be judged."""

    def __init__(self, source: Refreshing) -> None:
        super().__init__("the keys have to be asked for")
        self.source = source
