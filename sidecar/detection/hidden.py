"""Text that a person who looks at it does not see, and a model reads.

Sources: Unicode Standard, chapter 23; UAX #9 (bidirectional text); UTS #51 (flags made of tags); ECMA-48.
"""

from typing import Final

from openmcp.sidecar.detection.candidates import Found, nothing

TAGS: Final = r"[\x{E0000}-\x{E007F}]+"
"""Tag characters spell ASCII invisibly."""

ALWAYS: Final = (
    r"[\x{202A}-\x{202E}\x{2066}-\x{2069}\x{206A}-\x{206F}\x{FFF9}-\x{FFFB}]+"
    r"|(?:\x1b\[|\x{9b})[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b\n]{0,1000}(?:\x07|\x1b\\)?|\x1b[ -/]*[0-~]?"
)
"""Overrides and isolates of direction, deprecated format characters, annotations, terminal escapes."""

RUNS: Final = r"[\x{200B}-\x{200F}\x{2060}-\x{2065}\x{FEFF}\x{180E}\x{034F}\x{115F}\x{1160}\x{3164}\x{FFA0}]{4,}"
"""Runs of characters without width; up to three are had in honest text of some scripts and in emoji."""

SELECTORS: Final = r"[\x{FE00}-\x{FE0F}\x{E0100}-\x{E01EF}]{2,}"
"""More than one variation selector: each carries a byte."""

_FLAG: Final = "\U0001f3f4".encode()
_CANCEL: Final = "\U000e007f".encode()
_FLAG_BYTES: Final = 8 * len(_CANCEL)


def tags(data: bytes, start: int, end: int) -> Found:
    """Tag characters that are not the flag of a region (England, Scotland, Wales)."""
    flag = data.endswith(_FLAG, 0, start) and data.endswith(_CANCEL, 0, end) and end - start <= _FLAG_BYTES
    return nothing(end) if flag else (start, end, end)
