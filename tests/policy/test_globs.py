"""Globs: `*` is any text, `?` one character, everything else itself."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openmcp.config import globs as plain
from openmcp.config.globs import is_literal
from openmcp.sidecar.policy.globs import GlobSet


@pytest.mark.parametrize(
    ("glob", "matching", "other"),
    [
        ("a", ["a"], ["", "A", "aa", "a\n", "b"]),
        ("*", ["", "a", "a/b", "a\nb", "é"], []),
        ("?", ["a", "/", "\n", "é", "😀"], ["", "aa"]),
        ("delete_*", ["delete_", "delete_all", "delete_a/b"], ["delete", "xdelete_a", "Delete_a"]),
        ("*_admin", ["_admin", "x_admin"], ["x_admins"]),
        ("a*b*c", ["abc", "aXbYc", "abbcc"], ["acb", "ab"]),
        ("ticket://*/comments", ["ticket://1/comments", "ticket://1/2/comments"], ["ticket://1/comments/x"]),
        ("spiffe://a/ns/x/sa/*", ["spiffe://a/ns/x/sa/y"], ["spiffe://a/ns/xx/sa/y", "spiffe://aXns/x/sa/y"]),
        ("a.c", ["a.c"], ["abc"]),
        ("[ab]", ["[ab]"], ["a"]),
        ("a|b", ["a|b"], ["a", "b"]),
        ("(?i)a", ["(?i)a", "(xi)a"], ["A", "a"]),
        ("$^*", ["$^", "$^a"], [""]),
        ("\\*", ["\\", "\\a"], ["*"]),
        ("\\Q*", ["\\Qa"], ["a"]),
        ("é?", ["éa", "éé"], ["é"]),
        ("\0*", ["\0", "\0a"], ["a"]),
        ("", [""], ["a"]),
        ("**", ["", "a"], []),
    ],
)
def test_a_glob(glob: str, matching: list[str], other: list[str]) -> None:
    globs = GlobSet([glob])
    assert [text for text in matching if not globs.matches(text)] == []
    assert [text for text in other if globs.matches(text)] == []
    assert is_literal(glob) is ("*" not in glob and "?" not in glob)


def test_a_set_matches_where_one_of_it_does() -> None:
    globs = GlobSet(["get_ticket", "search_*", "?x"])
    assert [name for name in ("get_ticket", "search_a", "ax", "get_tickets", "xa", "") if globs.matches(name)] == [
        "get_ticket",
        "search_a",
        "ax",
    ]
    assert not GlobSet([]).matches("")


texts = st.text("ab*?/.\n\\[é", max_size=8)


@given(st.lists(texts, max_size=4), texts)
def test_a_set_agrees_with_a_matcher_that_shares_no_code(globs: list[str], text: str) -> None:
    assert GlobSet(globs).matches(text) is any(plain.matches(glob, text) for glob in globs)


def test_time_is_linear_whatever_the_glob() -> None:
    globs = GlobSet(["*a*a*a*a*a*a*a*a*a*a*b"])
    before = time.process_time()
    assert not globs.matches("a" * 200_000)
    assert time.process_time() - before < 1.0
