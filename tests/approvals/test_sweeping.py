"""What ends by time is told of without anybody asking, also after the store was away."""

import asyncio

from openmcp.sidecar.approvals.sweeping import Sweeping
from openmcp.sidecar.approvals.values import Kind
from openmcp.sidecar.state.memory import MemoryStore
from openmcp.sidecar.state.store import StoreUnavailable
from tests.approvals.scene import Scene
from tests.contracts.requests import HOUR


class Failing(MemoryStore):
    """Is away for its first three lists."""

    def __init__(self):
        super().__init__()
        self.left = 3

    async def list_due(self, now, limit):
        if self.left:
            self.left -= 1
            raise StoreUnavailable("away")
        return await super().list_due(now, limit)


async def test_an_end_is_told_of_also_after_an_outage(caplog):
    scene = Scene(Failing())
    expired = asyncio.Event()
    told = scene.events.append

    def on_event(event):
        told(event)
        if event.kind is Kind.EXPIRED:
            expired.set()

    scene.service._on_event = on_event
    await scene.ask()
    scene.now += HOUR
    sweeping = Sweeping(scene.service, every=0.005)
    sweeping.start()
    await asyncio.wait_for(expired.wait(), 10)
    await sweeping.stop()
    assert scene.kinds == [Kind.OPENED, Kind.EXPIRED]
    assert [one.getMessage() for one in caplog.records] == ["cannot write down what has ended: away"]
