"""Inspection in the worker: the rules are compiled here once more, and what they leave of a message goes back."""

from typing import Final

from openmcp.sidecar.inspection.findings import Examined
from openmcp.sidecar.inspection.inspector import Inspector
from openmcp.sidecar.inspection.inspectors import Inspectors
from openmcp.sidecar.types import METHOD, JsonObject, Subject
from openmcp.sidecar.worker.values import Job, Rules

_KEPT: Final = 2
"""Sets of policies that are kept: after a reload, calls under way have the one before."""
_BODIES: Final = {"request": "params", "notification": "params"}


class Inspecting:
    """Knows the policies by their numbers."""

    def __init__(self) -> None:
        self._known: dict[int, Inspectors] = {}

    def inspector(self, rules: Rules | None) -> Inspector | None:
        """Who inspects a message under these rules."""
        if rules is None:
            return None
        if rules.policies is not None:
            while len(self._known) >= _KEPT:
                self._known.pop(next(iter(self._known)))
            self._known[rules.number] = Inspectors(rules.policies)
        return self._known[rules.number].find(rules.principal, rules.server)


def examined(inspector: Inspector, job: Job, kind: str, document: JsonObject) -> Examined:
    """A message of a kind after its inspection; its result, error or params are looked at."""
    rules = job.rules
    assert rules is not None
    member = _BODIES.get(kind, "result" if "result" in document else "error")
    body = document.get(member, {})
    subjects = rules.subjects
    if member == "params":
        subjects = (*subjects, Subject(METHOD, document["method"]))
    unseen = {name: body[name] for name in _unseen(rules, body) if name in body}
    looked = {name: value for name, value in body.items() if name not in unseen} if unseen else body
    found = inspector.examine(subjects, looked, job.entries)
    if found.document is looked:
        return Examined(document, found.blocked, found.findings)
    left = found.document | unseen
    return Examined(document | {member: left}, found.blocked, found.findings, unfit=not _fits(rules, body, left))


def _unseen(rules: Rules, body: JsonObject) -> tuple[str, ...]:
    """A request state that is sealed before it goes on tells the agent nothing, any other one is looked at."""
    if body.get("resultType") == "input_required":
        return rules.unseen
    return tuple(name for name in rules.unseen if name != "requestState")


def _fits(rules: Rules, before: JsonObject, after: JsonObject) -> bool:
    structured = after.get("structuredContent")
    if not rules.schemas or structured is before.get("structuredContent"):
        return True
    from openmcp.sidecar.inspection import validation  # here, as in the sidecar: it takes 6 MiB

    return all(validation.fits(schema, structured) for schema in rules.schemas)
