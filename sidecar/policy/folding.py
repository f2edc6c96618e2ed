"""Text as a reader would take it: NFKC, without what is invisible, digits, dashes and spaces of all kinds made plain.

`fold` works on the whole text. Where each part of its result came from is asked for only after a find: `fold_pieces`
then folds piece by piece.
"""

import re
import unicodedata
from collections.abc import Iterator
from functools import cache
from typing import Any, Final

import re2

Piece = tuple[int, int, str]
"""A part (start, end) of a text that becomes other text; what lies between two of them stays as it is."""

_PLANES: Final = ((0x80, 0x3400), (0xA000, 0xAC00), (0xF900, 0x17000), (0x1B000, 0x20000), (0xE0000, 0xE0200))
"""Where characters of interest are: the rest is ideographs, Hangul, Tangut and private use."""

_IGNORABLE: Final = frozenset((0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x2065, 0x3164, 0xFFA0))
_SELECTORS: Final = frozenset((*range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0)))
_DASHES: Final = frozenset((0x02D7, 0x2043, 0x2212))
_FULL_STOPS: Final = frozenset((0x3002, 0xFF61))
_LONG: Final = frozenset((0xFDFA, 0xFDFB))
"""Ligatures that NFKC makes 18 and 8 characters of."""
_BY_CATEGORY: Final = {"Cf": "", "Me": "", "Pd": "-", "Zs": " ", "Zl": "\n", "Zp": "\n"}

# The commonest of all that is changed: replacing them one after the other is the fastest for prose.
_COMMON: Final = (
    *[(gone, "") for gone in "\u200b\u200c\u200d\u200e\u200f\u2060\ufeff\u00ad\ufe0f"],
    *[(dash, "-") for dash in "\u2010\u2011\u2012\u2013\u2014\u2212"],
    *[(space, " ") for space in "\u00a0\u202f\u2009\u3000"],
    *zip("\u3002\uff0c\uff1a\uff08\uff09\uff01\uff1f\uff1b", ".,:()!?;", strict=True),
    ("\u2026", "..."),
)

_CONTROL: Final = r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\x9b]"
_TERMINAL: Final = r"(?:\x1b\[|\x9b)[0-?]{0,32}[ -/]{0,8}[@-~]|" + _CONTROL
_CONTROLS: Final = re.compile(_CONTROL)
_TERMINALS: Final = re.compile(_TERMINAL)
_PART: Final = re.compile(_TERMINAL + r"|[ -~]?(?:(?!\x9b)[^\x00-\x7f])+")


@cache
def _table() -> dict[int, str]:
    """What becomes of characters, besides NFKC."""
    codes = (code for first, last in _PLANES for code in range(first, last))
    return {code: plain for code in codes if (plain := _plain(code)) is not None}


def _plain(code: int) -> str | None:
    character = chr(code)
    category = unicodedata.category(character)
    if category in _BY_CATEGORY:
        return _BY_CATEGORY[category]
    if category in ("Nd", "No"):
        digit = unicodedata.digit(character, None)
        return None if digit is None else str(digit)
    if code in _IGNORABLE or code in _SELECTORS:
        return ""
    if code in _DASHES:
        return "-"
    return {**dict.fromkeys(_FULL_STOPS, "."), **dict.fromkeys(_LONG, " "), 0x85: "\n"}.get(code)


@cache
def marker() -> str:
    """An RE2 pattern that finds what is folded besides NFKC."""
    ranges: list[tuple[int, int]] = []
    for code in _table():
        if ranges and code == ranges[-1][1] + 1:
            ranges[-1] = (ranges[-1][0], code)
        else:
            ranges.append((code, code))
    characters = "".join([rf"\x{{{first:x}}}-\x{{{last:x}}}" for first, last in ranges])
    return rf"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\x{{9b}}{characters}]|[!-~]\p{{Mn}}"


@cache
def _tools() -> tuple[Any, Any]:
    """A finder of what the table changes or a mark above ASCII, and one of the latter alone."""
    return re2.compile(marker()), re2.compile(r"([!-~])\p{Mn}+")


def fold(text: str) -> str:
    """The text folded; `text` itself where nothing changes. At most six times as long."""
    folded = text
    if _CONTROLS.search(folded) is not None:
        folded = _TERMINALS.sub("", folded)
    if folded.isascii():
        return folded
    for written, plain in _COMMON:
        folded = folded.replace(written, plain)
    anything, _ = _tools()
    if anything.search(folded.encode("utf-8", "surrogatepass")) is not None:
        folded = folded.translate(_table())
    return _unmarked(unicodedata.normalize("NFKC", folded))


def _unmarked(text: str) -> str:
    """Without the marks that NFKC could not compose with a character of ASCII."""
    _, marked = _tools()
    if text.isascii() or marked.search(text.encode("utf-8", "surrogatepass")) is None:
        return text
    plain: str = marked.sub(r"\1", text)
    return plain


def needs_folding(text: str) -> bool:
    """Whether NFKC alone would change the text; `marker` finds all else."""
    return not unicodedata.is_normalized("NFKC", text)


def fold_pieces(text: str) -> Iterator[Piece]:
    """What `fold` changes, in order."""
    table = _table()
    for match in _PART.finditer(text):
        part = match[0]
        if _CONTROLS.match(part) is not None:
            yield (match.start(), match.end(), "")
            continue
        start = match.start()
        for segment in _segments(part, table):
            folded = _unmarked(unicodedata.normalize("NFKC", segment.translate(table)))
            if folded != segment:
                yield (start, start + len(segment), folded)
            start += len(segment)


def _segments(part: str, table: dict[int, str]) -> Iterator[str]:
    """Cuts before each character that cannot join the one before it."""
    first = 0
    for index in range(1, len(part)):
        code = ord(part[index])
        joins = table.get(code) == "" or 0x1100 <= code <= 0x11FF or 0xFFA0 <= code <= 0xFFDC
        if not joins and unicodedata.category(part[index])[0] != "M":
            yield part[first:index]
            first = index
    yield part[first:]
