"""Which rules are about a name, at a cost that does not grow with the rules that are not.

A literal is looked up in a dictionary. All globs are matched in one pass over the name, by one automaton.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Final

import re2

from openmcp.config.globs import is_literal
from openmcp.sidecar.policy.globs import GlobSet, pattern_of

MATCHES_ALL: Final = "(?s).*"


class NameIndex:
    """Names and globs, each with the numbers of the rules that it stands for."""

    __slots__ = ("_always", "_groups", "_literals")

    def __init__(self, always: Iterable[int], globs: Iterable[tuple[str, int]]) -> None:
        """`always` are the rules that are about every name."""
        self._always = tuple(always)
        self._literals: dict[str, list[int]] = {}
        patterns: dict[str, list[int]] = {}
        for glob, number in globs:
            (self._literals if is_literal(glob) else patterns).setdefault(glob, []).append(number)
        self._groups = _groups(list(patterns.items())) if patterns else []

    def lookup(self, name: str) -> list[int]:
        """The numbers of all rules that are about a name, ascending, each once."""
        found = set(self._always)
        found.update(self._literals.get(name, ()))
        for group in self._groups:
            found.update(group.lookup(name))
        return sorted(found)


class _Group:
    """Globs in one automaton. It has one more pattern, which matches everything: an automaton that ran out of memory
    says that nothing matches, and that must not be taken for "no rule denies"."""

    __slots__ = ("_globs", "_numbers", "_set", "_single")

    def __init__(self, globs: Sequence[tuple[str, list[int]]]) -> None:
        """Raises `re2.error` where the globs are too many for one automaton."""
        self._globs = [glob for glob, _ in globs]
        self._numbers = [numbers for _, numbers in globs]
        self._single: list[GlobSet] | None = None
        self._set: Any = re2.Set.FullMatchSet(_options())
        for glob in self._globs:
            self._set.Add(f"(?s){pattern_of(glob)}")
        self._set.Add(MATCHES_ALL)
        self._set.Compile()

    def lookup(self, name: str) -> list[int]:
        matching: list[int] = self._set.Match(name) or []
        last = len(self._globs)
        if last not in matching:
            return self._one_by_one(name)
        return [number for position in matching if position != last for number in self._numbers[position]]

    def _one_by_one(self, name: str) -> list[int]:
        if self._single is None:
            self._single = [GlobSet((glob,)) for glob in self._globs]
        return [
            number
            for globs, numbers in zip(self._single, self._numbers, strict=True)
            if globs.matches(name)
            for number in numbers
        ]


def _groups(globs: list[tuple[str, list[int]]]) -> list[_Group]:
    """The globs in as few automata as their size allows."""
    try:
        return [_Group(globs)]
    except re2.error:
        if len(globs) == 1:
            raise
        half = len(globs) // 2
        return _groups(globs[:half]) + _groups(globs[half:])


def _options() -> Any:
    made: Any = re2.Options()
    made.log_errors = False
    return made
