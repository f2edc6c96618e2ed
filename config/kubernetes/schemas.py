"""From readings of the configuration to structural OpenAPI schemas, as CustomResourceDefinitions have them.

What a reading is made of gives the structure; `rules` says, in CEL and by reading, what a structure cannot. A
reading that neither knows is an error, so that no key can be added without saying how the API server checks it.

Structural schemas cannot say "text or mapping". Where the configuration takes more than one type, the schema has
none, and keeps what it does not know; what `validate` refuses there is refused by bounds that hold for one type alone.
"""

from collections.abc import Callable, Iterable
from itertools import combinations
from typing import Any

from openmcp.config import cursor, parse, policies, values
from openmcp.config.conditions import MAX_LENGTH, condition
from openmcp.config.cursor import Reading
from openmcp.config.kubernetes.rules import FILE_ONLY, INNER, LEAVES, RULES, SECRET, rule
from openmcp.config.model import Operator

Schema = dict[str, Any]

_NO_TEXT: Schema = {"minLength": 1, "maxLength": 0}
_NO_NUMBER: Schema = {"minimum": 1, "maximum": 0}
_NO_LIST: Schema = {"minItems": 1, "maxItems": 0}
_NO_MAPPING: Schema = {"minProperties": 1, "maxProperties": 0}
"""Bounds that nothing of one type meets, and everything of any other."""

_SCALAR: Schema = {**_NO_LIST, **_NO_MAPPING}
_TEXT: Schema = {"not": _NO_TEXT}
_NUMBER: Schema = {"not": _NO_NUMBER}
_FILLED_LIST: Schema = {"not": {"maxItems": 0}}
_NETWORK: Schema = {**_TEXT, "pattern": r"^[0-9A-Fa-f:.]+(?:/[0-9]{1,3})?$"}
_ANYTHING: Schema = {"x-kubernetes-preserve-unknown-fields": True}


def schema(reading: Reading[object]) -> Schema:
    """What a reading takes. Raises LookupError for one that nothing is known of."""
    inner = INNER.get(reading)
    if inner is not None:
        return _with_rules(schema(inner), reading)
    special = _SPECIAL.get(reading)
    if special is not None:
        return special()
    if reading in LEAVES:
        return {"type": "string", **LEAVES[reading]}
    for kind, make in _MADE.items():
        if isinstance(reading, kind):
            return _with_rules(make(reading), reading)
    raise LookupError(f"no schema is known of {reading}: say in config/kubernetes/rules.py what it takes")


def _with_rules(found: Schema, reading: Reading[object]) -> Schema:
    added = RULES.get(reading, ())
    return _ruled(found, *added) if added else found


def _ruled(found: Schema, *added: Schema) -> Schema:
    return {**found, "x-kubernetes-validations": [*found.get("x-kubernetes-validations", ()), *added]}


def _shape(shape: cursor.Shape[object]) -> Schema:
    properties = {key: schema(reading) for key, reading in shape.keys.items() if reading not in FILE_ONLY}
    # Where null is not kept, `agents:` with nothing behind it would become a policy for everybody.
    properties = {
        key: found if key in shape.required else {**found, "nullable": True} for key, found in properties.items()
    }
    required = {"required": list(shape.required)} if shape.required else {}
    return {"type": "object", **required, "properties": properties}


def _list(found: cursor.ListOf[object]) -> Schema:
    return {
        "type": "array",
        "maxItems": found.most,
        "x-kubernetes-list-type": "atomic",
        "items": schema(found.item),
    }


def _some(found: cursor.some[object]) -> Schema:
    entries = schema(found.entries)
    if "type" not in entries["items"]:  # CEL does not see such a list
        return {**entries, "minItems": 1}
    return _ruled(entries, rule("size(self) > 0", f"an empty list: {found.why}"))


