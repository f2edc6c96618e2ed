"""W3C trace context (https://www.w3.org/TR/trace-context/): read, continue and write it.

Pure: randomness is an argument, `random64() -> int`, a function of 64 uniformly random bits.
"""

import re
from collections.abc import Callable
from typing import Final

from openmcp.sidecar.telemetry.values import TraceContext

SAMPLED: Final = 0x01
NEVER: Final = 1 << 56
"""The threshold under which no trace is sampled; under 0 all are."""
_KNOWN_FLAGS: Final = 0x03
"""Level 1's `sampled` and level 2's `random`; other bits "MUST be set to zero" when passed on."""
_STATE_CHARACTERS: Final = 512
_STATE_MEMBERS: Final = 32

# Fixed patterns without nested repetition, not a user's: linear.
_PARENT: Final = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(?![^-])")
_MEMBER: Final = re.compile(
    r"([a-z0-9][a-z0-9_*/@-]{0,255})"  # level 2's key, which holds level 1's: multi-tenant keys are keys with an @
    r"=([\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e])"
)
_PARENT_CHARACTERS: Final = 55
_ONWARD: Final = 0x9E3779B97F4A7C15  # an arbitrary odd number with about as many ones as zeros


def child(context: TraceContext, random64: Callable[[], int]) -> TraceContext:
    """Return the same trace at a new span."""
    return TraceContext(context.trace_id, _hexadecimal(_not_zero(random64)), context.flags)


def onward(context: TraceContext) -> TraceContext:
    """The same trace at the span of the call that goes on from here. Its id is a function of this span's, so that
    whoever needs it, the request to the server or the export, finds the same one and nothing has to be kept."""
    return TraceContext(context.trace_id, _hexadecimal(int(context.span_id, 16) ^ _ONWARD or 1), context.flags)


def traceparent(context: TraceContext) -> str:
    """Return the `traceparent` value, of version 00."""
    return f"00-{context.trace_id}-{context.span_id}-0{context.flags}"


def parse(header: str) -> TraceContext | None:
    """Parse a `traceparent` value. None where it is malformed: the trace then begins anew, without its state.

    Version ff is forbidden; version 00 has exactly four fields; a higher version may have more, behind a dash,
    and is read as far as it is known (section 4.3, "Versioning of traceparent").
    """
    if _PARENT.match(header) is None or (len(header) > _PARENT_CHARACTERS and header.startswith("00")):
        return None
    return TraceContext(header[3:35], header[36:52], int(header[53:55], 16) & _KNOWN_FLAGS)


def new(random64: Callable[[], int], threshold: int = NEVER) -> TraceContext:
    """Begin a trace. It is sampled, which servers that follow their parent go by too, where the 56 random bits of its
    id (level 2, "Random Trace ID Flag") are not below `threshold`: whoever samples by the same rule decides alike."""
    high, low = random64(), _not_zero(random64)
    flags = SAMPLED if low & (NEVER - 1) >= threshold else 0
    return TraceContext(_hexadecimal(high) + _hexadecimal(low), _hexadecimal(_not_zero(random64)), flags)


def threshold(share: float) -> int:
    """Return the threshold for this share of all traces, between 0 and 1."""
    return round((1 - share) * NEVER)


def tracestate(value: str) -> str | None:
    """Return the `tracestate` value to pass on, or None: it is empty, too long or malformed, and is dropped whole.

    Headers that came several times are joined with commas first. At most 512 characters and 32 members, no key
    twice; empty members are left out.
    """
    if len(value) > _STATE_CHARACTERS:
        return None
    members = [stripped for member in value.split(",") if (stripped := member.strip(" \t"))]
    if not members or len(members) > _STATE_MEMBERS:
        return None
    keys = {match.group(1) for member in members if (match := _MEMBER.fullmatch(member))}
    if len(keys) != len(members):
        return None
    return ",".join(members)


def _hexadecimal(value: int) -> str:
    """16 digits."""
    return value.to_bytes(8, "big").hex()


def _not_zero(random64: Callable[[], int]) -> int:
    while not (value := random64()):
        pass
    return value
