"""Globs that cover each other, or overlap, held against all short texts."""

from itertools import product

from hypothesis import example, given
from hypothesis import strategies as st

from openmcp.config.globs import covers, is_literal, overlap
from openmcp.identity.globs import matches

TEXTS = ["".join(text) for size in range(7) for text in product("ab", repeat=size)]
GLOBS = st.text("ab*?", max_size=4)
"""Two that overlap match a text of 6: where both have a star, three more characters each; else 4."""


@given(general=GLOBS, special=GLOBS)
@example(general="a*", special="a?*")
@example(general="?*", special="*?")
@example(general="*a", special="*b*a")
@example(general="a?", special="a*")
def test_what_covers_a_glob_matches_all_that_it_matches(general, special):
    inside = all(matches(general, text) for text in TEXTS if matches(special, text))
    assert not covers(general, special) or inside
    if is_literal(special) or general in ("*", special):
        assert covers(general, special) is inside


def test_what_covers_plainly():
    assert covers("get_*", "get_*")
    assert covers("get_*", "get_ticket_*")
    assert covers("*", "*x*")
    assert covers("key:*", "key:ci-?")
    assert covers("*_ticket*", "get_ticket*")
    assert not covers("get_*", "g*")
    assert not covers("get_?", "get_*")


@given(one=GLOBS, other=GLOBS)
@example(one="a*", other="*b")
@example(one="?a", other="*b")
@example(one="??b*", other="*aaa")
def test_globs_that_overlap_match_some_text_both(one, other):
    assert overlap(one, other) is any(matches(one, text) and matches(other, text) for text in TEXTS)


def test_many_stars_take_no_long_time():
    assert not covers("*a" * 200 + "b", "*a" * 200 + "c*")
    assert not overlap("*a" * 200 + "b", "*a" * 200 + "c")
