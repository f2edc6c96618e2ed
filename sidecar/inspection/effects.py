"""What becomes of a find: the rule that is responsible, whether it holds at that place, and what it then does."""

import itertools
import re
from bisect import bisect_right
from collections.abc import Iterable
from typing import Any, Final

from openmcp.config.jsonpath import Location
from openmcp.sidecar.detection.finder import FinderSet
from openmcp.sidecar.detection.spans import Span
from openmcp.sidecar.inspection.edits import Edits
from openmcp.sidecar.inspection.findings import MAX_FINDINGS, Finding
from openmcp.sidecar.inspection.responses import CompiledResponseRule

MAX_PATH: Final = 256
"""Characters of a place in a message, as it is reported."""
BINARY: Final = "binary"
REDACT: Final = "redact"
BLOCK: Final = "block"
WITHHOLD: Final = "withhold"
_GOES_ON: Final = "private_key"
"""What one text may begin and the next one continue."""
_MARKER: Final = re.compile(r"\[redacted:[\w.-]+\]")
_PLAIN_KEY: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def marker(what: str) -> str:
    """What stands in the place of something that was taken out."""
    return f"[redacted:{what}]"


def cut(text: str, spans: Iterable[Span]) -> str:
    """A text with a marker in the place of each find; finds that overlap become one. `what` empty: no marker."""
    parts: list[str] = []
    at = 0
    for span in sorted(spans, key=_order):
        if span.start < at:
            at = max(at, span.end)
            continue
        parts.append(text[at : span.start])
        if span.what:
            parts.append(marker(span.what))
        at = span.end
    parts.append(text[at:])
    return "".join(parts)


class Place:
    """Where a text stands. `fixed`: it may not be rewritten. `item` and `entry` are the places of the content item and
    of the list entry around it, if there are any."""

    __slots__ = ("entry", "fixed", "item", "location")

    def __init__(self, location: Location, fixed: bool, item: Location | None, entry: Location | None) -> None:
        self.location = location
        self.fixed = fixed
        self.item = item
        self.entry = entry

    def as_fixed(self) -> "Place":
        """The same place, where nothing may be rewritten."""
        return Place(self.location, True, self.item, self.entry)


