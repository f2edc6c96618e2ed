"""A dictionary of limited size."""

from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Bounded(Generic[K, V]):
    """A dictionary that forgets everything when it is full: simple, and cheap to look up."""

    __slots__ = ("_limit", "entries")

    def __init__(self, limit: int) -> None:
        self.entries: dict[K, V] = {}
        self._limit = limit

    def add(self, key: K, value: V) -> V:
        if len(self.entries) >= self._limit:
            self.entries.clear()
        self.entries[key] = value
        return value
