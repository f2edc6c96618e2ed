"""Patterns that RE2 refuses are refused with a reason."""

import pytest
import re2
from hypothesis import given
from hypothesis import strategies as st

from openmcp.config.patterns import check_pattern, options

MEMORY = "it needs too much memory: repeat less, or use smaller classes of characters"
REPEATS = "is no repetition of RE2: 1000 times at most, nested ones multiplied, the smaller number first"


@pytest.mark.parametrize(
    "pattern", ["", r"\bCUST-[0-9]{8}\b", r"@acme\.example$", "(?i)é{100}", r"\\C", r"\pL+", "(?P<n>a)|b", "a{2,}?"]
)
def test_patterns_that_are_accepted(pattern):
    assert check_pattern(pattern) is None


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        ("a(?=x)", "look-ahead and look-behind, (?=, are not part of RE2"),
        ("(?<!x)a", "look-ahead and look-behind, (?<!, are not part of RE2"),
        (r"(a)\1", r"back-references such as \1 are not part of RE2"),
        ("(?>a)", "atomic groups, (?>, are not part of RE2"),
        ("(?#a)", "comments, (?#, are not part of RE2"),
        ("(?x)a", "(?x is not part of RE2"),
        (r"a\Z", r"\Z is not part of RE2: the end of the text is \z"),
        (r"\y", r"\y has no meaning in RE2: a character that stands for itself needs no " + "\\"),
        ("(a", "a ( is not closed"),
        ("a)", "a ) that no ( opens"),
        ("[a", "a [ is not closed: [a"),
        ("*a", r"nothing stands before * that could be repeated (a text: \*)"),
        ("a++", "++ repeats a repetition, which is not part of RE2"),
        ("a{1001}", f"{{1001}} {REPEATS}"),
        ("((a{100}){100}){100}", f"{{100}} {REPEATS}"),
        ("[z-a]", "z-a is no range or class of characters"),
        ("a\\", "it ends with a single \\"),
        (r"[\pL\pN]{1,500}", MEMORY),
        (r"\pL{200}", MEMORY),
        ("x" * 100_000, MEMORY),
        (r"a\Cb", r"\C, a single byte, is not available: the text is searched by characters"),
        ("(?P<n", "invalid named capture group: (?P<n"),
        ("a\ud800", "it holds half of a character (a lone surrogate)"),
    ],
)
def test_patterns_that_are_refused(pattern, reason):
    assert check_pattern(pattern) == reason


@given(pattern=st.text(max_size=12) | st.text("ab()[]{}?*+\\|^$.,:=!<>P019-", max_size=12), text=st.text(max_size=20))
def test_what_is_accepted_can_be_searched_for_and_what_is_refused_has_a_reason(pattern, text):
    reason = check_pattern(pattern)
    if reason is None:
        compiled = re2.compile(pattern, options())
        assert all(text[found.start() : found.end()] == found[0] for found in compiled.finditer(text))
    else:
        assert reason.strip()


def test_nothing_is_written_to_standard_error(capfd):
    check_pattern("a{1001}")
    assert capfd.readouterr().err == ""
