"""Finds secrets, personal data and patterns in text: one pass of one `re2.Set` where there is nothing to find.

A text is read as it stands, folded (see folding.py) and decoded (see encodings.py), one after the other as long as
something changes; what is found in a later form is mapped back to the characters of the text that it came from. What
goes beyond the bounds below counts as found: nobody hides behind effort.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

from openmcp.sidecar.detection import folding
from openmcp.sidecar.detection.candidates import Check
from openmcp.sidecar.detection.detectors import BEGINS, PROBES, RAW_ONLY
from openmcp.sidecar.detection.readings import Reading, markers, next_readings
from openmcp.sidecar.detection.sets import PatternSet, compiled
from openmcp.sidecar.detection.spans import Span

PATTERN: Final = "pattern"
"""What a pattern finds is called this, unless the finder has a name (that of its rule)."""

NESTED: Final = "nested_encoding"
"""The find where a text is encoded more often, or grows more, than is looked into."""

MAX_READINGS: Final = 16
"""Forms of a text that are read; what would be changed once more is a find."""

MAX_FINDS: Final = 10_000
"""Finds of one detector or pattern in one form of a text; after the last, all the rest counts as found."""

MAX_CANDIDATES: Final = 50_000
"""Candidates of one detector that are checked in one form of a text; after the last, all the rest counts as found."""

MAX_SCANNED: Final = 1 << 32
"""Bytes that the searches for one pattern without a longest match may go through in one form of a text: such a pattern
may look to the end of the text after each of its finds. At least 256 searches; after them all the rest counts as found.
"""

_PROBE_MEMORY: Final = 2 << 20
"""Bytes that the automata of one pattern of a detector may take."""

_WITHOUT_END: Final = re.compile(r"[*+]|\{[0-9]+,\}")


class Finder:
    """What one rule looks for: detectors by name and patterns (RE2, searched), less what `except_` matches."""

    __slots__ = ("_alone", "_exceptions", "detect", "name", "patterns")

    def __init__(
        self, detect: Iterable[str], patterns: Iterable[str], except_: Iterable[str] = (), name: str = ""
    ) -> None:
        self.detect = tuple(detect)
        self.patterns = tuple(patterns)
        self.name = name or PATTERN
        self._exceptions = tuple([compiled(pattern) for pattern in except_])
        self._alone: FinderSet | None = None

    def spans(self, text: str) -> list[Span]:
        """The finds in `text`, ordered and apart from each other."""
        return [span for _, span in self.alone().scan(text)]

    def first(self, document: object) -> str | None:
        """What was found in any text, number or key of a JSON value; None: nothing."""
        alone = self.alone()
        for text in texts(document):
            found = alone.scan(text)
            if found:
                return found[0][1].what
        return None

    def alone(self) -> "FinderSet":
        """The set of this finder by itself."""
        known = self._alone
        if known is None:
            known = FinderSet((self,))
            self._alone = known
        return known

    def excepts(self, found: str) -> bool:
        """Whether the operator wrote that this is fine."""
        return any(pattern.search(found) is not None for pattern in self._exceptions)


class _Entry:
    """One pattern of the set, and the finders that it is looked for."""

    __slots__ = ("_regex", "check", "owners", "raw_only", "source")

    def __init__(self, source: str, check: Check | None, raw_only: bool) -> None:
        self.source = source
        self.check = check
        self.raw_only = raw_only
        self.owners: list[tuple[int, str]] = []
        self._regex: Any = None

    def regex(self) -> Any:
        """The pattern by itself, compiled at the first candidate."""
        if self._regex is None:
            self._regex = compiled(self.source) if self.check is None else compiled(self.source, _PROBE_MEMORY)
        return self._regex

    def begun(self) -> str:
        """The pattern as it is part of the one pass."""
        if self.check is None or self.source not in BEGINS:
            return self.source
        return f"{BEGINS[self.source]}(?:{self.source})"


Place = tuple[int, int]
_Find = tuple[int, int, int, str]  # finder, start, end, what


class FinderSet:
    """Several finders as one: a text in which none finds anything costs one pass, however many there are."""

    __slots__ = ("_entries", "_finders", "_markers", "_set")

    def __init__(self, finders: Sequence[Finder]) -> None:
        self._finders = tuple(finders)
        entries: dict[tuple[str, Check | None], _Entry] = {}
        for index, finder in enumerate(self._finders):
            for what in finder.detect:
                for source, check in PROBES[what]:
                    entry = entries.setdefault((source, check), _Entry(source, check, what in RAW_ONLY))
                    entry.owners.append((index, what))
            for source in finder.patterns:
                entries.setdefault((source, None), _Entry(source, None, False)).owners.append((index, finder.name))
        self._entries = tuple(entries.values())
        self._markers = len(self._entries)
        self._set = PatternSet([*(entry.begun() for entry in self._entries), *markers()])

    def suspects(self, text: str) -> bool:
        """Whether `scan` could find anything in `text`, or in a line of it: no check and no exception is asked.

        The inspection of messages asks this of all their texts at once.
        """
        data = text.encode("utf-8", "surrogatepass")
        return bool(self._set.match(data)) or (len(data) != len(text) and folding.needs_normalizing(text))

    def scan(self, text: str) -> list[tuple[int, Span]]:
        """Finds as (index of the finder, span): ordered by finder and place; those of one finder do not overlap."""
        data = text.encode("utf-8", "surrogatepass")
        hits = self._set.match(data)
        if not hits and (len(data) == len(text) or not folding.needs_normalizing(text)):
            return []
        return self._read(Reading(text, data), hits)

    def _read(self, first: Reading, hits: list[int]) -> list[tuple[int, Span]]:
        found: list[_Find] = []
        readings = [(first, hits)]
        for reading, known in readings:
            here = [find for hit in known if hit < self._markers for find in self._finds(self._entries[hit], reading)]
            found += _in_raw(here, reading)
            following = next_readings(reading, [hit - self._markers for hit in known if hit >= self._markers])
            if len(readings) + len(following) > MAX_READINGS or not all([one.within_bounds() for one in following]):
                found += [(index, 0, len(first.text), NESTED) for index in range(len(self._finders))]
                break
            readings += [(one, self._set.match(one.data)) for one in following]
        return _merged(found)

    def _finds(self, entry: _Entry, reading: Reading) -> Iterator[_Find]:
        """Finds in one form of a text, in bytes of it."""
        if entry.raw_only and reading.parent is not None:
            return
        data = reading.data
        for start, end in _places(entry, data):
            for index, what in entry.owners:
                finder = self._finders[index]
                if not finder.excepts(data[start:end].decode("utf-8", "replace")):
                    yield (index, start, end, what)


def _places(entry: _Entry, data: bytes) -> Iterator[Place]:
    if entry.check is None:
        return _matched(entry.regex(), data, most_finds(entry.source, len(data)))
    return _checked(entry.regex(), entry.check, data)


def most_finds(source: str, size: int) -> int:
    """How often a pattern is searched for in `size` bytes."""
    if _WITHOUT_END.search(source) is None:
        return MAX_FINDS
    return min(MAX_FINDS, max(256, MAX_SCANNED // (size + 1)))


def _matched(regex: Any, data: bytes, most: int) -> Iterator[Place]:
    """The matches of a pattern that are not empty; after `most` of them all the rest."""
    for count, match in enumerate(regex.finditer(data)):
        start, end = match.span()
        if count == most:
            yield (start, len(data))
            return
        if start < end:
            yield (start, end)


def _checked(regex: Any, check: Check, data: bytes) -> Iterator[Place]:
    """The candidates that the check confirms."""
    position = finds = 0
    for _ in range(MAX_CANDIDATES):
        match = regex.search(data, position)
        if match is None:
            return
        start, end = match.span()
        first, last, position = check(data, start, end)
        if first < 0:
            continue
        finds += 1
        if finds > MAX_FINDS:
            break
        yield (first, last)
    yield (position, len(data))


def _in_raw(found: list[_Find], reading: Reading) -> list[_Find]:
    """The finds of a form of a text as places in the text itself, in characters."""
    if not found:
        return []
    places = reading.to_raw(reading.characters([(start, end) for _, start, end, _ in found]))
    return [(find[0], place[0], place[1], find[3]) for find, place in zip(found, places, strict=True)]


def _merged(found: list[_Find]) -> list[tuple[int, Span]]:
    """Finds of one finder that overlap are one, called as the one that begins first (the longest of those)."""
    merged: list[_Find] = []
    for index, start, end, what in sorted(found, key=_order):
        if merged and merged[-1][0] == index and start < merged[-1][2]:
            _, first, last, name = merged[-1]
            merged[-1] = (index, first, max(last, end), name)
        else:
            merged.append((index, start, end, what))
    return [(index, Span(start, end, what)) for index, start, end, what in merged]


def _order(find: _Find) -> tuple[int, int, int]:
    return (find[0], find[1], -find[2])


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
