"""Two different questions never have one fingerprint; the same question has one in every process."""

import hmac
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openmcp.sidecar.approvals.fingerprint import Ambiguous, canonical, digest, fingerprint, values_at

KEY = b"k" * 32
RULES = (("tickets", "refunds"),)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


def same(one, two):
    """Equal as JSON: True is not 1, and 1 is not 1.0."""
    if type(one) is not type(two):
        return False
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(same(one[key], two[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(two) and all(map(same, one, two))
    return one == two and str(one) == str(two)


@given(values, values)
def test_the_canonical_form_tells_values_apart(one, two):
    assert (canonical(one) == canonical(two)) is same(one, two)
    assert same(json.loads(canonical(one)), one)


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        ({"a": {"x": [], "y": {}}}, {"a": {"y": {}, "x": []}}),
        ("\u00fc", "ü"),
    ],
)
def test_how_it_is_written_does_not_matter(one, two):
    assert digest(one) == digest(two)


@pytest.mark.parametrize(
    ("one", "two"),
    [
        (1, 1.0),
        (1, True),
        (0, False),
        (0.0, -0.0),
        ("1", 1),
        (None, "null"),
        ([], {}),
        (10**20, 10**20 + 1),
        (2**53, 2**53 + 1),
        ("é", "e\u0301"),
        ("a", "A"),
        ({"a": None}, {}),
        ([1, [2]], [[1], 2]),
    ],
)
def test_what_a_server_may_tell_apart_is_told_apart(one, two):
    assert digest(one) != digest(two)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1, 2}, b"x"])
def test_what_is_not_json_cannot_be_approved(value):
    with pytest.raises(Ambiguous):
        canonical({"a": value})


def test_what_nests_without_end_cannot_be_approved():
    deep = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(Ambiguous):
        canonical(deep)


def test_paths_bind_what_they_find():
    arguments = {"ticket_id": "T-7", "lines": [{"sum": 1}, {"sum": 2}], "other": 3}
    assert values_at(("$.ticket_id", "$.lines[*].sum", "$.none"), arguments) == (
        ("$.lines[*].sum", "[1,2]"),
        ("$.none", "[]"),
        ("$.ticket_id", '["T-7"]'),
    )
    assert values_at(("$.ticket_id",), {"ticket_id": None}) != values_at(("$.ticket_id",), {})
    assert values_at(("$.a", "$.b", "$.a"), {}) == values_at(("$.b", "$.a"), {})


@pytest.mark.parametrize("key", ["Ticket_ID", "TICKET_ID", "ticket_id\0"])
def test_a_key_that_can_be_read_as_a_bound_one_cannot_be_approved(key):
    with pytest.raises(Ambiguous, match="can be read as another one"):
        values_at(("$.ticket_id",), {"ticket_id": "T-7", key: "T-8"})


def test_the_same_question_has_the_same_fingerprint_everywhere():
    found = fingerprint(KEY, RULES, ("a", "s"), ("tools/call", "refund"), (("$.t", '["T-7"]'),), ("0" * 64,))
    said = b'[1,[["tickets","refunds"]],"a","s","tools/call","refund","paths",[["$.t","[\\"T-7\\"]"]]]'
    assert found == hmac.new(KEY, said, "sha256").hexdigest()
    other_way = fingerprint(KEY, RULES * 2, ("a", "s"), ("tools/call", "refund"), (("$.t", '["T-7"]'),), ("1" * 64,))
    assert other_way == found


BASE = {
    "key": KEY,
    "rules": (("p", "r"), ("p", "s")),
    "caller": ("agent", "server"),
    "subject": ("tools/call", "refund"),
    "bound": (("$.a", "[1]"),),
    "whole": ("0" * 64,),
}


@pytest.mark.parametrize(
    "changes",
    [
        {"key": b"K" * 32},
        {"rules": (("p", "r"),)},
        {"rules": (("p", "r"), ("p", "s"), ("q", "s"))},
        {"rules": (("p", "s"), ("r", "p"))},
        {"caller": ("agent2", "server")},
        {"caller": ("agent", "server2")},
        {"caller": ("agents", "erver")},
        {"caller": ("server", "agent")},
        {"subject": ("prompts/get", "refund")},
        {"subject": ("tools/call", "refunds")},
        {"bound": (("$.a", "[2]"),)},
        {"bound": (("$.b", "[1]"),)},
        {"bound": (("$.a", "[1]"), ("$.b", "[]"))},
        {"bound": ()},
        {"bound": None},
    ],
)
def test_everything_counts(changes):
    assert fingerprint(**{**BASE, **changes}) != fingerprint(**BASE)


def test_whole_arguments_count_where_no_path_does():
    whole = {**BASE, "bound": None}
    other = ("1" * 64,), ("0" * 64, "1" * 64), ("1" * 64, "0" * 64)
    assert len({fingerprint(**{**whole, "whole": digests}) for digests in (("0" * 64,), *other)}) == 4
