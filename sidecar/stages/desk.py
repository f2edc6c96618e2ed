"""The way to the approval service: bounded in time, and with a memory of what was wrong."""

import asyncio
import logging
from collections.abc import Awaitable
from contextvars import ContextVar
from typing import TYPE_CHECKING, Final, TypeVar

if TYPE_CHECKING:
    from openmcp.sidecar.approvals.service import ApprovalService

PATIENCE: Final = 10.0
"""Seconds in which the store has to answer."""

CALL: ContextVar[str] = ContextVar("openmcp_call", default="")
"""The call under way, for the lines of the record that its approval brings about."""

T = TypeVar("T")
_log = logging.getLogger("openmcp.approvals")


class Desk:
    """Where approvals are asked for. `service` is there where rules of the configuration ask for some; `kind` is
    that of its store, `problem` what is wrong with it, empty where nothing is."""

    def __init__(self) -> None:
        self.service: ApprovalService | None = None
        self.kind = ""
        self.problem = ""

    async def reach(self, asked: Awaitable[T]) -> T:
        """What the store says. Raises `UnknownSchema`, and `StoreUnavailable`, also where it says nothing in time."""
        from openmcp.sidecar.state.records import UnknownSchema  # here: who asks has loaded them
        from openmcp.sidecar.state.store import StoreUnavailable

        try:
            async with asyncio.timeout(PATIENCE) as scope:
                found = await asked
        except TimeoutError:
            if not scope.expired():
                raise
            self._note(f"the state store has not answered within {PATIENCE:.0f} s")
            raise StoreUnavailable(self.problem) from None
        except (StoreUnavailable, UnknownSchema) as error:
            self._note(str(error))
            raise
        self._note("")
        return found

    def _note(self, problem: str) -> None:
        """Remember it; it is told once that approvals fail, and once that they are back."""
        if problem and not self.problem:
            _log.error("what needs an approval is denied: %s", problem)
        elif self.problem and not problem:
            _log.warning("approvals can be looked up again")
        self.problem = problem
