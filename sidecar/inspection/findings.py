"""What the inspection of a message reports."""

from typing import Final, Protocol

import msgspec

from openmcp.sidecar.types import JsonObject, Subject

MAX_FINDINGS: Final = 256
"""Findings of one message that are reported; what is found beyond is treated alike and not listed."""


class Finding(msgspec.Struct, frozen=True):
    """One thing that a response rule found in a message.

    `action` is what was done: `redact`, `block`, or `withhold` (one entry or item was taken out). For a rule of a
    shadow policy it is what the rule would do, and `shadow` says that it was not done. `what` is the detector's name,
    `binary`, or the rule's name for a pattern; `path` the place in the message, without any text that was found;
    `removed` the text itself, which goes into no record, log or answer.
    """

    policy: str
    rule: str
    action: str
    what: str
    path: str
    shadow: bool = False
    removed: str = ""


class Examined(msgspec.Struct, frozen=True):
    """A message after its inspection: `document` is the same object where nothing had to change.

    `blocked` is the finding for which the message must not go on; `document` is then as it came. `unfit`: what is
    left of a tool's result is known not to fit the tool's output schema.
    """

    document: JsonObject
    blocked: Finding | None = None
    findings: tuple[Finding, ...] = ()
    unfit: bool = False


class Examiner(Protocol):
    """What applies response rules to messages: an `Inspector`, or what knows how the worker's turned out."""

    def examine(self, subjects: tuple[Subject, ...], document: JsonObject, listed: str = "") -> Examined:
        """Apply the rules to a message that answers a call of `subjects`."""
