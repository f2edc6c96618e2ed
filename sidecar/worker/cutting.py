"""A decoded message taken apart: what may have to be looked at, and the large rest as bytes.

Texts are what makes a message large, or the structured content of a result; nobody outside of the worker looks into
either. Everything else stays in its place, so that whatever judges a message sees all of its structure.
"""

import re
from typing import Any, Final

import orjson

from openmcp.sidecar.mcp import jsonrpc
from openmcp.sidecar.types import JsonObject

KEPT: Final = 2048
"""Characters of a text up to which it stays."""
BATCH: Final = 16 * 1024
"""Bytes that are looked at in one go."""
MOST: Final = 256 * 1024
"""Bytes of what is looked at of a message, without its list, and of one entry of that."""
_OPAQUE: Final = frozenset(("structuredContent", "data"))
_LISTS: Final = ("content", "contents", "messages")
"""Members of results that hold any number of content blocks."""
_LARGEST: Final = 2**64 - 1
_SMALLEST: Final = -(2**63)
_MARK: Final = re.compile(rb"\x00([0-9]+)\x00")

Path = tuple[str | int, ...]


class TooManyParts(Exception):
    """A message that is large by its structure where no message is: it cannot be looked at."""


def mark(number: int) -> orjson.Fragment:
    """What stands for a value in a document that is serialised: no JSON has a NUL in it."""
    return orjson.Fragment(b"\x00%d\x00" % number)


def split(encoded: bytes) -> tuple[list[bytes], list[int]]:
    """A serialised document with marks: the texts between them (one more than marks), and their numbers."""
    found = _MARK.split(encoded)
    return found[::2], [int(number) for number in found[1::2]]


class Cutter:
    """Takes one document apart: `values` are the cuts, serialised, by number; `paths` say where each was."""

    def __init__(self) -> None:
        self.values: list[bytes] = []
        self.paths: list[Path] = []

    def trimmed(self, value: Any, path: Path = ()) -> Any:
        """The same value with marks in place of what is large. Integers beyond 64 bits are cut as well: who reads
        the rest must not have to know them."""
        kind = type(value)
        if kind is str:
            return self._cut(value, path) if len(value) > KEPT else value
        if kind is dict:
            return {key: self._member(key, item, (*path, key)) for key, item in value.items()}
        if kind is list:
            return [self.trimmed(item, (*path, index)) for index, item in enumerate(value)]
        if kind is int and not _SMALLEST <= value <= _LARGEST:
            return self._cut(value, path)
        return value

    def _member(self, key: str, value: Any, path: Path) -> Any:
        return self._cut(value, path) if key in _OPAQUE else self.trimmed(value, path)

    def _cut(self, value: Any, path: Path) -> orjson.Fragment:
        self.values.append(jsonrpc.encode(value))
        self.paths.append(path)
        return mark(len(self.values) - 1)


def list_of(document: JsonObject, entries: str) -> tuple[str, list[Any]]:
    """The member of a message's result that is handed over in batches, and what it holds; empty where none is."""
    result = document.get("result")
    if type(result) is not dict:
        return "", []
    for name in (entries,) if entries else _LISTS:
        given = result.get(name)
        if type(given) is list:
            return name, given
    return "", []


def without(document: JsonObject, name: str) -> JsonObject:
    """The message with an empty list in that member of its result."""
    return document | {"result": document["result"] | {name: []}}


def batches(entries: list[bytes]) -> list[tuple[int, int]]:
    """Serialised entries in groups of some size each: from, to. Raises `TooManyParts` for one that is too large."""
    groups: list[tuple[int, int]] = []
    start, size = 0, 0
    for index, entry in enumerate(entries):
        if len(entry) > MOST:
            raise TooManyParts("an entry of the list is too large")
        if size and size + len(entry) > BATCH:
            groups.append((start, index))
            start, size = index, 0
        size += len(entry)
    if entries:
        groups.append((start, len(entries)))
    return groups
