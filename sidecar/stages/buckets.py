"""Token buckets: how often something may happen. Pure; times are seconds of a clock that never goes back.

A bucket is kept as one number: when it will be full again. So one that is full need not be kept at all, and is none.
(The generic cell rate algorithm, ITU-T I.371, in which an event conforms as long as that time is not too far away.)
"""

from typing import Final

MOST: Final = 100_000
"""Buckets of one limit; further ones share one."""
MOST_TOOLS: Final = 100
"""Tools of one agent, or of all, with a bucket of their own; further ones share one. A tool that has its own keeps it
until it is full: whoever could move it among the others would have two buckets for it."""
OTHERS: Final = "\0"
"""What stands in a key for all that share a bucket: no agent and no tool has this name."""
_EXACT: Final = 1e-6
"""Seconds below which a wait is what is lost of numbers that are added and subtracted. It is owed all the same."""

Key = tuple[str, str]
"""An agent and a tool; the empty text where a limit does not tell them apart."""


class Rate:
    """`requests` in `per` seconds, of which `burst` may come at once."""

    __slots__ = ("burst", "interval", "slack")

    def __init__(self, requests: int, per: float, burst: int) -> None:
        self.burst = burst
        self.interval = per / requests
        self.slack = (burst - 1) * self.interval


class Buckets:
    """All buckets of one limit, in two generations: what was not touched while a bucket takes to fill is full, and
    goes with its generation. Nobody ever walks through them."""

    def __init__(self, rate: Rate, now: float) -> None:
        self.rate = rate
        self._young: dict[Key, float] = {}
        self._old: dict[Key, float] = {}
        self._tools: dict[str, int] = {}
        self._old_tools: dict[str, int] = {}
        self._lifetime = max(rate.burst * rate.interval, 1.0)
        self._turn = now + self._lifetime

    def __len__(self) -> int:
        """How many buckets are kept; one that was used in both generations counts twice."""
        return len(self._young) + len(self._old)

    def wait(self, key: Key, now: float) -> float:
        """Seconds until the bucket has a token: 0 where it has one now. Takes none."""
        seconds = self._full_at(key) - now - self.rate.slack
        return seconds if seconds > _EXACT else 0.0

    def take(self, key: Key, now: float) -> None:
        """Take a token of a bucket that has one."""
        if key not in self._young and key[1]:
            self._tools[key[0]] = self._tools.get(key[0], 0) + 1
            if key in self._old:
                self._old_tools[key[0]] -= 1
        self._young[key] = max(self._full_at(key), now) + self.rate.interval

    def give_back(self, key: Key) -> None:
        """The token that was taken last was not used."""
        self._young[key] = self._full_at(key) - self.rate.interval

    def key(self, agent: str, tool: str) -> Key:
        """The bucket that counts for this agent and tool: made-up names cannot fill the memory."""
        key = (agent, tool)
        if key in self._young or key in self._old:
            return key
        if len(self) >= MOST:
            return (OTHERS if agent else "", OTHERS if tool else "")
        tools = self._tools.get(agent, 0) + self._old_tools.get(agent, 0)
        return (agent, OTHERS) if tool and tools >= MOST_TOOLS else key

    def sweep(self, now: float) -> None:
        """Let go of what is full, a whole generation at a time."""
        if now >= self._turn:
            self._turn = now + self._lifetime
            self._old, self._young = self._young, {}
            self._old_tools, self._tools = self._tools, {}

    def _full_at(self, key: Key) -> float:
        full_at = self._young.get(key)
        return full_at if full_at is not None else self._old.get(key, 0.0)
