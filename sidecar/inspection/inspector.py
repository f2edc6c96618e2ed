"""Inspection of what servers say: results, errors, and the params of their notifications and requests.

In the common case there is nothing to find: all texts of a message, those in base64 included, are searched in one pass.
Only where that pass suspects something is the message taken apart (`redaction`).
"""

from collections.abc import Iterable
from typing import Any, Final

from openmcp.sidecar.detection.finder import FinderSet
from openmcp.sidecar.inspection.blobs import Blob
from openmcp.sidecar.inspection.effects import Effects
from openmcp.sidecar.inspection.findings import Examined
from openmcp.sidecar.inspection.members import (
    FREE_KEYS,
    KNOWN_KEYS,
    KNOWN_VALUES,
    SHORTEST_NUMBER,
    is_blob,
    number_text,
    pieces,
)
from openmcp.sidecar.inspection.redaction import Examination
from openmcp.sidecar.inspection.responses import CompiledResponseRule
from openmcp.sidecar.types import JsonObject, Subject

_BETWEEN: Final = "\n\n"
"""Stands between texts that are searched together: no detector's find reaches over a line end, and to a pattern it is
what the edge of a text is, unless it has anchors (then each text is searched by itself)."""


class Inspector:
    """The response rules that hold for one agent on one server."""

    __slots__ = ("_anchored", "_binary", "_finders", "_rules", "_searching")

    def __init__(self, rules: Iterable[CompiledResponseRule]) -> None:
        self._rules = tuple(rules)
        self._searching = tuple(rule for rule in self._rules if rule.finder is not None)
        self._finders = FinderSet([rule.finder for rule in self._searching if rule.finder is not None])
        self._anchored = any(rule.anchored for rule in self._rules)
        self._binary = any(rule.binary_types is not None for rule in self._rules)

    def examine(self, subjects: tuple[Subject, ...], document: JsonObject, listed: str = "") -> Examined:
        """Apply the rules to a message that answers a call of `subjects`.

        `listed` names the member of a list result whose entries may be taken out singly.
        """
        if self._is_clean(document):
            return Examined(document)
        return self._examination(subjects, document, listed, record=False).run(document)

    def redacted(self, subjects: tuple[Subject, ...], document: JsonObject) -> Examined:
        """As it may be kept in the record: whatever a rule finds is redacted, also what it would block."""
        if self._is_clean(document):
            return Examined(document)
        return self._examination(subjects, document, "", record=True).run(document)

    def _examination(
        self, subjects: tuple[Subject, ...], document: JsonObject, listed: str, *, record: bool
    ) -> Examination:
        holding = [rule for rule in self._rules if rule.applies(subjects) and not (record and rule.shadow)]
        return Examination(Effects(self._searching, holding, self._finders, document, record=record), listed)

    def _is_clean(self, document: JsonObject) -> bool:
        texts: list[str] = []
        if gather(document, texts) and self._binary:
            return False
        finders = self._finders
        if not self._anchored and not finders.suspects(_BETWEEN.join(texts)):
            return True
        # What is suspected may be nothing: a number without its check digits, an escape, what an exception names.
        return not any(finders.scan(text) for text in texts)


def gather(document: object, texts: list[str], free: bool = False) -> bool:
    """Add all texts of a JSON value, keys and long numbers as well; True where there is binary content.

    `free`: it is a server's own data, which agents read as text, also where it is named like binary content.
    """
    stack: list[object] = [document]
    binary = False
    while stack:
        value = stack.pop()
        if type(value) is dict:
            if _gather_members(value, texts, stack, free):
                binary = True
        elif type(value) is list:
            _gather_items(value, texts, stack)
    return binary


def _gather_members(value: dict[str, Any], texts: list[str], stack: list[object], free: bool) -> bool:
    binary = False
    for key, member in value.items():
        if key not in KNOWN_KEYS:
            texts.append(key)
        kind = type(member)
        if kind is str:
            if key == "blob" or key == "data":
                binary |= _gather_blob(value, key, texts, free)
            elif key not in KNOWN_VALUES or member not in KNOWN_VALUES[key]:
                texts.append(member)
        elif kind is dict or kind is list:
            binary |= _gather_below(key, member, texts, stack, free)
        elif kind is int or kind is float:
            _gather_number(member, texts)
    return binary


def _gather_below(key: str, member: object, texts: list[str], stack: list[object], free: bool) -> bool:
    if not free and key in FREE_KEYS:
        return gather(member, texts, free=True)
    stack.append(member)
    return False


def _gather_items(value: list[Any], texts: list[str], stack: list[object]) -> None:
    objects = False
    for item in value:
        kind = type(item)
        if kind is dict or kind is list:
            objects = True
            stack.append(item)
        elif kind is str:
            texts.append(item)
        elif kind is int or kind is float:
            _gather_number(item, texts)
    if objects and len(value) > 1:
        parts = pieces(value)
        if parts:
            texts.append("".join([text for _, text in parts]))


def _gather_blob(holder: dict[str, Any], key: str, texts: list[str], free: bool) -> bool:
    written: str = holder[key]
    if not is_blob(holder, key):
        texts.append(written)
        return False
    blob = Blob(written, holder.get("mimeType"))
    if blob.text is not None:
        texts.append(blob.text)
    if free or blob.plain:
        texts.append(written)
    return True


def _gather_number(value: int | float, texts: list[str]) -> None:
    if -SHORTEST_NUMBER < value < SHORTEST_NUMBER and isinstance(value, int):
        return
    text = number_text(value)
    if text:
        texts.append(text)
