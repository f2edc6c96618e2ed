"""SPIFFE IDs, valid by construction (SPIFFE-ID specification, section 2)."""

import re
from typing import Final

import msgspec

MAX_BYTES: Final = 2048
"""Longest SPIFFE ID that has to be supported (SPIFFE-ID, 2.3); longer ones are refused."""
MAX_TRUST_DOMAIN: Final = 255
_TRUST_DOMAIN: Final = re.compile(rf"[a-z0-9._-]{{1,{MAX_TRUST_DOMAIN}}}")
_SEGMENT: Final = re.compile(r"[A-Za-z0-9._-]+")
_SCHEME: Final = "spiffe://"


class NotASpiffeId(ValueError):
    """A text that is no SPIFFE ID; the message says why in plain words, without the text."""


class SpiffeId(msgspec.Struct, frozen=True, cache_hash=True):
    """A SPIFFE ID: `trust_domain` in lower case, `path` empty or `/a/b`. Made by `parse` alone; `str` gives the URI."""

    trust_domain: str
    path: str

    def __str__(self) -> str:
        return f"{_SCHEME}{self.trust_domain}{self.path}"


def parse(text: str) -> SpiffeId:
    """Read a SPIFFE ID. Raises `NotASpiffeId`; nothing is normalised, what is not exact is refused."""
    if len(text) > MAX_BYTES:
        raise NotASpiffeId(f"longer than {MAX_BYTES} bytes")
    if not text.startswith(_SCHEME):
        raise NotASpiffeId(f"does not begin with {_SCHEME}")
    domain, slash, rest = text[len(_SCHEME) :].partition("/")
    if not is_trust_domain(domain):
        raise NotASpiffeId("the trust domain is 1 to 255 of a-z, 0-9, '.', '_' and '-'")
    if slash and not all(_is_segment(segment) for segment in rest.split("/")):
        raise NotASpiffeId("path segments are letters, digits, '.', '_' and '-', not empty, neither '.' nor '..'")
    return SpiffeId(domain, slash + rest)


def parse_workload(text: str) -> SpiffeId:
    """Read the SPIFFE ID of a workload: one with a path (X509-SVID, 2). Raises `NotASpiffeId`."""
    found = parse(text)
    if not found.path:
        raise NotASpiffeId("the ID of a trust domain, not of a workload: it has no path")
    return found


def is_trust_domain(text: str) -> bool:
    """Whether `text` is the name of a trust domain."""
    return _TRUST_DOMAIN.fullmatch(text) is not None


def _is_segment(text: str) -> bool:
    return text not in (".", "..") and _SEGMENT.fullmatch(text) is not None
