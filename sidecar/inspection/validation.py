"""The one door to `jsonschema`, hardened against schemas of strangers.

Nothing is fetched: a `$ref` that leads out of the schema cannot be judged. `pattern` and `patternProperties` are RE2,
searched in linear time. Whatever is looked at costs steps, and beyond `MAX_STEPS` nothing is judged. Keywords whose
cost cannot be bounded (`unevaluated...`, dynamic references) are not judged either. Formats are not checked.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any, Final

import jsonschema
import orjson
import re2
import referencing
from jsonschema import validators

MAX_STEPS: Final = 20_000
"""Keywords, members and elements that are looked at in one validation: some 0.1 s."""
MAX_PATTERN: Final = 1000
"""Characters of a pattern."""
_SIZE_OF_A_STEP: Final = 100
"""Characters of an error's text that take as long as a step: the library writes what it complains of into it."""
_DIALECTS: Final = {
    "http://json-schema.org/draft-04/schema": jsonschema.Draft4Validator,
    "http://json-schema.org/draft-06/schema": jsonschema.Draft6Validator,
    "http://json-schema.org/draft-07/schema": jsonschema.Draft7Validator,
    "https://json-schema.org/draft/2019-09/schema": jsonschema.Draft201909Validator,
    "https://json-schema.org/draft/2020-12/schema": jsonschema.Draft202012Validator,
}
_DEFAULT: Final = "https://json-schema.org/draft/2020-12/schema"
"""The dialect of a schema that names none (MCP 2025-11-25, basic/index, "JSON Schema Usage")."""
_UNBOUNDED: Final = frozenset(("unevaluatedItems", "unevaluatedProperties", "$dynamicRef", "$recursiveRef"))

Keyword = Callable[[Any, Any, Any, Any], Iterator[Any] | None]


class CannotJudge(Exception):
    """A schema that cannot be followed here, or not within the budget."""


def fits(schema: bytes, value: object) -> bool:
    """Whether `value` fits a schema in JSON; False for an empty one, and where that cannot be judged."""
    return schema != b"" and validates(_decoded(schema), value)


@functools.lru_cache(maxsize=64)
def _decoded(schema: bytes) -> Any:
    return orjson.loads(schema)


def validates(schema: Any, value: object) -> bool:
    """Whether `value` fits `schema`; False also where that cannot be judged."""
    if type(schema) is not dict:
        return schema is True
    dialect = _DIALECTS.get(str(schema.get("$schema", _DEFAULT)).rstrip("#"))
    if dialect is None:
        return False
    budget = _Budget()
    keywords = {name: budget.metered(name, check) for name, check in dialect.VALIDATORS.items()}
    keywords |= {name: budget.metered(name, check) for name, check in _OWN.items() if name in keywords}
    keywords |= {name: _unbounded for name in _UNBOUNDED}
    try:
        checker = validators.extend(dialect, keywords)(schema, registry=referencing.Registry())
        return bool(checker.is_valid(value))
    except Exception:  # whatever a strange schema provokes: recursion, wrong types, references that lead nowhere
        return False


class _Budget:
    """Steps that are left."""

    def __init__(self) -> None:
        self._left = MAX_STEPS

    def take(self, steps: int) -> None:
        """Raises `CannotJudge` where there are not as many left."""
        self._left -= steps
        if self._left < 0:
            raise CannotJudge

    def metered(self, name: str, check: Keyword) -> Keyword:
        """A keyword that costs what it looks at."""
        compares = name in ("enum", "const", "uniqueItems")

        def metered(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[Any]:
            self.take(1 + _members(value) + _members(instance) * (1 + _members(schema.get("patternProperties"))))
            if compares:
                self.take((_length(value) + _length(instance)) // _SIZE_OF_A_STEP)
            for _ in check(validator, value, instance, schema) or ():
                self.take((_length(value) + _length(instance)) // _SIZE_OF_A_STEP)
                yield jsonschema.ValidationError("")

        return metered


def _members(value: Any) -> int:
    return len(value) if type(value) in (dict, list) else 0


def _length(value: Any) -> int:
    return len(value) if type(value) is str else len(orjson.dumps(value))


@functools.lru_cache(maxsize=256)
def _compiled(pattern: str) -> Any:
    if len(pattern) > MAX_PATTERN:
        raise CannotJudge
    options = re2.Options()
    options.log_errors = False
    return re2.compile(pattern, options)


def _found(pattern: str, text: str) -> bool:
    return _compiled(pattern).search(text) is not None


def _pattern(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[Any]:
    if type(instance) is str and not _found(value, instance):
        yield jsonschema.ValidationError("")


def _pattern_properties(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[Any]:
    if type(instance) is not dict:
        return
    for pattern, inner in value.items():
        for key, member in instance.items():
            if _found(pattern, key):
                yield from validator.descend(member, inner)


def _additional_properties(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[Any]:
    if type(instance) is not dict:
        return
    named, patterns = schema.get("properties", {}), tuple(schema.get("patternProperties", {}))
    for key, member in instance.items():
        if key not in named and not any(_found(pattern, key) for pattern in patterns):
            yield from validator.descend(member, value)


def _unique_items(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[Any]:
    if value and type(instance) is list:
        seen = {orjson.dumps(_plain(one), option=orjson.OPT_SORT_KEYS) for one in instance}
        if len(seen) != len(instance):
            yield jsonschema.ValidationError("")


def _plain(value: Any) -> Any:
    """Numbers by what they are, not by how they are written: 1.0 is 1."""
    if type(value) is list:
        return [_plain(one) for one in value]
    if type(value) is dict:
        return {key: _plain(one) for key, one in value.items()}
    return int(value) if type(value) is float and value.is_integer() and abs(value) < 2**63 else value


def _unbounded(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[Any]:
    raise CannotJudge


_OWN: Final[dict[str, Keyword]] = {
    "pattern": _pattern,
    "patternProperties": _pattern_properties,
    "additionalProperties": _additional_properties,
    "uniqueItems": _unique_items,
}
