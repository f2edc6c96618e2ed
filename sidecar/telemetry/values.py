"""Values of telemetry: the counters of the record, what its chain consists of, a place in a trace."""

import msgspec


class AuditStats(msgspec.Struct, frozen=True):
    """Counters since the start. `lines` and `bytes` were written, `buffered` bytes wait to be written."""

    lines: int
    bytes: int
    buffered: int
    failures: int
    dropped: int
    failing_since: float | None
    """Unix time in seconds at which the output began to refuse; None: it does not."""


class Torn(msgspec.Struct, frozen=True):
    """The beginning of a line at the end of a file, left by a process that was killed or a disk that was full."""

    bytes: int
    sha256: str


class Previous(msgspec.Struct, frozen=True):
    """The line that an opening checkpoint follows."""

    seq: int
    chain: str


class Checkpoint(msgspec.Struct, frozen=True):
    """A checkpoint as it is read back. `key` is the fingerprint of the public key that its signature is of."""

    kind: str
    time: str = ""
    previous: Previous | None = None
    torn: Torn | None = None
    key: str = ""
    signature: str = ""


class Gap(msgspec.Struct, frozen=True):
    """A gap as it is read back: how many lines are missing there."""

    dropped: int


class TraceContext(msgspec.Struct, frozen=True):
    """One position in a trace: `trace_id` of 32 and `span_id` of 16 lower-case hexadecimal digits, not all zero; of the
    `flags` the two lowest bits."""

    trace_id: str
    span_id: str
    flags: int
