"""Lists on their way back: the entries an agent may use, trusted ones alone, and marked where a human has to agree."""

from typing import Any, Final

from openmcp.sidecar.errors import Refused
from openmcp.sidecar.mcp.surface import subjects_of
from openmcp.sidecar.policy.decision import APPROVAL, HIDDEN, MIXED, OPEN, Shown
from openmcp.sidecar.policy.engine import AgentRules
from openmcp.sidecar.stages.context import Flow
from openmcp.sidecar.stages.pins import Pins
from openmcp.sidecar.types import TOOL, JsonObject, Kind

MARKS: Final = {APPROVAL: "[requires approval]", MIXED: "[may require approval]"}
"""How the description of an entry begins, all or some of whose calls need an approval."""


class Lists:
    """Edits the entries of lists."""

    def __init__(self, pins: Pins) -> None:
        self._pins = pins

    def permitted(self, flow: Flow, kind: Kind, key: str, entries: list[Any]) -> list[JsonObject]:
        """The entries that some call would be let through for, or asked an approval for, in their order.

        `key` is the member that names an entry.
        """
        rules = flow.snapshot.policies.rules_for(flow.principal, flow.server)
        kept = []
        for entry in self._trusted(flow, kind, entries):
            shown = _shown(rules, kind, entry.get(key))
            if shown is not HIDDEN:
                kept.append(entry if shown is OPEN else marked(entry, shown))
        return kept

    def _trusted(self, flow: Flow, kind: Kind, entries: list[Any]) -> list[JsonObject]:
        """The entries that are objects, and where tools are pinned are as they were."""
        given: list[JsonObject] = [entry for entry in entries if type(entry) is dict]
        server = flow.route.server
        if kind is not TOOL or server.pin_tools is None:
            return given
        admitted = [entry for entry in given if self._pins.admits(server, entry)]
        self._pins.save(server)
        return admitted


def marked(entry: JsonObject, shown: Shown) -> JsonObject:
    """The entry with words about approvals before its description, for the model that reads it."""
    description = entry.get("description")
    text = f"{MARKS[shown]} {description}" if type(description) is str else MARKS[shown]
    return entry | {"description": text}


def _shown(rules: AgentRules, kind: Kind, name: Any) -> Shown:
    """What a list may show of an entry; a URI in all the forms in which it is judged."""
    if type(name) is not str:
        return HIDDEN
    try:
        forms = [rules.shows(subject) for subject in subjects_of(kind, name)]
    except Refused:  # not a URI: no call could name it
        return HIDDEN
    for strictest in (HIDDEN, APPROVAL, MIXED):
        if strictest in forms:
            return strictest
    return OPEN
