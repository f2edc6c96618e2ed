"""Patterns as one automaton."""

from collections.abc import Sequence
from typing import Any, Final

import re2

_MEMORY: Final = 4 << 20
"""Bytes that the automaton of one set may take. It starts with some ten KiB and grows with what texts make it meet."""


class PatternSet:
    """Several patterns (RE2) that are searched for at once.

    Raises ValueError where a pattern is none. A set whose automaton does not fit into its memory is halved: RE2 tries
    that when it compiles the set, and refuses there what would fail later and match nothing. A pattern that is too
    large even by itself is searched for without an automaton: slowly.
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
        for source in sources:
            try:
                made.Add(source)
            except re2.error as error:
                raise ValueError(f"not a pattern of RE2: {source}") from error
        if _fits(made):
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


def _fits(made: Any) -> bool:
    try:
        made.Compile()
    except re2.error:
        return False
    return True


def compiled(source: str | bytes, memory: int = 8 << 20) -> Any:
    """One pattern by itself, with the bytes that its automata may take; nothing is logged. One in bytes is for bytes of
    any kind, one in text for UTF-8."""
    options = re2.Options()
    if isinstance(source, bytes):
        options.encoding = re2.Options.Encoding.LATIN1
    options.max_mem = memory
    options.log_errors = False
    return re2.compile(source, options)
