"""Agents of the modern era with a server of the legacy one: the sessions with it are ours.

What a server asks while it works on a call ends the agent's request with `input_required`; the call goes on as the
agent comes back with the answer. Until then it is remembered here alone.
"""

import asyncio
import secrets
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from typing import Final

from openmcp.sidecar.errors import HEADER_MISMATCH, INVALID_PARAMS, METHOD_NOT_FOUND, MISSING_CAPABILITY, UpstreamFailed
from openmcp.sidecar.mcp import capabilities, era, jsonrpc, methods, translation
from openmcp.sidecar.net.response import UpstreamResponse
from openmcp.sidecar.stages import forward
from openmcp.sidecar.stages.context import Flow
from openmcp.sidecar.stages.held import QUIET
from openmcp.sidecar.stages.tokens import STATE_LIFETIME
from openmcp.sidecar.stages.translation import eras, spoken
from openmcp.sidecar.stages.translation.kept import Keeping, Kept
from openmcp.sidecar.stages.translation.listening import Listening, ourselves
from openmcp.sidecar.stages.translation.rounds import MOST_QUESTIONS
from openmcp.sidecar.stages.translation.sides import LONGEST, OtherEra, Remembered, post, request
from openmcp.sidecar.stages.translation.spoken import Spoken
from openmcp.sidecar.types import JsonObject, Message, MessageId, Notification, Request, Response

MOST_PARKED: Final = 256
"""Calls that wait for an agent to come back with an answer."""
_KEY: Final = "question"
_URL: Final = "elicitation.url"
_STATUS: Final = {METHOD_NOT_FOUND: 404, MISSING_CAPABILITY: 400}
"""What errors come with in the modern era; all others with 200 as well."""


class _Talk:
    """One call of `owner` that the server works on, as `sent` on a session; `question` is what it waits for, and
    `parked` since when (in seconds); `over`: it has answered."""

    def __init__(self, owner: str, keeping: Keeping, kept: Kept) -> None:
        kept.last += 1
        keeping.hold(kept)
        self.owner = owner
        self.kept = kept
        self.sent = kept.last
        self.said = _none()
        self.question: Request | None = None
        self.parked = 0.0
        self.over = False
        self._keeping = keeping
        self._held = True

    def done(self) -> None:
        """Nobody cares for it any more."""
        if self._held:
            self._held = False
            self._keeping.release(self.kept)

    def cancel(self) -> None:
        """The agent is gone: in its era that cancels the request, in the server's it has to be said."""
        self.done()
        self._keeping.aside(self.kept.cancel(self.sent))


