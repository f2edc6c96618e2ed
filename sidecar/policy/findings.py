"""What the inspection of a message reports."""

import msgspec

from openmcp.sidecar.types import JsonObject


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

    `blocked` is the finding for which the message must not go on; `document` is then as it came.
    """

    document: JsonObject
    blocked: Finding | None = None
    findings: tuple[Finding, ...] = ()
