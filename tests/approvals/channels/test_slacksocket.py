"""Socket Mode: buttons work without anybody being able to connect to us."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from aiohttp import web

from openmcp.sidecar.approvals.channels import slacksocket as module
from openmcp.sidecar.approvals.channels.slackapi import SlackApi
from openmcp.sidecar.approvals.channels.slacksocket import SlackSocket
from openmcp.sidecar.state.records import Status
from tests.approvals.channels.test_slack import Office
from tests.fakes.slack import APP_TOKEN, fake_slack, pressed, submitted


class Wired(Office):
    """An office that Slack reaches over a socket."""

    socket: SlackSocket

    def wire(self, token: Callable[[], str] = lambda: APP_TOKEN) -> None:
        self.socket = SlackSocket(self.channel, SlackApi(self.slack.url, token))
        self.socket.start()

    async def tell(self, number: int, payload: dict[str, Any], kind: str = "interactive") -> dict[str, Any]:
        """Slack says something; how it was acknowledged."""
        await self.slack.say({"envelope_id": f"e{number}", "type": kind, "payload": payload})
        acknowledged = self.slack.acknowledged
        await self.slack.until(lambda: any(one["envelope_id"] == f"e{number}" for one in acknowledged))
        return next(one for one in acknowledged if one["envelope_id"] == f"e{number}")


@pytest.fixture
async def office(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Wired]:
    monkeypatch.setattr(module, "PAUSES", (0.01,))
    async with fake_slack() as slack:
        office = Wired(slack)
        yield office
        await office.socket.stop()
        await office.channel.close()


async def test_a_request_is_decided(office: Wired) -> None:
    office.wire()
    record = await office.asked()
    assert await office.tell(1, pressed("openmcp_approve", record.rid)) == {"envelope_id": "e1"}
    view = (await office.slack.seen("views.open"))["view"]
    assert office.socket.fault == ""
    answer = await office.tell(2, submitted(view, uses="0"))
    assert answer["payload"]["response_action"] == "errors"
    assert await office.tell(3, submitted(view)) == {"envelope_id": "e3"}
    assert await office.status(record) is Status.APPROVED
    assert (await office.tell(4, submitted(view)))["payload"]["response_action"] == "update"


async def test_what_is_not_ours_is_acknowledged_and_does_nothing(office: Wired) -> None:
    office.wire()
    assert await office.tell(1, {"type": "event_callback"}, "events_api") == {"envelope_id": "e1"}
    assert await office.tell(2, {}) == {"envelope_id": "e2"}
    assert [call.method for call in office.slack.calls] == ["apps.connections.open"]


async def test_another_connection_where_slack_asks_for_one(office: Wired) -> None:
    office.wire()
    await office.slack.say({"type": "disconnect", "reason": "refresh_requested"})
    await office.slack.until(lambda: len(office.slack.sockets) == 2)
    assert await office.tell(1, {}) == {"envelope_id": "e1"}


async def test_another_connection_where_one_breaks(office: Wired) -> None:
    office.wire()
    await office.slack.until(lambda: office.slack.sockets)
    await office.slack.sockets[0].close()
    await office.slack.until(lambda: len(office.slack.sockets) == 2)
    assert await office.tell(1, {}) == {"envelope_id": "e1"}


async def faulty(office: Wired) -> str:
    async with asyncio.timeout(20):
        while office.socket.fault in ("", "not connected yet"):  # noqa: ASYNC110 - a plain attribute
            await asyncio.sleep(0)
    return office.socket.fault


async def test_what_keeps_it_from_connecting_is_seen(office: Wired) -> None:
    office.wire(lambda: "xapp-wrong")
    assert await faulty(office) == "Slack refuses apps.connections.open: invalid_auth (the token is not accepted)"


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/", "ws://slack.example/", "", "file:///etc/passwd"])
async def test_only_an_encrypted_connection_is_made(office: Wired, url: str) -> None:
    answers = [web.json_response({"ok": True, "url": url}) for _ in range(50)]
    office.slack.answers["apps.connections.open"].extend(answers)
    office.wire()
    assert await faulty(office) == "Slack gave no wss URL to connect to"


async def test_what_slack_ends_for_good_is_seen(office: Wired) -> None:
    office.wire()
    await office.slack.say({"type": "disconnect", "reason": "link_disabled"})
    assert await faulty(office) == "Slack ended the connection: link_disabled"
