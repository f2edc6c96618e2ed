"""Token buckets in Redis, for all gateways that share it.

One script takes a token of several buckets, or of none, and does so for all calls that ask meanwhile.

A bucket is a key whose value is when it will be full, in microseconds of the clock of Redis, and which ends then: the
clocks of gateways do not matter, and nothing is left of a bucket that nobody uses.
"""

import asyncio
import logging
from collections.abc import Sequence
from typing import Final

from redis.exceptions import RedisError

from openmcp.sidecar.state.counters import Bucket, CountersAway
from openmcp.sidecar.state.redisclient import connected, leave_replica

SECONDS: Final = 0.5
"""How long one question may take: calls wait for it."""
_CONNECTIONS: Final = 2
_PREFIX: Final = "{openmcp}:limit:"

_TOGETHER: Final = 100
"""Questions that are put at once."""

# KEYS: buckets. ARGV: for each question how many of them it is about, and for each of these the time between two
# tokens, and how far ahead of now it may be full, in microseconds. Answers to each question with the place of the
# bucket that has no token for the longest (0: each had one, and lost it) and for how long. A bucket that is full later
# than one that was just emptied was written by a clock that was ahead.
_TAKE: Final = """
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local at, key, answers = 1, 0, {}
while at <= #ARGV do
  local count = tonumber(ARGV[at])
  local full, place, longest = {}, 0, 0
  for i = 1, count do
    local interval, slack = ARGV[at + 2 * i - 1], ARGV[at + 2 * i]
    full[i] = math.max(tonumber(redis.call('GET', KEYS[key + i]) or '0'), now)
    full[i] = math.min(full[i], now + slack + interval)
    local wait = full[i] - now - slack
    if wait > longest then place, longest = i, wait end
  end
  for i = 1, place == 0 and count or 0 do
    local later = full[i] + ARGV[at + 2 * i - 1]
    redis.call('SET', KEYS[key + i], string.format('%.0f', later), 'PX', math.ceil((later - now) / 1000))
  end
  answers[#answers + 1] = {place, math.ceil(longest)}
  at, key = at + 1 + 2 * count, key + count
end
return answers
"""
_log = logging.getLogger("openmcp.limits")
Answer = asyncio.Future[tuple[int, float]]


class RedisCounters:
    """`Counters` at `url`, as `RedisStore` has it."""

    def __init__(self, url: str, *, password: str | None = None, ca: str | None = None) -> None:
        self._redis = connected(url, password=password, ca=ca, connections=_CONNECTIONS, seconds=SECONDS)
        self._script = self._redis.register_script(_TAKE)
        self._waiting: list[tuple[Sequence[Bucket], Answer]] = []
        self._asking: asyncio.Task[None] | None = None

    async def take(self, buckets: Sequence[Bucket]) -> tuple[int, float]:
        """See `Counters`. What is asked while a question is under way is asked together after it: a client of Redis
        costs as much as a whole call. Who gives up has taken its tokens all the same."""
        loop = asyncio.get_running_loop()
        answer: Answer = loop.create_future()
        self._waiting.append((buckets, answer))
        if self._asking is None:
            self._asking = loop.create_task(self._ask_all())
        return await answer

    async def close(self) -> None:
        """See `Counters`."""
        if self._asking is not None:
            await asyncio.wait({self._asking})
        await self._redis.aclose(close_connection_pool=True)

    async def _ask_all(self) -> None:
        try:
            while self._waiting:
                together, self._waiting = self._waiting[:_TOGETHER], self._waiting[_TOGETHER:]
                await self._ask(together)
        finally:
            self._asking = None

    async def _ask(self, together: list[tuple[Sequence[Bucket], Answer]]) -> None:
        """Answer these; where Redis does not, all that wait: nobody waits for others' questions to fail first."""
        keys = [_PREFIX + bucket.name for buckets, _ in together for bucket in buckets]
        arguments: list[int] = []
        for buckets, _ in together:
            arguments.append(len(buckets))
            for bucket in buckets:
                arguments += (round(bucket.interval * 1e6), round(bucket.slack * 1e6))
        found: Sequence[tuple[int, int] | CountersAway]
        try:
            found = await self._script(keys=keys, args=arguments)
        except Exception as error:  # whatever it is: calls wait for an answer
            if not isinstance(error, RedisError | OSError):
                _log.exception("shared rate limits cannot be asked for")
            await leave_replica(self._redis, error)
            together, self._waiting = together + self._waiting, []
            found = [CountersAway(f"Redis: {error}") for _ in together]
        for (_, answer), said in zip(together, found, strict=True):
            if answer.done():  # given up
                continue
            if isinstance(said, CountersAway):
                answer.set_exception(said)
            else:
                answer.set_result((said[0] - 1, said[1] / 1e6))
