"""How often agents may call a server: `rateLimit`. What policy lets through, or wants approved, takes a token of each
limit it falls under, or of none where one of them is empty."""

import hashlib
import logging
from collections.abc import Callable, Sequence
from typing import Final

from openmcp.config.model import RateLimit
from openmcp.sidecar.errors import RateLimited
from openmcp.sidecar.policy.globs import GlobSet
from openmcp.sidecar.stages.buckets import Buckets, Key, Rate
from openmcp.sidecar.state.counters import Bucket, Counters, CountersAway

PAUSE: Final = 1.0
"""Seconds for which counters that did not answer are not asked."""
_CALL: Final = "tools/call"
_UNITS: Final = ((3600.0, "h"), (60.0, "m"), (1.0, "s"))
_log = logging.getLogger("openmcp.limits")


class Sharing:
    """The way to counters that several gateways share, which may be away."""

    def __init__(self, counters: Counters, now: Callable[[], float]) -> None:
        self._counters = counters
        self._now = now
        self._away_until = 0.0
        self.failing = False

    async def take(self, buckets: Sequence[Bucket]) -> tuple[int, float]:
        """See `Counters`; as if all had a token where they are away."""
        now = self._now()
        if now < self._away_until:
            return -1, 0.0
        if self.failing:  # one call finds out whether they are back, and the others do not wait for it
            self._away_until = now + PAUSE
        try:
            taken = await self._counters.take(buckets)
        except CountersAway as error:
            self._away_until = self._now() + PAUSE
            if not self.failing:
                _log.warning("shared rate limits are counted by this gateway alone: %s", error)
            self.failing = True
            return -1, 0.0
        if self.failing:
            _log.warning("shared rate limits are shared again")
        self.failing = False
        self._away_until = 0.0
        return taken


class Limit:
    """One limit of a server. `shared` is the beginning of its buckets' names where others count with us, else empty."""

    def __init__(self, server: str, rule: RateLimit, now: float) -> None:
        burst = rule.burst or rule.requests
        self.rate = Rate(rule.requests, rule.per, burst)
        self.buckets = Buckets(self.rate, now)
        self.words = _words(rule)
        self._by_agent = "agent" in rule.by
        self._by_tool = "tool" in rule.by
        self._agents = GlobSet(rule.agents) if rule.agents else None
        self._tools = GlobSet(rule.tools) if rule.tools else None
        self._calls_alone = self._by_tool or self._tools is not None
        self.shared = _digest(server, repr(rule)) if rule.shared else ""

    def key(self, agent: str, method: str, name: str) -> Key | None:
        """The bucket that a message takes a token of; None where the limit is not about it."""
        if self._calls_alone and method != _CALL:
            return None
        if self._tools is not None and not self._tools.matches(name):
            return None
        if self._agents is not None and not self._agents.matches(agent):
            return None
        return self.buckets.key(agent if self._by_agent else "", name if self._by_tool else "")

    def bucket(self, key: Key) -> Bucket:
        """The bucket of this key as others know it."""
        return Bucket(f"{self.shared}:{_digest(*key)}", self.rate.interval, self.rate.slack)


class Limits:
    """All limits of one server; they outlast reloads that do not change them."""

    def __init__(
        self, server: str, rules: Sequence[RateLimit], now: Callable[[], float], sharing: Sharing | None = None
    ) -> None:
        self._now = now
        self._limits = tuple(Limit(server, rule, now()) for rule in rules)
        self._sharing = sharing

    def __len__(self) -> int:
        return sum(len(limit.buckets) for limit in self._limits)

    async def take(self, agent: str, method: str, name: str) -> None:
        """Count a message; raises `RateLimited`, and then it counts for no limit."""
        now = self._now()
        found = [(limit, key) for limit in self._limits if (key := limit.key(agent, method, name)) is not None]
        longest, words = 0.0, ""
        for limit, key in found:
            seconds = limit.buckets.wait(key, now)
            if seconds > longest:
                longest, words = seconds, limit.words
        if words:
            raise RateLimited(words, longest)
        for limit, key in found:
            limit.buckets.take(key, now)
        if self._sharing is not None:
            await self._take_shared(self._sharing, found)

    def sweep(self, now: float) -> None:
        """Let go of what is full; `now` is the time of the clock that was given."""
        for limit in self._limits:
            limit.buckets.sweep(now)

    async def _take_shared(self, sharing: Sharing, found: list[tuple[Limit, Key]]) -> None:
        shared = [(limit, key) for limit, key in found if limit.shared]
        if not shared:
            return
        place, seconds = await sharing.take([limit.bucket(key) for limit, key in shared])
        if place < 0:
            return
        for limit, key in found:
            limit.buckets.give_back(key)
        raise RateLimited(shared[place][0].words, seconds)


def _words(rule: RateLimit) -> str:
    """A limit as agents are told of it: `100 in 1m for each agent and tool`."""
    size, unit = next((one for one in _UNITS if rule.per >= one[0] and rule.per % one[0] == 0), (0.001, "ms"))
    per = f"{rule.requests} in {rule.per / size:.0f}{unit}"
    return f"{per} for each {' and '.join(rule.by)}" if rule.by else per


def _digest(*parts: str) -> str:
    return hashlib.blake2b(repr(parts).encode(), digest_size=12).hexdigest()  # nothing in a name ends it
