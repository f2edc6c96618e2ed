"""Paths find what jsonpath-ng finds, and what cannot be compiled is refused with a reason."""

import subprocess
import sys
import timeit
import warnings

import jsonpath_ng
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from openmcp.config.jsonpath import Lookalike, PathError, compile_locator, compile_path

DOCUMENT = {
    "ticket_id": "7",
    "a.b": 1,
    "*": 2,
    "a": {"b": [{"c": 1}, {"c": None}, {"d": 3}], "é": True},
    "": 0,
    "0": "zero",
}


@pytest.mark.parametrize(
    ("path", "values", "places"),
    [
        ("$", [DOCUMENT], [()]),
        ("$.ticket_id", ["7"], [("ticket_id",)]),
        ("ticket_id", ["7"], [("ticket_id",)]),
        ("$['a.b']", [1], [("a.b",)]),
        ("$['*']", [2], [("*",)]),
        ("$['']", [0], [("",)]),
        ("$.0", ["zero"], [("0",)]),
        ("$[0]", [], []),
        ("$.a.b.c", [], []),
        ("$.a.b[0].c", [1], [("a", "b", 0, "c")]),
        ("$.a.b[-1]", [{"d": 3}], [("a", "b", 2)]),
        ("$.a.b[9]", [], []),
        ("$.a.b[-4]", [], []),
        ("$.a.b[*].c", [1, None], [("a", "b", 0, "c"), ("a", "b", 1, "c")]),
        ("$.a.b[1:999999999999].d", [3], [("a", "b", 2, "d")]),
        ("$.a.b[::-1].c", [None, 1], [("a", "b", 1, "c"), ("a", "b", 0, "c")]),
        ("$.a.b[0,2]", [{"c": 1}, {"d": 3}], [("a", "b", 0), ("a", "b", 2)]),
        ("$['ticket_id','0','none']", ["7", "zero"], [("ticket_id",), ("0",)]),
        ('$.a["é"]', [True], [("a", "é")]),
        ("$..c", [1, None], [("a", "b", 0, "c"), ("a", "b", 1, "c")]),
        ("$.a.(x|b)[2].d", [3], [("a", "b", 2, "d")]),
        ("($.ticket_id)|($..d)", ["7", 3], [("ticket_id",), ("a", "b", 2, "d")]),
        ("$.ticket_id.x", [], []),
        ("$.ticket_id[0]", [], []),
        ("$.ticket_id.*", [], []),
    ],
)
def test_what_paths_find(path, values, places):
    assert compile_path(path)(DOCUMENT) == values
    assert compile_locator(path)(DOCUMENT) == places


NO_OPERATOR = "is not available here: only keys, indices, slices, *, .. and | are"


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("", "it ends too early"),
        ("$.", "it ends too early"),
        ("$.a[", "it ends too early"),
        ("$.'a", "a quote is not closed"),
        ("$.a b", "b cannot stand where it stands"),
        ("$.a.b$", "$ cannot stand where it stands"),
        ("$.é", "é cannot stand outside of quotes: a key with such characters is written ['key']"),
        ("$.a[?(@.b > 1)]", "filters, [?(...)], are not part of the grammar: use more than one condition"),
        ("$.a where b", f"the operator where {NO_OPERATOR}"),
        ("$.a wherenot b", f"the operator wherenot {NO_OPERATOR}"),
        ("$.a.`parent`", f"the operator `parent` {NO_OPERATOR}"),
        ("$.a.`this`", f"the operator `this` {NO_OPERATOR}"),
        ("$.a.`len`", f"the operator `len` {NO_OPERATOR}"),
        ("$.a&b", f"the operator & {NO_OPERATOR}"),
        ("@.a", "`@` is not known here: a path begins with $"),
        ("$.a|$.b", "$ can only begin a path; in a union write ($.a)|($.b), since | binds more than a dot"),
        ("$..a..b", "only one .. in a path: each further one multiplies the work on nested data"),
        ("$.a[::0]", "the step of a slice cannot be 0"),
        (f"$.{'a' * 255}", "longer than 256 characters"),
        (f"$[{'9' * 200}:{'x' * 20}]", "x" * 20 + " cannot stand where it stands"),
    ],
)
def test_what_cannot_be_compiled_is_refused_with_a_reason(path, reason):
    with pytest.raises(PathError) as refused:
        compile_path(path)
    assert str(refused.value) == reason
    with pytest.raises(PathError):
        compile_locator(path)