class Downward:
    """Says what modern agents want in legacy words; `now` is in seconds."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._keeping = Keeping(now)
        self._listening = Listening(self._keeping)
        self._mirrors: Remembered[dict[str, tuple[str, ...]]] = Remembered()
        self._parked: dict[str, _Talk] = {}

    async def send(self, flow: Flow, message: Request | Notification, params: JsonObject) -> UpstreamResponse:
        """The answer to a modern message; raises as `forward.send`."""
        if isinstance(message, Notification):
            return spoken.status_alone(202)  # whoever does not want an answer has closed its stream
        method = message.method
        if method == "server/discover":
            kept = await self._keeping.session(flow, era.meta_of(params))
            return spoken.result(message.id, translation.discovered(kept.initialized))
        if method == forward.LISTEN:
            return await self._listening.listen(flow, message, params)
        if method.startswith("tasks/"):
            return spoken.error(message.id, METHOD_NOT_FOUND, f"Method not found: {method}", 404)
        if "requestState" in params:
            return await self._go_on(flow, message, params)
        if _declines(params):
            return spoken.error(message.id, INVALID_PARAMS, "the server cannot do this without what it asked for", 400)
        lacking = self._lacking(flow, message) if method == "tools/call" else None
        if lacking is not None:
            said = f"Header mismatch: {lacking} is missing"
            return spoken.error(message.id, HEADER_MISMATCH, said, 400)
        return await self._call(flow, message, params)

    def _lacking(self, flow: Flow, message: Request) -> str | None:
        """The header that a call has to have, by what the server said of its tool, and has not: each modern server
        refuses that (2026-07-28 basic/transports/streamable-http, "Custom Headers from Tool Parameters")."""
        mirrors = self._mirrors.seen(f"{flow.server}\0{flow.name}")
        if mirrors is None:
            return None
        return translation.unmirrored(mirrors, message.params.get("arguments"), flow.parameters)

    def _learn(self, flow: Flow, tools: object) -> None:
        """Remember which arguments of these tools are wanted in headers."""
        for tool in tools if type(tools) is list else ():
            called = tool.get("name") if type(tool) is dict else None
            if type(called) is not str or len(called) > LONGEST:
                continue
            mirrors, name = translation.mirrored(tool.get("inputSchema")), f"{flow.server}\0{called}"
            if mirrors:
                self._mirrors.keep(flow.agent, name, mirrors)
            else:
                self._mirrors.lose(name)

    def _modern(self, flow: Flow, message: Request, answer: Response) -> Response:
        """An answer for the agent that sent this message."""
        if answer.result is None:
            return _refused(message, answer.error or {})
        if message.method == "tools/list":
            self._learn(flow, answer.result.get("tools"))
        return Response(message.id, translation.modern_result(message.method, answer.result), None)

    async def _call(self, flow: Flow, message: Request, params: JsonObject) -> UpstreamResponse:
        meta, pinned = era.meta_of(params), flow.endpoint
        said = translation.legacy_params(params)
        for again in (True, False):
            kept = await self._keeping.session(flow, meta)
            talk = _Talk(flow.agent, self._keeping, kept)
            document = request(talk.sent, message.method, _with_token(said, talk.sent))
            try:
                response = await post(flow, message.method, kept.headers(flow), document)
            except asyncio.CancelledError:
                talk.cancel()
                raise
            except UpstreamFailed as failure:
                self._failed(talk, failure)
                if failure.sent or not again:
                    raise
            else:
                if eras.refuses_legacy(message.method, response):
                    response.close()
                    talk.done()
                    self._keeping.forget(kept)
                    raise OtherEra("protocol", "the server has another era than a minute ago")
                if not kept.is_dead(response, talk.sent):
                    return await self._answer(flow, message, talk, response)
                response.close()
                talk.done()
                flow.endpoint = pinned
                self._keeping.forget(kept)
            flow.endpoint = pinned
        raise UpstreamFailed("status", "the server ends its sessions as they begin")

    def _failed(self, talk: _Talk, failure: UpstreamFailed) -> None:
        """What may still be worked on is cancelled; a session that can still be reached is good for others."""
        if failure.sent:
            talk.cancel()
        talk.done()
        self._keeping.failed(talk.kept, failure)

    async def _answer(self, flow: Flow, message: Request, talk: _Talk, response: UpstreamResponse) -> UpstreamResponse:
        if response.streaming:
            talk.said = spoken.messages(response, flow.upstream.server.limits.response_bytes)
            return await self._heed(flow, message, talk)
        response.close()
        talk.done()
        answer = spoken.complete(response)
        if answer is None or (answer.id != talk.sent and answer.error is None):
            kind = "protocol" if response.status == 200 else "status"
            raise UpstreamFailed(kind, f"HTTP {response.status} without the response")
        return _whole(self._modern(flow, message, answer))

    async def _heed(self, flow: Flow, message: Request, talk: _Talk) -> UpstreamResponse:
        """A stream that says nothing before its answer becomes a whole answer, with the status of the modern era.
        One that takes its time stays a stream, which is kept alive."""
        said = self._talk(flow, message, talk)
        first = asyncio.ensure_future(anext(said))
        try:
            await asyncio.wait((first,), timeout=QUIET)
        except asyncio.CancelledError:
            first.cancel()
            await asyncio.wait((first,))
            raise
        if first.done():
            heard = first.result()
            if isinstance(heard, Response):
                await said.aclose()
                return _whole(heard)
        return Spoken(_following(first, said)).response

    async def _talk(self, flow: Flow, message: Request, talk: _Talk) -> AsyncGenerator[Message, None]:
        """What the agent gets of a call whose answer is a stream, until the answer or a question."""
        parked = False
        try:
            async for one in talk.said:
                heard = await self._heard(flow, message, talk, one)
                parked = talk.question is not None
                if heard is not None:
                    yield heard
                if parked or talk.over:
                    return
            raise UpstreamFailed("closed", "the stream ended without a response")
        finally:
            if not parked:
                await talk.said.aclose()
                if not talk.over:
                    talk.cancel()
                talk.done()

    async def _heard(self, flow: Flow, message: Request, talk: _Talk, one: Message) -> Message | None:
        """What the agent gets for one message of the server; None where it gets nothing."""
        if isinstance(one, Response):
            talk.over = one.id == talk.sent
            return self._modern(flow, message, one) if talk.over else None
        if isinstance(one, Notification):
            return _told(message, talk.sent, one)
        if _may_be_put(message, one):
            talk.question = one
            return self._park(message, talk)
        await talk.kept.tell(flow, ourselves(one))
        return None

    # questions

    def _park(self, message: Request, talk: _Talk) -> Response:
        """The answer that makes the agent come back."""
        question = talk.question
        assert question is not None
        self._make_room()
        talk.parked = self._now()
        state = secrets.token_urlsafe(16)
        self._parked[state] = talk
        asked = {_KEY: translation.modern_question(question.method, question.params)}
        result: JsonObject = {"resultType": "input_required", "inputRequests": asked, "requestState": state}
        return Response(message.id, result, None)

    def _make_room(self) -> None:
        """Calls whose states are worth nothing any more go, and where that is not enough the oldest of whoever has
        most: nobody makes others' go."""
        gone = [state for state, talk in self._parked.items() if talk.parked < self._now() - STATE_LIFETIME]
        if not gone and len(self._parked) >= MOST_PARKED:
            ((most, _),) = Counter(talk.owner for talk in self._parked.values()).most_common(1)
            gone = [next(state for state, talk in self._parked.items() if talk.owner == most)]
        for state in gone:
            talk = self._parked.pop(state)
            self._keeping.aside(talk.said.aclose())
            talk.cancel()

    async def _go_on(self, flow: Flow, message: Request, params: JsonObject) -> UpstreamResponse:
        """The agent is back; whose call this is was sealed into the state."""
        talk = self._parked.pop(str(params["requestState"]), None)
        if talk is None:
            return spoken.error(message.id, INVALID_PARAMS, "the call that was asked about is gone", 400)
        given = params.get("inputResponses")
        answer = given.get(_KEY) if type(given) is dict else None
        if type(answer) is not dict or talk.question is None:
            return _whole(self._park(message, talk))
        asked, talk.question = talk.question, None
        try:
            await talk.kept.tell(flow, jsonrpc.response_document(Response(asked.id, answer, None)))
        except BaseException:
            await talk.said.aclose()
            talk.cancel()
            raise
        return await self._heed(flow, message, talk)


