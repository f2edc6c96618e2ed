"""The grant that a call would be made under, as `openmcp explain --grants` tells of it."""

import asyncio
from typing import Any

from openmcp.config.model import Configuration, DynamodbState, MemoryState
from openmcp.identity.principal import Principal
from openmcp.sidecar.approvals.asking import new_request, question_of, specs_of
from openmcp.sidecar.approvals.fingerprint import Ambiguous
from openmcp.sidecar.approvals.making import limits, wall_clock
from openmcp.sidecar.approvals.words import STATUS, moment
from openmcp.sidecar.mcp.values import Call
from openmcp.sidecar.policy.decision import Decision
from openmcp.sidecar.policy.engine import PolicySet
from openmcp.sidecar.state.opening import open_store
from openmcp.sidecar.state.records import ApprovalRecord, Status


class NoGrants(Exception):
    """Grants that cannot be looked at from here; the text says why."""


def look(
    configuration: Configuration, agent: Principal, server: str, call: Call, decision: Decision
) -> ApprovalRecord | None:
    """The request or grant that this call would find, as it stands now; nothing is asked of anybody.

    Raises `NoGrants`, `CannotOpen`, `StoreUnavailable` and `UnknownSchema`.
    """
    state = configuration.state
    if isinstance(state, MemoryState):
        raise NoGrants("the sidecar keeps its grants in memory (state: {type: memory}): nobody else can see them")
    if isinstance(state, DynamodbState) and state.credentials == "spiffe":
        raise NoGrants("the grants are in a table that the sidecar alone can read, by its SVID")
    if not decision.approvals:
        return None
    return asyncio.run(_look(configuration, agent, server, call, decision))


async def _look(
    configuration: Configuration, agent: Principal, server: str, call: Call, decision: Decision
) -> ApprovalRecord | None:
    approvals, now = configuration.approvals, wall_clock()
    specs = specs_of(decision, PolicySet(configuration.policies), approvals)
    store = open_store(configuration.state)
    try:
        key = await store.hmac_key()
        request = new_request(key, question_of(agent, server, call), specs, limits(approvals), now)
        return None if request is None else await store.get(request.key, now)
    except Ambiguous as error:
        raise NoGrants(str(error)) from error
    finally:
        await store.close()


def line(record: ApprovalRecord | None) -> str:
    """For people."""
    if record is None:
        return "grant    none: nobody was asked"
    until = f" until {moment(record.until)}" if record.status in (Status.PENDING, Status.APPROVED) else ""
    left = "" if record.uses_left is None else f", {record.uses_left} uses left"
    return f"grant    {record.rid}: {STATUS[record.status]}{until}{left}"


def told(record: ApprovalRecord | None) -> dict[str, Any] | None:
    """For machines; times are Unix milliseconds."""
    if record is None:
        return None
    return {"id": record.rid, "status": record.status.value, "until": record.until, "uses_left": record.uses_left}
