"""The builder of approvals: the store that the configuration names, and what is wrong with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from openmcp.config.model import Configuration, RedisState, Secret, SqliteState
from openmcp.sidecar.build import BuildError
from openmcp.sidecar.build.approvals import service as build
from openmcp.sidecar.state.sqlite import SqliteStore


async def test_the_store_is_that_of_the_configuration(tmp_path: Path) -> None:
    made = build(Configuration(state=SqliteState(path=str(tmp_path / "approvals.db"))), lambda event: None)
    assert isinstance(made.store, SqliteStore)
    await made.store.close()


def test_a_store_that_cannot_be_opened_is_told_with_its_place() -> None:
    state = RedisState(url="rediss://redis.example:6379", password=Secret(env="NOT_SET"))
    with pytest.raises(BuildError, match="state: environment variable NOT_SET is not set"):
        build(Configuration(state=state), lambda event: None)
