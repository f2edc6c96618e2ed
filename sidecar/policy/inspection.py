"""Inspection of what servers say: results, errors, and the params of their notifications and requests.

In the common case there is nothing to find: all texts of a message, decoded texts included, are searched in one pass.
Only where that pass suspects something is the message taken apart (`redaction`).
"""

from collections.abc import Iterable
from typing import Any, Final

from openmcp.sidecar.policy.effects import Effects
from openmcp.sidecar.policy.finder import FinderSet
from openmcp.sidecar.policy.findings import Examined
from openmcp.sidecar.policy.layers import SHORTEST, opened, opened_blob
from openmcp.sidecar.policy.places import KNOWN_KEYS, SHORTEST_NUMBER, is_blob, is_known, number_text, pieces
from openmcp.sidecar.policy.redaction import Examination
from openmcp.sidecar.policy.responses import CompiledResponseRule
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
        if self._anchored:
            return not any(map(self._finders.suspects, texts))
        return not self._finders.suspects(_BETWEEN.join(texts))


def gather(document: object, texts: list[str]) -> bool:
    """Add all texts of a JSON value, and those inside of them; True where there is binary content."""
    stack: list[object] = [document]
    binary = False
    while stack:
        value = stack.pop()
        if type(value) is dict:
            binary |= _gather_members(value, texts, stack)
        elif type(value) is list:
            _gather_items(value, texts, stack)
        elif type(value) is str:
            _gather_text(value, texts, stack)
        else:
            _gather_number(value, texts)
    return binary


def _gather_members(value: dict[str, Any], texts: list[str], stack: list[object]) -> bool:
    binary = False
    for key, member in value.items():
        if key not in KNOWN_KEYS:
            _gather_text(key, texts, stack)
        if type(member) is str:
            if is_blob(value, key):
                binary = True
                layer = opened_blob(member, value.get("mimeType"))
                texts.append(member)
                if layer is not None:
                    stack.append(layer.inner)
            elif not is_known(key, member):
                _gather_text(member, texts, stack)
        elif type(member) is dict or type(member) is list:
            stack.append(member)
        else:
            _gather_number(member, texts)
    return binary


def _gather_items(value: list[Any], texts: list[str], stack: list[object]) -> None:
    stack.extend(value)
    if len(value) > 1:
        parts = pieces(value)
        if parts:
            _gather_text("".join([text for _, text in parts]), texts, stack)


def _gather_text(text: str, texts: list[str], stack: list[object]) -> None:
    texts.append(text)
    if len(text) >= SHORTEST:
        layer = opened(text)
        if layer is not None:
            stack.append(layer.inner)


def _gather_number(value: object, texts: list[str]) -> None:
    if type(value) is int:
        if not -SHORTEST_NUMBER < value < SHORTEST_NUMBER:
            texts.append(str(value))
    elif type(value) is float:
        text = number_text(value)
        if text:
            texts.append(text)
