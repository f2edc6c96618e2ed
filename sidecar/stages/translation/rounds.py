"""The questions of a modern server (MRTR) put to a legacy agent, as requests on the stream that answers its call.

Source: 2026-07-28 basic/patterns/mrtr; 2025-11-25 basic/transports and client/*.
"""

import asyncio
import secrets
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Final

from openmcp.sidecar.errors import UpstreamFailed
from openmcp.sidecar.mcp import capabilities, methods, translation
from openmcp.sidecar.net.response import UpstreamResponse
from openmcp.sidecar.stages.context import Flow
from openmcp.sidecar.stages.translation import spoken
from openmcp.sidecar.stages.translation.sides import ROUNDS
from openmcp.sidecar.types import JsonObject, Message, MessageId, Notification, Request, Response

MOST_QUESTIONS: Final = 16
"""Questions of a server that are put at once."""
Waiting = dict[MessageId, asyncio.Future[Response]]
"""The questions of a session that are not answered yet, by the id that the agent got."""


class Rounds:
    """One call, from the server's first answer to its last. `post` sends it again, with the agent's answers."""

    def __init__(
        self,
        flow: Flow,
        message: Request,
        waiting: Waiting,
        post: Callable[[Request, JsonObject], Awaitable[UpstreamResponse]],
    ) -> None:
        self._limit = flow.upstream.server.limits.response_bytes
        self._patience = flow.upstream.call_patience.total
        self._declared = flow.session.capabilities if flow.session is not None else ()
        self._message = message
        self._waiting = waiting
        self._post = post
        self._answer: Response | None = None

    async def run(self, came: UpstreamResponse | Response) -> AsyncGenerator[Message, None]:
        """What the agent gets; `came` is the server's first answer. Raises `UpstreamFailed`."""
        message = self._message
        for turn in range(1, ROUNDS + 1):
            async with aclosing(self._until_answered(came)) as told:
                async for one in told:
                    yield one
            if self._answer is None:
                raise UpstreamFailed("closed", "the stream ended without a response")
            asked = input_required(message.method, self._answer)
            if asked is None:
                yield legacy(message, self._answer)
                return
            put = self._put(asked)
            try:
                for _, question in put.values():
                    yield question
                given = await self._answers(put)
            finally:
                for identifier in put:
                    self._waiting.pop(identifier, None)
            if isinstance(given, Response):
                yield Response(message.id, None, given.error)
                return
            came = await self._again(turn, asked, given)
        raise UpstreamFailed("protocol", "the server asks again and again")

    async def _until_answered(self, came: UpstreamResponse | Response) -> AsyncGenerator[Message, None]:
        """What comes before the answer, which is kept."""
        self._answer = came if isinstance(came, Response) else None
        if isinstance(came, Response):
            return
        async with aclosing(spoken.messages(came, self._limit)) as said:
            async for one in said:
                if isinstance(one, Response):
                    self._answer = one
                elif isinstance(one, Notification):
                    yield one

    def _put(self, asked: JsonObject) -> dict[str, tuple[str, Request]]:
        """The server's questions by the id under which the agent gets each, with the server's own key."""
        wanted = asked.get("inputRequests", {})
        put: dict[str, tuple[str, Request]] = {}
        if type(wanted) is dict and len(wanted) > MOST_QUESTIONS:
            raise UpstreamFailed("protocol", f"the server asks more than {MOST_QUESTIONS} questions at once")
        for key, one in wanted.items() if type(wanted) is dict else ():
            method, params = (one.get("method"), one.get("params", {})) if type(one) is dict else (None, {})
            needed = capabilities.needed(method, params) if type(params) is dict else None
            if method not in translation.ASKED or needed not in self._declared:
                raise UpstreamFailed("protocol", "the server asks for input that the client did not offer")
            identifier = secrets.token_urlsafe(12)
            said = translation.legacy_question(method, params, identifier)
            put[identifier] = key, Request(identifier, method, said)
        if not put and type(asked.get("requestState")) is not str:
            raise UpstreamFailed("protocol", "the server requires input and asks for none")
        for identifier in put:
            self._waiting[identifier] = asyncio.get_running_loop().create_future()
        return put

    async def _answers(self, put: dict[str, tuple[str, Request]]) -> JsonObject | Response:
        """What the agent answers, by the server's keys; or the first answer that is an error."""
        found: JsonObject = {}
        waiting = {identifier: self._waiting[identifier] for identifier in put}
        try:
            async with asyncio.timeout(self._patience):
                for identifier, (key, _) in put.items():
                    answer = await waiting[identifier]
                    if answer.error is not None:
                        return answer
                    found[key] = answer.result
        except TimeoutError:
            raise UpstreamFailed("timeout", "the client did not answer the server's question") from None
        return found

    async def _again(self, turn: int, asked: JsonObject, given: JsonObject) -> UpstreamResponse | Response:
        retry: JsonObject = {"inputResponses": given} if given else {}
        if "requestState" in asked:
            retry["requestState"] = asked["requestState"]
        again = Request(f"{turn}:{self._message.id}", self._message.method, self._message.params)
        response = await self._post(again, retry)
        if response.streaming:
            return response
        response.close()
        return answer_of(response)


def answer_of(response: UpstreamResponse) -> Response:
    """The response in a complete answer, whatever its status: what a modern server refuses, it refuses in words."""
    answer = spoken.complete(response)
    if answer is None:
        kind = "protocol" if response.status == 200 else "status"
        raise UpstreamFailed(kind, f"HTTP {response.status} without a JSON-RPC response")
    return answer


def input_required(method: str, answer: Response) -> JsonObject | None:
    """The result that asks for input; None for every other. Raises `UpstreamFailed` for one that is not valid."""
    result = answer.result
    if result is None or result.get("resultType", "complete") == "complete":
        return None
    if result["resultType"] != "input_required" or method not in methods.INPUT_REQUIRED:
        raise UpstreamFailed("protocol", "the server's resultType is not valid here")
    return result


def legacy(message: Request, answer: Response) -> Response:
    """An answer for the agent that sent this message."""
    result = translation.legacy_result(message.method, answer.result) if answer.result is not None else None
    return Response(message.id, result, answer.error)
