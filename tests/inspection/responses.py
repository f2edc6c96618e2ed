"""Short ways to write response rules, and inspectors of them, in tests."""

from collections.abc import Iterable
from typing import Any, Literal

from openmcp.config.model import Binary, Policy, ResponseAction, ResponseRule
from openmcp.identity.principal import ANONYMOUS
from openmcp.sidecar.inspection.inspector import Inspector
from openmcp.sidecar.inspection.inspectors import Inspectors
from openmcp.sidecar.types import TOOL, Subject

CALLED = (Subject(TOOL, "get"),)
"""What is answered, where that does not matter."""


def redact(name: str = "contact", **what: Any) -> ResponseRule:
    """A rule that redacts; `detect=["email"]` and the like say what."""
    return _rule(ResponseAction.REDACT, name, what)


def block(name: str = "secrets", **what: Any) -> ResponseRule:
    """A rule that blocks."""
    return _rule(ResponseAction.BLOCK, name, what)


def saying(
    *rules: ResponseRule,
    name: str = "data",
    servers: Iterable[str] = ("tools",),
    mode: Literal["enforce", "shadow"] = "enforce",
) -> Policy:
    """A policy of response rules alone."""
    return Policy(name=name, servers=tuple(servers), mode=mode, responses=rules)


def inspector(*rules: ResponseRule | Policy) -> Inspector:
    """What inspects under these rules (of one policy) or policies."""
    plain = tuple(one for one in rules if isinstance(one, ResponseRule))
    policies = [one for one in rules if isinstance(one, Policy)]
    found = Inspectors([*policies, saying(*plain)]).find(ANONYMOUS, "tools")
    assert found is not None
    return found


def _rule(action: ResponseAction, name: str, what: dict[str, Any]) -> ResponseRule:
    given = {
        key: value if isinstance(value, Binary) else tuple(value) for key, value in what.items() if key != "except_"
    }
    return ResponseRule(name=name, action=action, except_=tuple(what.get("except_", ())), **given)
