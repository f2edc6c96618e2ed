"""Resources that come inside of results, and links to them: judged like one that the agent would read.

What policy denies is not to be had by asking a tool for it: an embedded resource goes through where its URI could be
read, a link where that could at least be asked for. Source: schema of each revision, `EmbeddedResource`,
`ResourceLink`, `ReadResourceResult`.
"""

from collections.abc import Callable
from typing import Any, Final

from openmcp.sidecar.errors import Refused
from openmcp.sidecar.mcp.surface import subjects_of
from openmcp.sidecar.policy.decision import DENY
from openmcp.sidecar.stages.context import Flow
from openmcp.sidecar.types import RESOURCE, JsonObject

WITHHELD: Final = "[withheld: no policy allows this resource]"
_HOLDERS: Final = ("content", "messages", "result")
"""Members that hold content blocks, or something that holds them: of a tool's result, a prompt, a task."""

_May = Callable[[object, bool], bool]
"""Whether a URI may be shown; the flag says that it is a link only."""


def judged(flow: Flow, result: JsonObject) -> JsonObject:
    """The result with a text in place of each resource that the agent may not have; the same object where all may."""

    def may(uri: object, link: bool) -> bool:
        return _may(flow, uri, link)

    if flow.method == "resources/read":
        return _read(result, may)
    return _swept(result, may)


def _may(flow: Flow, uri: object, link: bool) -> bool:
    if type(uri) is not str:
        return False
    try:
        subjects = subjects_of(RESOURCE, uri)
    except Refused:  # not a URI: nobody could read it
        return False
    if flow.call is not None and set(subjects) <= set(flow.call.subjects):
        return True  # what was asked for has been judged, and approved where that was needed
    decision = flow.snapshot.policies.decide(flow.principal, flow.server, subjects)
    return decision.allowed or (link and decision.verdict is not DENY)


def _swept(holder: JsonObject, may: _May) -> JsonObject:
    changes: JsonObject = {}
    for member in _HOLDERS:
        given = holder.get(member)
        if type(given) is dict:
            swept: Any = _block(given, may)
        elif type(given) is list:
            swept = _same_or(given, [_block(item, may) for item in given])
        else:
            continue
        if swept is not given:
            changes[member] = swept
    return holder | changes if changes else holder


def _block(item: Any, may: _May) -> Any:
    if type(item) is not dict:
        return item
    kind = item.get("type")
    if kind == "resource_link":
        return item if may(item.get("uri"), True) else _text()
    if kind != "resource":
        return _swept(item, may)
    resource = item.get("resource")
    return item if type(resource) is dict and may(resource.get("uri"), False) else _text()


def _read(result: JsonObject, may: _May) -> JsonObject:
    given = result.get("contents")
    if type(given) is not list:
        return result
    contents = [item if type(item) is dict and may(item.get("uri"), False) else None for item in given]
    if None not in contents:
        return result
    return result | {"contents": [item for item in contents if item is not None]}


def _same_or(given: list[Any], swept: list[Any]) -> list[Any]:
    return given if all(one is other for one, other in zip(given, swept, strict=True)) else swept


def _text() -> JsonObject:
    return {"type": "text", "text": WITHHELD}
