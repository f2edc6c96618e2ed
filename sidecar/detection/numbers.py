"""Checks of numbers: payment cards, accounts, social security, addresses of private networks.

Sources: ISO/IEC 7812-1 (Luhn) and the issuers' published ranges; ISO 13616 and the IBAN registry; the rules of the
Social Security Administration; RFC 1918.
"""

import re
from typing import Final

from openmcp.sidecar.detection.candidates import Found, byte_at, closes, digit_at, is_digit, is_word, nothing, opens

_DOT: Final = 0x2E
_DASH: Final = 0x2D

_DIGITS: Final = re.compile(rb"[0-9]+")
_NEXT_GROUP: Final = re.compile(rb"(?: ?[-._] ?|[ \t]{1,2}|\r?\n|\\[nrt])([0-9]+)")
_ZEROS: Final = re.compile(rb"\.0+(?![0-9])")
_WORD_BEFORE: Final = 64
_GROUPS: Final = 40
_LONGEST: Final = 19

_S16_19: Final = frozenset((16, 17, 18, 19))
_S16: Final = frozenset((16,))
_ISSUERS: Final = (
    (2200, 2204, _S16_19),  # Mir
    (2221, 2720, _S16),  # Mastercard
    (3000, 3059, frozenset((14, 16))),  # Diners Club
    (3095, 3095, frozenset((14, 16))),
    (3400, 3499, frozenset((15,))),  # American Express
    (3528, 3589, _S16_19),  # JCB
    (3600, 3699, frozenset((14, 15, 16, 17, 18, 19))),  # Diners Club
    (3700, 3799, frozenset((15,))),  # American Express
    (3800, 3999, frozenset((14, 16, 17, 18, 19))),  # Diners Club
    (4000, 4999, frozenset((13, 16, 19))),  # Visa
    (5018, 5020, _S16_19),  # Maestro
    (5038, 5038, _S16_19),
    (5060, 5061, frozenset((16, 18, 19))),  # Verve
    (5080, 5089, _S16),  # RuPay
    (5100, 5599, _S16),  # Mastercard
    (5612, 5612, _S16_19),  # Maestro
    (5893, 5893, _S16_19),
    (6000, 6099, _S16_19),  # Discover, RuPay, Hipercard
    (6200, 6299, _S16_19),  # UnionPay
    (6304, 6304, _S16_19),  # Maestro
    (6440, 6599, _S16_19),  # Discover, RuPay
    (6759, 6763, _S16_19),  # Maestro
    (8100, 8299, _S16_19),  # UnionPay, RuPay
    (9792, 9792, _S16),  # Troy
)
_GROUPINGS: Final = ((4, 4, 4, 4, 3), (4, 4, 4, 4), (4, 6, 5), (4, 6, 4), (6, 13))
"""How numbers are printed on cards. Anything else counts only if no other digits stand beside the number."""

_DOUBLED: Final = bytes(
    (byte - 48) * 2 - 9 * (byte > 52) if 48 <= byte <= 57 else 0  # the sum of the digits of twice the digit
    for byte in range(256)
)


def _is_card(digits: bytes) -> bool:
    plain = digits[-1::-2]
    if (sum(plain) - 48 * len(plain) + sum(digits[-2::-2].translate(_DOUBLED))) % 10:
        return False
    prefix = int(digits[:4])
    return any(low <= prefix <= high and len(digits) in lengths for low, high, lengths in _ISSUERS)


def _part_of_more(data: bytes, start: int, end: int) -> bool:
    """Whether digits belong to a decimal fraction or to a word of hexadecimal digits (a hash)."""
    if byte_at(data, start - 1) == _DOT and digit_at(data, start - 2):
        return True
    if byte_at(data, end) == _DOT and digit_at(data, end + 1) and _ZEROS.match(data, end) is None:
        return True
    if opens(data, start) and closes(data, end):
        return False
    first, last = start, end
    while first > max(0, start - _WORD_BEFORE) and is_word(data[first - 1]):
        first -= 1
    while last < min(len(data), end + _WORD_BEFORE) and is_word(data[last]):
        last += 1
    word = data[first:last].lower()
    return word.startswith(b"0x") or not word.strip(b"0123456789abcdef")


