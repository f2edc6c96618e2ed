"""Places that agents share: one that wants all of them leaves room for the others.

Each agent may hold up to a multiple of what is still free (Choudhury and Hahne, "Dynamic queue length thresholds",
1998): one that is greedy gets three quarters, two get three sevenths each, and there is always something left.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from openmcp.sidecar.errors import UpstreamFailed

GREED: Final = 3
"""How many places an agent may hold for each one that is free."""
_CALM: Final = 4
"""Below the fourth part of all places nobody counts whose they are."""


class Shares:
    """`most` places for `what`, of which `taken` are in use. An agent may have all of them until another one wants
    some: then what it has remains its own, and it gets no more until its share allows for that."""

    def __init__(self, most: int, what: str) -> None:
        self.taken = 0
        self._most = most
        self._calm = most // _CALM
        self._what = what
        self._first = ""
        self._several = False
        self._held: dict[str, int] = {}

    def take(self, agent: str) -> bool:
        """Take a place; whether it was counted for the agent, which `give_back` has to be told.

        Raises `UpstreamFailed`: overloaded, or share where others are to have what is left.
        """
        if not self._several and agent != self._first:
            self._several = bool(self._first)
            self._first = agent
        if self.taken < self._calm:
            self.taken += 1
            return False
        free = self._most - self.taken
        if free <= 0:
            raise UpstreamFailed("overloaded", f"{self.taken} {self._what}", sent=False)
        held = self._held.get(agent, 0)
        if self._several and held >= GREED * free:
            words = f"{self.taken} of at most {self._most} {self._what}, and this agent has its share"
            raise UpstreamFailed("share", words, sent=False)
        self._held[agent] = held + 1
        self.taken += 1
        return True

    def give_back(self, agent: str, *, counted: bool) -> None:
        """A place that was taken is free again."""
        self.taken -= 1
        if counted:
            held = self._held[agent] - 1
            if held:
                self._held[agent] = held
            else:
                del self._held[agent]

    @contextmanager
    def place(self, agent: str) -> Iterator[None]:
        """A place for as long as the block runs; raises as `take` does."""
        counted = self.take(agent)
        try:
            yield
        finally:
            self.give_back(agent, counted=counted)
