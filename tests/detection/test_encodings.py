"""Each planted value in each encoding: caught, and no character less or more is redacted than what spells it."""

import base64
import html
import json
import urllib.parse
from collections.abc import Callable

import pytest

from openmcp.sidecar.detection.finder import NESTED, Finder
from tests.detection.planted import CARD, PLANTED, looking_for, redacted


def each(text: str, form: str) -> str:
    """Every character written in a form that has `{}` for its code point."""
    return "".join(form.format(ord(character)) for character in text)


def shifted(text: str, offset: int) -> str:
    """Characters of ASCII moved to another block of Unicode."""
    return "".join(chr(ord(character) + offset) if "!" <= character <= "~" else character for character in text)


def between(text: str, mark: str) -> str:
    """With a mark between each two characters."""
    return mark.join(text)


def lines_of(length: int, text: str, between: str = "\n") -> str:
    """The text broken into lines of this length."""
    return between.join(text[at : at + length] for at in range(0, len(text), length))


SPELLED: dict[str, Callable[[str], str]] = {
    "as it is": str,
    "JSON escapes": lambda text: each(text, "\\u{:04x}"),
    "JSON escapes, escaped again": lambda text: each(text, "\\\\\\\\u{:04X}"),
    "escapes of JavaScript": lambda text: each(text, "\\u{{{:x}}}"),
    "bytes in hexadecimal escapes": lambda text: each(text, "\\x{:02x}"),
    "every second character escaped": lambda text: "".join(
        f"\\u{ord(one):04x}" if number % 2 else one for number, one in enumerate(text)
    ),
    "percent": lambda text: each(text, "%{:02X}"),
    "percent, twice": lambda text: urllib.parse.quote(each(text, "%{:02x}"), safe=""),
    "percent, five times": lambda text: each(text, "%25252525{:02x}"),
    "entities": lambda text: each(text, "&#{};"),
    "entities in hexadecimal": lambda text: each(text, "&#x{:x};"),
    "entities with zeros before": lambda text: each(text, "&#{:024};"),
    "entities in hexadecimal with zeros before": lambda text: each(text, "&#X{:032x};"),
    "escapes of JavaScript with zeros before": lambda text: each(text, "\\u{{{:032x}}}"),
    "entities, escaped again": lambda text: html.escape(html.escape(each(text, "&#{};"))),
    "percent in JSON escapes": lambda text: each(each(text, "%{:02x}"), "\\u{:04x}"),
    "entities in percent": lambda text: urllib.parse.quote(each(text, "&#{};"), safe=""),
    "full width": lambda text: shifted(text, 0xFEE0),
    "zero width spaces": lambda text: between(text, "\u200b"),
    "zero width joiners": lambda text: between(text, "\u2060\u200d"),
    "soft hyphens": lambda text: between(text, "\u00ad"),
    "direction marks": lambda text: between(text, "\u200f"),
    "direction overrides": lambda text: between(text, "\u202e"),
    "variation selectors": lambda text: between(text, "\ufe0f"),
    "selectors of the supplement": lambda text: between(text, "\U000e0100"),
    "tags": lambda text: between(text, "\U000e0041"),
    "fillers of Hangul": lambda text: between(text, "\u3164"),
    "byte order marks": lambda text: between(text, "\ufeff"),
    "zero bytes": lambda text: between(text, "\x00"),
    "terminal colours": lambda text: between(text, "\x1b[31m"),
    "struck out": lambda text: "".join(one + "\u0336" if " " < one <= "~" else one for one in text),
    "zero width spaces in JSON escapes": lambda text: between(text, "\\u200b"),
    "named entities without width": lambda text: between(text, "&ZeroWidthSpace;&lrm;"),
    "zero width entities": lambda text: between(text, "&#8203;"),
}


@pytest.mark.parametrize("spelling", SPELLED)
@pytest.mark.parametrize("what", PLANTED)
def test_a_spelled_value_is_redacted_exactly(what, spelling):
    written = SPELLED[spelling](PLANTED[what])
    assert redacted(looking_for(what), f"before {written} behind") == f"before [redacted:{what}] behind"


@pytest.mark.parametrize("language", ["Grüße, „Maß“: ", "Ответ: ", "顧客：", "ग्राहक: ", "👩‍👩‍👧 "])
@pytest.mark.parametrize("spelling", SPELLED)
def test_it_is_redacted_exactly_in_any_language(language, spelling):
    written = SPELLED[spelling](CARD)
    assert redacted(looking_for("credit_card"), f"{language}{written} {language}") == (
        f"{language}[redacted:credit_card] {language}"
    )


ENVELOPE = "the customer wrote: {}, and nothing else"

