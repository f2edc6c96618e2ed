"""Conditions that contradict each other are found, and no others; held against the engine's own judgement."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openmcp.config.contradictions import contradiction
from openmcp.config.model import Condition, Operator
from openmcp.sidecar.policy.conditions import TRUE, Conditions


def conditions(*given_):
    return [Condition(path="$.a", op=Operator(op), value=value) for op, value in given_]


@pytest.mark.parametrize(
    "given_",
    [
        [("eq", 1), ("eq", 2)],
        [("eq", "1"), ("eq", 1)],
        [("eq", 1), ("ne", 1)],
        [("eq", True), ("in", (1, 0))],
        [("in", ("a", "b")), ("notIn", ("b", "a", "c"))],
        [("exists", None), ("absent", None)],
        [("absent", None), ("eq", 1)],
        [("lt", 5), ("gt", 5)],
        [("lte", 5), ("gt", 5)],
        [("lt", 1), ("gte", 2)],
        [("eq", 7), ("lt", 7)],
        [("eq", "x"), ("lt", 7)],
        [("eq", "ab"), ("matches", "[0-9]+")],
        [("eq", 12), ("matches", "[0-9]+")],
        [("in", ("ab", "cd")), ("glob", "x*")],
        [("eq", "abc"), ("lengthAtMost", 2)],
        [("eq", "10.0.0.1"), ("cidr", ("192.168.0.0/16",))],
        [("eq", "host"), ("cidr", ("192.168.0.0/16",))],
        [("lt", 5), ("matches", "[0-9]+")],
        [("lt", 5), ("cidr", ("10.0.0.0/8",))],
        [("gt", 5), ("lengthAtMost", 8)],
    ],
)
def test_contradictions(given_):
    assert contradiction(conditions(*given_)) == "$.a"


@pytest.mark.parametrize(
    "given_",
    [
        [("eq", 1), ("in", (1, 2))],
        [("eq", 1), ("eq", 1.0)],
        [("in", (1, 2)), ("ne", 1)],
        [("absent", None), ("ne", 1)],
        [("ne", 1), ("ne", 2)],
        [("exists", None), ("ne", 1)],
        [("gte", 5), ("lte", 5)],
        [("gt", 5), ("lt", 5.5)],
        [("eq", "12"), ("matches", "[0-9]+"), ("glob", "1*"), ("lengthAtMost", 2)],
        [("eq", "10.0.0.1"), ("cidr", ("192.168.0.0/16", "10.0.0.0/8"))],
        [("eq", "::ffff:10.0.0.1"), ("cidr", ("10.0.0.0/8",))],
        [("matches", "[0-9]+"), ("lengthAtMost", 3)],
        [("glob", "a*"), ("glob", "*b")],
    ],
)
def test_what_can_be_met(given_):
    assert contradiction(conditions(*given_)) is None


def test_conditions_on_two_paths_never_contradict():
    given_ = [Condition(path="$.a", op=Operator.EQ, value=1), Condition(path="$.b", op=Operator.EQ, value=2)]
    assert contradiction(given_) is None


VALUES = st.sampled_from(
    [0, 1, 1.0, 2, True, False, None, "", "1", "a", "ab", "10.0.0.1", "::ffff:10.0.0.1", "fe80::1%x"]
)
CONDITIONS = st.one_of(
    st.tuples(st.sampled_from(["eq", "ne"]), VALUES),
    st.tuples(st.sampled_from(["in", "notIn"]), st.lists(VALUES, min_size=1, max_size=3).map(tuple)),
    st.tuples(st.sampled_from(["lt", "lte", "gt", "gte"]), st.sampled_from([0, 1, 1.5, 2])),
    st.tuples(st.just("matches"), st.sampled_from(["a.*", "[0-9.]+", ".*"])),
    st.tuples(st.just("glob"), st.sampled_from(["a*", "?", "*"])),
    st.tuples(st.just("cidr"), st.sampled_from([("10.0.0.0/8",), ("192.168.0.0/16", "0.0.0.0/0")])),
    st.tuples(st.just("lengthAtMost"), st.sampled_from([0, 1, 9])),
    st.tuples(st.sampled_from(["exists", "absent"]), st.none()),
)


@given(given_=st.lists(CONDITIONS, min_size=2, max_size=4), value=VALUES | st.sampled_from([[], [1], {}]))
def test_no_value_meets_what_is_called_a_contradiction(given_, value):
    made = conditions(*given_)
    if contradiction(made) is not None:
        assert Conditions(made).judge({"a": value}) != TRUE
        assert Conditions(made).judge({}) != TRUE
