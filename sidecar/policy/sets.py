"""Patterns as one automaton."""

from collections.abc import Sequence
from typing import Any, Final

import re2

_MEMORY: Final = 4 << 20
"""Bytes that the automaton of one set may take. It starts with some ten KiB and grows with what texts make it meet."""

_CANARY: Final = "\x00canary of the set\x00"


class PatternSet:
    """Several patterns (RE2) that are searched for at once.

    Raises ValueError where a pattern is none. `re2.Set` says nothing where its automaton does not fit into its memory:
    it then matches nothing. A pattern of our own in each set shows whether it works; sets that do not are halved.
    A pattern that is too large even by itself is searched for without an automaton: slowly.
    """

    __slots__ = ("_parts",)

    def __init__(self, sources: Sequence[str]) -> None:
        self._parts: list[tuple[int, Any]] = []
        self._add(0, sources)

    def _add(self, first: int, sources: Sequence[str]) -> None:
        options = re2.Options()
        options.max_mem = _MEMORY
        options.log_errors = False
        made = re2.Set.SearchSet(options)
        for source in (*sources, _CANARY):
            try:
                made.Add(source)
            except re2.error as error:
                raise ValueError(f"not a pattern of RE2: {source}") from error
        if _works(made, len(sources)):
            self._parts.append((first, made))
            return
        if len(sources) < 2:
            self._parts.append((first, _Single(sources[0])))
            return
        half = len(sources) // 2
        self._add(first, sources[:half])
        self._add(first + half, sources[half:])

    @property
    def parts(self) -> int:
        """How many automata it took."""
        return len(self._parts)

    def match(self, data: bytes) -> list[int]:
        """The indices of the patterns that match somewhere in `data` (UTF-8)."""
        parts = self._parts
        if len(parts) == 1:
            return parts[0][1].Match(data) or []
        return [first + hit for first, part in parts for hit in part.Match(data) or ()]


class _Single:
    """One pattern as a set of one."""

    __slots__ = ("_regex",)

    def __init__(self, source: str) -> None:
        self._regex = compiled(source)

    def Match(self, data: bytes) -> list[int]:
        """0 where it matches."""
        return [0] if self._regex.search(data) is not None else []


def _works(made: Any, canary: int) -> bool:
    try:
        made.Compile()
    except re2.error:
        return False
    return canary in (made.Match(_CANARY) or ())


def compiled(source: str, memory: int = 8 << 20) -> Any:
    """One pattern by itself, with the bytes that its automata may take; nothing is logged."""
    options = re2.Options()
    options.max_mem = memory
    options.log_errors = False
    return re2.compile(source, options)
