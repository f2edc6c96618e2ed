"""The HTTP header rules of Streamable HTTP: what is required, what must agree with the body, what passes.

Source: basic/transports/streamable-http (2026-07-28) "Request Metadata" and "Server Validation";
2025-11-25 basic/transports. Header names come in lower case, values as the bytes that arrived.
"""

import base64
import binascii
import functools
import re
from collections.abc import Iterator, Mapping
from typing import Final

from openmcp.sidecar.errors import HEADER_MISMATCH, INVALID_REQUEST, Refused
from openmcp.sidecar.mcp.methods import HEADER_NAMED
from openmcp.sidecar.types import Notification, Request

Headers = Mapping[bytes, bytes]

SINGLE: Final = frozenset(
    (
        b"host",
        b"origin",
        b"content-type",
        b"content-length",
        b"content-encoding",
        b"transfer-encoding",
        b"authorization",
        b"x-api-key",
        b"x-forwarded-client-cert",
        b"expect",
        b"last-event-id",
        b"mcp-session-id",
        b"mcp-protocol-version",
        b"mcp-method",
        b"mcp-name",
        b"traceparent",
    )
)
"""Headers that decide something: a second one is refused, since two readers could take different ones."""

PARAMETER_PREFIX: Final = b"mcp-param-"
_WHOLE: Final = re.compile(r"^(-?[0-9]+)\.0+\Z")
"""An integer with a fraction of nothing; a fixed pattern of linear time."""
_TOKEN: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}")
_BASE64_OPEN: Final = "=?base64?"
_BASE64_CLOSE: Final = "?="


def refuse_repeated(repeated: frozenset[bytes]) -> None:
    """Refuse a request in which a deciding header stands more than once (`repeated`: all names that do)."""
    for name in repeated:
        if name in SINGLE or name.startswith(PARAMETER_PREFIX):
            raise Refused(
                400,
                HEADER_MISMATCH,
                f"header {name.decode('latin-1')} stands twice",
                reason="header_mismatch",
            )


def check_content(headers: Headers) -> None:
    """Require an uncoded JSON body: 415 otherwise."""
    if headers.get(b"content-type") == b"application/json" and b"content-encoding" not in headers:
        return
    media_type, _, parameters = headers.get(b"content-type", b"").partition(b";")
    charset = parameters.strip().lower().replace(b'"', b"")
    if media_type.strip().lower() != b"application/json" or charset not in (b"", b"charset=utf-8"):
        raise Refused(415, INVALID_REQUEST, "Content-Type must be application/json", reason="media_type")
    if headers.get(b"content-encoding", b"identity").lower() != b"identity":
        raise Refused(415, INVALID_REQUEST, "a coded (compressed) body is not accepted", reason="media_type")


def accepts(headers: Headers, *media_types: bytes) -> bool:
    """Whether Accept covers all of these types; an absent Accept covers everything (RFC 9110, 12.5.1)."""
    value = headers.get(b"accept")
    if value is None:
        return True
    return (_covers if len(value) <= 256 else _covers.__wrapped__)(value, media_types)


@functools.lru_cache(maxsize=256)
def _covers(value: bytes, media_types: tuple[bytes, ...]) -> bool:
    ranges = [_media_range(part) for part in value.lower().split(b",")]
    return all(
        any(wanted in (media_type, b"*/*", media_type.partition(b"/")[0] + b"/*") for wanted in ranges)
        for media_type in media_types
    )


def _media_range(part: bytes) -> bytes:
    """One element of Accept; empty where its weight is zero, which means "not acceptable"."""
    name, _, parameters = part.partition(b";")
    weight = parameters.replace(b" ", b"").rpartition(b"q=")[2]
    return b"" if weight and not weight.strip(b"0.") and b"q=" in parameters else name.strip()


