"""The whole approver's side in a process of its own: it tells Slack of what another process asks, and is answered."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from openmcp.config import load
from openmcp.sidecar.approvals.making import make_service, wall_clock
from openmcp.sidecar.approvals.service import Granted, Pending
from openmcp.sidecar.state.sqlite import SqliteStore
from tests.approvals.scene import question, spec
from tests.fakes.slack import APP_TOKEN, CHANNEL, SECRET, TOKEN, FakeSlack, fake_slack, pressed, signed, submitted
from tests.support.process import OPENMCP, free_ports, running

CONFIGURATION = """
apiVersion: openmcp.dev/v1alpha1
state: {{type: sqlite, path: approvals.db}}
approvals:
  console: {{listen: "127.0.0.1:{port}"}}
  workflows: [{{name: leads, approvers: ["slack:U0ANN"], channels: [chat]}}]
  channels:
    - name: chat
      type: slack
      channel: {channel}
      token: {{file: token}}
      apiUrl: "{url}"
      {mode}
"""
HTTP = "signingSecret: {file: secret}"
SOCKET = "mode: socket\n      appToken: {file: app-token}"


@pytest.fixture
async def slack() -> AsyncIterator[FakeSlack]:
    async with fake_slack() as made:
        yield made


def configuration(folder: Path, slack: FakeSlack, port: int, mode: str) -> Path:
    for name, secret in (("token", TOKEN), ("secret", SECRET), ("app-token", APP_TOKEN)):
        (folder / name).write_text(f"{secret}\n")
    path = folder / "gateway.yaml"
    path.write_text(CONFIGURATION.format(port=port, channel=CHANNEL, url=slack.url, mode=mode))
    return path


@pytest.mark.parametrize("mode", [pytest.param(HTTP, id="http"), pytest.param(SOCKET, id="socket")])
async def test_a_request_is_told_of_and_approved_in_slack(tmp_path: Path, slack: FakeSlack, mode: str) -> None:
    (port,) = free_ports(1)
    path = configuration(tmp_path, slack, port, mode)
    approvals = load(path).configuration.approvals
    store = SqliteStore(tmp_path / "approvals.db")
    service = make_service(approvals, store, lambda event: None)
    asked = await service.ask(question(), [spec(workflow=approvals.workflows[0])])
    assert isinstance(asked, Pending)
    serving = running("approvals serve", [OPENMCP, "approvals", "serve", "-c", path], cwd=tmp_path)
    process = await asyncio.to_thread(serving.__enter__)
    try:
        await slack.seen("chat.postMessage")
        await act(slack, port, mode, "1", pressed("openmcp_approve", asked.record.rid))
        view = (await slack.seen("views.open"))["view"]
        await act(slack, port, mode, "2", submitted(view, reason="fine"))
        update = await slack.seen("chat.update")
        assert update["blocks"][0]["text"]["text"] == "Approved: tool refund"
        assert isinstance(await service.ask(question(), [spec(workflow=approvals.workflows[0])]), Granted)
        assert TOKEN not in process.printed()
    finally:
        await asyncio.to_thread(serving.__exit__, None, None, None)
        await store.close()


async def act(slack: FakeSlack, port: int, mode: str, number: str, payload: dict[str, object]) -> None:
    """Slack tells of what somebody did, in the way that is configured."""
    if mode == SOCKET:
        await slack.say({"envelope_id": number, "type": "interactive", "payload": payload})
        await slack.until(lambda: {"envelope_id": number} in slack.acknowledged)
        return
    request = signed(payload, wall_clock())
    url = f"http://127.0.0.1:{port}{request.path}"
    async with (
        aiohttp.ClientSession() as session,
        session.post(url, data=request.body, headers=request.headers) as done,
    ):
        assert (done.status, await done.read()) == (200, b"")
