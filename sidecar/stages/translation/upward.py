"""Agents of the legacy era with a server of the modern one: their session is ours.

It says to the server each time what the agent said once. Its id holds what the client declared. Its log level, its
subscriptions and the questions that it was put are remembered here alone: where they are lost, logs and updates stop,
and an answer is refused.
"""

import asyncio
import secrets
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Final, NamedTuple

from openmcp.sidecar.errors import (
    HEADER_MISMATCH,
    INVALID_PARAMS,
    INVALID_REQUEST,
    METHOD_NOT_FOUND,
    Refused,
    UpstreamFailed,
)
from openmcp.sidecar.mcp import era, jsonrpc, methods, translation
from openmcp.sidecar.net.response import UpstreamResponse
from openmcp.sidecar.stages import forward
from openmcp.sidecar.stages.context import Flow
from openmcp.sidecar.stages.sessions import session_not_found
from openmcp.sidecar.stages.translation import eras, rounds, spoken
from openmcp.sidecar.stages.translation.rounds import Rounds
from openmcp.sidecar.stages.translation.sides import LONGEST, MOST_URIS, ROUNDS, OtherEra, Remembered, post, request
from openmcp.sidecar.stages.translation.spoken import Spoken
from openmcp.sidecar.types import MODERN, JsonObject, Message, MessageId, Notification, Request, Response

URI_BYTES: Final = 32 * 1024
"""How long the URIs that a session is subscribed to may be together: they are kept."""
MOST_KEPT: Final = 2048
"""Bytes of what a client says of itself that its session's id can hold."""
LOOKED_UP_FOR: Final = 60.0
"""Seconds for which the schema of a tool is not looked up again: each time may cost its server many answers."""
_OFFERED: Final = ("tools", "prompts", "resources")


class _Ear:
    """A session's stream. What it listens to, and the answer to that; `over`: it has to end."""

    def __init__(self) -> None:
        self.over = False
        self.changed = asyncio.Event()
        self.hears: UpstreamResponse | None = None

    def again(self) -> None:
        """Something else is to be listened to."""
        self.changed.set()
        if self.hears is not None:
            self.hears.stop()

    def end(self) -> None:
        """Nothing is to be listened to any more."""
        self.over = True
        self.again()


class _Legacy:
    """What is remembered of one session beside its id."""

    def __init__(self) -> None:
        self.level = ""
        self.uris: list[str] = []
        self.questions: dict[MessageId, asyncio.Future[Response]] = {}
        self.under_way: dict[MessageId, asyncio.Timeout | Spoken] = {}
        self.ear: _Ear | None = None

    def subscribe(self, uri: str, *, wanted: bool) -> bool:
        """Another set of resources: what listens begins again with it. False where that would be too many."""
        uris = [one for one in self.uris if one != uri]
        if wanted:
            uris.append(uri)
            if len(uris) > MOST_URIS or sum(len(one.encode()) for one in uris) > URI_BYTES:
                return False
        self.uris = uris
        if self.ear is not None:
            self.ear.again()
        return True


class _Mirrors(NamedTuple):
    """Which arguments of a tool its server wants in headers, and when that was looked up."""

    headers: dict[str, tuple[str, ...]]
    at: float


