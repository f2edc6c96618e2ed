"""Conditions: what each operator makes of each type, what nothing and what several values mean, what is said of it."""

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openmcp.config.model import Condition
from openmcp.config.patterns import check_pattern
from openmcp.sidecar.policy import conditions
from openmcp.sidecar.policy.conditions import FALSE, TRUE, UNSURE, Conditions, seen
from tests.policy.rules import when

VALUES: list[Any] = [None, True, False, 0, 1, 5, -3, 5.5, 10**30, "", "5", "abc", "ABC", [], ["abc"], {}, {"a": 1}]
NO_BOOLEANS: list[Any] = [value for value in VALUES if type(value) in (int, float, str)]

ONE: dict[str, tuple[Condition, list[Any], list[Any]]] = {
    # condition, what satisfies it, what it cannot judge; everything else of VALUES does not satisfy it
    "eq a text": (when("$.x", "eq", "abc"), ["abc"], []),
    "eq a number": (when("$.x", "eq", 5), [5], ["5"]),
    "eq one": (when("$.x", "eq", 1), [1], [True]),
    "eq true": (when("$.x", "eq", True), [True], NO_BOOLEANS),
    "eq false": (when("$.x", "eq", False), [False], NO_BOOLEANS),
    "eq null": (when("$.x", "eq"), [None], []),
    "ne": (when("$.x", "ne", 1), [value for value in VALUES if value != 1], [True]),
    "in": (when("$.x", "in", ["abc", 5, True]), ["abc", 5, True], NO_BOOLEANS),
    "in, of one": (when("$.x", "in", "abc"), ["abc"], []),
    "notIn": (
        when("$.x", "notIn", ["abc", 5]),
        [value for value in VALUES if value not in ("abc", 5, "5")],
        ["5"],
    ),
    "matches": (when("$.x", "matches", "[a-z]+"), ["abc"], [v for v in VALUES if not isinstance(v, str)]),
    "matches the whole": (when("$.x", "matches", "b"), [], [v for v in VALUES if not isinstance(v, str)]),
    "glob": (when("$.x", "glob", "*b*"), ["abc"], [v for v in VALUES if not isinstance(v, str)]),
    "lt": (when("$.x", "lt", 5), [0, 1, -3], [v for v in VALUES if type(v) not in (int, float)]),
    "lte": (when("$.x", "lte", 5), [0, 1, 5, -3], [v for v in VALUES if type(v) not in (int, float)]),
    "gt": (when("$.x", "gt", 5), [5.5, 10**30], [v for v in VALUES if type(v) not in (int, float)]),
    "gte": (when("$.x", "gte", 5.5), [5.5, 10**30], [v for v in VALUES if type(v) not in (int, float)]),
    "exists": (when("$.x", "exists"), VALUES, []),
    "absent": (when("$.x", "absent"), [], []),
    "cidr": (when("$.x", "cidr", "10.0.0.0/8"), [], VALUES),
    "lengthAtMost": (
        when("$.x", "lengthAtMost", 1),
        ["", "5", [], ["abc"]],
        [v for v in VALUES if not isinstance(v, str | list)],
    ),
}


def same(value: Any, values: list[Any]) -> bool:
    return any(type(one) is type(value) and one == value for one in values)


@pytest.mark.parametrize(("condition", "true", "unsure"), ONE.values(), ids=ONE.keys())
def test_an_operator_on_every_type(condition: Condition, true: list[Any], unsure: list[Any]) -> None:
    expected = [TRUE if same(value, true) else UNSURE if same(value, unsure) else FALSE for value in VALUES]
    assert [Conditions([condition]).judge({"x": value}) for value in VALUES] == expected


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [(1, 1.0, True), (1.0, 1, True), ("1", 2, False), (True, 2, False), ("one", 1, False), ("", 1, False)]
    + [(2**63 + 1, 2**63 + 1, True), (2**53 + 1, float(2**53), False), ("\u00e9", "e\u0301", False), (None, 0, False)]
    + [(None, False, False), ([], False, False), (["1"], 1, False), (False, "", False), (0, "", False)]
    + [
        ("nan", 1, False),
        ("9" * 5000, 1, False),
        (10**400, "1", False),
        (5, "abc", False),
        ({}, "{}", False),
        ("null", None, False),
    ],
)
def test_equality_keeps_types_apart(one: Any, other: Any, equal: bool) -> None:
    assert Conditions([when("$.x", "eq", other)]).judge({"x": one}) == (TRUE if equal else FALSE)
    assert Conditions([when("$.x", "ne", other)]).judge({"x": one}) == (FALSE if equal else TRUE)
    assert Conditions([when("$.x", "in", ["z", other])]).judge({"x": one}) == (TRUE if equal else FALSE)
    assert Conditions([when("$.x", "notIn", ["z", other])]).judge({"x": one}) == (FALSE if equal else TRUE)


