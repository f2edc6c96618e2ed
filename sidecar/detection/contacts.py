"""Checks of what reaches a person: e-mail addresses (RFC 5321, without the quoted forms) and telephone numbers (E.164
and the national ways of writing that are told apart from other numbers)."""

import re
from typing import Final

from openmcp.sidecar.detection.candidates import Found, byte_at, closes, digit_at, is_digit, is_word, nothing, opens

_LETTERS: Final = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
_LOCAL: Final = _LETTERS + b"0123456789._%+-'"
_LOCAL_ANY: Final = _LOCAL + bytes(range(0x80, 0x100))
_LOCAL_MAX: Final = 64
_DOMAIN_MAX: Final = 255

_DOMAIN: Final = re.compile(
    rb"((?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.){1,10})(xn--[A-Za-z0-9-]{2,59}|[A-Za-z]{2,24})(?![A-Za-z0-9])"
)
_DOMAIN_ANY: Final = re.compile(
    rb"((?:[A-Za-z0-9\x80-\xff-]{1,63}\.){1,10})([A-Za-z]{2,24}|[\x80-\xff][A-Za-z0-9\x80-\xff-]{1,62})"
)
_VERSION: Final = re.compile(rb"v?[0-9]{1,6}\.[0-9x]")
_NO_DOMAINS: Final = frozenset(
    b"astype bak class cls cpp css csv dll dtype exe gif gz hpp html ico java jpeg jpg js json jsx kt lock log mount"
    b" pdf png rb scope scss service shape size slice socket svg swift tar target tgz timer transpose ts tsx txt utf"
    b" webp whl xml yaml yml".split()
)
"""Endings of files, units and attributes: `icon@2x.png`, `getty@tty1.service`, `a@b.shape`. None is a domain."""


def email(data: bytes, start: int, end: int) -> Found:
    """An e-mail address around the `@` of the candidate."""
    at = data.index(b"@", start)
    domain = _DOMAIN.match(data, at + 1, at + 1 + _DOMAIN_MAX) or _DOMAIN_ANY.match(data, at + 1, at + 1 + _DOMAIN_MAX)
    if domain is None or domain[2].lower() in _NO_DOMAINS or _VERSION.match(domain[1]) is not None:
        return nothing(at + 1)
    first = _local(data, at)
    if first == at or (data[first:at] in (b"git", b"hg", b"svn") and byte_at(data, domain.end()) in b":/"):
        return nothing(at + 1)
    return (first, domain.end(), domain.end())


def _local(data: bytes, at: int) -> int:
    allowed = _LOCAL if data[at - 1] < 0x80 else _LOCAL_ANY
    window = data[max(0, at - _LOCAL_MAX) : at]
    local = window[len(window.rstrip(allowed)) :].lstrip(b".'%-")
    while local and 0x80 <= local[0] < 0xC0:  # the rest of a character that was cut
        local = local[1:]
    first = at - len(local)
    escape = first > 0 and data[first - 1] == 0x5C and data[first : first + 1] in (b"n", b"r", b"t", b"b", b"f")
    return first + 1 if escape and first + 1 < at else first


# The lengths (digits, with the country's code) of the numbers of some countries; others: 8 to 15.
_COUNTRY_LENGTHS: Final = (
    (b"1", 11, 11),
    (b"7", 11, 11),
    (b"31", 11, 11),
    (b"33", 11, 11),
    (b"34", 11, 11),
    (b"44", 11, 12),
    (b"48", 11, 11),
    (b"55", 12, 13),
    (b"61", 11, 11),
    (b"81", 11, 12),
    (b"86", 11, 13),
    (b"91", 12, 12),
)
_NO_COUNTRIES: Final = frozenset(
    b"210 214 215 217 219 259 28 292 293 294 295 296 384 388 422 424 425 426 427 428 429 801 802 803 804 805 806 807"
    b" 809 83 851 854 857 858 859 871 872 873 874 875 876 877 879 884 885 887 889 89 978 990 997 999".split()
)
"""Country codes of two and three digits that nobody has (ITU-T E.164, list of assigned codes)."""
_INTERNATIONAL: Final = re.compile(rb"\+ ?\(?[0-9]{1,4}\)?(?:(?: ?[-./(] ?|[ )]|\) ?[-.]?)?\(?[0-9]{1,14}\)?){1,7}")
_PLACE: Final = re.compile(rb"\+(?:[0-9]{4}-[0-9]{5}|[0-9]{6}-[0-9]{7})")
"""Latitude and longitude in one (ISO 6709)."""
_TRUNK: Final = re.compile(rb"\(0\)")


