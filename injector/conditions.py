"""Pure: the condition that says whether an object is in force, from what became of it."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from openmcp.config.kubernetes.assemble import Object, Verdict

TYPE: Final = "Accepted"
MOST: Final = 32768
"""Characters of a message: what the CRDs take."""
_CUT: Final = "\n..."

JsonObject = dict[str, Any]


def wanted(verdict: Verdict) -> JsonObject:
    """The condition of an object, but for its time. The message says what `openmcp validate` says, line by line."""
    if verdict.accepted:
        said, status, reason = [f"warning: {warning}" for warning in verdict.warnings], "True", "Valid"
    else:
        said, status, reason = [str(error) for error in verdict.errors], "False", "Invalid"
    message = "\n".join(said)
    if len(message) > MOST:
        message = message[: MOST - len(_CUT)] + _CUT
    return _condition(verdict.object, status, reason, message)


def unjudged(one: Object, most: int, largest: int) -> JsonObject:
    """The condition of an object of a namespace that is too large to be judged here; both limits in bytes."""
    message = (
        f"not judged here: the specs of a namespace may have {most >> 20} MiB together, and one {largest >> 10} KiB; "
        "sidecars judge it, and openmcp validate does"
    )
    return _condition(one, "Unknown", "TooLarge", message)


def _condition(one: Object, status: str, reason: str, message: str) -> JsonObject:
    return {
        "type": TYPE,
        "status": status,
        "reason": reason,
        "message": message,
        "observedGeneration": one.generation,
    }


def changed(status: object, condition: Mapping[str, Any], now: str) -> JsonObject | None:
    """The status to write so that it has this condition, or None where it has it. Conditions of others stay; the time
    of the last transition changes with True and False alone. `now` is as Kubernetes writes times."""
    given: Mapping[str, Any] = status if isinstance(status, dict) else {}
    present = _conditions(given.get("conditions"))
    ours = next((one for one in present if one.get("type") == TYPE), {})
    generation = condition["observedGeneration"]
    same = all(ours.get(key) == value for key, value in condition.items())
    if same and given.get("observedGeneration") == generation:
        return None
    since = ours.get("lastTransitionTime") if ours.get("status") == condition["status"] else None
    made = {**condition, "lastTransitionTime": since or now}
    others = [one for one in present if one.get("type") != TYPE]
    return {"observedGeneration": generation, "conditions": [*others, made]}


def _conditions(value: object) -> Sequence[Mapping[str, Any]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []
