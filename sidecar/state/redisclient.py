"""A client of Redis, as the records and the counters have it."""

from contextlib import suppress
from typing import Any

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ReadOnlyError, RedisError


def connected(url: str, *, password: str | None, ca: str | None, connections: int, seconds: float) -> Any:
    """A client at `url` (`redis://` or `rediss://`), which connects when it is asked; `ca` are roots in PEM.

    Waits for `seconds` at most, for one of its connections as for an answer, and asks once: what was taken by a
    question whose answer was lost must not be taken twice.
    """
    options: dict[str, Any] = {}
    if url.startswith("rediss:"):
        options = {"ssl_ca_data": ca, "ssl_cert_reqs": "required", "ssl_check_hostname": True}
    options |= {"password": password} if password is not None else {}
    pool = BlockingConnectionPool.from_url(
        url,
        max_connections=connections,
        timeout=seconds,
        socket_timeout=seconds,
        socket_connect_timeout=seconds,
        retry=Retry(NoBackoff(), 0),
        **options,
    )
    return Redis(connection_pool=pool)


async def leave_replica(client: Any, error: Exception) -> None:
    """Let go of connections to what became a replica, as `error` may say: the name may lead to the new primary."""
    if isinstance(error, ReadOnlyError):
        with suppress(RedisError, OSError):
            await client.connection_pool.disconnect(inuse_connections=False)