class Upward:
    """Says what legacy agents want in modern words. Its sessions are those with `Session.client`.

    `now` is in seconds.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._sessions: Remembered[_Legacy] = Remembered()
        self._ended: Remembered[bool] = Remembered()
        self._mirrors: Remembered[_Mirrors] = Remembered()

    # requests and notifications

    async def send(self, flow: Flow, message: Request | Notification, params: JsonObject) -> UpstreamResponse:
        """The answer to a legacy message; raises as `forward.send`."""
        legacy = self._of(flow)
        if isinstance(message, Notification):
            return _told(legacy, message)
        if message.method == "initialize":
            return await self._initialize(flow, message)
        if message.method in translation.LOCAL:
            return self._local(flow, message)
        if message.method not in methods.CLIENT_REQUESTS[MODERN] or message.method.startswith("tasks/"):
            return spoken.error(message.id, METHOD_NOT_FOUND, f"Method not found: {message.method}")
        return await self._call(flow, message, params)

    async def _initialize(self, flow: Flow, message: Request) -> UpstreamResponse:
        given = message.params
        client: JsonObject = {
            "capabilities": translation.client_capabilities(given.get("capabilities")),
            "info": translation.client_info(given.get("clientInfo")),
        }
        if len(jsonrpc.encode(client)) > MOST_KEPT:
            raise Refused(400, INVALID_PARAMS, "params.capabilities are too large", reason="malformed")
        flow.client = client
        response = await self._post(flow, Request(message.id, "server/discover", {}), {}, {})
        found = await spoken.final(response, flow.upstream.server.limits.response_bytes)
        if found is None or found.result is None:
            raise OtherEra("protocol", "the server answers neither initialize nor server/discover")
        client["offers"] = _offers(found.result.get("capabilities"))
        answer = spoken.result(message.id, translation.initialized(found.result, given.get("protocolVersion")))
        answer.headers[b"mcp-session-id"] = secrets.token_urlsafe(16).encode()
        return answer

    def _local(self, flow: Flow, message: Request) -> UpstreamResponse:
        """What is about the session alone."""
        params = message.params
        if message.method == "logging/setLevel":
            if params.get("level") not in translation.LEVELS:
                return spoken.error(message.id, INVALID_PARAMS, "params.level is not a level")
            self._of(flow).level = str(params["level"])
        elif message.method != "ping":
            uri, wanted = params.get("uri"), message.method == "resources/subscribe"
            if type(uri) is not str or not self._of(flow).subscribe(uri, wanted=wanted):
                most = f"one URI, at most {MOST_URIS} in all, of {URI_BYTES // 1024} KiB"
                return spoken.error(message.id, INVALID_PARAMS, most)
        return spoken.result(message.id, {})

    async def _call(self, flow: Flow, message: Request, params: JsonObject) -> UpstreamResponse:
        legacy = self._of(flow)
        try:
            async with asyncio.timeout(None) as scope:
                legacy.under_way[message.id] = scope
                response = await self._mirrored(flow, message, params)
        except TimeoutError:
            raise _dropped() from None
        finally:
            legacy.under_way.pop(message.id, None)
        if eras.refuses_modern(message.method, response):
            response.close()
            if eras.is_sure(response) or await eras.lacks_modern(flow):
                raise OtherEra("protocol", "the server has another era than when the session began")
        if not response.streaming:
            response.close()
            answer = rounds.answer_of(response)
            if rounds.input_required(message.method, answer) is None:
                return spoken.answered(rounds.legacy(message, answer))
            made = self._talk(flow, message, params, answer)
        else:
            made = self._talk(flow, message, params, response)
        legacy.under_way[message.id] = made
        return made.response

    def _talk(self, flow: Flow, message: Request, params: JsonObject, came: UpstreamResponse | Response) -> Spoken:
        """An answer that is a stream, or needs the agent's input."""
        legacy = self._of(flow)
        talk = Rounds(flow, message, legacy.questions, lambda again, retry: self._post(flow, again, params, retry))

        async def said() -> AsyncGenerator[Message, None]:
            try:
                async with aclosing(talk.run(came)) as messages:
                    async for one in messages:
                        yield one
            finally:
                legacy.under_way.pop(message.id, None)

        return Spoken(said())

    async def _mirrored(self, flow: Flow, message: Request, params: JsonObject) -> UpstreamResponse:
        """The server's answer. A tool that wants arguments in headers says so in its schema: the first call of it that
        is refused for their lack, unread, makes us look there."""
        response = await self._post(flow, message, params, {})
        if message.method != "tools/call" or response.streaming or response.status != 400:
            return response
        error = rounds.answer_of(response).error or {}
        if error.get("code") != HEADER_MISMATCH or len(flow.name) > LONGEST:
            return response
        response.close()
        name = f"{flow.server}\0{flow.name}"
        known = self._mirrors.seen(name)
        if known is not None and known.at > self._now() - LOOKED_UP_FOR:
            return response  # the call lacks what is wanted
        self._mirrors.keep(flow.agent, name, _Mirrors(await self._look(flow), self._now()))
        return await self._post(flow, message, params, {})

    async def _look(self, flow: Flow) -> dict[str, tuple[str, ...]]:
        """The headers that the tool of this flow wants."""
        cursor: JsonObject = {}
        for _ in range(ROUNDS):
            response = await self._post(flow, Request("tools", "tools/list", {}), cursor, {})
            found = await spoken.final(response, flow.upstream.server.limits.response_bytes)
            result = (found.result if found is not None else None) or {}
            tools = result.get("tools")
            for tool in tools if type(tools) is list else ():
                if type(tool) is dict and tool.get("name") == flow.name:
                    return translation.mirrored(tool.get("inputSchema"))
            if type(result.get("nextCursor")) is not str:
                break
            cursor = {"cursor": result["nextCursor"]}
        return {}

    async def _post(self, flow: Flow, message: Request, params: JsonObject, retry: JsonObject) -> UpstreamResponse:
        """Post it in modern words; `retry` are the members that answer the server's questions."""
        client = flow.session.client if flow.session is not None else flow.client
        client = client or {}
        level = self._of(flow).level
        said = translation.modern_params(params, client.get("capabilities", {}), client.get("info"), level) | retry
        lines = forward.modern_headers(flow, translation.NEWEST_MODERN, Request(message.id, message.method, said))
        if message.method == "tools/call":
            mirrors = self._mirrors.seen(f"{flow.server}\0{flow.name}")
            if mirrors is not None:
                lines += translation.parameter_lines(mirrors.headers, said.get("arguments"))
        return await post(flow, message.method, lines, request(message.id, message.method, said))

    # questions

    def answer(self, flow: Flow, message: Response) -> UpstreamResponse:
        """The agent (or what stands for it) answers a question. Raises `Refused` where it was not put here."""
        waiting = self._of(flow).questions.pop(message.id, None) if message.id is not None else None
        if waiting is None or waiting.done():
            raise Refused(400, INVALID_REQUEST, "no request of the server has this id", reason="forged_response")
        waiting.set_result(message)
        return spoken.status_alone(202)

    # the session's stream

    async def listen(self, flow: Flow) -> UpstreamResponse:
        """The stream of a session."""
        self._of(flow)
        client = (flow.session.client if flow.session is not None else None) or {}
        if not client.get("offers"):
            return spoken.status_alone(405)
        return Spoken(self._changes(flow, client["offers"])).response

    async def _changes(self, flow: Flow, offers: JsonObject) -> AsyncGenerator[Message, None]:
        legacy, ear = self._of(flow), _Ear()
        if legacy.ear is not None:
            legacy.ear.end()  # there is one stream, and no more than one gets what is told
        legacy.ear = ear
        try:
            while not ear.over:
                ear.changed.clear()
                wanted = translation.listened(offers, legacy.uris)
                if wanted:
                    async with aclosing(self._hear(flow, ear, wanted)) as told:
                        async for one in told:
                            yield one
                    if not ear.changed.is_set():
                        return
                await ear.changed.wait()
        finally:
            if legacy.ear is ear:
                legacy.ear = None

    async def _hear(self, flow: Flow, ear: _Ear, wanted: JsonObject) -> AsyncGenerator[Message, None]:
        """What the server says of what is wanted, until something else is."""
        asked = Request(secrets.token_urlsafe(12), forward.LISTEN, {})
        response = await self._post(flow, asked, {"notifications": wanted}, {})
        if ear.changed.is_set():  # meanwhile
            response.close()
            return
        ear.hears = response
        try:
            async with aclosing(spoken.messages(response, flow.upstream.server.limits.response_bytes)) as said:
                async for one in said:
                    if isinstance(one, Notification) and translation.is_listened(one.method, one.params, wanted):
                        yield Notification(one.method, _without_subscription(one.params))
        finally:
            ear.hears = None

    def end(self, flow: Flow) -> None:
        """The session is over."""
        if flow.session is not None:
            gone = self._sessions.lose(flow.session.upstream_id)
            self._ended.keep(flow.agent, flow.session.upstream_id, True)
            if gone is not None and gone.ear is not None:
                gone.ear.end()

    def _of(self, flow: Flow) -> _Legacy:
        """What is remembered of the flow's session; of a request without one, nothing. Raises `Refused` (404) for one
        that was ended."""
        if flow.session is None:
            return _Legacy()
        name = flow.session.upstream_id
        if name in self._ended:
            raise session_not_found()
        return self._sessions.seen(name) or self._sessions.keep(flow.agent, name, _Legacy())


