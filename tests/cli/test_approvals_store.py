"""A store that is reached by an SVID, from a process that is no sidecar: STS and DynamoDB are moto's."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from moto.server import ThreadedMotoServer

from openmcp.config.model import Approvals, Configuration, Console, DynamodbState, Identity
from openmcp.sidecar.approvals.making import make_service
from openmcp.sidecar.approvals.service import Pending
from openmcp.sidecar.build.approvals import Approving
from openmcp.sidecar.build.identities import Identities
from openmcp.sidecar.commands import approvalstore
from openmcp.sidecar.commands.approvalstore import opened_store
from openmcp.sidecar.state.dynamodb import DynamoStore
from openmcp.sidecar.state.store import StoreUnavailable
from openmcp.sidecar.telemetry.metrics import Metrics
from tests.approvals.scene import question, spec
from tests.fakes.workload_api import FakeWorkloadApi

REGION = "eu-west-1"


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", f"http://{host}:{port}")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[FakeWorkloadApi]:
    async with FakeWorkloadApi(f"unix://{tmp_path}/agent.sock") as api:
        yield api


def configured(address: str, url: str, **changes: Any) -> Configuration:
    fields: dict[str, Any] = {
        "table": f"t{secrets.token_hex(6)}",
        "region": REGION,
        "endpoint": url,
        "credentials": "spiffe",
        "role_arn": "arn:aws:iam::123456789012:role/openmcp",
    }
    return Configuration(identity=Identity(workload_api=address), state=DynamodbState(**fields | changes))


async def test_the_store_is_used_in_the_role_that_our_svid_may_take(aws: str, api: FakeWorkloadApi) -> None:
    configuration = configured(api.address, aws)
    async with opened_store(configuration) as store:
        assert isinstance(store, DynamoStore)
        await store.create()
        asked = await make_service(configuration.approvals, store, lambda event: None).ask(question(), [spec()])
        assert isinstance(asked, Pending)
        assert [record.rid for record in (await store.list_pending(asked.record.opened, 9)).records] == [
            asked.record.rid
        ]
    assert api.calls["FetchJWTSVID"] == 1


async def test_without_an_svid_the_store_is_away(
    aws: str, api: FakeWorkloadApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(approvalstore, "PATIENCE", 0.2)
    api.deny()
    async with opened_store(configured(api.address, aws)) as store:
        with pytest.raises(StoreUnavailable):
            await store.list_pending(0, 1)
    assert api.calls["FetchJWTSVID"] == 0


async def test_a_sidecar_uses_it_in_that_role_too(aws: str, api: FakeWorkloadApi) -> None:
    made = configured(api.address, aws)
    configuration = msgspec.structs.replace(made, approvals=Approvals(console=Console()))
    metrics, updated = Metrics("0"), asyncio.Event()
    identities = Identities(metrics)
    identities.prepare(configuration)
    approving = Approving(identities, metrics, lambda event: None)
    approving.prepare(configuration)
    identities.start(configuration, updated.set)
    await updated.wait()
    assert approving.desk.service is not None
    await approving.desk.service.store.create()
    assert isinstance(await approving.desk.service.ask(question(), [spec()]), Pending)
    await approving.stop()
    await identities.stop()
