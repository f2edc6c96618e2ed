"""Token buckets in Redis, for all gateways that share it: one script takes a token of several, or of none.

A bucket is a key whose value is when it will be full, in microseconds of the clock of Redis, and which ends then: the
clocks of gateways do not matter, and nothing is left of a bucket that nobody uses.
"""

from collections.abc import Sequence
from typing import Any, Final

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from openmcp.sidecar.state.counters import Bucket, CountersAway

SECONDS: Final = 0.5
"""How long one question may take: calls wait for it."""
_CONNECTIONS: Final = 32
_PREFIX: Final = "{openmcp}:limit:"

# KEYS: buckets. ARGV: for each of them the time between two tokens, and how far ahead of now it may be full, in
# microseconds. Answers with the place of the bucket that has no token (0: each had one) and how long it has none.
_TAKE: Final = """
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local full = {}
local place, longest = 0, 0
for i = 1, #KEYS do
  full[i] = math.max(tonumber(redis.call('GET', KEYS[i]) or '0'), now)
  local wait = full[i] - now - ARGV[2 * i]
  if wait > longest then place, longest = i, wait end
end
if place == 0 then
  for i = 1, #KEYS do
    local at = full[i] + ARGV[2 * i - 1]
    redis.call('SET', KEYS[i], string.format('%.0f', at), 'PX', math.ceil((at - now) / 1000))
  end
end
return {place, math.ceil(longest)}
"""


class RedisCounters:
    """`Counters` at `url`, as `RedisStore` has it."""

    def __init__(self, url: str, *, password: str | None = None, ca: str | None = None) -> None:
        options: dict[str, Any] = {}
        if url.startswith("rediss:"):
            options = {"ssl_ca_data": ca, "ssl_cert_reqs": "required", "ssl_check_hostname": True}
        options |= {"password": password} if password is not None else {}
        pool = BlockingConnectionPool.from_url(
            url,
            max_connections=_CONNECTIONS,
            timeout=SECONDS,
            socket_timeout=SECONDS,
            socket_connect_timeout=SECONDS,
            retry=Retry(NoBackoff(), 0),  # a token whose answer was lost is not taken twice
            **options,
        )
        self._redis: Any = Redis(connection_pool=pool)
        self._take = self._redis.register_script(_TAKE)

    async def take(self, buckets: Sequence[Bucket]) -> tuple[int, float]:
        """See `Counters`."""
        keys = [_PREFIX + bucket.name for bucket in buckets]
        times = [f"{seconds * 1e6:.0f}" for bucket in buckets for seconds in (bucket.interval, bucket.slack)]
        try:
            place, wait = await self._take(keys=keys, args=times)
        except (RedisError, OSError) as error:
            raise CountersAway(f"Redis: {error}") from error
        return int(place) - 1, int(wait) / 1e6

    async def close(self) -> None:
        """See `Counters`."""
        await self._redis.aclose(close_connection_pool=True)
