"""Text as a reader would take it, in steps: without control characters, without what is invisible, digits, dashes and
spaces of all kinds made plain, NFKC, without marks that are written above ASCII.

A step is a function that makes the whole text anew, and one that says which pieces of it become what: the first is
fast, the second is asked for after a find.
"""

import re
import unicodedata
from collections.abc import Iterator
from functools import cache
from typing import Any, Final

from openmcp.sidecar.detection.sets import compiled

Piece = tuple[int, int, str]
"""A part (start, end) of a text that becomes other text; what lies between two of them stays as it is."""

CONTROLS: Final = r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\x{9b}]"
MARKS: Final = r"[!-~]\p{Mn}"

_PLANES: Final = ((0x80, 0x3400), (0xA000, 0xAC00), (0xF900, 0x17000), (0x1B000, 0x20000), (0xE0000, 0xE0200))
"""Where characters of interest are: the rest is ideographs, Hangul, Tangut and private use."""

_IGNORABLE: Final = frozenset((0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x2065, 0x3164, 0xFFA0))
_SELECTORS: Final = frozenset((*range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0)))
_DASHES: Final = frozenset((0x02D7, 0x2043, 0x2212))
_OTHERS: Final = {0x85: "\n", 0x3002: ".", 0xFF61: ".", 0xFDFA: " ", 0xFDFB: " "}
"""The last two are ligatures that NFKC makes 18 and 8 characters of."""
_BY_CATEGORY: Final = {"Cf": "", "Me": "", "Pd": "-", "Zs": " ", "Zl": "\n", "Zp": "\n"}

# The commonest of all that is changed: replacing them one after the other is the fastest for prose.
_COMMON: Final = {
    **dict.fromkeys("\u200b\u200c\u200d\u200e\u200f\u2060\ufeff\u00ad\ufe0f", ""),
    **dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2212", "-"),
    **dict.fromkeys("\u00a0\u202f\u2009\u3000", " "),
    **dict(zip("\u3002\uff0c\uff1a\uff08\uff09\uff01\uff1f\uff1b", ".,:()!?;", strict=True)),
}
_COMMON_PAIRS: Final = tuple(_COMMON.items())
_ANY_COMMON: Final = re.compile(f"[{''.join(_COMMON)}]")

_TERMINALS: Final = re.compile(r"(?:\x1b\[|\x9b)[0-?]{0,32}[ -/]{0,8}[@-~]|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\x9b]")
_RUN: Final = re.compile(r"[\x00-\x7f]?[^\x00-\x7f]+")


@cache
def table() -> dict[int, str]:
    """What becomes of characters, besides NFKC: code point to text."""
    codes = (code for first, last in _PLANES for code in range(first, last))
    return {code: plain for code in codes if (plain := _plain(code)) is not None}


def _plain(code: int) -> str | None:
    character = chr(code)
    common = _COMMON.get(character, _BY_CATEGORY.get(unicodedata.category(character)))
    if common is not None:
        return common
    digit = unicodedata.digit(character, None)
    if digit is not None:
        return str(digit)
    if code in _IGNORABLE or code in _SELECTORS:
        return ""
    return "-" if code in _DASHES else _OTHERS.get(code)


@cache
def characters() -> str:
    """An RE2 pattern that finds what the table changes."""
    ranges: list[tuple[int, int]] = []
    for code in sorted(table()):
        if ranges and code == ranges[-1][1] + 1:
            ranges[-1] = (ranges[-1][0], code)
        else:
            ranges.append((code, code))
    return "[" + "".join([rf"\x{{{first:x}}}-\x{{{last:x}}}" for first, last in ranges]) + "]"


def without_controls(text: str) -> str:
    """Without control characters, and without what a terminal takes for commands."""
    return _TERMINALS.sub("", text)


def control_pieces(text: str) -> Iterator[Piece]:
    """What `without_controls` changes."""
    return ((match.start(), match.end(), "") for match in _TERMINALS.finditer(text))


def common(text: str) -> str:
    """With the commonest characters made plain."""
    for written, plain in _COMMON_PAIRS:
        text = text.replace(written, plain)
    return text


def common_pieces(text: str) -> Iterator[Piece]:
    """What `common` changes."""
    return ((match.start(), match.end(), _COMMON[match[0]]) for match in _ANY_COMMON.finditer(text))


def rare(text: str) -> str:
    """With all characters of the table made plain."""
    return text.translate(table())


def rare_pieces(text: str) -> Iterator[Piece]:
    """What `rare` changes."""
    known = table()
    for index, character in enumerate(text):
        plain = known.get(ord(character))
        if plain is not None:
            yield (index, index + 1, plain)


def needs_normalizing(text: str) -> bool:
    """Whether the text is not in NFKC."""
    return not unicodedata.is_normalized("NFKC", text)


def normalized(text: str) -> str:
    """In NFKC: at most six times as long, since the table takes the longest ligatures away."""
    return unicodedata.normalize("NFKC", text)


def normalized_pieces(text: str) -> Iterator[Piece]:
    """What `normalized` changes."""
    for match in _RUN.finditer(text):
        if unicodedata.is_normalized("NFKC", match[0]):
            continue
        start = match.start()
        for segment in _segments(match[0]):
            plain = unicodedata.normalize("NFKC", segment)
            if plain != segment:
                yield (start, start + len(segment), plain)
            start += len(segment)


def _segments(run: str) -> Iterator[str]:
    """Cuts before each character that cannot join the one before it: neither a mark nor a letter of Hangul."""
    first = 0
    for index in range(1, len(run)):
        code = ord(run[index])
        if 0x1100 <= code <= 0x11FF or 0x3131 <= code <= 0x318E or 0xFFA0 <= code <= 0xFFDC:
            continue
        if unicodedata.category(run[index])[0] != "M" and run[index] not in "\uff9e\uff9f":
            yield run[first:index]
            first = index
    yield run[first:]


@cache
def _marked() -> Any:
    return compiled(r"([!-~])\p{Mn}+")


def without_marks(text: str) -> str:
    """Without the marks that NFKC could not compose with a character of ASCII."""
    plain: str = _marked().sub(r"\1", text)
    return plain


def mark_pieces(text: str) -> Iterator[Piece]:
    """What `without_marks` changes."""
    return ((match.start(), match.end(), match[1]) for match in _marked().finditer(text))
