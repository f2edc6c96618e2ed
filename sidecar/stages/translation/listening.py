"""Subscriptions of modern agents with a legacy server: those of one agent share the stream of its session.

A session has one stream, and many servers tell of a change only the session in which it was made.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Final

from openmcp.sidecar.errors import METHOD_NOT_FOUND, UpstreamFailed
from openmcp.sidecar.mcp import answers, era, jsonrpc, translation
from openmcp.sidecar.net.response import UpstreamResponse
from openmcp.sidecar.stages.connections import open_stream
from openmcp.sidecar.stages.context import Flow
from openmcp.sidecar.stages.translation import kept as keeping
from openmcp.sidecar.stages.translation import spoken
from openmcp.sidecar.stages.translation.kept import Keeping, Kept
from openmcp.sidecar.stages.translation.sides import MOST_URIS
from openmcp.sidecar.stages.translation.spoken import Spoken
from openmcp.sidecar.types import JsonObject, Message, Notification, Request, Response

MOST_WAITING: Final = 256
"""Changes that wait for one agent to read them; its subscription ends then, and it begins another."""
LARGEST: Final = 16 * 1024
"""Bytes of what says that something has changed; larger ones are left out."""
_NO_STREAM_NOW: Final = frozenset((400, 404, 409))
"""The session is gone, or somebody has its stream already."""
_STREAM: Final = b"accept: text/event-stream\r\n"


class _Listener:
    """One subscription, to what is `wanted`. What it `heard` ends with None, or with what went wrong."""

    def __init__(self, wanted: JsonObject) -> None:
        self.wanted = wanted
        self.heard: asyncio.Queue[Notification | UpstreamFailed | None] = asyncio.Queue()

    def hear(self, one: Notification) -> None:
        """Something has changed."""
        if self.heard.qsize() < MOST_WAITING and translation.is_listened(one.method, one.params, self.wanted):
            self.heard.put_nowait(one)
            if self.heard.qsize() == MOST_WAITING:
                self.heard.put_nowait(None)


class Hub:
    """The stream of a session, and all who listen to it; it ends with the last of them."""

    def __init__(self, kept: Kept, response: UpstreamResponse, limit: int) -> None:
        self.over = False
        self._kept = kept
        self._listeners: list[_Listener] = []
        self._task = asyncio.create_task(self._run(response, limit))

    def join(self, wanted: JsonObject) -> _Listener:
        """Listen to what is wanted."""
        listener = _Listener(wanted)
        self._listeners.append(listener)
        return listener

    def leave(self, listener: _Listener) -> None:
        """Listen no more."""
        self._listeners.remove(listener)
        if not self._listeners:
            self.over = True
            asyncio.get_running_loop().call_soon(self._task.cancel)  # not before it has begun: see `Spoken`

    async def _run(self, response: UpstreamResponse, limit: int) -> None:
        end: UpstreamFailed | None = None
        try:
            async with aclosing(spoken.messages(response, limit)) as said:
                async for one in said:
                    await self._heard(one)
        except UpstreamFailed as failure:
            end = failure
        finally:
            self.over = True
            for listener in self._listeners:
                listener.heard.put_nowait(end)

    async def _heard(self, one: Message) -> None:
        if isinstance(one, Notification):
            if len(jsonrpc.encode(one.params)) > LARGEST:
                return
            for listener in self._listeners:
                listener.hear(one)
            if any(listener.heard.qsize() > MOST_WAITING // 2 for listener in self._listeners):
                await asyncio.sleep(0)  # many at once: who reads them comes to it now
        elif isinstance(one, Request):
            await self._kept.answer(ourselves(one))


class Listening:
    """All subscriptions."""

    def __init__(self, sessions: Keeping) -> None:
        self._keeping = sessions

    async def listen(self, flow: Flow, message: Request, params: JsonObject) -> UpstreamResponse:
        """The answer to subscriptions/listen: on the session of the agent's calls, or where that gives no stream on one
        of its own."""
        meta = era.meta_of(params)
        kept = await self._keeping.session(flow, meta)
        try:
            made = await self._subscribe(flow, message, params, kept, own=False)
        except UpstreamFailed as failure:
            self._keeping.failed(kept, failure)
            raise
        if made is None:
            made = await self._subscribe(flow, message, params, await keeping.begin(flow, meta), own=True)
        assert made is not None  # one of its own is what there is
        return made

    async def _subscribe(
        self, flow: Flow, message: Request, params: JsonObject, kept: Kept, *, own: bool
    ) -> UpstreamResponse | None:
        """The subscription on this session; None where that is not our `own` and gives no stream."""
        kept.listened += 1
        uris: list[str] = []
        try:
            wanted = translation.honoured(params.get("notifications"), kept.capabilities)
            for uri in wanted.pop("resourceSubscriptions", [])[:MOST_URIS]:
                if await self._follow(flow, kept, uri):
                    uris.append(uri)
            hub, status = await self._hub(flow, kept)
        except BaseException:
            self._leave(flow, kept, uris, own=own)
            raise
        if hub is None and not own and status in _NO_STREAM_NOW:
            self._leave(flow, kept, uris, own=False)
            return None
        wanted |= {"resourceSubscriptions": uris} if uris else {}
        listener = hub.join(wanted) if hub is not None else None

        async def said() -> AsyncGenerator[Message, None]:
            try:
                async for one in _changes(message, wanted if hub is not None else {}, listener):
                    yield one
            finally:
                if hub is not None and listener is not None:
                    hub.leave(listener)
                self._leave(flow, kept, uris, own=own)

        return Spoken(said()).response

    async def _follow(self, flow: Flow, kept: Kept, uri: str) -> bool:
        """Subscribe to a resource, unless the session is; whether that was granted."""
        if not kept.followed[uri] and not await kept.ask(flow, "resources/subscribe", {"uri": uri}):
            return False
        kept.followed[uri] += 1
        return True

    async def _hub(self, flow: Flow, kept: Kept) -> tuple[Hub | None, int]:
        """The session's stream, opened by the first who wants it; None where there is none, and the status of that."""
        async with kept.opening:
            hub = kept.hub
            if isinstance(hub, Hub) and not hub.over:
                return hub, 200
            response = await open_stream(flow, kept.headers(flow, _STREAM))
            if not response.streaming:
                response.close()
                return None, response.status
            kept.hub = made = Hub(kept, response, flow.upstream.server.limits.response_bytes)
            return made, 200

    def _leave(self, flow: Flow, kept: Kept, uris: list[str], *, own: bool) -> None:
        """A subscription is over."""
        kept.listened -= 1
        if own:
            self._keeping.aside(kept.end())
            return
        kept.followed.subtract(uris)
        self._keeping.aside(self._unfollow(flow, kept, uris))

    async def _unfollow(self, flow: Flow, kept: Kept, uris: list[str]) -> None:
        """One after the other: a server gets no more at once from an agent that goes than from one that comes."""
        for uri in uris:
            if uri in kept.followed and not kept.followed[uri]:
                del kept.followed[uri]
                await kept.ask(flow, "resources/unsubscribe", {"uri": uri})


async def _changes(message: Request, wanted: JsonObject, listener: _Listener | None) -> AsyncGenerator[Message, None]:
    """What a subscription is told of; of a server without a stream it hears nothing."""
    mark: JsonObject = {"_meta": {era.META_SUBSCRIPTION: message.id}}
    yield Notification("notifications/subscriptions/acknowledged", mark | {"notifications": wanted})
    if listener is None:
        await asyncio.Event().wait()
        return
    while (one := await listener.heard.get()) is not None:
        if isinstance(one, UpstreamFailed):
            raise one
        yield Notification(one.method, translation.legacy_params(one.params) | mark)
    yield Response(message.id, mark | {"resultType": "complete"}, None)


def ourselves(question: Request) -> JsonObject:
    """Our own answer to what the agent cannot be asked."""
    if question.method == "ping":
        return jsonrpc.response_document(Response(question.id, {}, None))
    return answers.error(question.id, METHOD_NOT_FOUND, "Method not found")
