"""Output schemas of tools: what is remembered, what fits, and what a hostile schema can do."""

import subprocess
import sys
import time
import urllib.request
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openmcp.sidecar.inspection.validation import MAX_STEPS, validates
from openmcp.sidecar.stages.schemas import MAX_BYTES, MAX_SCHEMA, Schemas, fits

Json = dict[str, Any]


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        ({"type": "object", "required": ["a"]}, {"a": 1}, {}),
        ({"properties": {"a": {"type": "string"}}}, {"a": "x"}, {"a": 1}),
        ({"additionalProperties": False, "properties": {"a": {}}}, {"a": 1}, {"b": 1}),
        ({"additionalProperties": {"type": "integer"}, "patternProperties": {"^x": {}}}, {"xa": "", "b": 1}, {"b": ""}),
        ({"patternProperties": {"^n[0-9]+$": {"type": "number"}}}, {"n1": 1, "m": ""}, {"n1": ""}),
        ({"pattern": "^[a-z]+$"}, "abc", "ABC"),
        ({"uniqueItems": True}, [1, 2, True, "1", [1], {"a": 1}], [{"a": 1, "b": 2}, {"b": 2.0, "a": 1}]),
        ({"uniqueItems": True}, [1, True, 0, False], [1, 1.0]),
        ({"enum": ["a", 1]}, "a", "b"),
        ({"const": {"a": [1]}}, {"a": [1]}, {"a": [2]}),
        ({"items": {"type": "integer"}, "maxItems": 2}, [1, 2], [1, 2, 3]),
        ({"anyOf": [{"type": "string"}, {"minimum": 3}]}, 3, 2),
        ({"oneOf": [{"type": "integer"}, {"minimum": 3}]}, 1, 4),
        ({"allOf": [{"minimum": 1}, {"maximum": 2}]}, 1, 3),
        ({"not": {"type": "string"}}, 1, ""),
        ({"if": {"type": "string"}, "then": {"minLength": 2}}, "ab", "a"),
        ({"$defs": {"n": {"type": "integer"}}, "items": {"$ref": "#/$defs/n"}}, [1], [""]),
        ({"$defs": {"t": {"properties": {"c": {"$ref": "#/$defs/t"}, "v": {"type": "integer"}}}}, "$ref": "#/$defs/t"},
         {"c": {"c": {"v": 1}}}, {"c": {"c": {"v": ""}}}),
        ({"$schema": "http://json-schema.org/draft-07/schema#", "items": [{"type": "integer"}]}, [1, ""], [""]),
        ({"$schema": "https://json-schema.org/draft/2020-12/schema", "prefixItems": [{"type": "integer"}]}, [1], [""]),
        (True, {"a": 1}, None),
    ],
)  # fmt: skip
def test_what_fits(schema: Any, good: Any, bad: Any) -> None:
    assert validates(schema, good) is True
    assert validates(schema, bad) is (schema is True)


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"$ref": "http://127.0.0.1:1/schema"}, 1),
        ({"$ref": "file:///etc/passwd"}, 1),
        ({"$ref": "#/nowhere"}, 1),
        ({"$id": "http://127.0.0.1:1/", "$ref": "other"}, 1),
        ({"$ref": "#"}, 1),
        ({"$dynamicRef": "#a", "$dynamicAnchor": "a"}, 1),
        ({"unevaluatedProperties": True}, {}),
        ({"unevaluatedItems": True}, []),
        ({"$schema": "http://127.0.0.1:1/meta"}, 1),
        ({"$schema": 7}, 1),
        ({"pattern": "(?=x)"}, "x"),
        ({"pattern": "x" * 1001}, "x" * 1001),
        ({"patternProperties": {"(?<=a)b": {}}}, {"b": 1}),
        ({"properties": 7}, {"a": 1}),
        ({"type": {"a": 1}}, {}),
        ({"required": 7}, {}),
        ([], 1),
        ("true", 1),
        (None, 1),
        (False, 1),
    ],
)
def test_what_cannot_be_judged_does_not_fit(
    schema: Any, value: Any, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    fetched: list[Any] = []
    monkeypatch.setattr(urllib.request, "urlopen", fetched.append)
    assert validates(schema, value) is False
    assert fetched == [], "nothing is fetched"
    assert capfd.readouterr() == ("", ""), "and nothing is said of it"


def bomb(levels: int) -> Json:
    """A schema of a few lines that takes 2 to the power of `levels` steps."""
    definitions: Json = {f"l{n}": {"anyOf": [{"$ref": f"#/$defs/l{n + 1}"}] * 2} for n in range(levels)}
    return {"$defs": definitions | {f"l{levels}": {"type": "string"}}, "$ref": "#/$defs/l0"}


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        (bomb(40), 1),
        ({"items": {}}, [0] * (MAX_STEPS + 1)),
        ({"uniqueItems": True}, [[n] for n in range(MAX_STEPS + 1)]),
        ({"items": {"uniqueItems": True}}, [list(range(200))] * 200),
        ({"allOf": [{"const": list(range(5000))}] * 5000}, list(range(5000))),
        ({"allOf": [{"const": [[n] for n in range(900)]}] * 5000}, [[n] for n in range(900)]),
        ({"allOf": [{"const": [list(range(9000))]}] * 5000}, [list(range(9000))]),
        ({"anyOf": [{"maxLength": 1}] * 10_000}, "x" * 100_000),
        ({"allOf": [{"enum": [["x" * 1000] * 10]}] * 5000}, ["x" * 1000] * 10),
        ({"patternProperties": {f"^{n}": {} for n in range(500)}}, {str(n): 0 for n in range(500)}),
        ({"additionalProperties": False, "patternProperties": {f"^{n}": {} for n in range(500)}},
         {str(n): 0 for n in range(500)}),
        ({"pattern": "(x+x+)+y"}, "x" * 100_000),
        ({"allOf": [{"contains": {"const": 1}, "minContains": 0}] * 200}, [0] * 1000),
    ],
)  # fmt: skip
def test_a_schema_bomb_goes_out(schema: Json, value: Any) -> None:
    started = time.process_time()
    assert validates(schema, value) is False
    assert time.process_time() - started < 2


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats(-2, 2) | st.sampled_from(["", "a", "ab", "1"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=10,
)
SCHEMAS = st.recursive(
    st.fixed_dictionaries(
        {},
        optional={
            "type": st.sampled_from(["object", "array", "string", "integer", "number", "boolean", "null"]),
            "enum": st.lists(VALUES, min_size=1, max_size=3),
            "const": VALUES,
            "minimum": st.integers(-5, 5),
            "minLength": st.integers(0, 2),
            "uniqueItems": st.booleans(),
            "required": st.lists(st.sampled_from("abc"), unique=True, max_size=2),
            "pattern": st.sampled_from(["^a", "b$", "."]),
        },
    ),
    lambda inner: st.fixed_dictionaries(
        {},
        optional={
            "properties": st.dictionaries(st.sampled_from("abc"), inner, max_size=2),
            "patternProperties": st.dictionaries(st.sampled_from(["^a", "[bc]"]), inner, max_size=2),
            "additionalProperties": inner | st.booleans(),
            "items": inner | st.booleans(),
            "anyOf": st.lists(inner, min_size=1, max_size=2),
            "allOf": st.lists(inner, min_size=1, max_size=2),
            "not": inner,
        },
    ),
    max_leaves=6,
)


@settings(max_examples=300)
@given(SCHEMAS, VALUES)
def test_it_judges_as_the_library_does(schema: Json, value: Any) -> None:
    assert validates(schema, value) is jsonschema.Draft202012Validator(schema).is_valid(value)


def tool(name: Any, schema: Any = None) -> Json:
    return {"name": name} | ({} if schema is None else {"outputSchema": schema})


def fitting(schemas: Schemas, server: str, name: str, value: Any) -> bool:
    schema = schemas.known(server, name)
    return schema is None or fits(schema, value)


def test_the_last_list_counts() -> None:
    schemas = Schemas()
    schemas.remember("s", [tool("a", {"type": "string"}), tool("b"), "x", tool(7, {}), {"outputSchema": {}}])
    assert (fitting(schemas, "s", "a", ""), fitting(schemas, "s", "a", 1)) == (True, False)
    assert schemas.known("s", "b") is None, "it promises nothing"
    assert schemas.known("other", "a") is None, "another server's tool"
    schemas.remember("s", [tool("a", {"type": "integer"})])
    assert (fitting(schemas, "s", "a", ""), fitting(schemas, "s", "a", 1)) == (False, True)
    schemas.remember("s", [tool("a")])
    assert schemas.known("s", "a") is None


def test_a_schema_beyond_the_bounds_is_one_that_nothing_fits() -> None:
    schemas = Schemas()
    schemas.remember("s", [tool("a", {"description": "x" * MAX_SCHEMA}), tool("b", {"maximum": 2**70})])
    assert not fitting(schemas, "s", "a", 1)
    assert not fitting(schemas, "s", "b", 1)


def test_memory_for_schemas_is_bounded() -> None:
    schemas = Schemas()
    for number in range(300):
        for _ in range(2):
            schemas.remember("s", [tool(f"t{number}", {"type": "string", "description": "x" * 60_000})])
    assert sum(len(schema) for schema in schemas._kept.values()) <= schemas._size <= MAX_BYTES
    assert not fitting(schemas, "s", "t299", 1)
    assert schemas.known("s", "t0") is None, "the oldest is forgotten"
    schemas.remember("s", [tool("n" * 100_000, {"type": "string"})])
    assert schemas.known("s", "n" * 100_000) is None
    for number in range(300):
        schemas.remember("s", [tool(f"t{number}")])
    assert (schemas._kept, schemas._size) == ({}, 0)


@pytest.mark.parametrize("module", ["jsonschema", "jsonpath_ng", "openmcp.sidecar.detection.finder"])
def test_what_few_configurations_need_is_not_imported_at_start(module: str) -> None:
    code = f"import sys, openmcp.sidecar.app; print({module!r} in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