@pytest.mark.parametrize(
    ("one", "other"),
    [("102", 102), (" 102\n", 102), ("102.0", 102), ("1.02e2", 102), ("0x66", 102), ("+102", 102), ("00102", 102)]
    + [("1_02", 102), ("\u0661\u0660\u0662", 102), ("0" * 9000 + "102", 102), ("-3", -3), ("2.50", 2.5), ("", 0)]
    + [(" ", 0), ("inf", float("inf")), (102, "102"), (2.5, "2.50"), (10**400, "1" + "0" * 400), (True, 1), (False, 0)]
    + [("yes", 1), ("OFF", 0), (True, "true"), (False, "False"), (True, "1"), ("true", True), ("false", True)]
    + [("anything", False), (1, True), (0, True), (0.0, False), ("", False)],
)
def test_what_a_server_may_convert_is_neither_equal_nor_another(one: Any, other: Any) -> None:
    for op, value in (("eq", other), ("ne", other), ("in", ["z", other]), ("notIn", ["z", other])):
        judged = Conditions([when("$.x", op, value)])
        assert judged.judge({"x": one}) == UNSURE
        assert "cannot be judged" in judged.why({"x": one})


@pytest.mark.parametrize(
    ("networks", "address", "state"),
    [
        ("10.0.0.0/8", "10.1.2.3", TRUE),
        ("10.0.0.0/8", "11.1.2.3", FALSE),
        ("10.0.0.0/8", "::ffff:10.1.2.3", TRUE),
        ("::ffff:0:0/96", "::ffff:10.1.2.3", TRUE),
        ("10.0.0.0/8", "::1", FALSE),
        (["10.0.0.0/8", "fd00::/8"], "fd00::1", TRUE),
        ("fd00::/8", "10.0.0.1", FALSE),
        ("10.0.0.0/8", "fe80::1%eth0", UNSURE),
        ("10.0.0.0/8", "10.1", UNSURE),
        ("10.0.0.0/8", "010.0.0.1", UNSURE),
        ("10.0.0.0/8", "0x0a000001", UNSURE),
        ("10.0.0.0/8", "167772161", UNSURE),
        ("10.0.0.0/8", 167772161, UNSURE),
        ("10.0.0.0/8", " 10.0.0.1", UNSURE),
        ("10.0.0.0/8", "10.0.0.1/32", UNSURE),
        ("10.0.0.0/8", "localhost", UNSURE),
    ],
)
def test_an_address_in_another_spelling_is_judged_or_not_but_never_missed(
    networks: Any, address: Any, state: int
) -> None:
    assert Conditions([when("$.x", "cidr", networks)]).judge({"x": address}) == state


POSITIVE = [("eq", 1), ("in", [1]), ("matches", "1"), ("glob", "*"), ("lt", 1), ("lte", 1), ("gt", 1), ("gte", 1)]


@pytest.mark.parametrize(
    ("op", "value", "state"),
    [(op, value, FALSE) for op, value in [*POSITIVE, ("exists", None), ("cidr", "::/0"), ("lengthAtMost", 9)]]
    + [("ne", 1, TRUE), ("notIn", [1], TRUE), ("absent", None, TRUE)],
)
def test_a_path_that_finds_nothing(op: str, value: Any, state: int) -> None:
    assert Conditions([when("$.x.y", op, value)]).judge({"x": 1}) == state
    assert Conditions([when("$.x.y", op, value)]).judge({}) == state


@pytest.mark.parametrize(
    ("found", "state"),
    [([1, 1], TRUE), ([2, 3], FALSE), ([1, 2], UNSURE), ([2, 1], UNSURE), ([], FALSE), ([1], TRUE)],
)
def test_several_values_have_to_agree(found: list[int], state: int) -> None:
    assert Conditions([when("$.x[*]", "eq", 1)]).judge({"x": found}) == state


@pytest.mark.parametrize(
    ("states", "together"),
    [
        ([], TRUE),
        ([TRUE, TRUE], TRUE),
        ([TRUE, UNSURE], UNSURE),
        ([UNSURE, TRUE], UNSURE),
        ([UNSURE, FALSE], FALSE),
        ([FALSE, UNSURE], FALSE),
        ([TRUE, FALSE], FALSE),
    ],
)
def test_all_conditions_must_hold(states: list[int], together: int) -> None:
    one = {TRUE: when("$.x", "eq", "a"), FALSE: when("$.x", "eq", "b"), UNSURE: when("$.x", "gt", 1)}
    assert Conditions([one[state] for state in states]).judge({"x": "a"}) == together


@pytest.mark.parametrize("document", [None, [], ["x"], "x", 1, True])
@pytest.mark.parametrize("condition", [when("$.x", "absent"), when("$.x", "exists"), when("$", "eq", "x")])
def test_arguments_that_are_no_object_cannot_be_judged(document: Any, condition: Condition) -> None:
    assert Conditions([condition]).judge(document) == UNSURE
    assert "not an object" in Conditions([condition]).why(document)


def test_keys_that_hide_nothing_of_one_name_may_hide_another() -> None:
    document = {"City": "x", "limit": 1}
    for _ in range(2):
        assert Conditions([when("$.limit", "eq", 1)]).judge(document) == TRUE
        assert Conditions([when("$.city", "exists")]).judge(document) == UNSURE
        assert Conditions([when("$.city", "exists")]).judge({**document, "city": "x"}) == UNSURE
        assert Conditions([when("$.limit", "eq", 1)]).judge({"limit": 1, "limit\0": 1}) == UNSURE


def test_what_is_remembered_of_keys_is_bounded() -> None:
    condition = Conditions([when("$.limit", "eq", 1)])
    for number in range(3000):
        assert condition.judge({"limit": 1, f"k{number}": 0}) == TRUE
    assert 0 < len(conditions._clear) <= 1024
    assert condition.judge({"limit": 1, "k" * 300: 0}) == TRUE
    assert ("limit", ("limit", "k" * 300)) not in conditions._clear


def test_whatever_goes_wrong_is_unsure() -> None:

    assert Conditions([when("$.x", "matches", ".*")]).judge({"x": "\ud800"}) == UNSURE
    assert Conditions([when("$.x", "glob", "*")]).judge({"x": "\ud800"}) == UNSURE


WORDS = {
    "a number": (when("$.x", "lte", 100), 250, "$.x lte 100: found 250"),
    "a text": (when("$.x", "matches", "[0-9]+"), "a7", '$.x matches "[0-9]+": found "a7"'),
    "of another type": (when("$.x", "lte", 100), "5", '$.x lte 100 cannot be judged: found "5"'),
    "nothing": (when("$.y", "eq", True), 1, "$.y eq true: found nothing"),
    "absent": (when("$.x", "absent"), None, "$.x absent: found null"),
    "several": (when("$.x[*]", "eq", 1), [1, 2], "$.x[*] eq 1 cannot be judged: found 2 values, 2 among them"),
    "many values": (when("$.x", "in", [1, 2, 3, 4, 5, 6]), 7, "$.x in [1, 2, 3, 4, 5, …]: found 7"),
    "a list": (when("$.x", "eq", 1), [1, 2], "$.x eq 1: found a list of 2"),
    "an object": (when("$.x", "eq", 1), {"a": 1}, "$.x eq 1: found an object with 1 key"),
    "control characters": (when("$.x", "eq", "a"), "\x1b[2J\u202e\n", '$.x eq "a": found "\\u001b[2J�\\n"'),
}


@pytest.mark.parametrize(("condition", "value", "words"), WORDS.values(), ids=WORDS.keys())
def test_what_is_said_of_a_condition_that_does_not_hold(condition: Condition, value: Any, words: str) -> None:
    assert Conditions([when("$", "exists"), condition]).why({"x": value}) == words


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=300), st.lists))
def test_what_is_seen_is_one_short_line(value: Any) -> None:
    assert len(seen(value)) <= 80
    assert seen(value).isprintable()


def test_what_is_seen_of_something_large_is_short_and_quick() -> None:
    assert seen("a" * 10_000_000) == '"' + "a" * 78 + "…"
    assert seen(10**100_000) == "a number of more than 80 digits"
    assert seen([0] * 1_000_000) == "a list of 1000000"


@pytest.mark.parametrize("pattern", [r"[\p{L}]{1,55}", "(a|b)*c{900}", "[0-9]{1,12}"])
def test_a_pattern_of_any_size_that_is_accepted_is_judged(pattern: str) -> None:
    assert check_pattern(pattern) is None
    judged = Conditions([when("$.x", "matches", pattern)])
    expected = [TRUE if re.fullmatch(pattern.replace(r"\p{L}", "a-zA-Z"), text) else FALSE for text in TEXTS]
    assert [judged.judge({"x": text}) for text in TEXTS] == expected


TEXTS = ["", "12345", "a" * 100, "ab" * 50 + "c" * 900, "a" * 1000, "1\n", "\n"]
