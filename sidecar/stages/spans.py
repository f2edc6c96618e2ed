"""What the export of traces is told of an exchange that has ended."""

import time
from typing import Final

from openmcp.sidecar.stages.context import Flow
from openmcp.sidecar.telemetry.records import clip
from openmcp.sidecar.telemetry.spans import Ended, Shape
from openmcp.sidecar.types import MODERN

_UNSENT: Final = frozenset(("overloaded", "share", "ejected"))
"""Outcomes in which the server was to be asked and was not: too many calls were under way, or too many had failed."""


def ended(flow: Flow, seconds: float) -> Ended:
    """The exchange as it is exported; it took `seconds`."""
    error = flow.error
    asked = flow.asked_at - flow.started if flow.asked_at and flow.outcome not in _UNSENT else -1.0
    # A stream's answer lasts as long as the exchange; elsewhere the wait for the server has been measured.
    measured = flow.upstream_seconds and not flow.stream
    return Ended(
        _shape(flow),
        flow.trace,
        flow.parent,
        flow.tracestate,
        flow.id,
        "" if flow.era is MODERN else flow.session_ref,
        str(flow.message_id) if flow.message_id is not None else None,
        # The texts of a server's errors are content, which telemetry does not carry.
        clip(str(error["message"])) if error is not None and flow.outcome != "rpc_error" else "",
        time.time_ns(),
        seconds,
        asked,
        min(asked + flow.upstream_seconds, seconds) if measured else seconds,
        _session_seconds(flow),
    )


def _shape(flow: Flow) -> Shape:
    decision, error = flow.decision, flow.error
    return Shape(
        flow.request.method,
        flow.server,
        flow.method,
        clip(flow.name),
        _version(flow),
        flow.agent,
        flow.identified_by,
        decision.word if decision is not None else "",
        decision.policy if decision is not None else "",
        decision.rule if decision is not None else "",
        flow.outcome,
        error["code"] if error is not None else 0,
        flow.status,
        flow.endpoint.url if flow.endpoint is not None and flow.asked_at else "",
    )


def _version(flow: Flow) -> str:
    """The revision that is spoken: a session has agreed on one."""
    if flow.session is not None:
        return flow.session.version
    return flow.call.version if flow.call is not None else ""


def _session_seconds(flow: Flow) -> float:
    """How long the session lived that this exchange has ended: its begin is told by when it would have expired."""
    if flow.ending != "session-end" or flow.session is None:
        return 0.0
    begun = flow.session.expires - flow.snapshot.configuration.sessions.lifetime
    return max(time.time() - begun, 0.0)