async def _following(
    first: asyncio.Future[Message], said: AsyncGenerator[Message, None]
) -> AsyncGenerator[Message, None]:
    """All that is said, of which the first is there or under way."""
    try:
        yield await first
        async for one in said:
            yield one
    finally:
        await said.aclose()


def _refused(message: Request, error: JsonObject) -> Response:
    """A legacy error. Where it wants the user to go to URLs first, the agent is asked for that, as it can be."""
    asked = translation.questions_of(error)
    if not asked or len(asked) > MOST_QUESTIONS or message.method not in methods.INPUT_REQUIRED:
        return Response(message.id, None, translation.modern_error(message.method, error))
    if _URL not in capabilities.declared(era.meta_of(message.params).get(era.META_CAPABILITIES)):
        data: JsonObject = {"requiredCapabilities": {"elicitation": {"url": {}}}}
        return Response(message.id, None, {"code": MISSING_CAPABILITY, "message": error["message"], "data": data})
    wanted = {f"{_KEY} {number}": question for number, question in enumerate(asked, 1)}
    return Response(message.id, {"resultType": "input_required", "inputRequests": wanted}, None)


def _declines(params: JsonObject) -> bool:
    """Whether the agent comes back without having gone to such URLs: the server would ask for that again."""
    given = params.get("inputResponses")
    answers = given.values() if type(given) is dict else ()
    return any(type(one) is dict and one.get("action") in ("decline", "cancel") for one in answers)


def _whole(answer: Response) -> UpstreamResponse:
    return spoken.answered(answer, _STATUS.get((answer.error or {}).get("code", 0), 200))


async def _none() -> AsyncGenerator[Message, None]:
    """Nothing is said before the answer."""
    return
    yield


def _with_token(params: JsonObject, sent: int) -> JsonObject:
    """Params whose progress is told under our own id: two clients of an agent may use the same token."""
    meta = era.meta_of(params)
    return params | {"_meta": meta | {"progressToken": sent}} if "progressToken" in meta else params


def _told(message: Request, sent: MessageId, told: Notification) -> Notification | None:
    """A notification on the stream of a call, as the agent gets it; None where it does not."""
    meta = era.meta_of(message.params)
    if told.method == "notifications/progress":
        known = "progressToken" in meta and told.params.get("progressToken") == sent
        return Notification(told.method, told.params | {"progressToken": meta["progressToken"]}) if known else None
    if told.method == "notifications/message" and meta.get(translation.META_LEVEL) in translation.LEVELS:
        return told
    return None


def _may_be_put(message: Request, question: Request) -> bool:
    """Whether a question can be put to the agent: it has offered to answer such, and its request can be asked about."""
    needed = capabilities.needed(question.method, question.params)
    declared = capabilities.declared(era.meta_of(message.params).get(era.META_CAPABILITIES))
    return question.method in translation.ASKED and message.method in methods.INPUT_REQUIRED and needed in declared
