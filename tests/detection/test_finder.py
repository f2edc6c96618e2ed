"""Finders: exceptions, what overlaps, several at once, JSON values, and what happens beyond the bounds."""

import random
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openmcp.sidecar.detection.detectors import BEGINS, PROBES
from openmcp.sidecar.detection.finder import MAX_CANDIDATES, MAX_FINDS, Finder, FinderSet, most_finds
from openmcp.sidecar.detection.sets import PatternSet, compiled
from openmcp.sidecar.detection.spans import Span
from tests.detection.planted import ACCOUNT, CARD, PLANTED, TOKEN, looking_for, redacted


def test_an_exception_is_searched_in_what_was_found():
    finder = Finder(["email"], (), [r"@acme\.example$"])
    assert redacted(finder, "a@acme.example, b@customer.example") == "a@acme.example, [redacted:email]"
    assert redacted(finder, "a@acme.example.evil.example") == "[redacted:email]"
    assert redacted(finder, "b@customer.example see a@acme.example") == "[redacted:email] see a@acme.example"


def test_an_exception_sees_the_value_as_it_is_read():
    finder = Finder(["email"], (), [r"@acme\.example$"])
    assert redacted(finder, "a%40acme.example") == "a%40acme.example"
    assert redacted(finder, "b%40customer.example") == "[redacted:email]"


def test_overlapping_finds_are_one_called_as_the_first():
    finder = Finder(["email"], ["[a-z]+", r"customer\.example/[0-9]+"], name="rule")
    assert finder.spans("jane@customer.example/123") == [Span(0, 25, "email")]


def test_finds_side_by_side_stay_apart():
    assert Finder((), ["a", "b"], name="rule").spans("ab") == [Span(0, 1, "rule"), Span(1, 2, "rule")]


def test_places_are_in_characters():
    text = "Größe 👩‍👩‍👧: jane@customer.example – Ende"
    (span,) = looking_for("email").spans(text)
    assert text[span.start : span.end] == "jane@customer.example"


def test_a_pattern_without_a_name_is_called_a_pattern():
    assert Finder((), ["x+"]).spans("axxb") == [Span(1, 3, "pattern")]


def test_empty_matches_are_no_finds():
    assert Finder((), ["x*"]).spans("axxb") == [Span(1, 3, "pattern")]
    assert Finder((), ["^"]).spans("ab") == []


def test_several_finders_in_one_pass():
    several = FinderSet(
        [
            Finder(["email"], (), ["@acme"], name="first"),
            Finder((), ["a@[a-z]+"], name="second"),
            Finder(["email", "credit_card"], (), name="third"),
        ]
    )
    assert several.scan(f"a@acme.example {CARD}") == [
        (1, Span(0, 6, "second")),
        (2, Span(0, 14, "email")),
        (2, Span(15, 31, "credit_card")),
    ]
    assert several.scan("nothing of interest") == []


@pytest.mark.parametrize("what", PLANTED)
def test_suspects_what_it_finds(what):
    finders = FinderSet([looking_for(what)])
    assert finders.suspects(f"some\n\n{PLANTED[what]}\n\nmore")
    assert not finders.suspects("some\n\nmore")


@pytest.mark.parametrize(
    "document",
    [
        {"a": [{"b": f"x {CARD}"}]},
        {CARD: None},
        [1, 2, int(CARD)],
        float(CARD),
        {"a": {"b": {CARD: {}}}},
        f"%34{CARD[1:]}",
    ],
)
def test_the_first_find_anywhere_in_a_value(document):
    assert looking_for("email", "credit_card").first(document) == "credit_card"


@pytest.mark.parametrize("document", [None, True, 1, 1.5, "", "text", [], {}, {"a": [False, {"b": "c"}]}])
def test_nothing_in_a_value(document):
    assert looking_for().first(document) is None


def test_a_token_is_found_with_what_its_payload_holds():
    finder = looking_for("jwt", "email")
    assert redacted(finder, f"a {TOKEN} b") == "a [redacted:jwt] b"


def test_after_so_many_finds_all_the_rest_is_one():
    spans = looking_for("email").spans("a@b.example " * (MAX_FINDS + 500) + "end")
    assert len(spans) == MAX_FINDS + 1
    assert (
        spans[-1] == Span(12 * MAX_FINDS, 12 * (MAX_FINDS + 500) + 3, "email")
        or spans[-1].end == 12 * (MAX_FINDS + 500) + 3
    )


def test_after_so_many_matches_of_a_pattern_all_the_rest_is_one():
    spans = Finder((), ["ab"], name="rule").spans("ab " * (MAX_FINDS + 7))
    assert spans[-1] == Span(3 * MAX_FINDS, 3 * (MAX_FINDS + 7), "rule")


def test_after_so_many_candidates_all_the_rest_is_a_find():
    text = "000-00-0000 " * (MAX_CANDIDATES + 10)
    (span,) = looking_for("us_ssn").spans(text)
    assert (12 * (MAX_CANDIDATES - 1) < span.start < 12 * MAX_CANDIDATES, span.end) == (True, len(text))


@pytest.mark.parametrize(
    ("pattern", "size", "most"),
    [
        ("CUST-[0-9]{8}", 16 << 20, MAX_FINDS),
        ("a(?:.*b)?", 1 << 10, MAX_FINDS),
        ("a(?:.*b)?", 1 << 20, 4095),
        ("a.+b", 16 << 20, 256),
        ("a{2,}", 1 << 30, 256),
    ],
)
def test_a_pattern_that_may_look_to_the_end_is_searched_for_less_often(pattern, size, most):
    assert most_finds(pattern, size) == most


