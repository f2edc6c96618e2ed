"""What policy answers."""

import msgspec


class Decision(msgspec.Struct, frozen=True):
    """What was decided and by which rule (`policy` and `rule` are empty for the default deny).

    `reason` may be shown to the agent.
    """

    allowed: bool
    policy: str = ""
    rule: str = ""
    reason: str = ""

    @property
    def word(self) -> str:
        """The decision as metrics and the record name it: `allow` or `deny`."""
        return "allow" if self.allowed else "deny"