def _unique(found: cursor.unique[object]) -> Schema:
    entries = schema(found.entries)
    if found.key is None:
        return {**entries, "x-kubernetes-list-type": "set"}
    return {**entries, "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [found.key]}


def _pairs(found: cursor.pairs[object]) -> Schema:
    return {
        "type": "object",
        "minProperties": 1,
        "maxProperties": cursor.MAX_ITEMS,
        "additionalProperties": schema(found.value),
    }


def _tagged(found: cursor.Tagged[object]) -> Schema:
    """One mapping with the keys of all shapes, and rules for which `type` has which."""
    parts = {tag: schema(reading) for tag, reading in found.shapes.items()}
    properties: Schema = {"type": {"type": "string", "enum": list(parts)}}
    known: dict[str, list[str]] = {}
    for tag, part in parts.items():
        for key, value in part["properties"].items():
            assert properties.setdefault(key, value) == value, f"{key} differs by type"
            known.setdefault(key, []).append(tag)
    rules = [one for part in parts.values() for one in part.get("x-kubernetes-validations", ())]
    rules += [_needs(tag, key) for tag, part in parts.items() for key in part.get("required", ())]
    rules += [_only(key, tags) for key, tags in known.items()]
    return _ruled({"type": "object", "required": ["type"], "properties": properties}, *rules)


def _needs(tag: str, key: str) -> Schema:
    return rule(f"self.type != '{tag}' || has(self.{key})", f"`{key}` is required with `type: {tag}`")


def _only(key: str, tags: Iterable[str]) -> Schema:
    listed = ", ".join(f"'{tag}'" for tag in tags)
    return rule(
        f"!has(self.{key}) || self.type in [{listed}]", f"`{key}` is known with `type: {' | '.join(tags)}` alone"
    )


def _integer(found: cursor.integer) -> Schema:
    return {"type": "integer", "format": "int64", "minimum": found.lowest, "maximum": found.highest}


_MADE: dict[type, Callable[[Any], Schema]] = {
    cursor.Shape: _shape,
    cursor.ListOf: _list,
    cursor.some: _some,
    cursor.unique: _unique,
    cursor.pairs: _pairs,
    cursor.Tagged: _tagged,
    cursor.integer: _integer,
    cursor.choice: lambda found: {"type": "string", "enum": list(found.words)},
    values.glob: lambda found: {"type": "string", **LEAVES[cursor.string]},
}


def _closed(keys: Iterable[str]) -> list[Schema]:
    """What a mapping without other keys than these meets, where the schema cannot know what else there is."""
    names = tuple(keys)
    subsets = [list(some) for count in range(1, len(names) + 1) for some in combinations(names, count)]
    return [{"required": subset, "maxProperties": len(subset)} for subset in subsets]


def _text_or_mapping() -> Schema:
    """An entry of `agents`."""
    parts = schema(policies.parts)["properties"]
    bounds = {**LEAVES[cursor.string], "not": {"maxLength": 0, "maxProperties": 0}}
    return {**_ANYTHING, **bounds, "properties": parts, "anyOf": [*_closed(parts)]}


def _boolean_or_mapping() -> Schema:
    """`pinTools`."""
    parts = schema(parse.pins)["properties"]
    mappings = [{"maxProperties": 0, "not": _NO_MAPPING}, *({**one, "not": _NO_MAPPING} for one in _closed(parts))]
    return {**_ANYTHING, "properties": parts, "anyOf": [{"enum": [True, False]}, *mappings]}


_NULLABLE = (Operator.EQ, Operator.NE, Operator.IN, Operator.NOT_IN)
_VALUES: tuple[tuple[tuple[Operator, ...], list[Schema]], ...] = (
    (_NULLABLE[:2], [_SCALAR]),
    (_NULLABLE[2:], [_SCALAR, {**_FILLED_LIST, "items": _SCALAR}]),
    ((Operator.CIDR,), [_NETWORK, {**_FILLED_LIST, "items": _NETWORK}]),
    ((Operator.MATCHES, Operator.GLOB), [{**_TEXT, "minLength": 1}]),
    ((Operator.LT, Operator.LTE, Operator.GT, Operator.GTE), [_NUMBER]),
    ((Operator.LENGTH_AT_MOST,), [{**_NUMBER, "minimum": 0, "maximum": MAX_LENGTH, "multipleOf": 1}]),
)
_NO_VALUE = (Operator.EXISTS, Operator.ABSENT)


def _condition() -> Schema:
    """An entry of `when`. Of its `value` CEL sees no more than whether there is one that is not null."""
    made = {
        "type": "object",
        "required": ["path", "op"],
        "properties": {
            "path": {"type": "string", **LEAVES[values.json_path]},
            "op": {"type": "string", "enum": [operator.value for operator in Operator]},
            "value": {**_ANYTHING, "nullable": True, "items": {**_ANYTHING, "nullable": True}},
        },
        "allOf": [
            *(
                _with_operator(operators, [{"properties": {"value": form}} for form in forms])
                for operators, forms in _VALUES
            ),
            _with_operator(_NULLABLE, [{"required": ["value"]}]),
        ],
    }
    return _ruled(
        made,
        rule(f"{_one_of(*_NO_VALUE, *_NULLABLE)} || has(dyn(self).value)", "`value` is required with this `op`"),
        rule(f"!({_one_of(*_NO_VALUE)}) || !has(dyn(self).value)", "this `op` takes no value"),
    )


def _one_of(*operators: Operator) -> str:
    return f"self.op in [{', '.join(repr(operator.value) for operator in operators)}]"


def _with_operator(operators: Iterable[Operator], forms: Iterable[Schema]) -> Schema:
    """That one of the forms is met where `op` is one of these."""
    others = {"properties": {"op": {"not": {"enum": [operator.value for operator in operators]}}}}
    return {"anyOf": [*forms, others]}


_SPECIAL: dict[Reading[object], Callable[[], Schema]] = {
    cursor.boolean: lambda: {"type": "boolean"},
    values.secret: lambda: SECRET,
    values.share: lambda: {"type": "number", "minimum": 0, "maximum": 1},
    policies.agent: _text_or_mapping,
    parse.pinning: _boolean_or_mapping,
    condition: _condition,
}
