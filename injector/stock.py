"""Pure: what is kept of certificates in the Secret that all replicas share, and how it goes from one to the next.

No admission fails while certificates change, because of an order that is kept: the CA of the next certificate is in
the caBundle of the webhook, for long enough that every API server has seen it, before anybody serves by it; and the CA
of a former one stays there until that certificate has ended, however late a replica hears of its successor.
"""

import base64
import binascii
from collections.abc import Iterable, Mapping
from typing import Final

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from openmcp.injector.authority import SKEW, Generation, facts, issue, serves

SETTLE: Final = 60.0
"""Seconds that a CA is in the caBundle before it is relied on; less where certificates are short-lived."""
_PARTS: Final = ("ca.crt", "tls.crt", "tls.key")
_NEXT: Final = "next-"
_PREVIOUS: Final = "previous-ca.crt"
_PUBLISHED: Final = "next-published"


class Stock(msgspec.Struct, frozen=True):
    """`next` is to follow `current`; `published` says since when (Unix seconds) its CA is in the caBundle; `previous`
    are the CAs, as PEM, of former certificates that have not ended."""

    current: Generation | None = None
    next: Generation | None = None
    published: float | None = None
    previous: tuple[bytes, ...] = ()


def bundle(stock: Stock) -> bytes:
    """The CAs that API servers have to trust now, as PEM."""
    made = [one.ca for one in (stock.current, stock.next) if one is not None]
    return b"".join(dict.fromkeys((*made, *stock.previous)))


def authorities(pem: bytes) -> frozenset[bytes]:
    """The certificates of a PEM as DER, whatever stands around them; none where one cannot be read."""
    try:
        return frozenset(one.public_bytes(Encoding.DER) for one in x509.load_pem_x509_certificates(pem))
    except ValueError:
        return frozenset()


def advance(stock: Stock, names: frozenset[str], now: float, lifetime: float, *, trusted: bool) -> Stock:
    """The next step, or the same stock where none is due.

    `names` are those by which API servers call the webhook; `trusted` says that its caBundle is `bundle(stock)` now.
    """
    previous = tuple(ca for ca in stock.previous if (found := facts(ca)) is not None and now < found.ends)
    current, following, published = stock.current, stock.next, stock.published
    if following is not None and not serves(following, names, now):
        following, published = None, None
    if current is None or not _usable(current, names, now):  # it serves nobody: there is nothing to overlap with
        return Stock(following or issue(names, now, lifetime), previous=_with(previous, current))
    if following is None:
        following, published = issue(names, now, lifetime) if _due(current, names, now, lifetime) else None, None
    elif trusted and published is None:
        published = now
    elif trusted and published is not None and abs(now - published) >= min(SETTLE, lifetime / 20):
        return Stock(following, previous=_with(previous, current))
    return Stock(current, following, published, previous)


def _with(previous: tuple[bytes, ...], former: Generation | None) -> tuple[bytes, ...]:
    return previous if former is None or not authorities(former.ca) else (*previous, former.ca)


def _usable(current: Generation, names: frozenset[str], now: float) -> bool:
    """Whether some API server calls it by one of its names."""
    found = facts(current.certificate)
    return found is not None and bool(found.names & names) and serves(current, (), now)


def _due(current: Generation, names: frozenset[str], now: float, lifetime: float) -> bool:
    """Whether two thirds of its time are over, or it is not as it would be made today."""
    found = facts(current.certificate)
    if found is None or found.names != names:
        return True
    return now >= found.ends - lifetime / 3 or found.ends > now + lifetime + min(SKEW, lifetime)


def decoded(data: Mapping[str, object]) -> Stock:
    """The stock that the `data` of a Secret holds. What cannot be read is not there."""
    values = {key: value for key, text in data.items() if (value := _plain(text)) is not None}
    current, following = _generation(values, ""), _generation(values, _NEXT)
    published = _number(values.get(_PUBLISHED, b"")) if following is not None else None
    return Stock(current, following, published, tuple(_each(values.get(_PREVIOUS, b""))))


def encoded(stock: Stock) -> dict[str, str | None]:
    """The `data` of a Secret as a merge patch writes it: None removes a key."""
    values: dict[str, bytes | None] = {}
    for prefix, made in (("", stock.current), (_NEXT, stock.next)):
        parts = (made.ca, made.certificate, made.key) if made is not None else (None, None, None)
        values |= {prefix + key: part for key, part in zip(_PARTS, parts, strict=True)}
    values[_PUBLISHED] = None if stock.published is None else str(int(stock.published)).encode()
    values[_PREVIOUS] = b"".join(stock.previous) or None
    return {key: None if value is None else base64.b64encode(value).decode() for key, value in values.items()}


def _plain(text: object) -> bytes | None:
    try:
        return base64.b64decode(text, validate=True) if isinstance(text, str) else None
    except binascii.Error:
        return None


def _generation(values: Mapping[str, bytes], prefix: str) -> Generation | None:
    parts = [values.get(prefix + key, b"") for key in _PARTS]
    return Generation(*parts) if all(parts) else None


def _each(pem: bytes) -> Iterable[bytes]:
    try:
        found = x509.load_pem_x509_certificates(pem) if pem.strip() else []
    except ValueError:
        return ()
    return (one.public_bytes(Encoding.PEM) for one in found)


def _number(text: bytes) -> float | None:
    return float(text) if text.isdigit() and len(text) < 16 else None
