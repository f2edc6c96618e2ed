"""Custom resource definitions as the API server reads them, offline: schema, unknown fields, defaults, rules in CEL.

Not as exact as an API server: rules about what was there before (`oldSelf`) are left out, and patterns are Python's.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import celpy
import jsonschema
import yaml

Json = Any
_KEYWORDS = (
    "type", "properties", "required", "items", "enum", "pattern", "minimum", "maximum", "minLength", "maxLength",
    "minItems", "maxItems", "minProperties", "maxProperties", "additionalProperties", "anyOf", "oneOf", "allOf", "not",
)  # fmt: skip


class Definitions:
    """The definitions of all files in some folders."""

    def __init__(self, folders: Iterable[Path]) -> None:
        self._schemas: dict[tuple[str, str], Json] = {}
        self.rules = 0
        """How many rules were evaluated."""
        for file in sorted(file for folder in folders for file in folder.rglob("*.yaml")):
            for definition in yaml.load_all(file.read_bytes(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
                if definition and definition["kind"] == "CustomResourceDefinition":
                    self._add(definition["spec"])

    def _add(self, spec: Json) -> None:
        for version in spec["versions"]:
            key = (f"{spec['group']}/{version['name']}", spec["names"]["kind"])
            self._schemas[key] = version["schema"]["openAPIV3Schema"]

    def faults(self, document: Mapping[str, Json]) -> list[str]:
        """Return why the API server would refuse a document; a kind that nobody defined is one reason."""
        name = f"{document['kind']} {document['metadata']['name']}"
        schema = self._schemas.get((document["apiVersion"], document["kind"]))
        if schema is None:
            return [f"{name}: no such kind: {document['apiVersion']}"]
        whole = copy.deepcopy(dict(document))
        whole["metadata"] = {}
        plain = {**schema, "properties": {**schema["properties"], "metadata": {"type": "object"}}}
        validator = jsonschema.Draft202012Validator(_closed(plain))
        found = [f"{name}: {error.json_path}: {error.message}" for error in validator.iter_errors(whole)]
        if not found:
            _fill(plain, whole)
            found = [f"{name}: {fault}" for fault in self._broken(plain, whole, "$")]
        return found

    def _broken(self, schema: Json, value: Json, path: str) -> Iterator[str]:
        for rule in schema.get("x-kubernetes-validations", ()):
            if "oldSelf" not in rule["rule"]:
                self.rules += 1
                if not _program(rule["rule"]).evaluate({"self": celpy.json_to_cel(value)}):
                    yield f"{path}: {rule.get('message', rule['rule'])}"
        for key, inner, part in _parts(schema, value):
            yield from self._broken(inner, part, f"{path}{key}")


@cache
def _program(rule: str) -> Any:
    environment = celpy.Environment()
    return environment.program(environment.compile(rule))


def _parts(schema: Json, value: Json) -> Iterator[tuple[str, Json, Json]]:
    if isinstance(value, dict):
        for name, part in value.items():
            inner = schema.get("properties", {}).get(name, schema.get("additionalProperties"))
            if isinstance(inner, dict):
                yield f".{name}", inner, part
    elif isinstance(value, list):
        for index, part in enumerate(value):
            yield f"[{index}]", schema["items"], part


def _fill(schema: Json, value: Json) -> None:
    if isinstance(value, dict):
        for name, inner in schema.get("properties", {}).items():
            if "default" in inner and name not in value:
                value[name] = copy.deepcopy(inner["default"])
    for _, inner, part in _parts(schema, value):
        _fill(inner, part)


def _closed(schema: Json) -> Json:
    """The schema in JSON Schema: what it does not name is refused."""
    made = {key: schema[key] for key in _KEYWORDS if key in schema}
    made |= {key: [_open(part) for part in made[key]] for key in ("anyOf", "oneOf", "allOf") if key in made}
    made |= {"not": _open(made["not"])} if "not" in made else {}
    if "properties" in schema:
        made["properties"] = {name: _closed(inner) for name, inner in schema["properties"].items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            made["additionalProperties"] = False
    if isinstance(schema.get("additionalProperties"), dict):
        made["additionalProperties"] = _closed(schema["additionalProperties"])
    if "items" in schema:
        made["items"] = _closed(schema["items"])
    if schema.get("x-kubernetes-int-or-string"):
        made.pop("type", None)
    return made


def _open(schema: Json) -> Json:
    """A part of `anyOf` and the like, which names some of the fields alone."""
    return {key: value for key, value in schema.items() if key in _KEYWORDS}
