"""Slack's Socket Mode: we connect to Slack and are told over that connection what people do; nobody connects to us.

https://api.slack.com/apis/socket-mode. What comes over it needs no signature: the connection is TLS to Slack, opened
with the app's token. Slack closes connections every few hours, and says so before.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import msgspec

from openmcp.identity.addresses import is_this_machine
from openmcp.sidecar.approvals.channels.channel import ChannelFailed
from openmcp.sidecar.approvals.channels.slack import Slack
from openmcp.sidecar.approvals.channels.slackapi import SlackApi
from openmcp.sidecar.approvals.safetext import safe

if TYPE_CHECKING:
    import aiohttp

_log = logging.getLogger("openmcp.approvals")

PAUSES: Final = (1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
"""Seconds before another attempt to connect; the last one for all further ones."""

_STEADY: Final = 10.0
"""Seconds that a connection has to hold for the next one to be made at once."""

_RENEWALS: Final = ("warning", "refresh_requested")
_HEARTBEAT: Final = 20.0
_LARGEST: Final = 1024 * 1024
_PATIENCE: Final = 10.0


class SlackSocket:
    """The connection of one channel; `api` has the app's token. `fault` is why there is none, empty where there is."""

    def __init__(self, slack: Slack, api: SlackApi) -> None:
        self.fault = "not connected yet"
        self.name = slack.name
        self._slack = slack
        self._api = api
        self._task: asyncio.Task[None] | None = None
        self._answering: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Connect, and stay connected."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        """Part from Slack."""
        tasks = [*self._answering, *([self._task] if self._task is not None else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self) -> None:
        failures, loop = 0, asyncio.get_running_loop()
        while True:
            began = loop.time()
            try:
                await self._connected()
            except ChannelFailed as error:
                self._failed(str(error))
            except Exception as error:  # whatever a library or a payload brings up, buttons must work again afterwards
                _log.debug("channel %s", self.name, exc_info=True)
                self._failed(f"the connection to Slack broke: {type(error).__name__}")
            if loop.time() - began > _STEADY:
                failures = 0
                continue
            await asyncio.sleep(PAUSES[min(failures, len(PAUSES) - 1)])
            failures += 1

    def _failed(self, fault: str) -> None:
        if fault != self.fault:
            _log.warning("channel %s: %s", self.name, fault)
        self.fault = fault

    async def _connected(self) -> None:
        """One connection, from its beginning until Slack asks for another. Raises where it breaks."""
        url = str((await self._api.call("apps.connections.open", {})).get("url", ""))
        parts = urlsplit(url)
        if parts.scheme != "wss" and not (parts.scheme == "ws" and is_this_machine(parts.hostname or "")):
            raise ChannelFailed("Slack gave no wss URL to connect to")
        await asyncio.to_thread(_import)
        import aiohttp

        timeout = aiohttp.ClientTimeout(total=None, connect=_PATIENCE)
        async with (
            aiohttp.ClientSession(timeout=timeout, cookie_jar=aiohttp.DummyCookieJar()) as session,
            session.ws_connect(url, heartbeat=_HEARTBEAT, max_msg_size=_LARGEST) as socket,
        ):
            await self._listen(socket)

    async def _listen(self, socket: "aiohttp.ClientWebSocketResponse") -> None:
        async for message in socket:
            if not isinstance(message.data, str):
                continue
            try:
                envelope = msgspec.json.decode(message.data, type=dict[str, Any])
            except msgspec.DecodeError:
                continue
            kind = envelope.get("type")
            if kind == "hello":
                self.fault = ""
            elif kind == "disconnect":
                if envelope.get("reason") in _RENEWALS:
                    return
                raise ChannelFailed(f"Slack ended the connection: {safe(str(envelope.get('reason')), 60)[0]}")
            elif isinstance(envelope.get("envelope_id"), str):
                self._answer(socket.send_str, envelope)
        raise ChannelFailed("the connection to Slack was closed")

    def _answer(self, send: Callable[[str], Any], envelope: Mapping[str, Any]) -> None:
        task = asyncio.get_running_loop().create_task(self._acknowledge(send, envelope))
        self._answering.add(task)
        task.add_done_callback(self._answering.discard)

    async def _acknowledge(self, send: Callable[[str], Any], envelope: Mapping[str, Any]) -> None:
        payload, answer = envelope.get("payload"), None
        try:
            if envelope.get("type") == "interactive" and isinstance(payload, Mapping):
                answer = await self._slack.act(payload)
        except Exception:  # a defect: Slack is answered all the same, and shows that nothing was done
            _log.exception("channel %s", self.name)
            return
        said = {"envelope_id": envelope["envelope_id"]} | ({"payload": answer} if answer is not None else {})
        try:
            await send(msgspec.json.encode(said).decode())
        except (ConnectionError, RuntimeError):
            _log.debug("channel %s: Slack was gone before it was answered", self.name)


def _import() -> None:
    import aiohttp  # noqa: F401 - loaded here, outside of the loop, and used there
