"""A message in which something is suspected, taken apart: what is found, where, and the message without it.

What may not be rewritten, since the message
would no longer be valid or would name something else, is not rewritten: the content item or list entry around it is
taken out, or the message is blocked. Where a text repeats structuredContent as JSON, it is written anew from what
became of that.
"""

import json
from typing import Any, Final

from openmcp.config.jsonpath import Location
from openmcp.sidecar.detection.spans import Span
from openmcp.sidecar.inspection.blobs import Blob, dumped_like
from openmcp.sidecar.inspection.edits import Edits
from openmcp.sidecar.inspection.effects import BINARY, Effects, Place, cut, marker
from openmcp.sidecar.inspection.findings import Examined
from openmcp.sidecar.inspection.members import (
    FREE,
    KNOWN_KEYS,
    META,
    PROTOCOL,
    is_blob,
    is_known,
    is_protected,
    number_text,
    pieces,
    zone_of,
)
from openmcp.sidecar.types import JsonObject

_STRUCTURED: Final = "structuredContent"
MAX_TWINS: Final = 16
"""Texts that are taken for ones that repeat structuredContent; further ones are texts like any other."""


class _Node:
    """A container on the way. `fixed`: the texts in this list may not be rewritten."""

    __slots__ = ("entry", "fixed", "item", "location", "value", "zone")

    def __init__(self, value: Any, location: Location, zone: int, above: "_Node | None", fixed: bool = False) -> None:
        self.value = value
        self.location = location
        self.zone = zone
        self.fixed = fixed
        self.item: Location | None = above.item if above is not None else None
        self.entry: Location | None = above.entry if above is not None else None

    def place(self, location: Location, fixed: bool) -> Place:
        """A text of this container."""
        return Place(location, fixed, self.item, self.entry)


