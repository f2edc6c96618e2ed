"""Text that stands encoded within text: escapes of JSON, URLs and HTML, base64 and hexadecimal.

Each way is a marker (RE2, part of the one pass) that says whether there is any, and a function from a text to the
pieces that are decoded. All take time linear in the text.
"""

import binascii
import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Final

from openmcp.sidecar.detection.folding import Piece
from openmcp.sidecar.detection.sets import compiled

_SPACES: Final = (
    "nbsp ensp emsp emsp13 emsp14 thinsp ThinSpace hairsp VeryThinSpace numsp puncsp MediumSpace NonBreakingSpace"
)
_DASHES: Final = "dash hyphen hybull ndash mdash horbar minus"
_UNSEEN: Final = (
    "shy zwj zwnj lrm rlm NoBreak ZeroWidthSpace NegativeVeryThinSpace NegativeThinSpace NegativeMediumSpace"
    " NegativeThickSpace af ApplyFunction ic InvisibleComma it InvisibleTimes"
)
_NAMES: Final = {
    **{"commat": "@", "period": ".", "colon": ":", "plus": "+", "lowbar": "_", "UnderBar": "_", "sol": "/"},
    **{"lpar": "(", "rpar": ")", "Tab": "\t", "NewLine": "\n"},
    **dict.fromkeys(_DASHES.split(), "-"),
    **dict.fromkeys(_SPACES.split(), " "),
    **dict.fromkeys(_UNSEEN.split(), ""),
}
"""Entities of HTML that stand for what is in numbers and addresses, or between their characters."""
_NAMED: Final = f"(?:{'|'.join(_NAMES)});"

ESCAPES: Final = rf"\\[uUx][0-9A-Fa-f{{]|%(?:[0-9A-Fa-f]{{2}}|u[0-9A-Fa-f]{{4}})|&(?:amp;)*(?:#[0-9xX]|{_NAMED})"
BASE64: Final = (
    "(?:[CDI-Za-f][A-HQ-Xg-nw-z0-3][ABEFIJMNQRUVYZcdghklopstwx014589][A-Za-z0-9+/_-]){4}"  # twelve bytes of ASCII
)
HEXADECIMAL: Final = "(?:[2-7][0-9A-Fa-f]){10}"
_SHORT_END: Final = r"\r?\n[ \t>]{0,4}"
SHORT_LINES: Final = BASE64.replace("]", rf"](?:{_SHORT_END})?")
"""Base64 in which a line may end behind each character."""
MARKERS: Final = (ESCAPES, BASE64, HEXADECIMAL, SHORT_LINES)

# Begins with a class of characters: `re` goes fast over all that is none of them.
_ESCAPE: Final = re.compile(
    r"[\\%&](?:"
    r"(?<=\\)\\{0,7}(?:u[0-9A-Fa-f]{4}(?:\\{1,8}u[0-9A-Fa-f]{4})*|u\{0{0,64}[0-9A-Fa-f]{1,6}\}|U[0-9A-Fa-f]{8}"
    r"|x[0-9A-Fa-f]{2}(?:\\{1,8}x[0-9A-Fa-f]{2})*|[/nrt\"])"
    r"|(?<=%)(?:(?:25)*[0-9A-Fa-f]{2}(?:%(?:25)*[0-9A-Fa-f]{2})*|u[0-9A-Fa-f]{4})"
    rf"|(?<=&)(?:amp;)*(?:#(?:0{{0,64}}[0-9]{{1,7}}|[xX]0{{0,64}}[0-9A-Fa-f]{{1,6}});?|{_NAMED}))"
)
_CACHED: Final = 12
"""Characters up to which an escape is remembered."""
_PERCENT: Final = re.compile(r"%(?:25)*(?=[0-9A-Fa-f]{2})")
_INTRODUCTION: Final = re.compile(r"\\+[ux]")
_LETTERS: Final = {"/": "/", "n": "\n", "r": "\r", "t": "\t", '"': '"'}


def unescape_pieces(text: str) -> Iterator[Piece]:
    """What `\\u0041`, `\\x41`, `%41`, `&#65;` and the like stand for, however often the backslash, the percent sign
    or the ampersand is escaped itself."""
    for match in _ESCAPE.finditer(text):
        token = match[0]
        plain = _remembered(token) if len(token) <= _CACHED else _unescaped(token)
        yield (match.start(), match.end(), plain)


@lru_cache(1024)
def _remembered(token: str) -> str:
    return _unescaped(token)


def _unescaped(token: str) -> str:
    if token[0] == "%":
        if token[1] == "u":
            return _character(int(token[2:], 16))
        return bytes.fromhex(_PERCENT.sub("", token)).decode("utf-8", "replace")
    if token[0] == "&":
        return _entity(token.replace("amp;", "")[1:].removesuffix(";"))
    body = token.lstrip("\\")
    if len(body) == 1:
        return _LETTERS[body]
    if body[0] == "u" and body[1] != "{":
        return bytes.fromhex(_INTRODUCTION.sub("", token)).decode("utf-16-be", "replace")
    if body[0] == "x":
        return bytes.fromhex(_INTRODUCTION.sub("", token)).decode("utf-8", "replace")
    return _character(int(body[1:].strip("{}"), 16))


