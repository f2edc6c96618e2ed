"""From `approvals` of the configuration to the service: what commands, sidecar and console do alike."""

import base64
import secrets
import time
from collections.abc import Callable

from openmcp.config.model import Approvals, EmailChannel
from openmcp.sidecar.approvals.service import ApprovalService
from openmcp.sidecar.approvals.values import Event, Limits
from openmcp.sidecar.state.store import StateStore


def wall_clock() -> int:
    """Unix milliseconds now."""
    return time.time_ns() // 1_000_000


def new_rid() -> str:
    """The name of a request that nobody guesses: `apr_` and 128 random bits in base32."""
    return f"apr_{base64.b32encode(secrets.token_bytes(16)).decode().rstrip('=').lower()}"


def limits(approvals: Approvals) -> Limits:
    """What one agent may bring about."""
    return Limits(
        open_requests=approvals.max_open,
        notifications_per_hour=approvals.notifications_per_hour,
        cooldown=int(approvals.cooldown * 1000),
    )


def make_service(
    approvals: Approvals, store: StateStore, on_event: Callable[[Event], None], clock: Callable[[], int] = wall_clock
) -> ApprovalService:
    """The service on this store; `on_event` is called for everything that this process brings about."""
    service = ApprovalService(store, clock, new_rid, limits(approvals), on_event)
    configure(service, approvals)
    return service


def configure(service: ApprovalService, approvals: Approvals) -> None:
    """Let a service know the workflows as they are now."""
    service.workflows = {workflow.name: workflow.approvers for workflow in approvals.workflows}
    service.need_reason = frozenset(workflow.name for workflow in approvals.workflows if workflow.require_reason)


def known_by_mail(approvals: Approvals) -> bool:
    """Whether approvers `email:ADDRESS` log in by a mail: there is a channel for it, and no identity provider."""
    return approvals.oidc is None and any(isinstance(channel, EmailChannel) for channel in approvals.channels)
