"""Sealed tokens: readable and made by us alone, for one purpose, in one spelling."""

import string

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from openmcp.sidecar.sealing import Sealer

KEY = bytes(range(32))
SEALER = Sealer(KEY)


class Shape(msgspec.Struct, frozen=True, array_like=True):
    owner: str
    number: int


VALUE = Shape("key:bot", 7)


def test_what_was_sealed_opens_with_the_same_key_and_purpose_alone() -> None:
    token = SEALER.seal(b"session", VALUE)
    assert SEALER.open(b"session", token, Shape) == VALUE
    assert Sealer(KEY).open(b"session", token, Shape) == VALUE, "another replica under the same key"
    assert SEALER.open(b"event", token, Shape) is None
    assert SEALER.open(b"", token, Shape) is None
    assert Sealer(b"x" * 32).open(b"session", token, Shape) is None
    assert SEALER.open(b"session", token, tuple[str, str, str]) is None, "another shape"  # type: ignore[comparison-overlap]  # the point


def test_every_flipped_character_fails() -> None:
    token = SEALER.seal(b"session", VALUE)
    alphabet = string.ascii_letters + string.digits + "-_"
    for position, right in enumerate(token):
        for wrong in alphabet.replace(right, ""):
            changed = token[:position] + wrong + token[position + 1 :]
            assert SEALER.open(b"session", changed, Shape) is None, (position, wrong)


@pytest.mark.parametrize(
    "change",
    [
        lambda token: "",
        lambda token: token[:-1],
        lambda token: token[1:],
        lambda token: token + "A",
        lambda token: token + "=",
        lambda token: token + "==",
        lambda token: token + "\n",
        lambda token: " " + token,
        lambda token: token[:10] + "\n" + token[10:],
        lambda token: token.replace("-", "+").replace("_", "/") + "+",
        lambda token: token + token,
        lambda token: "A" * 16,
        lambda token: "é" + token[1:],
        lambda token: "\ud800",
    ],
)
def test_a_token_has_one_spelling(change: object) -> None:
    token = SEALER.seal(b"session", VALUE)
    assert SEALER.open(b"session", change(token), Shape) is None  # type: ignore[operator]  # the reason: mypy does not see that it is a function


def test_plus_and_slash_are_no_other_spelling() -> None:
    for number in range(200):  # until one has both characters
        token = SEALER.seal(b"session", Shape("key:bot", number))
        other = token.replace("-", "+").replace("_", "/")
        if other != token:
            assert SEALER.open(b"session", other, Shape) is None


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=50), st.integers(0, 2**63))
def test_equal_values_give_equal_visible_tokens_and_others_different_ones(owner: str, number: int) -> None:
    value = Shape(owner, number)
    token = SEALER.seal(b"session", value)
    assert SEALER.open(b"session", token, Shape) == value
    assert SEALER.seal(b"session", value) == token
    assert SEALER.seal(b"event", value) != token
    assert SEALER.seal(b"session", Shape(owner + "x", number)) != token
    assert set(token) <= set(string.ascii_letters + string.digits + "-_")


@given(st.text(max_size=80) | st.text(string.ascii_letters + "-_", max_size=80))
def test_garbage_opens_to_nothing(token: str) -> None:
    assert SEALER.open(b"session", token, Shape) is None


def test_purpose_and_content_do_not_run_into_each_other() -> None:
    """One purpose may begin like another."""
    token = SEALER.seal(b"a", "b")
    assert SEALER.open(b"ab", token, str) is None
    assert SEALER.open(b"a", token, str) == "b"


def test_another_key_ends_all_tokens() -> None:
    sealer = Sealer(KEY)
    token = sealer.seal(b"session", VALUE)
    sealer.rekey(b"y" * 32)
    assert sealer.open(b"session", token, Shape) is None
    sealer.rekey(KEY)
    assert sealer.open(b"session", token, Shape) == VALUE


@pytest.mark.parametrize("size", [0, 16, 31, 33])
def test_a_key_has_32_bytes(size: int) -> None:
    with pytest.raises(ValueError, match=f"has {size} bytes and must have 32"):
        Sealer(b"k" * size)
