"""Texts inside of texts: base64 that holds text, data URIs, JSON that is written into a string.

A layer is opened to be looked at, and closed again around what has been redacted in it.
"""

import base64
import binascii
import json
import re
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import quote, unquote

import orjson

SHORTEST: Final = 12
"""Characters from which a text is tried as base64: eight bytes, less than which nothing needs encoding."""
_BASE64: Final = re.compile(r"[A-Za-z0-9+/_\-\r\n]{12,}={0,2}\s*")
"""A fixed class, no user's pattern: takes linear time."""
_DATA_URI: Final = re.compile(r"(?i)data:([^,]{0,200}),")
_NOT_BASE64: Final = re.compile(r"[^A-Za-z0-9+/=]+")
_URL_SAFE: Final = str.maketrans("-_", "+/")
_STANDARD: Final = str.maketrans("+/", "-_")
_PRINTABLE: Final = bytes((9, 10, 12, 13, *range(32, 127)))
_MOSTLY: Final = 0.85
"""The share of printable ASCII from which bytes that are no UTF are looked at as text all the same."""
_TEXT_TYPES: Final = re.compile(
    r"(?i)text/|application/(?:[a-z0-9.-]+\+)?(?:json|xml|yaml|javascript|toml|sql)|.*charset="
)


class Layer:
    """What a text holds: `inner` is a text or a JSON value; `close` writes another one in its place.

    `close` gives None where that cannot be written.
    """

    __slots__ = ("close", "inner")

    def __init__(self, inner: Any, close: Callable[[Any], str | None]) -> None:
        self.inner = inner
        self.close = close


def opened(text: str) -> Layer | None:
    """The layer that a whole text is, if it is one."""
    if len(text) < SHORTEST:
        return None
    first = text[0]
    if first in '{["' or first.isspace():
        return _json(text)
    if first in "dD" and text[:5].lower() == "data:":
        return _data_uri(text)
    if _BASE64.fullmatch(text) is None:
        return None
    return _layer(text, unpacked(text), "")


def opened_blob(text: str, media_type: Any) -> Layer | None:
    """The text in the base64 of an image, audio or a blob, if it is one."""
    return _layer(text, unpacked(text), media_type if type(media_type) is str else "")


def unpacked(text: str) -> bytes:
    """The bytes of some base64, read as leniently as anybody might: what is not of it is passed over."""
    try:
        return binascii.a2b_base64(text, strict_mode=True)
    except ValueError:
        clean = _NOT_BASE64.sub("", text.translate(_URL_SAFE))
    parts = [part for part in clean.split("=") if len(part) > 1]
    return b"".join(binascii.a2b_base64(part[: len(part) - (len(part) % 4 == 1)] + "==") for part in parts)


def charset_of(data: bytes, media_type: str = "") -> str | None:
    """How to read bytes as text, so that writing them again gives the same; None for what is no text."""
    if not data:
        return None
    wide = _wide(data)
    for charset in (wide, "utf-8") if wide else ("utf-8",):
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


def _json(text: str) -> Layer | None:
    """JSON whose strings read differently when they are decoded: there is an escape in it."""
    if "\\" not in text or text.lstrip()[:1] not in ("{", "[", '"'):
        return None
    try:
        inner = orjson.loads(text)
    except ValueError:
        return None

    def close(new: Any) -> str | None:
        return dumped_like(text, inner, new)

    return Layer(inner, close)


def _data_uri(text: str) -> Layer | None:
    head = _DATA_URI.match(text)
    if head is None:
        return None
    start, payload = head[0], text[head.end() :]
    if head[1].lower().endswith(";base64"):
        inner = _layer(payload, unpacked(unquote(payload)), head[1])
        if inner is None:
            return None
        close_payload = inner.close

        def close_base64(new: Any) -> str | None:
            written = close_payload(new)
            return None if written is None else start + written

        return Layer(inner.inner, close_base64)

    def close(new: Any) -> str | None:
        return start + quote(new, safe="/:?&=+,;@!$'()*")

    return Layer(unquote(payload), close)


def _layer(text: str, data: bytes, media_type: str) -> Layer | None:
    charset = charset_of(data, media_type)
    if charset is None:
        return None
    read: str = charset

    def close(new: Any) -> str | None:
        try:
            written = base64.b64encode(new.encode(read)).decode()
        except UnicodeEncodeError:
            return None
        if len(text.rstrip()) % 4:  # it came without padding
            written = written.rstrip("=")
        return written.translate(_STANDARD) if "-" in text or "_" in text else written

    return Layer(data.decode(read), close)


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
