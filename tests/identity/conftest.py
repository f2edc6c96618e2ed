"""An agent that serves the Workload API."""

from pathlib import Path

import pytest

from tests.fakes.workload_api import FakeWorkloadApi


@pytest.fixture
def address(tmp_path: Path) -> str:
    return f"unix://{tmp_path}/api.sock"


@pytest.fixture
async def agent(address):
    async with FakeWorkloadApi(address) as running:
        yield running
