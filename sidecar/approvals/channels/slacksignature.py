"""Whether a request is Slack's: HMAC-SHA256 over its time and raw body, with the app's signing secret. Pure."""

import hashlib
import hmac
from collections.abc import Mapping
from typing import Final

MOST_SKEW: Final = 300
"""Seconds that the time in a request may be off: what was overheard cannot be sent again later."""


class NotSlack(Exception):
    """The request is not Slack's, or is too old."""


def check(secret: bytes, headers: Mapping[str, str], body: bytes, now: int) -> None:
    """Raises `NotSlack`. `headers` have names in lower case; `now` is Unix milliseconds."""
    at, said = headers.get("x-slack-request-timestamp", ""), headers.get("x-slack-signature", "")
    if not (at.isascii() and at.isdigit() and len(at) <= 12) or abs(now // 1000 - int(at)) > MOST_SKEW:
        raise NotSlack("the time of the request is missing, or too far off")
    made = hmac.new(secret, b"v0:" + at.encode() + b":" + body, hashlib.sha256).hexdigest()
    if not hmac.compare_digest(f"v0={made}".encode(), said.encode("utf-8", "replace")):
        raise NotSlack("the signature is not Slack's")
