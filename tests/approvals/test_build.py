"""The builder of approvals: the store that the configuration names, and what is wrong with it."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from openmcp.config.model import Approvals, Configuration, Console, RedisState, Secret, SqliteState
from openmcp.sidecar.build import BuildError
from openmcp.sidecar.build.approvals import Approving
from openmcp.sidecar.build.identities import Identities
from openmcp.sidecar.state.sqlite import SqliteStore
from openmcp.sidecar.telemetry.metrics import Metrics


def prepared(configuration: Configuration) -> Approving:
    """What is made for a configuration that has a console, so that approvals are needed."""
    metrics = Metrics("0")
    made = Approving(Identities(metrics), metrics, lambda event: None)
    made.prepare(msgspec.structs.replace(configuration, approvals=Approvals(console=Console())))
    return made


async def test_the_store_is_that_of_the_configuration(tmp_path: Path) -> None:
    made = prepared(Configuration(state=SqliteState(path=str(tmp_path / "approvals.db"))))
    assert made.desk.service is not None
    assert isinstance(made.desk.service.store, SqliteStore)
    await made.stop()


def test_a_store_that_cannot_be_opened_is_told_with_its_place() -> None:
    state = RedisState(url="rediss://redis.example:6379", password=Secret(env="NOT_SET"))
    with pytest.raises(BuildError, match="state: environment variable NOT_SET is not set"):
        prepared(Configuration(state=state))
