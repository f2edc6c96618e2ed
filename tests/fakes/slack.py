"""A Slack that takes what the real one takes, and refuses what it would refuse: Web API, Socket Mode, signatures.

async with fake_slack() as slack:
    slack.url                                       # approvals.channels[].apiUrl
    slack.calls                                     # [Call("chat.postMessage", {...}), ...]
    slack.answers["chat.postMessage"].append(...)   # what the next such call gets instead
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from aiohttp import web

from openmcp.sidecar.approvals.console.settings import Incoming
from tests.fakes.blockkit import message_faults, view_faults

TOKEN = "xoxb-1-bot"
APP_TOKEN = "xapp-1-app"
SECRET = "8f742231b10e8888abcd99yyyzzz85a5"
TEAM = "T0ACME"
CHANNEL = "C0LEADS"


@dataclass(frozen=True)
class Call:
    """One call of the Web API; JSON in fields is decoded."""

    method: str
    arguments: dict[str, Any]


class FakeSlack:
    """What it was sent, and what it answers."""

    def __init__(self) -> None:
        self.url = ""
        self.calls: list[Call] = []
        self.faults: list[str] = []
        self.answers: dict[str, list[web.Response | Callable[[], Any]]] = defaultdict(list)
        self.sockets: list[web.WebSocketResponse] = []
        self.acknowledged: list[dict[str, Any]] = []
        self._changed = asyncio.Event()
        self._ts = 0

    def of(self, method: str) -> list[dict[str, Any]]:
        """The arguments of all calls of a method."""
        return [call.arguments for call in self.calls if call.method == method]

    async def until(self, holds: Callable[[], object]) -> None:
        """Wait until something holds that calls bring about."""
        async with asyncio.timeout(10):
            while not holds():
                self._changed.clear()
                await self._changed.wait()

    async def seen(self, method: str, count: int = 1) -> dict[str, Any]:
        """The arguments of the `count`th call of a method, once it has been made."""
        await self.until(lambda: len(self.of(method)) >= count)
        return self.of(method)[count - 1]

    async def say(self, envelope: dict[str, Any]) -> None:
        """Send something over the latest socket."""
        await self.until(lambda: self.sockets)
        await self.sockets[-1].send_str(json.dumps(envelope))

    async def api(self, request: web.Request) -> web.StreamResponse:
        """One call of the Web API."""
        method = request.match_info["method"]
        form = await request.post()
        arguments = {name: _decoded(str(value)) for name, value in form.items()}
        self.calls.append(Call(method, arguments))
        self._changed.set()
        wanted = APP_TOKEN if method == "apps.connections.open" else TOKEN
        if request.headers.get("authorization") != f"Bearer {wanted}":
            return _refused("invalid_auth")
        if self.answers[method]:
            answer = self.answers[method].pop(0)
            return answer if isinstance(answer, web.Response) else await answer()
        return self._answer(method, arguments)

    def _answer(self, method: str, arguments: dict[str, Any]) -> web.Response:
        if method in ("chat.postMessage", "chat.update"):
            faults = message_faults(arguments.get("blocks"))
            faults += [f"{name} is missing" for name in ("channel", "text") if not arguments.get(name)]
            if faults:
                self.faults += faults
                return _refused("invalid_blocks")
            if arguments["channel"] != CHANNEL:
                return _refused("channel_not_found")
            self._ts += 1
            ts = arguments.get("ts", f"1700000000.{self._ts:06}")
            return web.json_response({"ok": True, "channel": CHANNEL, "ts": ts})
        if method == "views.open":
            faults = view_faults(arguments.get("view"))
            self.faults += faults
            return _refused("invalid_arguments") if faults else web.json_response({"ok": True, "view": {"id": "V1"}})
        if method == "auth.test":
            return web.json_response({"ok": True, "team_id": TEAM, "user_id": "U0BOT"})
        if method == "apps.connections.open":
            return web.json_response({"ok": True, "url": f"{self.url.replace('http', 'ws', 1)}/socket"})
        return web.json_response({"ok": True}) if method == "chat.postEphemeral" else _refused("unknown_method")

    async def socket(self, request: web.Request) -> web.WebSocketResponse:
        """A connection of Socket Mode."""
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        self.sockets.append(socket)
        self._changed.set()
        await socket.send_str(json.dumps({"type": "hello", "num_connections": 1}))
        async for message in socket:
            self.acknowledged.append(json.loads(message.data))
            self._changed.set()
        return socket


@asynccontextmanager
async def fake_slack() -> AsyncIterator[FakeSlack]:
    """A Slack on loopback. Afterwards nothing that was sent may have been one that Slack refuses."""
    slack = FakeSlack()
    app = web.Application()
    app.add_routes([web.post("/api/{method}", slack.api), web.get("/api/socket", slack.socket)])
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    slack.url = f"http://127.0.0.1:{runner.addresses[0][1]}/api"
    try:
        yield slack
    finally:
        await runner.cleanup()
    assert slack.faults == []


def signed(payload: dict[str, Any], now: int, secret: str = SECRET) -> Incoming:
    """An interaction as Slack posts it (https://api.slack.com/authentication/verifying-requests-from-slack)."""
    body = urlencode({"payload": json.dumps(payload)}).encode()
    at = str(now // 1000)
    digest = hmac.new(secret.encode(), f"v0:{at}:".encode() + body, hashlib.sha256).hexdigest()
    headers = {
        "content-type": "application/x-www-form-urlencoded",
        "x-slack-request-timestamp": at,
        "x-slack-signature": f"v0={digest}",
    }
    return Incoming("POST", "/slack/interactivity", "", headers, body)


def pressed(action: str, rid: str, user: str = "U0ANN", team: str = TEAM) -> dict[str, Any]:
    """Somebody presses a button of a message."""
    return {
        "type": "block_actions",
        "user": {"id": user, "username": "somebody", "team_id": team},
        "team": {"id": TEAM, "domain": "acme"},
        "container": {"type": "message", "message_ts": "1700000000.000001", "channel_id": CHANNEL},
        "trigger_id": "13345224609.738474920.8088930838d88f008e0",
        "channel": {"id": CHANNEL, "name": "leads"},
        "actions": [{"type": "button", "action_id": action, "block_id": "decide", "value": rid}],
    }


def submitted(view: dict[str, Any], user: str = "U0ANN", team: str = TEAM, **said: str) -> dict[str, Any]:
    """Somebody sends a dialogue; `said` by block: `reason`, `duration`, `uses`."""
    values: dict[str, Any] = {}
    for block in (block for block in view["blocks"] if block["type"] == "input"):
        name, element = block["block_id"], block["element"]
        text = said.get(name)
        if element["type"] == "static_select":
            chosen = next((one for one in element["options"] if one["value"] == text), element.get("initial_option"))
            values[name] = {element["action_id"]: {"type": "static_select", "selected_option": chosen}}
        else:
            values[name] = {element["action_id"]: {"type": element["type"], "value": text}}
    return {
        "type": "view_submission",
        "user": {"id": user, "username": "somebody", "team_id": team},
        "team": {"id": TEAM, "domain": "acme"},
        "view": view | {"id": "V1", "state": {"values": values}},
    }


def _decoded(text: str) -> Any:
    try:
        found = json.loads(text)
    except ValueError:
        return text
    return found if isinstance(found, list | dict | bool) else text


def _refused(word: str) -> web.Response:
    return web.json_response({"ok": False, "error": word})
