"""Binary content in base64 that is really text: opened to be looked at, closed again around what was redacted in it."""

import base64
import binascii
import json
import re
from typing import Any, Final

SMALL: Final = 1024
"""Characters of base64 up to which it is also looked at as it stands."""
_NOT_BASE64: Final = re.compile(r"[^A-Za-z0-9+/=]+")
_URL_SAFE: Final = str.maketrans("-_", "+/")
_STANDARD: Final = str.maketrans("+/", "-_")
_PRINTABLE: Final = bytes((9, 10, 12, 13, *range(32, 127)))
_MOSTLY: Final = 0.85
"""The share of printable ASCII from which bytes that are no UTF are looked at as text all the same."""
# A fixed pattern, not one that a user wrote.
_TEXT_TYPES: Final = re.compile(
    r"(?i)text/|application/(?:[a-z0-9.-]+\+)?(?:json|xml|yaml|javascript|toml|sql)|.*charset="
)


class Blob:
    """Some base64: its bytes, and the text in them, or None where they are no text.

    `strict`: it is written as it should be, so that all readers get the same bytes from it.
    """

    __slots__ = ("_charset", "_written", "size", "strict", "text")

    def __init__(self, written: str, media_type: Any) -> None:
        self.strict = True
        try:
            data = binascii.a2b_base64(written, strict_mode=True)
        except ValueError:
            self.strict = False
            data = leniently(written)
        self._written = written
        self.size = len(data)
        charset = charset_of(data, media_type if type(media_type) is str else "")
        self._charset = charset or ""
        self.text: str | None = data.decode(charset) if charset is not None else None

    @property
    def plain(self) -> bool:
        """Whether it has to be looked at as it stands as well: it is short, or no proper base64, or the text that it
        seems to be may be another one to a reader who does not go by its first bytes."""
        return not self.strict or len(self._written) <= SMALL or self._charset.startswith("utf-16")

    def close(self, text: str) -> str:
        """The base64 of another text in the same encoding."""
        written = base64.b64encode(text.encode(self._charset, "replace")).decode()
        if len(self._written.rstrip()) % 4:  # it came without padding
            written = written.rstrip("=")
        return written.translate(_STANDARD) if "-" in self._written or "_" in self._written else written


def leniently(written: str) -> bytes:
    """The bytes that anybody might read in some base64: what is not of it is passed over, also padding within."""
    clean = _NOT_BASE64.sub("", written.translate(_URL_SAFE))
    parts = [part for part in clean.split("=") if len(part) > 1]
    return b"".join(binascii.a2b_base64(part[: len(part) - (len(part) % 4 == 1)] + "==") for part in parts)


def charset_of(data: bytes, media_type: str = "") -> str | None:
    """How to read bytes as text, so that writing them again gives the same; None for what is no text."""
    if not data:
        return None
    wide = _wide(data)
    for charset in (wide, "utf-8") if wide is not None else ("utf-8",):
        try:
            data.decode(charset)
        except UnicodeDecodeError:
            continue
        return charset
    strange = len(data.translate(None, _PRINTABLE))
    if _TEXT_TYPES.match(media_type) is not None or strange <= len(data) * (1 - _MOSTLY):
        return "latin-1"
    return None


def dumped_like(text: str, old: Any, new: Any) -> str | None:
    """`new` as JSON in the style in which `text` writes `old`; None where it cannot be written."""
    try:
        for indent in (None, 2, 4, 1, "\t"):
            for separators in ((",", ":"), (", ", ": ")) if indent is None else ((",", ": "),):
                for plain in (False, True):
                    if json.dumps(old, indent=indent, separators=separators, ensure_ascii=plain) == text:
                        return json.dumps(new, indent=indent, separators=separators, ensure_ascii=plain)
        return json.dumps(new, separators=(",", ":"), ensure_ascii=False)
    except (RecursionError, TypeError, ValueError):
        return None


def _wide(data: bytes) -> str | None:
    """The UTF-16 or UTF-32 that bytes look like, by their mark or by their zeros."""
    for mark, charset in (
        (b"\xff\xfe\0\0", "utf-32-le"),
        (b"\0\0\xfe\xff", "utf-32-be"),
        (b"\xff\xfe", "utf-16-le"),
        (b"\xfe\xff", "utf-16-be"),
    ):
        if data.startswith(mark):
            return charset
    size = len(data)
    zeros = data.count(0)
    if zeros * 10 < size * 3:
        return None
    if size % 4 == 0 and zeros * 10 >= size * 7:
        return "utf-32-be" if data[0] == 0 else "utf-32-le"
    return "utf-16-be" if data[::2].count(0) > data[1::2].count(0) else "utf-16-le"
