"""Encode the lines of the record. What their fields mean is in docs/record.md.

A line is one JSON object made by a JSON encoder, so nothing an agent or a server sends can end a line or forge
a field. Characters that some viewers take for a line end (U+0085, U+2028, U+2029), act on (DEL, C1) or reorder
and hide text by (bidirectional and zero-width ones) go out as `\\uXXXX`: what an operator sees is what was sent.
"""

import hashlib
import re
from datetime import UTC, datetime

import orjson

CLIP = 512
"""Characters of a name or reason that a record keeps, so that no message can fill the disk by its name."""

# A fixed character class, not a pattern a user wrote: it takes linear time.
_UNSAFE = re.compile("[\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]")

_second: tuple[int, str] = (-1, "")


def timestamp(ns: int) -> str:
    """Format `ns`, nanoseconds since 1970, as RFC 3339 in UTC: `2026-07-28T09:30:00.123456Z`."""
    global _second
    now, microseconds = ns // 1_000_000_000, ns // 1000 % 1_000_000
    second, prefix = _second  # one tuple: another thread sees the old pair or the new one, never a mixture
    if now != second:
        prefix = datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%S.")
        _second = (now, prefix)
    return f"{prefix}{str(1_000_000 + microseconds)[1:]}Z"  # compiled, a format costs five times this


def encode(record: dict[str, object]) -> bytes:
    """Encode `record` as one line of JSON, without the line end. Whatever strings it holds, this does not fail.

    Lone surrogates become U+FFFD, numbers beyond 64 bits and values JSON does not have become strings.
    """
    try:
        line = orjson.dumps(record)
    except TypeError:  # orjson's only error; also the base of its JSONEncodeError
        line = orjson.dumps(_plain(record), default=repr)
    return escaped(line)


def escaped(line: bytes) -> bytes:
    """JSON in which characters that hide or reorder text are written as escapes; it says the same."""
    if line.isascii() and b"\x7f" not in line:
        return line
    return _UNSAFE.sub(_escape, line.decode()).encode()


def clip(text: str, limit: int = CLIP) -> str:
    """Shorten `text` to `limit` characters, and say by how many."""
    return text if len(text) <= limit else f"{text[:limit]}…(+{len(text) - limit})"


def fingerprint(secret: str) -> str:
    """Name a session (or another secret) in the record without telling it: 16 hexadecimal digits of SHA-256."""
    return hashlib.sha256(secret.encode("utf-8", "replace")).hexdigest()[:16]


def _escape(match: re.Match[str]) -> str:
    return f"\\u{ord(match.group()):04x}"


def _plain(value: object) -> object:
    """Replace what the encoder refuses."""
    if isinstance(value, dict):
        return {_text(str(key)): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        return str(value)
    return value


def _text(value: str) -> str:
    return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
