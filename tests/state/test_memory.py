"""The store in memory: the contract, and that it does not grow for ever."""

import pytest

from openmcp.sidecar.state.memory import MemoryStore
from openmcp.sidecar.state.store import RETENTION
from tests.contracts.requests import HOUR, NOW, request
from tests.contracts.store import StoreContract


class TestMemory(StoreContract):
    @pytest.fixture
    def connect(self):
        store = MemoryStore()

        async def connected():
            return store

        return connected


async def test_what_ended_long_ago_is_dropped():
    store = MemoryStore()
    old, _ = await store.open(request(), NOW)
    later = NOW + RETENTION + HOUR
    new, _ = await store.open(request(now=later), later)
    assert await store.get(old.key, later) is None
    assert await store.by_rid(old.rid, later) is None
    assert await store.get(new.key, later) == new