def test_patterns_too_large_for_one_automaton_are_taken_apart():
    large = [rf"{letter}\pL{{60}}!" for letter in "abcdefghijklmnop"]
    patterns = PatternSet(["needle", *large, "straw"])
    assert patterns.parts > 1
    assert patterns.match(b"a needle in a straw") == [0, 17]
    assert patterns.match(b"c" + b"x" * 60 + b"! straw") == [3, 17]
    assert patterns.match(b"nothing") == []


def test_a_pattern_too_large_for_any_automaton_is_found_all_the_same():
    patterns = PatternSet(["needle", r"a\pL{300}!"])
    assert patterns.match(b"needle a" + "ß".encode() * 300 + b"!") == [0, 1]
    assert patterns.match(b"a" + b"x" * 299 + b"!") == []


def test_what_is_no_pattern_is_refused():
    with pytest.raises(ValueError, match=r"not a pattern of RE2: \(\?=x\)"):
        PatternSet(["(?=x)"])


HOSTILE = {
    "digits": ("4" * 99_999, 0),
    "groups": ("4112 " * 9_999, 0),
    "backslashes": ("\\" * 99_999, 0),
    "percent signs": ("%25" * 9_999, 0),
    "ampersands": ("&" + "amp;" * 9_999, 0),
    "headers of keys": ("-----BEGIN PRIVATE KEY-----" * 999, 0),
    "headers in headers of keys": ("-----BEGIN PRIVATE KEY-----\n" + "Comment: " * 99, 0),
    "spaces in headers of keys": ("-----BEGIN PRIVATE KEY" + " " * 9_999, 0),
    "beginnings of keys within a word": ("x" + "MHcCAQEEI" * 9_999, 0),
    "beginnings of tokens": ("ey" * 9_999 + ".", 0),
    "signs": ("a@b" * 9_999, 0),
    "lone surrogates": ("\ud800" * 99, 0),
    "plus signs": ("+" * 9_999, 0),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_texts_are_read_to_their_end(name):
    text, finds = HOSTILE[name]
    assert len(looking_for().spans(text)) == finds
    (span,) = looking_for("credit_card").spans(f"{text} | {CARD}")
    assert (span.end - span.start, span.what) == (16, "credit_card")


PLACED = (
    CARD,
    "4111 1111 1111 1111",
    ACCOUNT,
    "KZ86125KZT5004100100",
    "030/901820",
    "(020) 7946 0958",
    "1 (212) 555-0123",
)
AROUND = ("", *" _x7(,+-.\n\\", "\\n", "\\t", "é", "\u017f", "\u212a", "\u0661", "\ud800", "12 ", "DE", "0x")
BEGUN = [(source, check) for probes in PROBES.values() for source, check in probes if source in BEGINS]


@given(
    st.lists(st.sampled_from(AROUND), max_size=3).map("".join),
    st.lists(st.sampled_from((*PLACED, *AROUND)), min_size=1, max_size=5).map("".join),
)
def test_the_one_pass_sees_whatever_a_check_confirms(before, text):
    data = (before + text).encode("utf-8", "surrogatepass")
    assert len(BEGUN) == len(BEGINS)
    for source, check in BEGUN:
        starts = [place for place in range(len(data)) if compiled(source).match(data, place) is not None]
        confirmed = [place for place in starts if check(data, place, compiled(source).match(data, place).end())[0] >= 0]
        seen = PatternSet([f"{BEGINS[source]}(?:{source})"]).match(data)
        assert seen or not confirmed


@pytest.mark.parametrize("word", PLACED)
@pytest.mark.parametrize("before", AROUND)
def test_what_is_before_a_number_is_no_way_to_hide_it(before, word):
    some = looking_for("credit_card", "iban", "phone")
    found = some.spans(before + word)
    data = (before + word).encode("utf-8", "surrogatepass")
    at = len(before.encode("utf-8", "surrogatepass"))
    matched = [(compiled(source).match(data, at), check) for source, check in BEGUN]
    if any(match is not None and check(data, at, match.end())[0] >= 0 for match, check in matched):
        assert found[-1].end >= len(before) + len(word)


CHANCE = random.Random(1)
DIGITS = {
    "table": "".join(
        f"{CHANCE.randrange(10**7)},{CHANCE.random() * 1000:.2f};{CHANCE.randrange(999)}\n" for _ in range(9999)
    ),
    "hexadecimal": "".join(CHANCE.choices("0123456789abcdef", k=200_000)),
    "cards": "".join(f"{CHANCE.randrange(4 * 10**15, 5 * 10**15)} x " for _ in range(9999)),
}


@pytest.mark.parametrize("name", DIGITS)
def test_digits_are_searched_like_any_other_text(name):
    """Some hundred times as long, where the automaton has a state for each combination of candidates."""
    text = DIGITS[name]
    finders = looking_for().alone()
    plain = "Nobody has answered the second question yet. "
    plain *= len(text) // len(plain)
    assert _seconds(finders, text) < 40 * _seconds(finders, plain)


def _seconds(finders, text):
    """Of CPU time that the one pass takes, at best."""
    spent = []
    for _ in range(5):
        begun = time.process_time()
        finders.suspects(text)
        spent.append(time.process_time() - begun)
    return min(spent)


@pytest.mark.parametrize("word", ["\u017fK8612500000050041001123", "\u212aZ86125KZT5004100101"])
def test_a_letter_that_folds_to_one_of_ascii_is_no_country(word):
    (span,) = looking_for("iban").spans(f"{word} {ACCOUNT}")
    assert span.start == len(word) + 1
