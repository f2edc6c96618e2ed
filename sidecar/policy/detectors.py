"""The named detectors: what each looks for (RE2) and how a candidate is checked.

Everything here works on UTF-8 bytes and byte offsets: the same for raw and for decoded text.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

Check = Callable[[bytes, int, int], "list[tuple[int, int]]"]
"""From a text and a candidate's place (start, end) to the places of what was really found."""

Probe = tuple[str, Check | None]


def _card(data: bytes, start: int, end: int) -> list[tuple[int, int]]:
    digits = [byte - 48 for byte in data[start:end] if 48 <= byte <= 57]
    doubled = (digit * 2 - 9 * (digit > 4) for digit in digits[-2::-2])
    return [(start, end)] if (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0 else []


PROBES: Final[Mapping[str, tuple[Probe, ...]]] = MappingProxyType(
    {
        "credit_card": ((r"\b[3-6][0-9]{3}(?:[ \-]?[0-9]){9,15}\b", _card),),
        "us_ssn": ((r"\b[0-8][0-9]{2}-[0-9]{2}-[0-9]{4}\b", None),),
        "email": ((r"[A-Za-z0-9._%+\-]{1,64}@(?:[A-Za-z0-9\-]{1,63}\.)+[A-Za-z]{2,24}\b", None),),
        "phone": ((r"\+[1-9](?:[ ().\-/]{0,2}[0-9]){7,14}\b", None),),
        "iban": ((r"\b[A-Z]{2}[0-9]{2}(?: ?[A-Z0-9]{4}){3,7}(?: ?[A-Z0-9]{1,3})?\b", None),),
        "aws_key": ((r"\b(?:AKIA|ASIA)[A-Z2-7]{16}\b", None),),
        "private_key": ((r"-----BEGIN [A-Z ]*PRIVATE KEY[A-Z ]*-----[^\-]*", None),),
        "jwt": ((r"\beyJ[A-Za-z0-9_\-]{8,}\.[A-Za-z0-9_\-]{4,}\.[A-Za-z0-9_\-]*", None),),
        "github_token": ((r"\b(?:gh[pousr]_[A-Za-z0-9]{36,255}|github_pat_[A-Za-z0-9_]{60,255})\b", None),),
        "slack_token": ((r"\bxox[abeoprs]-[A-Za-z0-9\-]{10,255}", None),),
        "ipv4_private": (
            (r"\b(?:10\.[0-9]{1,3}|192\.168|172\.(?:1[6-9]|2[0-9]|3[01]))\.[0-9]{1,3}\.[0-9]{1,3}\b", None),
        ),
        "hidden_text": ((r"[\x{E0000}-\x{E007F}\x{202A}-\x{202E}\x{2066}-\x{2069}]+", None),),
    }
)
