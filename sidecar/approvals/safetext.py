"""Text of others, made safe to show: nothing in it is invisible, reorders its surroundings, or overflows its place.

Every other character is written as the escape it has in JSON. Letters of right-to-left scripts stay as they are: where
they are shown they are isolated (`<bdi>` in HTML).
"""

import json
import unicodedata
from typing import Final

from openmcp.identity.visible import is_visible

_MARKS: Final = 2
"""Combining marks on one letter that real writing needs; more of them paint over other lines."""


def safe(text: str, most: int) -> tuple[str, bool]:
    """The text in at most `most` characters, ending in `…` where it was longer, and whether it was."""
    pieces: list[str] = []
    room = most
    marks = 0
    for one in text:
        marks = marks + 1 if unicodedata.combining(one) or unicodedata.category(one) in ("Mn", "Me") else 0
        piece = one if is_visible(one) and marks <= _MARKS else _escaped(one)
        room -= len(piece)
        if room < 0:
            return _shortened("".join(pieces), most), True
        pieces.append(piece)
    return "".join(pieces), False


def readable(document: str, most: int) -> tuple[str, bool]:
    """JSON text as `safe` shows it, with letters of all languages instead of their escapes."""
    try:
        return safe(json.dumps(json.loads(document), ensure_ascii=False, separators=(", ", ": ")), most)
    except (ValueError, RecursionError):
        return safe(document, most)


def laid_out(document: str, most: int) -> tuple[str, bool]:
    """The same, with a line for each member of an object: every line between the braces begins with two blanks.

    Deeper than that it stays in one line, so that nesting cannot make much of little.
    """
    try:
        members = json.loads(document)
        if type(members) is not dict or not members:
            return readable(document, most)
        lines = [f"{json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}" for key, value in members.items()]
    except (ValueError, RecursionError):
        return safe(document, most)
    text, cut = "{", False
    for number, line in enumerate(lines, 1):
        shown, cut = safe(line + ("," if number < len(lines) else ""), max(most - len(text) - 5, 0))
        text += f"\n  {shown}"
        if cut:
            break
    return (text if cut else text + "\n}"), cut


def _shortened(text: str, most: int) -> str:
    return text[: most - 1] + "…" if len(text) >= most else text + "…"


def _escaped(one: str) -> str:
    return json.dumps(one)[1:-1] if not one.isascii() or one < " " else f"\\u{ord(one):04x}"
