"""Sends what agents want in the era that its server speaks: in their own where the server has it, else in the other."""

import time
from collections.abc import Callable

from openmcp.sidecar.mcp.values import Call
from openmcp.sidecar.net.response import UpstreamResponse
from openmcp.sidecar.policy.engine import Permit
from openmcp.sidecar.stages import forward
from openmcp.sidecar.stages.context import Flow
from openmcp.sidecar.stages.sessions import session_not_found
from openmcp.sidecar.stages.translation import eras
from openmcp.sidecar.stages.translation.downward import Downward
from openmcp.sidecar.stages.translation.eras import Eras, refuses_legacy, refuses_modern
from openmcp.sidecar.stages.translation.sides import OtherEra
from openmcp.sidecar.stages.translation.upward import Upward
from openmcp.sidecar.types import LEGACY, MODERN, JsonObject, Request, Response


class Translator:
    """For all servers with `translate`; `now` is in seconds."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._eras = Eras(now)
        self._upward = Upward(now)
        self._downward = Downward(now)

    async def send(self, flow: Flow, permit: Permit, params: JsonObject) -> UpstreamResponse:
        """As `forward.send_call`: the answer comes in the agent's era."""
        if flow.era is LEGACY:
            return await self._legacy(flow, permit, params)
        return await self._modern(flow, permit, params)

    async def _modern(self, flow: Flow, permit: Permit, params: JsonObject) -> UpstreamResponse:
        message, pinned = permit.call.message, flow.endpoint
        if self._eras.only(flow.server) is LEGACY:
            try:
                return await self._downward.send(flow, message, params)
            except OtherEra:
                self._eras.forget(flow.server)
                flow.endpoint = pinned
        response = await forward.send_call(flow, permit, params)
        if not isinstance(message, Request) or not refuses_modern(message.method, response):
            return response
        response.close()
        if not eras.is_sure(response) and not await eras.lacks_modern(flow):
            return response
        flow.endpoint = pinned
        answer = await self._downward.send(flow, message, params)
        self._eras.learn(flow.server, LEGACY)
        return answer

    async def _legacy(self, flow: Flow, permit: Permit, params: JsonObject) -> UpstreamResponse:
        call: Call = permit.call
        if flow.session is not None:
            return await self._in_session(flow, permit, params)
        if self._eras.only(flow.server) is MODERN:
            try:
                return await self._upward.send(flow, call.message, params)
            except OtherEra:
                self._eras.forget(flow.server)
                flow.client = flow.endpoint = None
        response = await forward.send_call(flow, permit, params)
        if not refuses_legacy(call.method, response):
            return response
        response.close()
        if not eras.is_sure(response) and not await eras.lacks_legacy(flow):
            return response
        answer = await self._upward.send(flow, call.message, params)
        self._eras.learn(flow.server, MODERN)
        return answer

    async def _in_session(self, flow: Flow, permit: Permit, params: JsonObject) -> UpstreamResponse:
        """On the server's own session, or on ours. Where the server has no use for it any more, it begins anew."""
        if flow.session is None or flow.session.client is None:
            return await self._on_its_session(flow, permit, params)
        try:
            return await self._upward.send(flow, permit.call.message, params)
        except OtherEra:
            self._eras.forget(flow.server)
            raise session_not_found() from None

    async def _on_its_session(self, flow: Flow, permit: Permit, params: JsonObject) -> UpstreamResponse:
        """A session of the server's own. Where it has got the other era alone since, the session begins anew."""
        response = await forward.send_call(flow, permit, params)
        if refuses_legacy(permit.call.method, response):
            response.close()
            raise session_not_found()
        return response

    async def listen(self, flow: Flow) -> UpstreamResponse:
        """The stream of a session that is ours."""
        return await self._upward.listen(flow)

    def answer(self, flow: Flow, message: Response) -> UpstreamResponse:
        """The agent's answer to a question on such a session."""
        return self._upward.answer(flow, message)

    def end(self, flow: Flow) -> None:
        """Such a session is over."""
        self._upward.end(flow)
