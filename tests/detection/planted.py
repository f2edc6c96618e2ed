"""Secrets and personal data that are nobody's, by detector; put together here so that no scanner stumbles over them."""

import base64
import json
import random

from openmcp.config.detectors import DETECTORS
from openmcp.sidecar.detection.finder import Finder

CHOSEN = random.Random(1)
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"


def drawn(count: int, letters: str = LETTERS) -> str:
    """So many letters by chance, the same in each run."""
    return "".join(CHOSEN.choices(letters, k=count))


def encoded(value: object) -> str:
    """JSON in base64 as JSON web tokens have it."""
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


def armoured(kind: str, body: str) -> str:
    """A key in PEM."""
    lines = "\n".join(body[start : start + 64] for start in range(0, len(body), 64))
    return f"-----BEGIN {kind}-----\n{lines}\n-----END {kind}-----"


CARD = "4111" + "1111" * 3
SOCIAL_SECURITY = "078-05" + "-1120"
ADDRESS = "jane.doe@customer.example"
PHONE = "+49 30 901820"
ACCOUNT = "DE89 3704 0044 " + "0532 0130 00"
AWS_ID = "AKIA" + "IOSFODNN7EXAMPLE"
AWS_SECRET = "wJalrXUtnFEMI/K7MDENG/" + "bPxRfiCYEXAMPLEKEY"
BODY = "MIIEpAIBAAKCAQEA" + drawn(200) + "=="
PRIVATE_KEY = armoured("RSA PRIVATE KEY", BODY)
TOKEN = ".".join((encoded({"alg": "HS256", "typ": "JWT"}), encoded({"sub": "1234567890"}), drawn(43)))
GITHUB = "ghp" + "_" + drawn(36)
SLACK = "xoxb" + "-123456789012-123456789012-" + drawn(24)
INTERNAL = "10.20.30.40"

PLANTED = {
    "credit_card": CARD,
    "us_ssn": SOCIAL_SECURITY,
    "email": ADDRESS,
    "phone": PHONE,
    "iban": ACCOUNT,
    "aws_key": AWS_ID,
    "private_key": PRIVATE_KEY,
    "jwt": TOKEN,
    "github_token": GITHUB,
    "slack_token": SLACK,
    "ipv4_private": INTERNAL,
}
"""One of each kind. `hidden_text` is not among them: it is about the text as it stands."""


def redacted(finder: Finder, text: str) -> str:
    """The text with every find replaced."""
    for span in reversed(finder.spans(text)):
        text = f"{text[: span.start]}[redacted:{span.what}]{text[span.end :]}"
    return text


def looking_for(*names: str) -> Finder:
    """A finder of these detectors; of all without any."""
    return Finder(names or tuple(DETECTORS), ())