def _entity(name: str) -> str:
    if name[0] != "#":
        return _NAMES[name]
    return _character(int(name[2:], 16) if name[1] in "xX" else int(name[1:]))


def _character(code: int) -> str:
    return chr(code) if code < 0x110000 and not 0xD800 <= code < 0xE000 else "\ufffd"


_ALPHABET: Final = "[A-Za-z0-9+/_-]"
_LINE: Final = r"(?:\r?\n|(?:\\r)?\\n)"
_BASE64_RUN: Final = rf"(?:{_ALPHABET}{{40,}}{_LINE})*{_ALPHABET}*{BASE64}{_ALPHABET}*={{0,2}}"
_LAST_LINE: Final = re.compile(rf"{_LINE}{_ALPHABET}+={{0,2}}")
_LONG_LINE: Final = 40
_SHORT: Final = 256
_ALIGNED: Final = re.compile(f"(?:{_ALPHABET}{{4}}){{0,{_SHORT // 4}}}?{BASE64}")
_NOT_ALPHABET: Final = re.compile(r"\\r|\\n|[\r\n=]")
_URL_SAFE: Final = str.maketrans("-_", "+/")
_LEGIBLE: Final = re.compile(rb"[\t\n\r -~]{9,}")
_HEXADECIMAL_RUN: Final = f"[0-9A-Fa-f]*{HEXADECIMAL}[0-9A-Fa-f]*"


_SHORT_RUN: Final = rf"{_ALPHABET}+(?:{_SHORT_END}{_ALPHABET}+)+(?:(?:{_SHORT_END})?=){{0,2}}"
_LEAST: Final = 17
"""Characters of twelve bytes in base64 and the end of one line."""
_SHORT_ENDS: Final = re.compile(_SHORT_END)

_FIND_SHORT: Final = compiled(_SHORT_RUN)
_FIND_BASE64: Final = compiled(_BASE64_RUN)
_FIND_HEXADECIMAL: Final = compiled(_HEXADECIMAL_RUN)


def base64_pieces(text: str) -> Iterator[Piece]:
    """What base64 (also of URLs, also over several lines) stands for, where that has ASCII text in it.

    What comes before a run may look like a part of it: each of the four ways to cut it is tried.
    """
    reached = 0
    for match in _FIND_BASE64.finditer(text):
        start, end = match.span()
        if start < reached:
            continue
        last = _LAST_LINE.match(text, end)
        if last is not None and end - start - max(0, text.rfind("\n", start, end) + 1 - start) >= _LONG_LINE:
            end = last.end()
        reached = end
        run = text[start:end].rstrip("=")
        if not run.isalnum():
            run = _NOT_ALPHABET.sub("", run).translate(_URL_SAFE)
        yield from _decoded(start, end, [_base64(run[cut:]) for cut in range(4) if _may_begin(run, cut)])


def short_lines_pieces(text: str) -> Iterator[Piece]:
    """What base64 stands for that is broken into lines which are shorter than those of `base64_pieces`."""
    for match in _FIND_SHORT.finditer(text):
        start, end = match.span()
        if end - start < _LEAST:
            continue
        lines = _SHORT_ENDS.split(text[start:end].rstrip("=\r\n\t >"))
        if any(len(line) < _LONG_LINE for line in lines[:-1]):
            run = "".join(lines).translate(_URL_SAFE)
            yield from _decoded(start, end, [_base64(run[cut:]) for cut in range(4) if _may_begin(run, cut)])


def _may_begin(run: str, cut: int) -> bool:
    """Whether ASCII is seen where a run is cut so; not asked of long ones, that are few."""
    return len(run) > _SHORT or _ALIGNED.match(run, cut) is not None


def _base64(run: str) -> bytes:
    length = len(run) - (len(run) % 4 == 1)
    return binascii.a2b_base64(run[:length] + "=" * (-length % 4))


def hexadecimal_pieces(text: str) -> Iterator[Piece]:
    """What rows of hexadecimal digits stand for, where that has ASCII text in it."""
    for match in _FIND_HEXADECIMAL.finditer(text):
        start, end = match.span()
        run = text[start:end]
        yield from _decoded(start, end, [bytes.fromhex(run[cut : len(run) - (len(run) - cut) % 2]) for cut in (0, 1)])


def _decoded(start: int, end: int, readings: list[bytes]) -> Iterator[Piece]:
    legible = [text for text in map(_legible, readings) if text]
    if legible:
        yield (start, end, "\n".join(legible))


def _legible(reading: bytes) -> str:
    """The whole where it is UTF-8, else the stretches of ASCII in it."""
    if _LEGIBLE.search(reading) is None:
        return ""
    try:
        return reading.decode("utf-8")
    except UnicodeDecodeError:
        return b"\n".join(_LEGIBLE.findall(reading)).decode("ascii")


PACKINGS: Final = (base64_pieces, hexadecimal_pieces, short_lines_pieces)
"""In the order of `MARKERS`, after the escapes."""