def _told(legacy: _Legacy, message: Notification) -> UpstreamResponse:
    """A modern server is told nothing: an answer that is not wanted any more is not waited for."""
    if message.method == "notifications/cancelled":
        identifier = message.params.get("requestId", "")
        cut = legacy.under_way.pop(identifier, None) if jsonrpc.valid_id(identifier) else None
        if isinstance(cut, Spoken):
            cut.cut(_dropped())
        elif cut is not None:
            cut.reschedule(0)
    return spoken.status_alone(202)


def _dropped() -> UpstreamFailed:
    """A new one each time: it keeps the frames that it was raised through."""
    return UpstreamFailed("closed", "the client cancelled the request")


def _offers(given: object) -> JsonObject:
    """Of a server's capabilities what a session's stream is for."""
    found: JsonObject = {}
    for kind in _OFFERED:
        offered = given.get(kind) if type(given) is dict else None
        kept = {
            name: True for name in ("listChanged", "subscribe") if type(offered) is dict and offered.get(name) is True
        }
        if kept:
            found[kind] = kept
    return found


def _without_subscription(params: JsonObject) -> JsonObject:
    meta = {key: value for key, value in era.meta_of(params).items() if key != era.META_SUBSCRIPTION}
    rest = {key: value for key, value in params.items() if key != "_meta"}
    return rest | {"_meta": meta} if meta else rest
