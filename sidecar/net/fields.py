"""The header section of an HTTP/2 request: whether it is well formed, and as the fields of any other request.

Source: RFC 9113, 8.2 and 8.3; the characters are those that HTTP/1.1 lets pass here as well.
"""

import re
from collections.abc import Iterable
from typing import Final

MAX_HEAD: Final = 32 * 1024
"""Bytes of all names and values; more is answered 431."""
MAX_HEADERS: Final = 100

_NAME: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+")
_VALUE: Final = re.compile(rb"(?:[!-~\x80-\xff](?:[\t -~\x80-\xff]*[!-~\x80-\xff])?)?")
_PATH: Final = re.compile(rb"/[!-~]*")
_METHOD: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,32}")
_PSEUDO: Final = frozenset((b":method", b":scheme", b":path", b":authority"))
_OF_THE_CONNECTION: Final = frozenset(
    (b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade")
)
_NOTHING: Final[frozenset[bytes]] = frozenset()


class Malformed(Exception):
    """What the client sent is no request; its stream ends."""


class TooLarge(Exception):
    """More header fields than anybody needs."""


class Head:
    """Method, path without its query, header fields (`ports.HttpRequest` says how) and the length that was declared."""

    __slots__ = ("headers", "length", "method", "path", "repeated")

    def __init__(self, fields: Iterable[tuple[bytes, bytes]]) -> None:
        """Raises `Malformed` and `TooLarge`."""
        headers: dict[bytes, bytes] = {}
        pseudo: dict[bytes, bytes] = {}
        repeated = _NOTHING
        size = 0
        for name, value in fields:
            size += len(name) + len(value)
            if _VALUE.fullmatch(value) is None:
                raise Malformed("a value with a control character, or with a blank around it")
            if name in headers:
                repeated |= {name}
                if name == b"accept":  # a list header: its lines add up (RFC 9110, 5.3)
                    headers[name] += b"," + value
            elif name[:1] == b":":
                if headers or name in pseudo or name not in _PSEUDO:
                    raise Malformed("a pseudo-header field that is unknown, twice there, or behind others")
                pseudo[name] = value
            else:
                headers[name] = value
        if size > MAX_HEAD or len(headers) > MAX_HEADERS:
            raise TooLarge
        _check_names(headers)
        self.method, self.path = _target(pseudo)
        _set_host(headers, repeated, pseudo.get(b":authority"))
        self.length = _length(headers, repeated)
        self.headers = headers
        self.repeated = repeated


def check_trailers(fields: Iterable[tuple[bytes, bytes]]) -> None:
    """Trailers are ignored, but a malformed section is an error all the same. Raises `Malformed`."""
    for name, value in fields:
        if _NAME.fullmatch(name) is None or _VALUE.fullmatch(value) is None:
            raise Malformed("a trailer that is none")


def _check_names(headers: dict[bytes, bytes]) -> None:
    for name in headers:
        if _NAME.fullmatch(name) is None:
            raise Malformed("a name with an upper-case letter, or one that is no name")
    if not _OF_THE_CONNECTION.isdisjoint(headers) or headers.get(b"te", b"trailers") != b"trailers":
        raise Malformed("a field of HTTP/1.1 connections")


def _target(pseudo: dict[bytes, bytes]) -> tuple[str, str]:
    """Method and path; CONNECT has none, and the asterisk names nothing here."""
    method, path = pseudo.get(b":method", b""), pseudo.get(b":path", b"")
    if not pseudo.get(b":scheme") or _METHOD.fullmatch(method) is None or _PATH.fullmatch(path) is None:
        raise Malformed("no method, scheme or path")
    return method.decode("ascii"), path.partition(b"?")[0].decode("ascii")


def _set_host(headers: dict[bytes, bytes], repeated: frozenset[bytes], authority: bytes | None) -> None:
    """Have one name alone for whom the request is for, under `host` (RFC 9113, 8.3.1)."""
    host = headers.get(b"host", authority)
    if host is None or (authority is not None and host != authority) or b"host" in repeated:
        raise Malformed("no host, or two of them")
    headers[b"host"] = host


def _length(headers: dict[bytes, bytes], repeated: frozenset[bytes]) -> int | None:
    length = headers.get(b"content-length")
    if length is None:
        return None
    if not length.isdigit() or len(length) > 18 or b"content-length" in repeated:
        raise Malformed("a Content-Length that is no length")
    return int(length)
