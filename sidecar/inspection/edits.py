"""Changes to a JSON value, collected by place and made at once; what does not change is shared with the original."""

from collections.abc import Collection
from typing import Any

from openmcp.config.jsonpath import Location


class Edits:
    """Values set, containers replaced, keys renamed and list entries dropped."""

    __slots__ = ("_copies", "_dropped", "_keys", "_replaced", "_values")

    def __init__(self) -> None:
        self._values: dict[Location, Any] = {}
        self._replaced: dict[Location, Any] = {}
        self._keys: dict[Location, dict[str, str]] = {}
        self._dropped: set[Location] = set()
        self._copies: dict[Location, Any] = {}

    def set(self, location: Location, value: Any) -> None:
        """Put another text in the place of a text or a number."""
        self._values[location] = value

    def replace(self, location: Location, value: Any) -> None:
        """Put something else in the place of a whole container; what was set inside of it is of no concern then."""
        self._replaced.setdefault(location, value)

    def rename(self, location: Location, key: str, new: str) -> None:
        """Give a key of the object at `location` another name."""
        self._keys.setdefault(location, {})[key] = new

    def drop(self, location: Location) -> None:
        """Take an entry out of its list."""
        self._dropped.add(location)

    def gone(self, location: Location) -> bool:
        """Whether this stands inside of something that is replaced or dropped."""
        return _beneath(location, self._replaced) or _beneath(location, self._dropped)

    def apply(self, document: Any) -> Any:
        """The document with all changes: the same object where there are none. To be called once."""
        if not (self._values or self._replaced or self._keys or self._dropped):
            return document
        self._copies = {(): document.copy()}
        replaced = {place: value for place, value in self._replaced.items() if not self.gone(place[:-1])}
        for location, value in (*self._values.items(), *replaced.items()):
            self._own(location[:-1])[location[-1]] = value
        # The deepest first: a place is named by the old keys above it.
        for location in sorted(self._keys, key=len, reverse=True):
            if not self.gone(location):
                self._rename(location)
        for location in sorted(self._dropped, key=_position, reverse=True):
            del self._own(location[:-1])[location[-1]]
        return self._copies[()]

    def _own(self, location: Location) -> Any:
        """The container at a place, copied, with all above it."""
        have = self._copies.get(location)
        if have is not None:
            return have
        depth = len(location) - 1
        while location[:depth] not in self._copies:
            depth -= 1
        above = self._copies[location[:depth]]
        for length in range(depth + 1, len(location) + 1):
            key = location[length - 1]
            copy = above[key].copy()
            above[key] = copy
            self._copies[location[:length]] = copy
            above = copy
        return above

    def _rename(self, location: Location) -> None:
        mapping = self._own(location)
        renamed = self._keys[location]
        members = list(mapping.items())
        taken = {key for key, _ in members if key not in renamed}
        used: dict[str, int] = {}
        mapping.clear()
        for key, value in members:
            name = base = renamed.get(key, key)
            while key in renamed and name in taken:
                used[base] = used.get(base, 1) + 1
                name = f"{base} {used[base]}"
            taken.add(name)
            mapping[name] = value


def _beneath(location: Location, places: Collection[Location]) -> bool:
    return bool(places) and any(location[:length] in places for length in range(1, len(location) + 1))


def _position(location: Location) -> int:
    return int(location[-1])
