"""Resources that come inside of results, and links to them: judged like one that the agent would read.

What policy denies is not to be had by asking a tool for it: an embedded resource goes through where its URI could be
read, a link where that could at least be asked for. Where no rule selects resources at all, nothing is meant to be
denied, and what a tool or prompt embeds is just part of what it says. Source: schema of each revision,
`EmbeddedResource`, `ResourceLink`, `ReadResourceResult`.
"""

from typing import Any, Final

from openmcp.sidecar.errors import Refused
from openmcp.sidecar.inspection.findings import MAX_FINDINGS, Finding
from openmcp.sidecar.mcp.surface import subjects_of
from openmcp.sidecar.policy.decision import DEFAULT_DENY, DENY
from openmcp.sidecar.stages.context import Flow
from openmcp.sidecar.types import RESOURCE, JsonObject

WITHHELD: Final = "[withheld: no policy allows this resource]"
MAX_RESOURCES: Final = 2000
"""Resources and links of one result that are judged; the rest is withheld."""
_HOLDERS: Final = ("content", "messages", "result")
"""Members that hold content blocks, or something that holds them: of a tool's result, a prompt, a task."""


def judged(flow: Flow, result: JsonObject) -> JsonObject:
    """The result with a text in place of each resource that the agent may not have; the same object where all may."""
    if flow.method == "resources/read":
        return _Sweep(flow).read(result)
    return result if _plain(result) else _Sweep(flow).holder(result)


def _plain(holder: JsonObject) -> bool:
    """Whether it holds nothing but blocks of text, as nearly all results do."""
    if "messages" in holder or "result" in holder:
        return False
    blocks = holder.get("content")
    if type(blocks) is not list:
        return blocks is None
    return all(type(block) is dict and block.get("type") == "text" and _plain(block) for block in blocks)


class _Sweep:
    """One look through a result; what is withheld is noted in the flow."""

    def __init__(self, flow: Flow) -> None:
        self._flow = flow
        self._own = frozenset(flow.call.subjects) if flow.call is not None else frozenset()
        self._left = MAX_RESOURCES
        rules = flow.snapshot.policies.rules_for(flow.principal, flow.server)
        self._free = flow.method != "resources/read" and not rules.names_resources

    def read(self, result: JsonObject) -> JsonObject:
        """The result of a read without the contents of other, denied resources."""
        given = result.get("contents")
        if type(given) is not list:
            return result
        contents = [item for index, item in enumerate(given) if self._may_read(item, f"$.contents[{index}]")]
        return result if len(contents) == len(given) else result | {"contents": contents}

    def holder(self, holder: JsonObject, path: str = "$.") -> JsonObject:
        """What holds content blocks, or something that holds them."""
        changes: JsonObject = {}
        for member in _HOLDERS:
            given = holder.get(member)
            if type(given) is dict:
                swept: Any = self._block(given, path + member)
            elif type(given) is list:
                blocks = [self._block(item, f"{path}{member}[{index}]") for index, item in enumerate(given)]
                swept = given if all(one is other for one, other in zip(given, blocks, strict=True)) else blocks
            else:
                continue
            if swept is not given:
                changes[member] = swept
        return holder | changes if changes else holder

    def _block(self, item: Any, path: str) -> Any:
        if type(item) is not dict:
            return item
        kind = item.get("type")
        if kind == "resource_link":
            return item if self._may(item.get("uri"), path, link=True) else _text()
        if kind != "resource":
            return self.holder(item, path + ".")
        return item if self._may_read(item.get("resource"), path) else _text()

    def _may_read(self, resource: Any, path: str) -> bool:
        return self._may(resource.get("uri") if type(resource) is dict else None, path, link=False)

    def _may(self, uri: object, path: str, *, link: bool) -> bool:
        flow = self._flow
        self._left -= 1
        if self._left < 0:
            return False
        try:
            subjects = subjects_of(RESOURCE, uri if type(uri) is str else "\0")
        except Refused:  # not a URI: nobody could read it
            decision = DEFAULT_DENY
        else:
            if self._own.issuperset(subjects):
                return True  # what was asked for has been judged, and approved where that was needed
            decision = flow.snapshot.policies.decide(flow.principal, flow.server, subjects)
        if decision.allowed or (link and decision.verdict is not DENY) or (self._free and not decision.policy):
            return True
        if len(flow.findings) < MAX_FINDINGS:
            flow.findings += (Finding(decision.policy, decision.rule, "withhold", "resource", path),)
        return False


def _text() -> JsonObject:
    return {"type": "text", "text": WITHHELD}
