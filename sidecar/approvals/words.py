"""The words of approvals: statuses, methods, proofs of identity, times. Times are Unix milliseconds."""

from datetime import UTC, datetime
from typing import Final

from openmcp.sidecar.state.records import Status

STATUS: Final = {
    Status.PENDING: "waits for a decision",
    Status.APPROVED: "approved",
    Status.DENIED: "denied",
    Status.EXPIRED: "expired: nobody decided in time",
    Status.CANCELLED: "withdrawn by the agent",
    Status.EXHAUSTED: "approved, all uses taken",
    Status.LAPSED: "approved, time is over",
    Status.REVOKED: "revoked",
}

METHODS: Final = {"tools/call": "tool", "resources/read": "resource", "prompts/get": "prompt"}

PROOFS: Final = {
    "mtls": "its SPIFFE certificate (mTLS)",
    "jwtSvid": "its SPIFFE token (JWT-SVID)",
    "jwt": "a token of its identity provider (JWT)",
    "apiKey": "an API key",
    "forwarded": "a proxy that vouches for it",
    "workload": "running beside this sidecar",
    "none": "nothing: any caller may use this name",
}
"""How an agent was identified, by the method's name in the configuration; others are shown as they are."""

_UNITS: Final = (("day", 86_400), ("hour", 3_600), ("minute", 60), ("second", 1))


def moment(at: int) -> str:
    """`2026-11-21 14:30 UTC`."""
    return datetime.fromtimestamp(at / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC")


def span(milliseconds: int) -> str:
    """`1 hour 30 minutes`: the two largest units, rounded down, at least a second."""
    left = max(milliseconds // 1000, 1)
    parts = []
    for name, seconds in _UNITS:
        count, left = divmod(left, seconds)
        if count:
            parts.append(f"{count} {name}{'s' if count > 1 else ''}")
        if len(parts) == 2 or (parts and not count):
            break
    return " ".join(parts)


def times(count: int) -> str:
    """`once`, `3 times`."""
    return "once" if count == 1 else f"{count} times"