PACKED: dict[str, Callable[[str], str]] = {
    "base64": lambda text: base64.b64encode(text.encode()).decode(),
    "base64 of URLs": lambda text: base64.urlsafe_b64encode(text.encode()).decode().rstrip("="),
    "base64 in lines": lambda text: base64.encodebytes(text.encode()).decode().rstrip("\n"),
    "base64 in lines of sixteen": lambda text: lines_of(16, base64.b64encode(text.encode()).decode()),
    "base64 in lines of seven": lambda text: lines_of(7, base64.b64encode(text.encode()).decode()),
    "base64 in lines of four, quoted": lambda text: lines_of(4, base64.b64encode(text.encode()).decode(), "\r\n> "),
    "base64 twice": lambda text: base64.b64encode(base64.b64encode(text.encode())).decode(),
    "base64 thrice": lambda text: base64.b64encode(base64.b64encode(base64.b64encode(text.encode()))).decode(),
    "base64 in percent": lambda text: urllib.parse.quote(base64.b64encode(text.encode()).decode(), safe=""),
    "base64 of JSON escapes": lambda text: base64.b64encode(each(text, "\\u{:04x}").encode()).decode(),
    "base64 among other bytes": lambda text: base64.b64encode(b"\xff\x00\xfe\x80" + text.encode() + b"\xf0").decode(),
    "hexadecimal": lambda text: text.encode().hex(),
    "hexadecimal of base64": lambda text: base64.b64encode(text.encode()).hex(),
}


@pytest.mark.parametrize("packing", PACKED)
@pytest.mark.parametrize("what", PLANTED)
def test_a_packed_value_is_redacted_with_all_that_it_is_packed_in(what, packing):
    packed = PACKED[packing](ENVELOPE.format(PLANTED[what]))
    assert redacted(looking_for(what), f"see {packed} above") == f"see [redacted:{what}] above"


@pytest.mark.parametrize("before", ["", "a", "ab/", "abc", "x=", "/path/", "data:text/plain;base64,"])
def test_what_stands_before_base64_does_not_shift_it(before):
    packed = base64.b64encode(ENVELOPE.format(CARD).encode()).decode()
    assert [span.what for span in looking_for("credit_card").spans(before + packed)] == ["credit_card"]


def test_words_on_lines_of_their_own_are_no_base64():
    text = "Apples\nBananas\nCherries\nDates\nElderberries\nFigs\nGrapes\nHoneydew\nCARD\n"
    assert looking_for("credit_card").spans(text * 20) == []
    packed = base64.b64encode(f"it is {CARD}.".encode()).decode()
    told = redacted(looking_for("credit_card"), f"the number:\n\n{lines_of(9, packed)}\n\nis the one")
    assert told == "the number:\n\n[redacted:credit_card]\n\nis the one"


def test_base64_that_can_be_cut_in_two_ways_is_read_in_both():
    packed = base64.b64encode(("4" * 40 + f" card {CARD} ").encode()).decode()
    for before in ("N", "ND", "NDQ", "DQ0", "Q0N"):
        assert [span.what for span in looking_for("credit_card").spans(before + packed)] == ["credit_card"], before


def test_json_in_json_in_json():
    document = json.dumps(
        {"inner": json.dumps({"card": CARD, "note": json.dumps(["\u200b", "jane@customer.example"])})}
    )
    found = looking_for("credit_card", "email").spans(document)
    assert [document[span.start : span.end] for span in found] == [CARD, "jane@customer.example"]


def test_a_letter_of_an_escape_is_no_part_of_the_value():
    text = "name\\njane@customer.example\\tDE89370400440532013000\\r4111111111111111\\n"
    assert redacted(looking_for("email", "iban", "credit_card"), text) == (
        "name\\n[redacted:email]\\t[redacted:iban]\\r[redacted:credit_card]\\n"
    )


def test_patterns_are_looked_for_in_every_form_too():
    finder = Finder((), [r"\bCUST-[0-9]{8}\b"], name="customers")
    value = "CUST-" + "01234567"
    for spelling in SPELLED.values():
        assert redacted(finder, f"a {spelling(value)} b") == "a [redacted:customers] b"


def test_a_pattern_in_composed_letters_finds_decomposed_ones():
    finder = Finder((), ["Müller"], name="name")
    assert redacted(finder, "Herr Mu\u0308ller!") == "Herr [redacted:name]!"
    assert redacted(finder, "Herr Müller!") == "Herr [redacted:name]!"


def test_what_is_encoded_too_often_counts_as_found():
    text = ENVELOPE.format(CARD)
    for _ in range(20):
        text = base64.b64encode(text.encode()).decode()
    assert [span.what for span in looking_for("email").spans(text)] == [NESTED]
