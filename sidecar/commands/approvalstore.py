"""The store of approvals for processes that are no sidecar, with an SVID where the store is reached by one."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final

from openmcp.config.model import Configuration, DynamodbState
from openmcp.sidecar.build.approvals import role_session
from openmcp.sidecar.build.identities import address_of
from openmcp.sidecar.state.opening import open_store
from openmcp.sidecar.state.store import StateStore

PATIENCE: Final = 10.0
"""Seconds to wait for our first SVID; without one the store is away until there is one."""


@asynccontextmanager
async def opened_store(configuration: Configuration) -> AsyncIterator[StateStore]:
    """The store of a configuration, closed at the end. Raises `CannotOpen` and `BuildError`."""
    state = configuration.state
    if not (isinstance(state, DynamodbState) and state.credentials == "spiffe"):
        store = open_store(state)
        try:
            yield store
        finally:
            await store.close()
        return
    from openmcp.identity.material import SvidChoice
    from openmcp.identity.source import SvidSource

    chosen = configuration.identity.svid
    address = address_of(configuration.identity, "state.credentials: spiffe")
    source = SvidSource(address, SvidChoice(chosen.hint, chosen.id))
    arrived = asyncio.Event()
    source.subscribe(arrived.set)
    source.start()
    try:
        with suppress(TimeoutError):
            await asyncio.wait_for(arrived.wait(), PATIENCE)
        store = open_store(state, lambda wanted: role_session(source, wanted))
        try:
            yield store
        finally:
            await store.close()
    finally:
        await source.stop()