KEYS = st.sampled_from(["a", "b", "c"])
STEPS = st.one_of(
    KEYS.map(".{}".format),
    KEYS.map("['{}']".format),
    st.integers(-3, 3).map("[{}]".format),
    st.tuples(st.none() | st.integers(-3, 3), st.none() | st.integers(-3, 3), st.sampled_from([1, 2, -1])).map(
        lambda part: f"[{'' if part[0] is None else part[0]}:{'' if part[1] is None else part[1]}:{part[2]}]"
    ),
    st.sampled_from([".*", "[*]", ".(a|b)", ".(a|*.c)", "['a','c']", "[0,1]"]),
)
PATHS = st.builds(
    lambda before, middle, after: "$" + "".join(before) + middle + "".join(after),
    st.lists(STEPS, max_size=3),
    st.sampled_from(["", "", "..a", "..*", "..[0]"]),
    st.lists(STEPS, max_size=3),
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(0, 9) | st.text("abc", max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=15,
)


@given(path=PATHS, document=JSON)
@example(path="$..a.*", document={"a": {"a": [1]}})
def test_paths_find_what_the_library_finds(path, document):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        expected = [found.value for found in jsonpath_ng.parse(path).find(document)]
    assert compile_path(path)(document) == expected
    reached = []
    for place in compile_locator(path)(document):
        value = document
        for part in place:
            value = value[part]
        reached.append(value)
    assert reached == expected


@given(path=st.text("$.[]*'\"ab0-:,|&()` @?~\\\nwherethis", max_size=20), document=JSON)
def test_any_text_is_a_path_or_refused(path, document):
    try:
        get = compile_path(path)
    except PathError:
        return
    assert len(get(document)) == len(compile_locator(path)(document))


LOOKALIKES = [
    ("$.name", {"Name": 1}),
    ("$.name", {"name": 1, "NAME": 2}),
    ("$.name", {"name": 1, "name\0": 2}),
    ("$.name", {"name": 1, "\0": 2}),
    ("$.a.params", {"a": {"param\u017f": 1}}),
    ("$.A.b", {"a": {"b": 1}}),
    ("$..name", {"name": 1, "deep": [{"naMe": 2}]}),
    ("$.*.name", {"x": {"NAME": 1}}),
    ("$['a','b']", {"a": 1, "B": 2}),
    ("($.a)|($.b)", {"a": 1, "B": 2}),
    ("$.list[0].a", {"list": [{"A": 1}]}),
]


@pytest.mark.parametrize(("path", "document"), LOOKALIKES)
def test_a_key_that_others_may_read_as_the_paths_is_noticed(path, document):
    compile_path(path)(document)
    with pytest.raises(Lookalike, match="letter case"):
        compile_path(path, exact=True)(document)


@given(document=JSON)
@pytest.mark.parametrize("path", ["$.a", "$.a.b", "$..a", "$.*", "$[0].a", "$['a','b']"])
def test_without_such_keys_the_same_is_found(path, document):
    try:
        found = compile_path(path, exact=True)(document)
    except Lookalike:
        return
    assert found == compile_path(path)(document)


def test_the_deepest_data_and_the_longest_paths_are_no_trouble():
    document: object = 1
    for _ in range(5000):
        document = [{"a": document}]
    assert compile_path("$..a")(document)[-1] == 1
    assert compile_path("|".join(["a"] * 100))({"a": 1}) == [1] * 100
    assert compile_path("$" + ".a" * 120)({"a": 1}) == []


def test_a_plain_path_costs_little_more_than_the_lookups():
    get = compile_path("$.a.b")
    document = {"a": {"b": 1}}
    compiled = min(timeit.repeat(lambda: get(document), number=10_000, repeat=5))
    library = jsonpath_ng.parse("$.a.b")
    assert compiled * 4 < min(timeit.repeat(lambda: library.find(document), number=10_000, repeat=5))


def test_the_library_is_imported_when_a_path_is_compiled_and_not_before():
    script = (
        "import sys, openmcp.config.load, openmcp.config.jsonpath as j; assert 'jsonpath_ng' not in sys.modules\n"
        "j.compile_path('$.a'); assert 'jsonpath_ng' in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0
