"""Whether the head of a request can be read in one way alone, and requests that offer another protocol."""

from typing import Final

_FRAMING: Final = frozenset((b"transfer-encoding", b"content-length", b"host"))
_OFFER: Final = frozenset((b"upgrade", b"connection", b"http2-settings"))


def well_framed(
    method: bytes, url: bytes, version: str, headers: dict[bytes, bytes], repeated: frozenset[bytes]
) -> bool:
    """Whether it is plain where the request ends and whom it is for (RFC 9112, 3.2 and 6.3)."""
    if not _FRAMING.isdisjoint(repeated) or not url.startswith(b"/"):
        return False
    if version == "1.1" and b"host" not in headers or method == b"CONNECT":
        return False
    coding = headers.get(b"transfer-encoding")
    if coding is None:
        return version in ("1.0", "1.1")
    return coding.lower() == b"chunked" and version == "1.1" and b"content-length" not in headers


def without_offer(headers: dict[bytes, bytes], repeated: frozenset[bytes], *, keep: bool) -> bytes:
    """The header section without the offer to upgrade, with its end; `keep`: the connection is."""
    fields = [field for field in headers.items() if field[0] not in _OFFER]
    fields += [field for field in fields if field[0] in repeated]  # still refused, where they decide
    lines = b"".join(b"%b: %b\r\n" % field for field in (*fields, (b"connection", b"keep-alive" if keep else b"close")))
    return lines + b"\r\n"
