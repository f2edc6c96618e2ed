"""The way to the approval service: what is wrong with its store is told, and not with every call."""

import pytest

from openmcp.sidecar.stages.desk import Desk
from openmcp.sidecar.state.store import StoreUnavailable


async def test_a_store_that_fails_and_comes_back_is_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    desk, broken = Desk(), True

    async def asked() -> str:
        if broken:
            raise StoreUnavailable("state store a.db: locked")
        return "an answer"

    for _ in range(3):
        with pytest.raises(StoreUnavailable):
            await desk.reach(asked())
    assert desk.problem == "state store a.db: locked"
    broken = False
    assert [await desk.reach(asked()) for _ in range(3)] == ["an answer"] * 3
    assert desk.problem == ""
    assert caplog.messages == [
        "what needs an approval is denied: state store a.db: locked",
        "approvals can be looked up again",
    ]
