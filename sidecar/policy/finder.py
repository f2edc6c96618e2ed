"""Finds secrets, personal data and patterns in text: one pass of one `re2.Set` where there is nothing to find."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

import re2

from openmcp.sidecar.policy.detectors import PROBES, Check
from openmcp.sidecar.policy.spans import Span

PATTERN: Final = "pattern"
"""What a pattern finds is called this, unless the finder has a name (that of its rule)."""


class Finder:
    """What one rule looks for: detectors by name and patterns (RE2, searched), less what `except_` matches."""

    __slots__ = ("_set", "detect", "exceptions", "name", "patterns")

    def __init__(
        self, detect: Iterable[str], patterns: Iterable[str], except_: Iterable[str] = (), name: str = ""
    ) -> None:
        self.detect = tuple(detect)
        self.patterns = tuple(patterns)
        self.exceptions = [re2.compile(pattern) for pattern in except_]
        self.name = name or PATTERN
        self._set: FinderSet | None = None

    def spans(self, text: str) -> list[Span]:
        """The finds in `text`, ordered and apart from each other."""
        return [span for _, span in self._alone().scan(text)]

    def first(self, document: object) -> str | None:
        """What was found in any text, number or key of a JSON value; None: nothing."""
        alone = self._alone()
        for text in texts(document):
            found = alone.scan(text)
            if found:
                return found[0][1].what
        return None

    def _alone(self) -> "FinderSet":
        if self._set is None:
            self._set = FinderSet((self,))
        return self._set

    def excepts(self, found: str) -> bool:
        """Whether the operator wrote that this is fine."""
        return any(pattern.search(found) is not None for pattern in self.exceptions)


class _Entry:
    __slots__ = ("check", "owners", "regex", "source")

    def __init__(self, source: str, check: Check | None) -> None:
        self.source = source
        self.check = check
        self.regex: Any = re2.compile(source)
        self.owners: list[tuple[int, str]] = []


class FinderSet:
    """Several finders as one: a text in which none finds anything costs one pass, however many there are."""

    __slots__ = ("_entries", "_finders", "_set")

    def __init__(self, finders: Sequence[Finder]) -> None:
        self._finders = tuple(finders)
        entries: dict[tuple[str, Check | None], _Entry] = {}
        for index, finder in enumerate(self._finders):
            for what in finder.detect:
                for source, check in PROBES[what]:
                    entries.setdefault((source, check), _Entry(source, check)).owners.append((index, what))
            for source in finder.patterns:
                entries.setdefault((source, None), _Entry(source, None)).owners.append((index, finder.name))
        self._entries = tuple(entries.values())
        self._set: Any = re2.Set.SearchSet()
        for entry in self._entries:
            self._set.Add(entry.source)
        self._set.Compile()

    def suspects(self, text: str) -> bool:
        """Whether `scan` could find anything in `text`, or in any line of it: neither checks nor exceptions are asked."""
        return self._set.Match(text.encode("utf-8", "surrogatepass")) is not None

    def scan(self, text: str) -> list[tuple[int, Span]]:
        """Finds as (index of the finder, span): ordered by finder and place; those of one finder do not overlap."""
        data = text.encode("utf-8", "surrogatepass")
        hits = self._set.Match(data)
        if hits is None:
            return []
        found: list[tuple[int, int, int, str]] = []
        for hit in hits:
            entry = self._entries[hit]
            for start, end in _places(entry, data):
                shown = data[start:end].decode("utf-8", "replace")
                found += [(i, start, -end, what) for i, what in entry.owners if not self._finders[i].excepts(shown)]
        return _merged(sorted(found), data)


def _places(entry: _Entry, data: bytes) -> Iterator[tuple[int, int]]:
    for match in entry.regex.finditer(data):
        start, end = match.span()
        if start < end:
            yield from entry.check(data, start, end) if entry.check is not None else [(start, end)]


def _merged(found: list[tuple[int, int, int, str]], data: bytes) -> list[tuple[int, Span]]:
    joined: list[tuple[int, int, int, str]] = []
    for index, start, negative, what in found:
        last = joined[-1] if joined else None
        if last is not None and last[0] == index and start < last[2]:
            joined[-1] = (index, last[1], max(last[2], -negative), last[3])
        else:
            joined.append((index, start, -negative, what))
    return [(i, Span(_characters(data, start), _characters(data, end), what)) for i, start, end, what in joined]


def _characters(data: bytes, offset: int) -> int:
    return len(data[:offset].decode("utf-8", "surrogatepass"))


def texts(document: object) -> Iterator[str]:
    """Every text, number and key of a JSON value."""
    if isinstance(document, str):
        yield document
    elif isinstance(document, dict):
        for key, value in document.items():
            yield from texts(key)
            yield from texts(value)
    elif isinstance(document, list | tuple):
        for item in document:
            yield from texts(item)
    elif isinstance(document, int | float) and not isinstance(document, bool):
        yield str(document)
