"""The index of rules by name: agrees with matching one by one, and never takes "too much" for "nothing"."""

import pytest
import re2
from hypothesis import given
from hypothesis import strategies as st

from openmcp.config import globs as plain
from openmcp.sidecar.policy.index import NameIndex

texts = st.text("ab*?/.\n\\[é", max_size=8)


@given(st.lists(texts, max_size=8), st.lists(st.integers(0, 20), max_size=3), texts)
def test_it_agrees_with_a_matcher_that_shares_no_code(globs: list[str], always: list[int], name: str) -> None:
    numbered = [(glob, number % 5) for number, glob in enumerate(globs)]
    expected = {number for glob, number in numbered if plain.matches(glob, name)} | set(always)
    assert NameIndex(always, numbered).lookup(name) == sorted(expected)


def test_many_globs_and_literals() -> None:
    numbered = [(f"tool_{number}", number) for number in range(1000)]
    numbered += [(f"*_{number}", 1000 + number) for number in range(1000)]
    index = NameIndex([5000], numbered)
    assert index.lookup("tool_7") == [7, 1007, 5000]
    assert index.lookup("other_7") == [1007, 5000]
    assert index.lookup("other") == [5000]


def test_more_globs_than_one_automaton_takes_are_several() -> None:
    numbered = [(f"*{number}*{number % 7}*{'c' * 40}", number) for number in range(5000)]
    index = NameIndex([], numbered)
    assert len(index._groups) > 1
    name = f"x4321y{4321 % 7}z{'c' * 40}"
    assert index.lookup(name) == [number for glob, number in numbered if plain.matches(glob, name)]


def test_an_automaton_that_gives_up_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    """RE2 says of a set whose memory does not suffice that nothing matches: a denial would be overlooked."""
    index = NameIndex([], [("a*", 1), ("*b", 2), ("*c", 3)])
    for given_up in (None, [], [0]):
        monkeypatch.setattr(re2.Set, "Match", lambda *_, given_up=given_up: given_up)
        assert index.lookup("a-b") == [1, 2]