def _is_international(digits: bytes) -> bool:
    if not 8 <= len(digits) <= 15 or digits[:1] == b"0":
        return False
    if digits[:2] in _NO_COUNTRIES or digits[:3] in _NO_COUNTRIES:
        return False
    for code, least, most in _COUNTRY_LENGTHS:
        if digits.startswith(code):
            return least <= len(digits) <= most and not (code == b"1" and not b"2" <= digits[1:2] <= b"9")
    return True


def international(data: bytes, start: int, end: int) -> Found:
    """A telephone number that begins with `+`."""
    match = _INTERNATIONAL.match(data, start, start + 32)
    if match is None or not opens(data, start) or byte_at(data, start - 1) in b")]_+":
        return nothing(start + 1)
    stop = match.end()
    while not is_digit(data[stop - 1]):
        stop -= 1
    written = data[start:stop]
    digits = bytes([byte for byte in _TRUNK.sub(b"", written) if is_digit(byte)])
    sum_of_two = written[1:2] == b" " and written[2:].isdigit()
    decimal = byte_at(data, stop) == 0x2E and digit_at(data, stop + 1)
    if (
        sum_of_two
        or decimal
        or _PLACE.fullmatch(written) is not None
        or not closes(data, stop)
        or not _is_international(digits)
    ):
        return nothing(start + 1)
    return (start, stop, stop)


_NATIONAL: Final = re.compile(
    rb"(?:1[-. ])?(?:\([2-9][0-8][0-9]\) ?|[2-9][0-8][0-9]([-.]))[2-9][0-9]{2}(?(1)\1|[-. ])[0-9]{4}"  # North America
    rb"|0[1-9]([ .-])[0-9]{2}(?:\2[0-9]{2}){3}"  # France
    rb"|\(?0(?:2[0-9]\)? [0-9]{4} [0-9]{4}|1[0-9]{2,3}\)? [0-9]{3} ?[0-9]{3,4}|7[0-9]{3}\)? [0-9]{3} ?[0-9]{3})"  # UK
    rb"|\(?0(?:30|40|69|89|1[567][0-9])(?:\) ?|/ ?|-| )[0-9]{6,8}|0[2-9][0-9]{1,3}/ ?[0-9]{5,8}"  # Germany
    rb"|0[789]0-[0-9]{4}-[0-9]{4}"  # Japan
    rb"|1[3-9][0-9]([ -])[0-9]{4}\3[0-9]{4}"  # China
    rb"|\([1-9][0-9]\) ?9?[0-9]{4}-[0-9]{4}"  # Brazil
    rb"|04[0-9]{2} [0-9]{3} [0-9]{3}"  # Australia
)


def national(data: bytes, start: int, end: int) -> Found:
    """A telephone number in one of the ways of writing that are known; a row of more numbers is none."""
    match = _NATIONAL.match(data, start)
    if match is None or not opens(data, start) or not closes(data, match.end()):
        return nothing(start + 1)
    stop = match.end()
    before, after = byte_at(data, start - 1), byte_at(data, stop)
    crowded = before == 0x5F or (before in b"-./" and is_word(byte_at(data, start - 2)))
    crowded = (
        crowded
        or (after in b"-./:" and is_word(byte_at(data, stop + 1)))
        or (before in b" ," and digit_at(data, start - 2))
    )
    crowded = crowded or (after == 0x20 and _PAIR.match(data, stop) is not None)
    return nothing(start + 1) if crowded else (start, stop, stop)


_PAIR: Final = re.compile(rb" [0-9A-Fa-f]{2}(?![0-9A-Za-z])")
_NAMED: Final = re.compile(rb"\(?[0-9](?:[ ().\-/]{0,3}[0-9]){6,14}")


def named(data: bytes, start: int, end: int) -> Found:
    """Seven to fifteen digits that are called a telephone number: the candidate ends with the first of them."""
    match = _NAMED.match(data, end - 1)
    if match is None or not closes(data, match.end()) or not _has_variety(match[0]):
        return nothing(end)
    return (end - 1, match.end(), match.end())


def _has_variety(written: bytes) -> bool:
    return len({byte for byte in written if is_digit(byte)}) > 1
