"""What policy answers."""

from enum import StrEnum
from typing import Final

import msgspec

from openmcp.sidecar.mcp.values import Call


class Verdict(StrEnum):
    """The three answers, as the record, metrics and `openmcp explain` name them."""

    ALLOW = "allow"
    DENY = "deny"
    REQUIRE_APPROVAL = "requireApproval"


ALLOW: Final = Verdict.ALLOW
DENY: Final = Verdict.DENY
REQUIRE_APPROVAL: Final = Verdict.REQUIRE_APPROVAL


class Shown(StrEnum):
    """What a list may show of a thing: calls of it pass, pass with an approval, either by their arguments, or never."""

    HIDDEN = "hidden"
    OPEN = "open"
    APPROVAL = "approval"
    MIXED = "mixed"


HIDDEN: Final = Shown.HIDDEN
OPEN: Final = Shown.OPEN
APPROVAL: Final = Shown.APPROVAL
MIXED: Final = Shown.MIXED


class RuleRef(msgspec.Struct, frozen=True, cache_hash=True):
    """A rule by the names that the configuration gives it; `shadow`: of a policy that is not enforced."""

    policy: str
    rule: str
    action: str
    shadow: bool = False


class Failed(msgspec.Struct, frozen=True):
    """A rule that was about this call, and the conditions of it that did not hold, in words with the values seen.

    The words hold parts of the arguments (at most 80 characters of each): they are for operators, not for the agent.
    """

    rule: RuleRef
    why: str


class Decision(msgspec.Struct, frozen=True, cache_hash=True):
    """What was decided and by which rule (`policy` and `rule` are empty for the default deny).

    `reason` may be shown to the agent. `matched` are all rules that hold for the call, also those of shadow policies;
    `approvals` those that require one, where that is the verdict. `shadow` is the verdict that the shadow policies
    would have brought about, with the rule that would have decided, where it differs. `failed` are the rules whose
    conditions did not hold, and those that hold since a condition could not be judged.
    """

    verdict: Verdict
    policy: str = ""
    rule: str = ""
    reason: str = ""
    matched: tuple[RuleRef, ...] = ()
    approvals: tuple[RuleRef, ...] = ()
    shadow: tuple[Verdict, RuleRef | None] | None = None
    failed: tuple[Failed, ...] = ()

    @property
    def allowed(self) -> bool:
        """Whether the call may go on."""
        return self.verdict is ALLOW

    @property
    def word(self) -> str:
        """The decision as metrics and the record name it: `allow`, `deny` or `requireApproval`."""
        return self.verdict.value


class Approved(msgspec.Struct, frozen=True):
    """What a human has approved: this very call, as far as these rules want it approved. `by` names the approval."""

    call: Call
    rules: frozenset[RuleRef]
    by: str


MAX_FAILED: Final = 64
"""Rules whose conditions did not hold that one decision tells of."""

DEFAULT_REASON: Final = "no policy allows this"
DEFAULT_DENY: Final = Decision(DENY, reason=DEFAULT_REASON)
"""What no rule is about."""