class Effects:
    """The rules at work on one message, and what they have brought about so far."""

    __slots__ = ("_finders", "_masked", "_record", "_scopes", "_searching", "blocked", "edits", "findings", "twins")

    def __init__(
        self,
        searching: tuple[CompiledResponseRule, ...],
        holding: Iterable[CompiledResponseRule],
        finders: FinderSet,
        document: Any,
        *,
        record: bool,
    ) -> None:
        self._searching = searching
        self._finders = finders
        self._record = record
        self._scopes = {rule: rule.places(document) for rule in holding}
        self._masked: set[Location] = set()
        self.twins: dict[Location, Location] = {}
        self.edits = Edits()
        self.findings: list[Finding] = []
        self.blocked: Finding | None = None

    def suspects(self, text: str) -> bool:
        """Whether there may be a find in a text."""
        return self._finders.suspects(text)

    def mask(self, location: Location) -> None:
        """The last key of this place is not to be shown in reports."""
        self._masked.add(location)

    def search(self, text: str, place: Place) -> list[Span]:
        """The finds in a text that are to be redacted there; the effects of the others have been noted."""
        found: list[Span] = []
        for index, span in self._finders.scan(text):
            rule = self._searching[index]
            if self._holds(rule, place.location) and self._effect(rule, span.what, place, text[span.start : span.end]):
                found.append(span)
        return found

    def rest(self, text: str, place: Place) -> list[Span]:
        """As `search`, for a text that repeats what was redacted elsewhere: what is inside of a marker is no find, and
        a rule that is limited to places must hold for this one itself."""
        found: list[Span] = []
        marked = [match.span() for match in _MARKER.finditer(text)]
        for index, span in self._finders.scan(text):
            rule = self._searching[index]
            if any(start <= span.start and span.end <= end for start, end in marked):
                continue
            holds = rule in self._scopes and self._within(rule, place.location)
            if holds and self._effect(rule, span.what, place, text[span.start : span.end]):
                found.append(span)
        return found

    def crossing(self, parts: list[str], places: list[Place]) -> list[tuple[int, Span]]:
        """What is split over texts that follow each other: as (index of the text, span in it).

        What one of the texts has by itself, or may have, is none: words that only touch are not one word. A private key
        goes on in the next text all the same.
        """
        edges = list(itertools.accumulate(map(len, parts), initial=0))
        found: list[tuple[int, Span]] = []
        whole = "".join(parts)
        for index, span in self._finders.scan(whole):
            rule = self._searching[index]
            pieces = _cut_at(span, edges)
            holding = [(text, piece) for text, piece in pieces if self._holds(rule, places[text].location)]
            if len(pieces) < 2 or not holding or self._alone(index, span.what, pieces, parts):
                continue
            first = places[holding[0][0]]
            fixed = any(places[text].fixed for text, _ in pieces)
            place = Place(first.location, True, None, first.entry) if fixed else first
            if self._effect(rule, span.what, place, whole[span.start : span.end]):
                found += holding
        return found

    def _alone(self, index: int, what: str, pieces: list[tuple[int, Span]], parts: list[str]) -> bool:
        """Whether one of the pieces of a find is one by itself, or is excepted."""
        if what == _GOES_ON:
            return False
        finder = self._searching[index].finder
        for text, piece in pieces:
            if finder is not None and finder.excepts(parts[text][piece.start : piece.end]):
                return True
            for other, span in self._finders.scan(parts[text]):
                if other == index and span.start < piece.end and piece.start < span.end:
                    return True
        return False

    def binary(self, place: Place, types: tuple[str, ...], size: int, replacement: dict[str, Any]) -> None:
        """Apply the rules on binary content to an item: `place` is that of its data."""
        for rule in self._scopes:
            if not rule.minds(types, size) or not self._holds(rule, place.location):
                continue
            target = place.item or place.location[:-1]
            if rule.shadow or (rule.blocks and not self._record) or not target:
                self._effect(rule, BINARY, place.as_fixed(), "")
                continue
            self._note(rule, WITHHOLD, BINARY, place, "")
            self.edits.replace(target, replacement)

    def stuck(self, place: Place) -> None:
        """What was found last cannot be redacted after all."""
        last = self.findings[-1]
        if self.blocked is None and not self._record:
            shown = self._shown(place.location)
            self.blocked = Finding(last.policy, last.rule, BLOCK, last.what, shown, False, last.removed)
            self.findings.append(self.blocked)

    def _holds(self, rule: CompiledResponseRule, location: Location) -> bool:
        if rule not in self._scopes:
            return False
        if self._within(rule, location):
            return True
        # What holds for a text that repeats structuredContent holds for that as well: they have to agree.
        return any(location[: len(of)] == of and self._within(rule, text) for text, of in self.twins.items())

    def _within(self, rule: CompiledResponseRule, location: Location) -> bool:
        scope = self._scopes[rule]
        return scope is None or any(location[:length] in scope for length in range(len(location) + 1))

    def _effect(self, rule: CompiledResponseRule, what: str, place: Place, removed: str) -> bool:
        """Do what the rule does; True where the caller has to redact."""
        if rule.shadow:
            self._note(rule, BLOCK if rule.blocks else REDACT, what, place, removed)
            return False
        if self._record or not (rule.blocks or place.fixed):
            self._note(rule, REDACT, what, place, removed)
            return True
        if place.entry is not None:
            self._note(rule, WITHHOLD, what, place, removed)
            self.edits.drop(place.entry)
        elif place.item is not None and not rule.blocks:
            self._note(rule, WITHHOLD, what, place, removed)
            self.edits.replace(place.item, {"type": "text", "text": marker(what)})
        else:
            finding = self._note(rule, BLOCK, what, place, removed)
            self.blocked = self.blocked or finding
        return False

    def _note(self, rule: CompiledResponseRule, action: str, what: str, place: Place, removed: str) -> Finding:
        told = len(self.findings) < MAX_FINDINGS or (action == BLOCK and self.blocked is None and not rule.shadow)
        shown = self._shown(place.location) if told else ""  # a server may hide thousands, deep down
        finding = Finding(rule.policy, rule.name, action, what, shown, rule.shadow, removed)
        if told:
            self.findings.append(finding)
        return finding

    def _shown(self, location: Location) -> str:
        """A place as JSONPath, without the keys in which something was found."""
        parts = ["$"]
        for length, key in enumerate(location, 1):
            if type(key) is int:
                parts.append(f"[{key}]")
            elif self._masked and location[:length] in self._masked:
                parts.append("[*]")
            else:
                name = str(key)
                parts.append(f".{name}" if _PLAIN_KEY.fullmatch(name) else f"[{name[:64]!r}]")
        return "".join(parts)[:MAX_PATH]


def _cut_at(span: Span, edges: list[int]) -> list[tuple[int, Span]]:
    """The pieces of a find in texts that begin at these offsets; only the first one says what it is."""
    pieces: list[tuple[int, Span]] = []
    for text in range(bisect_right(edges, span.start) - 1, len(edges) - 1):
        begin, end = max(span.start, edges[text]), min(span.end, edges[text + 1])
        if begin >= span.end:
            break
        if begin < end:
            what = span.what if not pieces else ""
            pieces.append((text, Span(begin - edges[text], end - edges[text], what)))
    return pieces


def _order(span: Span) -> tuple[int, int]:
    return span.start, -span.end
