"""What a channel is to the notifier."""

from typing import Protocol

from openmcp.sidecar.state.records import ApprovalRecord


class ChannelFailed(Exception):
    """A message was not taken. The text says why and what to do, and holds no secret.

    `lasting`: it will not be taken before somebody has changed something.
    """

    def __init__(self, text: str, *, lasting: bool = False) -> None:
        super().__init__(text)
        self.lasting = lasting


class Channel(Protocol):
    """A way to approvers. `send` and `update` raise `ChannelFailed`; times are Unix milliseconds."""

    name: str
    updates: bool
    """Whether messages can be changed after they were sent."""

    async def send(self, record: ApprovalRecord, now: int) -> str:
        """Tell of a request; what the message is called there, not empty."""
        ...

    async def update(self, record: ApprovalRecord, reference: str, now: int) -> None:
        """Make the message say how the record stands now; called where `updates`."""
        ...

    async def close(self) -> None:
        """Let go of connections and threads."""
        ...