def _groups(data: bytes, start: int) -> list[tuple[int, int]]:
    match = _DIGITS.match(data, start)
    groups = [] if match is None else [match.span()]
    while groups and len(groups) < _GROUPS:
        match = _NEXT_GROUP.match(data, groups[-1][1])
        if match is None:
            break
        groups.append(match.span(1))
    return groups


def _sizes(groups: list[tuple[int, int]]) -> tuple[int, ...]:
    return tuple(end - start for start, end in groups)


def _window(data: bytes, groups: list[tuple[int, int]]) -> int:
    """How many of the groups, from the first, are a card's number; 0: none."""
    start, end = groups[0]
    if 13 <= end - start <= _LONGEST and _is_card(data[start:end]) and not _part_of_more(data, start, end):
        return 1
    if end - start not in (4, 6) or data[start] not in b"2345689":
        return 0
    sizes = _sizes(groups)
    for grouping in _GROUPINGS:
        count = len(grouping)
        if sizes[:count] == grouping and _on_one_line(data, groups[:count]) and _joined(data, groups[:count]):
            return count
    return 0


def _on_one_line(data: bytes, groups: list[tuple[int, int]]) -> bool:
    return data.find(b"\n", groups[0][0], groups[-1][1]) < 0


def _joined(data: bytes, groups: list[tuple[int, int]]) -> bool:
    digits = b"".join([data[start:end] for start, end in groups])
    return 13 <= len(digits) <= _LONGEST and _is_card(digits) and not _part_of_more(data, groups[0][0], groups[-1][1])


def _alone(data: bytes, groups: list[tuple[int, int]]) -> bool:
    """Whether all of the groups together are a card's number, written in groups of one size or in the usual ones."""
    sizes = _sizes(groups)
    if sum(sizes) > _LONGEST or _digits_before(data, groups[0][0]):
        return False
    even = len(set(sizes[:-1])) == 1 and sizes[-1] <= sizes[0]
    return (even or sizes in _GROUPINGS) and _joined(data, groups)


def _digits_before(data: bytes, start: int) -> bool:
    gap = start
    while gap > max(0, start - 3) and data[gap - 1] in b" -._\t\r\n":
        gap -= 1
    return digit_at(data, gap - 1)


def card(data: bytes, start: int, end: int) -> Found:
    """The number of a payment card, in one piece or in groups."""
    groups = _groups(data, start)
    if digit_at(data, start - 1):
        return nothing(groups[0][1])
    complete = len(groups) < _GROUPS
    if complete and 1 < len(groups) <= _LONGEST and _alone(data, groups):
        return (start, groups[-1][1], groups[-1][1])
    last = len(groups) if complete else len(groups) - _LONGEST
    for index in range(last):
        count = _window(data, groups[index : index + 5])
        if count:
            last_end = groups[index + count - 1][1]
            return (groups[index][0], last_end, last_end)
    return nothing(groups[last - 1][1])


def social_security(data: bytes, start: int, end: int) -> Found:
    """A social security number with separators."""
    area, group, serial = data[start : start + 3], data[start + 4 : start + 6], data[end - 4 : end]
    impossible = area in (b"000", b"666") or area >= b"900" or group == b"00" or serial == b"0000"
    separator = data[start + 3]
    before, after = byte_at(data, start - 1), byte_at(data, end)
    crowded = is_digit(before) or is_digit(after)
    crowded = crowded or (before in (separator, _DOT, _DASH) and digit_at(data, start - 2))
    crowded = crowded or (after in (separator, _DOT, _DASH) and digit_at(data, end + 1))
    return nothing(start + 1) if impossible or crowded else (start, end, end)