class Examination:
    """One message under inspection; `listed` is the member whose entries may be taken out singly."""

    __slots__ = ("_effects", "_listed", "_parts")

    def __init__(self, effects: Effects, listed: str) -> None:
        self._effects = effects
        self._listed = listed
        self._parts: dict[Location, list[Span]] = {}

    def run(self, document: JsonObject) -> Examined:
        """Examine the message."""
        self._walk(document)
        effects = self._effects
        changed = document if effects.blocked is not None else effects.edits.apply(document)
        if effects.twins and effects.blocked is None:
            changed = self._with_twins(document, changed)
        if effects.blocked is not None:
            changed = document
        return Examined(changed, effects.blocked, tuple(effects.findings))

    def _walk(self, document: JsonObject) -> None:
        stack = [_Node(document, (), PROTOCOL, None)]
        while stack:
            node = stack.pop()
            children = self._members(node) if type(node.value) is dict else self._items(node)
            children.reverse()  # so that findings come in the order of the message
            stack += children

    def _members(self, node: _Node) -> list[_Node]:
        children: list[_Node] = []
        holder = node.value
        if _STRUCTURED in holder:
            self._note_twins(node)
        for key, member in holder.items():
            location = (*node.location, key)
            if key not in KNOWN_KEYS:
                self._key(node, key, location)
            if type(member) is dict or type(member) is list:
                children.append(_child(node, key, member, location))
            elif type(member) is str and is_blob(holder, key):
                self._blob(node, key, location)
            elif type(member) is not str or not is_known(key, member):
                self._leaf(member, node.place(location, is_protected(node.zone, key)))
        return children

    def _items(self, node: _Node) -> list[_Node]:
        children: list[_Node] = []
        is_content = node.zone == PROTOCOL and node.location[-1:] == ("content",)
        is_listed = node.location == (self._listed,)
        for index, member in enumerate(node.value):
            location = (*node.location, index)
            if type(member) is dict or type(member) is list:
                child = _Node(member, location, node.zone, node, node.fixed)
                if is_content and type(member) is dict:
                    child.item = location
                if is_listed:
                    child.entry = location
                children.append(child)
            else:
                self._leaf(member, node.place(location, node.fixed))
        if len(node.value) > 1:
            self._joined(node, is_content)
        return children

    def _leaf(self, value: Any, place: Place) -> None:
        if type(value) is str:
            new = self._treated(value, place)
            if new is not value:
                self._effects.edits.set(place.location, new)
        elif type(value) is int or type(value) is float:
            text = number_text(value)
            spans = self._effects.search(text, place) if text else []
            if spans:
                self._effects.edits.set(place.location, cut(text, spans))

    def _key(self, node: _Node, key: str, location: Location) -> None:
        if not self._effects.suspects(key):
            return
        self._effects.mask(location)
        new = self._searched(key, node.place(location, node.zone not in (FREE, META)))
        if new is not key:
            self._effects.edits.rename(node.location, key, new)

    def _treated(self, text: str, place: Place) -> str:
        """A text of the message without what was found in it, alone or together with its neighbours."""
        if place.location in self._effects.twins:
            return text  # it is written anew at the end
        spans = self._effects.search(text, place) + self._parts.get(place.location, [])
        return cut(text, spans) if spans else text

    def _searched(self, text: str, place: Place) -> str:
        spans = self._effects.search(text, place)
        return cut(text, spans) if spans else text

    def _blob(self, node: _Node, key: str, location: Location) -> None:
        """Base64 of an image, audio or blob: as text where it holds text, and as content of its type and size."""
        holder = node.value
        written: str = holder[key]
        blob = Blob(written, holder.get("mimeType"))
        place = node.place(location, False)
        if node.zone == PROTOCOL:
            types = _types(holder)
            self._effects.binary(place, types, blob.size, _instead(holder, node.item, types[0], blob.size))
        new = written
        if blob.text is not None:
            text = self._searched(blob.text, place)
            new = written if text is blob.text else blob.close(text)
        if node.zone != PROTOCOL:  # the server's own data is text as well, whatever it is called
            new = self._searched(new, place)
        elif blob.plain:
            new = self._searched(new, place.as_fixed())
        if new is not written:
            self._effects.edits.set(location, new)

    def _joined(self, node: _Node, is_content: bool) -> None:
        """Texts that follow each other, as one: what is split over them."""
        parts = pieces(node.value)
        if not parts:
            return
        places = []
        for inner, _ in parts:
            location = (*node.location, *inner)
            item = (*node.location, inner[0]) if is_content else node.item
            places.append(Place(location, location in self._effects.twins, item, node.entry))
        for text, piece in self._effects.crossing([text for _, text in parts], places):
            self._parts.setdefault(places[text].location, []).append(piece)

    def _note_twins(self, node: _Node) -> None:
        """The text items that say the same as structuredContent does."""
        structured, content = node.value[_STRUCTURED], node.value.get("content")
        if type(content) is not list or type(structured) not in (dict, list):
            return
        for index, item in enumerate(content):
            if len(self._effects.twins) >= MAX_TWINS:
                return
            text = item.get("text") if type(item) is dict else None
            if type(text) is str and text.lstrip()[:1] in ("{", "[") and _parsed(text) == structured:
                self._effects.twins[*node.location, "content", index, "text"] = (*node.location, _STRUCTURED)

    def _with_twins(self, old: JsonObject, new: JsonObject) -> JsonObject:
        effects, edits = self._effects, Edits()
        for location, source in effects.twins.items():
            if effects.edits.gone(location) or effects.edits.gone(source):
                continue
            before, after = _at(old, source), _at(new, source)
            text: str = _at(old, location)
            place = Place(location, True, None, None)
            written = text if after is before else dumped_like(text, before, after)
            if written is None:
                effects.stuck(place)
                continue
            spans = effects.rest(written, place)
            if spans:
                written = cut(written, spans)
            if written is not text:
                edits.set(location, written)
        changed: JsonObject = edits.apply(new)
        return changed


def _child(node: _Node, key: str, member: Any, location: Location) -> _Node:
    child = _Node(member, location, zone_of(node.zone, key, member), node, is_protected(node.zone, key))
    if key == "content" and node.zone == PROTOCOL and type(member) is dict:
        child.item = location
    return child


def _types(holder: JsonObject) -> tuple[str, ...]:
    """The media types that binary content goes by: the declared one, and the family of images and audio."""
    declared = holder.get("mimeType")
    plain = declared.partition(";")[0].strip().lower() if type(declared) is str else "application/octet-stream"
    family = holder.get("type")
    return (plain, f"{family}/unknown") if family in ("image", "audio") else (plain,)


def _instead(holder: JsonObject, item: Location | None, media_type: str, size: int) -> JsonObject:
    """What stands in the place of binary content that was taken out."""
    text = f"{marker(BINARY)} {media_type[:80]}, {size} bytes"
    if item is not None:
        return {"type": "text", "text": text}
    return {"uri": holder.get("uri", ""), "mimeType": "text/plain", "text": text}


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _at(document: Any, location: Location) -> Any:
    for key in location:
        document = document[key]
    return document
