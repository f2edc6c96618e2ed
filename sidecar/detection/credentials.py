"""Checks of credentials: keys of AWS, private keys, JSON web tokens, Slack tokens.

Sources: RFC 7468 and RFC 4716 (PEM and SSH2), RFC 5958, 8017 and 5915 (how keys begin in DER), RFC 7515.
"""

import binascii
import re
from functools import cache
from typing import Any, Final

from openmcp.sidecar.detection.candidates import Found, byte_at, is_word, nothing, opens
from openmcp.sidecar.detection.sets import compiled

_SECRET_WINDOW: Final = 120
_SECRET: Final = re.compile(rb"(?<![A-Za-z0-9+/])(?:[A-Za-z0-9+]|\\?/){40}(?![A-Za-z0-9+/=])")
_HEX: Final = b"0123456789abcdefABCDEF"
_MEMORY: Final = 1 << 20
"""Bytes that the automata of one pattern may take."""


def access_key(data: bytes, start: int, end: int) -> Found:
    """The id of an access key."""
    if not opens(data, start) or (end < len(data) and is_word(data[end])):
        return nothing(start + 1)
    return (start, end, end)


def secret_key(data: bytes, start: int, end: int) -> Found:
    """A secret key within some bytes after an id or after what names it."""
    for match in _SECRET.finditer(data, end, end + _SECRET_WINDOW):
        value = match[0]
        mixed = value.lower() != value and value.upper() != value and any(48 <= byte <= 57 for byte in value)
        if mixed and value.strip(_HEX):
            return (match.start(), match.end(), match.end())
    return nothing(end)


_KEY_MAX: Final = 16 * 1024
_HEADERS_MAX: Final = 4 * 1024
"""Bytes within which a key begins behind its header: other headers and what is between lines."""
_BETWEEN: Final = (
    rb"(?:[\s\x0b\"'`+,>#|*]|\\{1,4}[nrt\"]|(?:Proc-Type|DEK-Info|Version|Comment|Hash|Charset):[^\r\n\\]{0,200})"
)
_BODY_BEGINS: Final = rb"[A-Z ]{0,20} ?-{0,5}" + _BETWEEN + rb"*[A-Za-z0-9+/]{16}"
_BODY_ALL: Final = rb"[A-Z ]{0,20} ?-{0,5}(?:" + _BETWEEN + rb"|[A-Za-z0-9+/=]{16,}|[A-Za-z0-9+/]{1,64}={1,2})*"
_LAST: Final = rb"-{2,5} ?END [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?(?: ?-{2,5})?"
_LAST_PUTTY: Final = rb"Private-MAC: ?[0-9a-f]+"


@cache
def _linear(source: bytes) -> Any:
    """A pattern of RE2: what may stand in a key can be read in many ways, and `re` would try each of them."""
    return compiled(source, _MEMORY)


def armoured_key(data: bytes, start: int, end: int) -> Found:
    """A private key behind its header, to its last line or as far as it goes; a header alone is none."""
    if _linear(_BODY_BEGINS).match(data, end, end + _HEADERS_MAX) is None:
        return nothing(end)
    limit = min(len(data), end + _KEY_MAX)
    last = _linear(_LAST).search(data, end, limit) or _linear(_BODY_ALL).match(data, end, limit)
    stop = last.end() if last is not None else limit
    return (start, stop, stop)


def putty_key(data: bytes, start: int, end: int) -> Found:
    """A private key as PuTTY keeps it."""
    limit = min(len(data), end + _KEY_MAX)
    if data.find(b"Private-Lines:", end, limit) < 0:
        return nothing(end)
    last = _linear(_LAST_PUTTY).search(data, end, limit)
    stop = last.end() if last is not None else limit
    return (start, stop, stop)


_DER_RUN: Final = re.compile(rb"(?:[A-Za-z0-9+/]|[\r\n]|\\{1,4}[nr])+={0,2}")
_DER_LEAST: Final = 60


def bare_key(data: bytes, start: int, end: int) -> Found:
    """A private key without header, known by how its DER or OpenSSH form begins."""
    if byte_at(data, start - 1) in b"+/" or not opens(data, start):  # asked first: it costs nothing
        return nothing(start + 1)
    match = _DER_RUN.match(data, start, start + _KEY_MAX)
    if match is None or len(match[0]) < _DER_LEAST:
        return nothing(start + 1)
    return (start, match.end(), match.end())


_TOKEN_RUN: Final = re.compile(rb"[A-Za-z0-9_-]+")
_TOKEN: Final = re.compile(rb"[A-Za-z0-9_-]{12,2000}(?:\.[A-Za-z0-9_-]*){2,4}")
_HEADER_MAX: Final = 2000


def web_token(data: bytes, start: int, end: int) -> Found:
    """A JWS or JWE in compact form: its header is a JSON object that names an algorithm."""
    run = _TOKEN_RUN.match(data, start)
    stop = run.end() if run is not None else start + 1
    if byte_at(data, stop) != 0x2E:
        return nothing(stop)
    if stop - start > _HEADER_MAX:
        return nothing(stop - _HEADER_MAX)
    match = _TOKEN.match(data, start)
    if match is None or not _is_header(data[start:stop]):
        return nothing(start + 1)
    return (start, match.end(), match.end())


def _is_header(encoded: bytes) -> bool:
    try:
        header = binascii.a2b_base64(encoded.replace(b"-", b"+").replace(b"_", b"/") + b"=" * (-len(encoded) % 4))
    except binascii.Error:
        return False
    return header.startswith(b"{") and header.rstrip().endswith(b"}") and b'"alg"' in header


def slack_token(data: bytes, start: int, end: int) -> Found:
    """A token of Slack: the ones of documentation have no digits."""
    if not opens(data, start) or not any(48 <= byte <= 57 for byte in data[start + 5 : end]):
        return nothing(end)
    return (start, end, end)
