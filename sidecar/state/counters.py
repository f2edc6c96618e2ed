"""The port to token buckets that several gateways share."""

from collections.abc import Sequence
from typing import Protocol

import msgspec


class CountersAway(Exception):
    """The buckets cannot be reached. The text says where and why."""


class Bucket(msgspec.Struct, frozen=True):
    """A bucket by its name: seconds between two tokens, and how far ahead of now it may be full with a token left."""

    name: str
    interval: float
    slack: float


class Counters(Protocol):
    """Where the buckets are."""

    async def take(self, buckets: Sequence[Bucket]) -> tuple[int, float]:
        """Take a token of each bucket, or of none: which of them, by its place, has none for the longest, and for how
        many seconds; -1 and 0 where all had one. Raises `CountersAway`."""

    async def close(self) -> None:
        """Close all connections."""
