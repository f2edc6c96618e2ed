"""The named detectors as probes: a pattern (RE2), part of the one pass over a text, and a check of what it finds.

A pattern is cheap and finds too much; the check looks at the candidate and around it and says what it is.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from openmcp.sidecar.detection import contacts, credentials, hidden, numbers
from openmcp.sidecar.detection.candidates import Check

Probe = tuple[str, Check | None]

_DIGITS_13: Final = r"[2-689](?:[ \-._\t\r\n]{0,3}[0-9]){12}"
_NANP: Final = r"[2-9][0-8][0-9](?:\) ?|[.\-])[2-9][0-9]{2}[.\- ][0-9]{4}"
_IBAN: Final = rf"(?i)(?:{numbers.COUNTRIES})[0-9]{{2}}(?:[ \-.\n]?[A-Z0-9]){{11}}"
_FROM_ZERO: Final = r"\(?0[1-9](?:[ ().\-/]{0,2}[0-9]){7}|1[3-9][0-9][ \-][0-9]{4}[ \-][0-9]{4}"
_AMERICAN: Final = rf"(?:1[.\- ])?\(?{_NANP}"
_AWS_ID: Final = r"(?:AKIA|ASIA|ABIA|ACCA|AGPA|AIDA|AROA|AIPA|ANPA|ANVA|APKA|ASCA)[A-Z0-9]{16}"
_DER: Final = (
    "MII[A-K][A-Za-z0-9+/]{2}(?:IBAA[JK]|IBADANBgkqhki|[A-Za-z0-9+/]{1,3}BgkqhkiG9w0BBQ)|MHcCAQEEI|MHQCAQEEI|MIGkAgEBBD"
    "|MIHcAgEBBEI|M[IEH][A-Za-z0-9+/]{1,3}AgEA?MB[A-Za-z0-9+/]{3}yqGSM49|M[A-Za-z0-9+/]{1,3}C?AQ[AE]wBQYDK2V"
    "|b3BlbnNzaC1rZXktdjE"
)
_PHONE_NAME: Final = (
    r"(?i)(?:phone|telefone?|téléphone|mobile|mobil|cell|fax|whatsapp|\btel|\bfon|handynr|handynummer|телефон|тел|电话|電話|手机)"
    r"(?:[ _\-]?(?:number|num|nr|no|nummer))?[^0-9A-Za-z\n]{1,6}[0-9]"
)

_WORD_OPENS: Final = r"(?:\b|_|\\[nrtbfv])"
"""What `candidates.opens` asks for, before a letter or a digit; a bracket before the digit changes nothing."""
BEGINS: Final[Mapping[str, str]] = MappingProxyType(
    {_DIGITS_13: r"(?:\b|[A-Za-z_])", _IBAN: _WORD_OPENS, _FROM_ZERO: _WORD_OPENS, _AMERICAN: _WORD_OPENS}
)
"""What is before the candidates of these patterns that their checks confirm: the one pass asks for it too. Else its
automaton would follow a candidate from each digit or letter on, with a state for each combination of them, and in a
table of numbers it would have to make a new one for nearly every byte."""

RAW_ONLY: Final = frozenset(("hidden_text",))
"""Detectors of what is only there in the text as it stands."""

PROBES: Final[Mapping[str, tuple[Probe, ...]]] = MappingProxyType(
    {
        "credit_card": ((_DIGITS_13, numbers.card),),
        "us_ssn": (
            (r"[0-8][0-9]{2}(?:-[0-9]{2}-| [0-9]{2} )[0-9]{4}", numbers.social_security),
            (r"(?i)(?:\bssn|social.?security)[^0-9\n]{1,24}[0-9]{9}", numbers.social_security_named),
        ),
        "email": ((r"[^\s@/(){}\[\]<>,;:\"\\]@[A-Za-z0-9\x{80}-\x{10FFFF}]", contacts.email),),
        "phone": (
            (r"\+ ?\(?[1-9](?:[ ().\-/]{0,3}[0-9]){7}", contacts.international),
            (_AMERICAN, contacts.national),
            (_FROM_ZERO, contacts.national),
            (r"\([1-9][0-9]\) ?9?[0-9]{4}-[0-9]{4}", contacts.national),
            (_PHONE_NAME, contacts.named),
        ),
        "iban": ((_IBAN, numbers.iban),),
        "aws_key": (
            (_AWS_ID, credentials.access_key),
            (_AWS_ID, credentials.secret_key),
            (r"(?i)(?:aws|secret)[^\n]{0,4}(?:secret|access)?[^\n]{0,3}(?:key|secret)", credentials.secret_key),
        ),
        "private_key": (
            (r"(?i)-{2,5} ?BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY", credentials.armoured_key),
            (r"PuTTY-User-Key-File-[0-9]", credentials.putty_key),
            (_DER, credentials.bare_key),
            (r"AGE-SECRET-KEY-1[0-9A-Z]{58}", None),
        ),
        "jwt": ((r"e[yw][A-Za-z0-9_\-]{12}", credentials.web_token),),
        "github_token": ((r"gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{36,}", None),),
        "slack_token": (
            (r"xox[abcdeoprs][.\-][A-Za-z0-9.%\-]{16,}|xapp-[0-9]-[A-Za-z0-9\-]{20,}", credentials.slack_token),
            (r"hooks\.slack\.com/(?:services|workflows|triggers)/T[A-Za-z0-9_/]{20,}", None),
        ),
        "ipv4_private": (
            (
                r"(?:10\.[0-9]{1,3}|192\.168|172\.(?:1[6-9]|2[0-9]|3[01]))\.[0-9]{1,3}\.[0-9]{1,3}",
                numbers.private_address,
            ),
        ),
        "hidden_text": (
            (hidden.TAGS, hidden.tags),
            (hidden.ALWAYS, None),
            (hidden.RUNS, None),
            (hidden.SELECTORS, None),
        ),
    }
)
