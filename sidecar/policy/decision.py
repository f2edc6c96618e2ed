"""What policy answers."""

from enum import StrEnum
from typing import Final

import msgspec


class Verdict(StrEnum):
    """The three answers, as the record, metrics and `openmcp explain` name them."""

    ALLOW = "allow"
    DENY = "deny"
    REQUIRE_APPROVAL = "requireApproval"


ALLOW: Final = Verdict.ALLOW
DENY: Final = Verdict.DENY
REQUIRE_APPROVAL: Final = Verdict.REQUIRE_APPROVAL


class RuleRef(msgspec.Struct, frozen=True, cache_hash=True):
    """A rule by the names that the configuration gives it; `shadow`: of a policy that is not enforced."""

    policy: str
    rule: str
    action: str
    shadow: bool = False


class Failed(msgspec.Struct, frozen=True):
    """A rule that was about this call, and the condition of it that did not hold, in words with the value seen."""

    rule: RuleRef
    why: str


class Decision(msgspec.Struct, frozen=True, cache_hash=True):
    """What was decided and by which rule (`policy` and `rule` are empty for the default deny).

    `reason` may be shown to the agent. `matched` are all rules that hold for the call, also those of shadow policies;
    `approvals` those that require one, where that is the verdict. `shadow` is the verdict that the shadow policies
    would have brought about, with the rule that would have decided, where it differs. `failed` are the rules whose
    conditions did not hold.
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
