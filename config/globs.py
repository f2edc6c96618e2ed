"""Globs among each other: what one covers, whether two overlap. What a glob matches is in `identity.globs`."""

from collections.abc import Iterable

from openmcp.identity.globs import matches


def is_literal(glob: str) -> bool:
    """Whether the glob can match one text alone: itself."""
    return "*" not in glob and "?" not in glob


class Names:
    """Names, and which of them globs match: a literal is looked up, and each other glob is held against all once."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = frozenset(names)
        self._found: dict[str, frozenset[str]] = {"*": self._names}

    def matching(self, glob: str) -> frozenset[str]:
        """The names that match."""
        if is_literal(glob):
            return self._names & {glob}
        found = self._found.get(glob)
        if found is None:
            found = self._found[glob] = frozenset(name for name in self._names if matches(glob, name))
        return found


def beginning(glob: str) -> str:
    """What every text that matches begins with: the glob up to its first wildcard."""
    return glob[: min(glob.find(mark) % (len(glob) + 1) for mark in "*?")]


def covers(general: str, special: str) -> bool:
    """Whether every text that matches `special` surely matches `general`; may say False where it does not see why."""
    if general == "*" or general == special:
        return True
    if is_literal(general):
        return False
    if is_literal(special):
        return matches(general, special)
    if not _alike(general, special):
        return False
    places = _reachable(general, {0})
    for symbol in special:
        if symbol == "*":  # any text: only a star of the other one takes it
            places = {at for at in places if general[at : at + 1] == "*"}
        else:
            taken = {at for at in places if general[at : at + 1] in ("*", "?", symbol)}
            places = {at + (general[at] != "*") for at in taken}
        places = _reachable(general, places)
    return len(general) in places


def overlap(one: str, other: str) -> bool:
    """Whether some text matches both globs."""
    if one == other:
        return True
    if is_literal(one):
        return not is_literal(other) and matches(other, one)
    if is_literal(other):
        return matches(one, other)
    if not _alike(one, other):
        return False
    places = _reachable(one, {0})
    for symbol in other:
        if symbol == "*":
            places = set(range(min(places), len(one) + 1)) if places else places
        else:
            taken = {at for at in places if at < len(one) and (symbol == "?" or one[at] in ("*", "?", symbol))}
            places = {at + (one[at] != "*") for at in taken}
        places = _reachable(one, places)
    return len(one) in places


def _reachable(glob: str, places: set[int]) -> set[int]:
    """The places in a glob that are reached from some by leaving stars empty."""
    found = set(places)
    for at in places:
        while glob[at : at + 1] == "*":
            at += 1
            found.add(at)
    return found


def _alike(one: str, other: str) -> bool:
    """Whether the beginnings agree, up to the first wildcard: what tells most globs apart at once."""
    for mine, its in zip(one, other, strict=False):
        if mine in "*?" or its in "*?":
            return True
        if mine != its:
            return False
    return True