def social_security_named(data: bytes, start: int, end: int) -> Found:
    """Nine digits in a row that are called so: the last nine bytes of the candidate."""
    place = end - 9
    area = data[place : place + 3]
    impossible = area in (b"000", b"666") or area >= b"900" or data[place + 3 : place + 5] == b"00"
    if impossible or digit_at(data, end):
        return nothing(start + 1)
    return (place, end, end)


_LENGTHS: Final = {
    country: length
    for length, countries in {
        15: "NO",
        16: "BE",
        18: "DK FI FK FO GL NL SD",
        19: "MK SI",
        20: "AT BA EE KZ LT LU MN XK",
        21: "CH HR LI LV",
        22: "BG BH CR DE GB GE IE ME RS VA",
        23: "AE GI IL IQ OM SO TL",
        24: "AD CZ ES MD PK RO SA SE SK TN VG",
        25: "AO CV GW LY MZ PT ST",
        26: "DZ IR IS TR",
        27: "BI CF CG CM DJ FR GA GQ GR IT KM MC MG MR SM TD",
        28: "AL AZ BF BJ BY CI CY DO GT HN HU LB MA ML NE NI PL SN SV TG",
        29: "BR EG PS QA UA",
        30: "JO KW MU YE",
        31: "MT SC",
        32: "LC",
        33: "RU",
    }.items()
    for country in countries.split()
}
_DIGITS_ONLY: Final = frozenset(re.findall("..", "ATBABECZDEDKEEESFIHRHUISLTMENOPLPTRSSESISKXK"))
COUNTRIES: Final[str] = "|".join(sorted(_LENGTHS))


def _walk(data: bytes, start: int, count: int) -> int:
    """The end of `count` letters and digits from `start`, one separator between two of them at most; -1: not there."""
    index = start
    while count:
        if index >= len(data):
            return -1
        if is_word(data[index]):
            count -= 1
            index += 1
        elif data[index] in b" -.\n" and index + 1 < len(data) and is_word(data[index + 1]):
            index += 1
        else:
            return -1
    return index


def iban(data: bytes, start: int, end: int) -> Found:
    """An international bank account number."""
    country = data[start : start + 2].decode("latin-1").upper()  # RE2 takes U+017F for an s, and U+212A for a k
    stop = _walk(data, start, _LENGTHS.get(country, 0)) if opens(data, start) and country in _LENGTHS else -1
    if stop < 0 or not closes(data, stop):
        return nothing(start + 1)
    written = data[start:stop].translate(None, b" -.\n").decode("ascii")
    number = written.upper()
    if number[2:4] in ("00", "01", "99"):  # what is left of a division lies between 02 and 98
        return nothing(start + 1)
    if written not in (number, number.lower()) or (country in _DIGITS_ONLY and not number[2:].isdigit()):
        return nothing(start + 1)
    value = int("".join([str(int(letter, 36)) for letter in number[4:] + number[:4]]))
    return (start, stop, stop) if value % 97 == 1 else nothing(start + 1)


_QUAD: Final = re.compile(rb"[0-9]{1,3}(?:\.[0-9]{1,3}){3}")
_VERSION: Final = re.compile(rb"(?i)(?:version|release|ver|rev)[\"'\\:=\s]{0,6}$")


def private_address(data: bytes, start: int, end: int) -> Found:
    """A private IPv4 address; not a part of a longer row of numbers, nor what is called a version."""
    match = _QUAD.match(data, start, start + 15)
    if match is None:
        return nothing(start + 1)
    stop = match.end()
    octets = data[start:stop].split(b".")
    well_formed = all(int(octet) < 256 and (len(octet) == 1 or octet[0] != 48) for octet in octets)
    before = byte_at(data, start - 1)
    beside = before in (_DOT, 0x5F) or not opens(data, start) or not closes(data, stop)
    beside = beside or (byte_at(data, stop) == _DOT and digit_at(data, stop + 1))
    if not well_formed or beside or _VERSION.search(data[max(0, start - 16) : start]) is not None:
        return nothing(start + 1)
    return (start, stop, stop)