def check_mirrored(message: Request | Notification, headers: Headers) -> None:
    """Require that `Mcp-Method` and `Mcp-Name` say what the body of a modern request says: 400 otherwise."""
    if not isinstance(message, Request):
        return
    if headers.get(b"mcp-method") != message.method.encode():
        raise _mismatch("Mcp-Method", "method")
    member = HEADER_NAMED.get(message.method)
    if member is None:
        return
    value = message.params.get(member)
    name = headers.get(b"mcp-name")
    if member == "taskId" and name is None:  # required by the tasks extension's newer drafts alone
        return
    if value is not None and decode_value(name) != value:
        raise _mismatch("Mcp-Name", member)


def protocol_version(headers: Headers) -> str | None:
    """What `MCP-Protocol-Version` says, None where it is absent alone: a malformed one is no version that exists."""
    return _plain(headers.get(b"mcp-protocol-version"))


def _plain(value: bytes | None) -> str | None:
    """A header that has no encoded form (all but `Mcp-Name` and `Mcp-Param-*`)."""
    return value.decode("latin-1") if value is not None else None


def decode_value(value: bytes | None) -> str | None:
    """The text of a mirrored header, its `=?base64?...?=` form decoded; None where absent or malformed."""
    if value is None:
        return None
    try:
        text = value.decode("ascii")
        if not (text.startswith(_BASE64_OPEN) and text.endswith(_BASE64_CLOSE)):
            return text
        return base64.b64decode(text[len(_BASE64_OPEN) : -len(_BASE64_CLOSE)], validate=True).decode()
    except (UnicodeDecodeError, binascii.Error):
        return None


def encode_value(text: str) -> bytes:
    """The header form of a name: plain where it is visible ASCII, else `=?base64?...?=`."""
    return (_encoded if len(text) <= 128 else _encoded.__wrapped__)(text)


@functools.lru_cache(maxsize=512)
def _encoded(text: str) -> bytes:
    plain = text.isascii() and text.isprintable() and text == text.strip()
    if plain and not (text.startswith(_BASE64_OPEN) and text.endswith(_BASE64_CLOSE)):
        return text.encode()
    return f"{_BASE64_OPEN}{base64.b64encode(text.encode()).decode()}{_BASE64_CLOSE}".encode()


def parameter_lines(headers: Headers, arguments: object) -> bytes:
    """The `Mcp-Param-*` header lines to pass on: each has to say what one of the call's arguments says.

    Which argument it mirrors is known from the tool's schema alone, and checked by the server. Here a value that is
    none of them is refused: policy does not read headers, so that nothing may be told to the server in one alone.
    Raises `Refused` for that, and for a value that claims to be base64 and is not.
    """
    lines = b""
    if not any(name.startswith(PARAMETER_PREFIX) for name in headers):
        return lines
    given = frozenset(_primitives(arguments))
    for name, value in headers.items():
        if not name.startswith(PARAMETER_PREFIX):
            continue
        text = decode_value(value)
        if text is None or (text not in given and _WHOLE.sub(r"\1", text) not in given):
            what = "is malformed" if text is None else "does not match the body's arguments"
            shown = name.decode("latin-1")
            raise Refused(400, HEADER_MISMATCH, f"Header mismatch: {shown} {what}", reason="header_mismatch")
        lines += b"%b: %b\r\n" % (name, value)
    return lines


def _primitives(value: object) -> Iterator[str]:
    """The header forms of all primitives that objects lead to ("statically reachable", "Type conversion")."""
    if type(value) is dict:
        for member in value.values():
            yield from _primitives(member)
        return
    text = primitive(value)
    if text is not None:
        yield text


def primitive(value: object) -> str | None:
    """The header form of a primitive ("Type conversion"); None for all else."""
    if type(value) is str:
        return value
    if type(value) is bool:
        return "true" if value else "false"
    if type(value) is int or (type(value) is float and value.is_integer()):
        return str(int(value))
    return None


def is_token(name: str) -> bool:
    """Whether this can be (a part of) the name of a header (RFC 9110, 5.6.2)."""
    return _TOKEN.fullmatch(name) is not None


def _mismatch(header: str, member: str) -> Refused:
    return Refused(
        400,
        HEADER_MISMATCH,
        f"Header mismatch: {header} does not match the body's {member}",
        reason="header_mismatch",
    )
