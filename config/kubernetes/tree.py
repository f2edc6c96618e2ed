"""From an object of Kubernetes to the tree that the parsers of the configuration read.

Marks name the object instead of a file and a line: `MCPPolicy support-ai/tickets: spec.requests[0].action: ...`.
"""

from typing import Any

from openmcp.config.cursor import At
from openmcp.config.problems import Mark, Report
from openmcp.config.yamlsource import MAX_DEPTH, Entry, Mapping, Node, Refused, Scalar, Sequence

_DIGITS = 18
"""Of a whole number: what YAML is read with. A larger one would be a text there."""


def place(kind: str, namespace: str, name: str) -> str:
    """An object as marks, messages and logs name it."""
    return f"{kind} {namespace}/{name}"


def document(found: dict[str, Any], base: str, report: Report) -> At:
    """An object of the API server (decoded JSON) as one document; without what is not for us.

    `base` is the folder that relative file names start from.
    """
    metadata = found.get("metadata")
    given: dict[str, Any] = metadata if isinstance(metadata, dict) else {}
    name, kind = given.get("name"), str(found.get("kind"))
    mark = Mark(place(kind, str(given.get("namespace") or ""), str(name)))
    parts = {"apiVersion": found.get("apiVersion"), "kind": kind, "metadata": {"name": name}}
    if "spec" in found:
        parts["spec"] = found["spec"]
    return At(node(parts, mark, report), mark, "", base, report)


def node(value: object, mark: Mark, report: Report, path: str = "", depth: int = 1) -> Node:
    """Any value of decoded JSON; what has no place in a configuration is refused with an error."""
    if isinstance(value, dict | list):
        if depth > MAX_DEPTH:
            report.error(mark, path, f"nested deeper than {MAX_DEPTH} levels")
            return Refused(mark)
        if isinstance(value, list):
            items = enumerate(value)
            return Sequence(tuple(node(item, mark, report, f"{path}[{i}]", depth + 1) for i, item in items), mark)
        below = f"{path}." if path else ""
        return Mapping(
            {key: Entry(mark, node(one, mark, report, f"{below}{key}", depth + 1)) for key, one in value.items()}, mark
        )
    return _scalar(value, mark, report, path)


def _scalar(value: object, mark: Mark, report: Report, path: str) -> Node:
    if isinstance(value, bool) or value is None:
        return Scalar(value, "null" if value is None else str(value).lower(), mark)
    if isinstance(value, int) and len(str(abs(value))) > _DIGITS:
        report.error(mark, path, f"a number of more than {_DIGITS} digits", "put it in quotes to mean the text")
        return Refused(mark)
    if isinstance(value, int | float | str):
        return Scalar(value, str(value), mark)
    raise TypeError(f"not a value of JSON: {type(value).__name__}")
