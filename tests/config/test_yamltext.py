"""Manifests are read as kubectl reads them, and written so that everybody reads the same again."""

import contextlib

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from openmcp.config.yamltext import NotYaml, read_manifests, write_manifests


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0644", 420),
        ("0o644", 420),
        ("-017", -15),
        ("0x1F", 31),
        ("1_000", 1000),
        ("0", 0),
        ("+5", 5),
        ("09", "09"),
        ("8080:80", "8080:80"),
        ("1:30", "1:30"),
        ("2026-11-21", "2026-11-21"),
        ("1.5", 1.5),
        ("yes", True),
        ("Off", False),
        ("y", True),
        ("N", False),
        ("nope", "nope"),
        ('"yes"', "yes"),
        ('"0644"', "0644"),
        ("~", None),
        ("null", None),
        ("100m", "100m"),
    ],
)
def test_values_are_what_kubernetes_takes_them_for(text, value):
    (read,) = read_manifests(f"a: {text}".encode())
    assert (read, type(read["a"])) == ({"a": value}, type(value))


def test_anchors_merge_keys_and_several_documents():
    text = b"---\na: &x {b: 1, c: 2}\nd: {<<: *x, c: 3}\n---\n---\n- *y\n".replace(b"- *y", b"- 1")
    assert read_manifests(text) == [{"a": {"b": 1, "c": 2}, "d": {"b": 1, "c": 3}}, [1]]


def test_keys_are_texts():
    assert read_manifests(b"1: a\ntrue: b\n~: c") == [{"1": "a", "true": "b", "~": "c"}]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"a: 1\nb: 2\na: 3", 'line 3: duplicate key "a"'),
        (b"[1]: 2", "line 1: a key that is no text"),
        (b"a: \xff", "invalid"),
        (b"a: !!python/object/apply:os.system [x]", "line 1: could not determine a constructor"),
        (b"a: *b", "line 1: "),
        (b"a: [", "line 2: did not find expected node content"),
    ],
)
def test_what_is_not_yaml(data, said):
    with pytest.raises(NotYaml, match=said.replace("[", r"\[")):
        read_manifests(data)


def test_lines_stay_lines():
    assert write_manifests([{"run": "a\nb\n"}]) == "---\nrun: |\n  a\n  b\n"


TEXTS = st.text(max_size=8) | st.sampled_from(
    [
        "y",
        "no",
        "Off",
        "null",
        "~",
        "0644",
        "0o7",
        "1:30",
        "2026-11-21",
        "1e3",
        ".inf",
        "=",
        "<<",
        "*a",
        "&a",
        "- a",
        "a: b",
        "#",
        "a #",
        "@",
        "`",
        "%",
        "\u2028",
        "a\n ",
        "\n",
        " a\nb",
        "\t",
        "0x1",
        "1_0",
        "true ",
    ]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
)


@given(st.lists(JSON.filter(lambda value: value is not None), max_size=3))
def test_what_is_written_is_read_as_it_was(documents):
    assert read_manifests(write_manifests(documents).encode()) == documents


@given(st.dictionaries(TEXTS, TEXTS, max_size=4))
def test_other_readers_take_texts_for_texts(document):
    assert yaml.safe_load(write_manifests([document])) == document


@given(st.binary(max_size=60) | st.text(alphabet="{}[]:,-&*!|>'\"%@` \n\taA0~", max_size=40).map(str.encode))
def test_any_bytes_are_read_or_not(data):
    with contextlib.suppress(NotYaml):
        assert isinstance(read_manifests(data), list)
