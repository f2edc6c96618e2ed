"""Folding and decoding: what becomes of characters, and that every step knows where its result came from."""

import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openmcp.sidecar.detection import encodings, folding
from openmcp.sidecar.detection.readings import Reading, next_readings
from openmcp.sidecar.detection.sets import PatternSet
from tests.detection.planted import CARD, looking_for, redacted

STEPS = {
    "controls": (folding.without_controls, folding.control_pieces),
    "common": (folding.common, folding.common_pieces),
    "rare": (folding.rare, folding.rare_pieces),
    "normalized": (folding.normalized, folding.normalized_pieces),
    "marks": (folding.without_marks, folding.mark_pieces),
}

STRANGE = (
    "\u200b\u00ad\u2013\u00a0\u3002\uff0c\ufe0f\u0301\u0336\u0308\u20dd\uff11\u2460\u1100\u1161\u11a8\uff76\uff9e"
    "\u0958\ufdfa\u0628\u0651"
)
TEXTS = st.text(
    st.one_of(st.sampled_from(STRANGE + "ae1-\x1b[m\x00\n\u00e9"), st.characters(codec="utf-8")), max_size=60
)
ENCODED = st.lists(
    st.one_of(
        st.sampled_from(
            [
                "\\u0041",
                "\\\\u00e9",
                "\\ud83d",
                "\\x41",
                "%41",
                "%2541",
                "%C3%A9",
                "%ff",
                "&#65;",
                "&amp;#x41",
                "&commat;",
            ]
        ),
        st.sampled_from(
            [
                "\\",
                "%",
                "&",
                "#",
                "\\n",
                '\\"',
                "4",
                "é",
                " ",
                "SGVsbG8sIHdvcmxkISBIZWxsbyE=",
                "48656c6c6f2c20776f726c64",
            ]
        ),
        st.text(max_size=5),
    ),
    max_size=12,
).map("".join)


def applied(text: str, pieces: list[folding.Piece]) -> str:
    """The text with its pieces exchanged."""
    for start, end, plain in reversed(pieces):
        text = text[:start] + plain + text[end:]
    return text


@pytest.mark.parametrize("step", STEPS)
@given(text=TEXTS)
def test_the_pieces_of_a_step_make_up_its_result(step, text):
    whole, pieces = STEPS[step]
    parts = list(pieces(text))
    assert all(start < end for start, end, _ in parts)
    assert all(one[1] <= two[0] for one, two in zip(parts, parts[1:], strict=False))
    assert applied(text, parts) == whole(text)


@given(text=st.one_of(TEXTS, ENCODED))
def test_every_character_of_every_reading_comes_from_somewhere(text):
    found = PatternSet([folding.CONTROLS, folding.characters(), folding.MARKS, *encodings.MARKERS])
    readings = [Reading(text, text.encode())]
    for reading in readings[:8]:
        readings += next_readings(reading, found.match(reading.data))
    for reading in readings:
        places = reading.to_raw([(index, index + 1) for index in range(len(reading.text))])
        assert all(0 <= start < end <= len(text) for start, end in places)
        assert [start for start, _ in places] == sorted(start for start, _ in places)


@given(text=TEXTS, value=st.sampled_from([CARD, "４１１１１１１１１１１１１１１１", "4\u200b111111111111111"]))
def test_a_value_in_any_text_is_redacted_and_nothing_else(text, value):
    finder = looking_for("credit_card")
    if redacted(finder, text) == text and not any(one.isalnum() or unicodedata.combining(one) for one in text):
        assert redacted(finder, f"{text}|{value}|{text}") == f"{text}|[redacted:credit_card]|{text}"


def test_whatever_unicode_takes_for_ascii_is_folded_to_it():
    missed = []
    for code in range(0x80, sys.maxunicode + 1):
        character = chr(code)
        plain = unicodedata.normalize("NFKC", character)
        digit = unicodedata.digit(character, None)
        category = unicodedata.category(character)
        wanted = plain if plain.isascii() and category not in ("Zs", "Pd") else None if digit is None else str(digit)
        folded = folding.normalized(folding.rare(character))
        if wanted is not None and folded != wanted and not (digit is not None and folded == str(digit)):
            missed.append((hex(code), wanted, folded))
    assert missed == []


@pytest.mark.parametrize("category", ["Cf", "Me", "Zs", "Zl", "Zp", "Pd", "Nd"])
def test_characters_of_a_category_are_made_plain(category):
    plain = {"Cf": {""}, "Me": {""}, "Zs": {" "}, "Zl": {"\n"}, "Zp": {"\n"}, "Pd": {"-"}, "Nd": set("0123456789")}
    codes = [code for code in range(0x80, sys.maxunicode + 1) if unicodedata.category(chr(code)) == category]
    assert {folding.rare(chr(code)) for code in codes} == plain[category]


def test_nothing_grows_beyond_six_times():
    grown = {code: len(folding.normalized(folding.rare(chr(code)))) for code in range(sys.maxunicode + 1)}
    assert max(grown.values()) == 6


@pytest.mark.parametrize(
    "text", ["plain", "Größe, „Maß“", "Ответ", "नमस्ते दुनिया", "สวัสดี", "مرحبا بالعالم", "é", "日本語のテキスト"]
)
def test_honest_letters_stay(text):
    folded = folding.without_marks(folding.normalized(folding.common(text)))
    assert [one for one in folded if one.isalpha()] == [one for one in text if one.isalpha()]
