"""The named detectors of `detect` in gateway.yaml: their names, and in a line what each finds."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

DETECTORS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "credit_card": "payment card numbers: issuer's prefix and length, Luhn's check digit",
        "us_ssn": "social security numbers of the United States, in ranges that are assigned",
        "email": "e-mail addresses",
        "phone": "telephone numbers: international, and common national ways of writing them",
        "iban": "bank accounts: the country's length, check digits modulo 97",
        "aws_key": "AWS access key ids, and secret keys that stand beside one or are named so",
        "private_key": "private keys: PEM, OpenSSH, PGP, PuTTY, also on one line or without their header",
        "jwt": "JSON web tokens whose header decodes",
        "github_token": "GitHub tokens",
        "slack_token": "Slack tokens and webhook addresses",
        "ipv4_private": "private IPv4 addresses (RFC 1918)",
        "hidden_text": "text a person does not see: Unicode tags, direction overrides, runs of invisible characters, "
        "terminal escapes",
    }
)
