"""The CustomResourceDefinitions of MCPServer, MCPPolicy and ApprovalWorkflow, from the tables of the configuration.

`make crds` writes them into manifests/crds; a test holds the files equal.
"""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from openmcp.config import parse, policies, workflows
from openmcp.config.cursor import Reading
from openmcp.config.kubernetes.descriptions import DESCRIPTIONS
from openmcp.config.kubernetes.rules import rule
from openmcp.config.kubernetes.schemas import Schema, schema

GROUP: Final = "openmcp.dev"
VERSION: Final = "v1alpha1"


class Kind(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of object: its names, what reads its spec, what `kubectl explain` and `kubectl get` show of it."""

    kind: str
    plural: str
    short: str
    spec: Reading[object]
    description: str
    columns: tuple[tuple[str, str, str], ...] = ()
    required: tuple[str, ...] = ()
    """Keys that an object has to have, though an entry in a file has something else in their place."""


_ACCEPTED: Final = '.status.conditions[?(@.type=="Accepted")]'

KINDS: Final[tuple[Kind, ...]] = (
    Kind(
        kind="MCPServer",
        plural="mcpservers",
        short="omcp",
        spec=parse.server,
        description="An MCP server that agents of this namespace may be let through to: one entry of `servers`.",
        columns=(("Endpoint", "string", ".spec.endpoints[0]"), ("Auth", "string", ".spec.auth.type")),
        required=("endpoints",),
    ),
    Kind(
        kind="MCPPolicy",
        plural="mcppolicies",
        short="omcpp",
        spec=policies.policy,
        description="What agents of this namespace may do on which MCP servers: one entry of `policies`.",
        columns=(("Mode", "string", ".spec.mode"),),
    ),
    Kind(
        kind="ApprovalWorkflow",
        plural="approvalworkflows",
        short="omcpw",
        spec=workflows.workflow,
        description="Who decides on calls that need an approval: one entry of `approvals.workflows`.",
        columns=(("Required", "integer", ".spec.required"),),
    ),
)


def definitions() -> dict[str, dict[str, Any]]:
    """The definitions by their names, `mcpservers.openmcp.dev`, as they are applied."""
    return {f"{kind.plural}.{GROUP}": _definition(kind) for kind in KINDS}


def _definition(kind: Kind) -> dict[str, Any]:
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{kind.plural}.{GROUP}", "labels": {"app.kubernetes.io/part-of": "openmcp"}},
        "spec": {
            "group": GROUP,
            "names": {
                "kind": kind.kind,
                "listKind": f"{kind.kind}List",
                "plural": kind.plural,
                "singular": kind.kind.lower(),
                "shortNames": [kind.short],
                "categories": ["openmcp"],
            },
            "scope": "Namespaced",
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": _columns(kind),
                    "schema": {"openAPIV3Schema": _object(kind)},
                }
            ],
        },
    }


def _columns(kind: Kind) -> list[dict[str, Any]]:
    shown = [("Accepted", "string", f"{_ACCEPTED}.status"), *kind.columns]
    columns: list[dict[str, Any]] = [{"name": name, "type": type_, "jsonPath": path} for name, type_, path in shown]
    columns.append({"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"})
    columns.append({"name": "Message", "type": "string", "jsonPath": f"{_ACCEPTED}.message", "priority": 1})
    return columns


def _object(kind: Kind) -> Schema:
    return {
        "type": "object",
        "description": kind.description,
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            "spec": _spec(kind),
            "status": _STATUS,
        },
        "x-kubernetes-validations": [
            {
                **rule(
                    "!has(self.spec.name) || self.spec.name == self.metadata.name",
                    "must be left out or equal to `metadata.name`",
                ),
                "fieldPath": ".spec.name",
            },
        ],
    }


def _spec(kind: Kind) -> Schema:
    """One entry of the list, but for its name, which is that of the object."""
    spec = _described(schema(kind.spec), DESCRIPTIONS[kind.kind], "")
    properties = spec["properties"]
    if "mode" in properties:
        properties["mode"] = {**properties["mode"], "default": "enforce"}  # for the column
    for key in kind.required:
        properties[key] = {name: part for name, part in properties[key].items() if name != "nullable"}
    required = [*(key for key in spec["required"] if key != "name"), *kind.required]
    return {**spec, "required": required, "properties": properties}


def _described(found: Schema, texts: Mapping[str, str], path: str) -> Schema:
    """The schema with the descriptions of its keys; of a list they are those of its entries."""
    made = dict(found)
    if "items" in found:
        made["items"] = _described(found["items"], texts, path)
    if "properties" in found:
        below = f"{path}." if path else ""
        made["properties"] = {
            key: {**_text(texts, below + key), **_described(inner, texts, below + key)}
            for key, inner in found["properties"].items()
        }
    return made


def _text(texts: Mapping[str, str], path: str) -> Schema:
    return {"description": texts[path]} if path in texts else {}


_STATUS: Final[Schema] = {
    "type": "object",
    "description": "Written by the injector, never by sidecars.",
    "properties": {
        "observedGeneration": {"type": "integer", "format": "int64", "minimum": 0},
        "conditions": {
            "type": "array",
            "maxItems": 16,
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["type"],
            "items": {
                "type": "object",
                "required": ["type", "status", "reason", "message", "lastTransitionTime"],
                "properties": {
                    "type": {"type": "string", "minLength": 1, "maxLength": 316},
                    "status": {"type": "string", "enum": ["True", "False", "Unknown"]},
                    "observedGeneration": {"type": "integer", "format": "int64", "minimum": 0},
                    "lastTransitionTime": {"type": "string", "format": "date-time"},
                    "reason": {"type": "string", "minLength": 1, "maxLength": 1024},
                    "message": {"type": "string", "maxLength": 32768},
                },
            },
        },
    },
}
