"""Calls of servers with `retries` or `outliers`: tried again within their time and the server's budget.

What was sent is sent again only where that has no other effect than sending it once: methods without effect, and tools
that the configuration names. A connection that cannot be made is tried at every other endpoint at once, as for all
servers; only what comes after that is counted against `attempts` and the budget, and waits.
"""

import asyncio
from typing import Final

from openmcp.sidecar.errors import UpstreamFailed
from openmcp.sidecar.net.endpoint import Endpoint
from openmcp.sidecar.net.outliers import BUSY, fault
from openmcp.sidecar.net.resending import Resending
from openmcp.sidecar.net.response import UpstreamResponse
from openmcp.sidecar.net.values import Outgoing, Patience
from openmcp.sidecar.stages.context import Flow
from openmcp.sidecar.stages.sessions import session_not_found

_OURS: Final = frozenset(("credential", "identity"))
_UNREACHED: Final = frozenset(("connect", "closed"))
_LOST: Final = frozenset(("closed", "status"))


def unreached(failure: UpstreamFailed) -> bool:
    """Whether this endpoint got nothing, and another one might: what we lack ourselves, we lack everywhere."""
    return not failure.sent and failure.kind not in _OURS


class Course:
    """One request on its way to a server. Raises as `forward.send`; `ejected` where no endpoint may be asked."""

    def __init__(self, flow: Flow, request: Outgoing, patience: Patience, resending: Resending) -> None:
        self._flow = flow
        self._request = request
        self._patience = patience
        self._resending = resending
        self._pinned = flow.endpoint
        self._tried: list[Endpoint] = []
        self._again = 0
        self._failure: UpstreamFailed | None = None
        self._started = resending.now()

    async def run(self) -> UpstreamResponse:
        """The answer of the endpoint that gave one."""
        self._resending.budget.earn()
        while True:
            endpoint = self._next()
            self._tried.append(endpoint)
            self._flow.endpoint = endpoint
            self._flow.attempts += 1
            try:
                response = await self._attempt(endpoint)
            except UpstreamFailed as failure:
                self._failure = failure
                if await self._goes_on(failure):
                    continue
                self._leave_session(failure)
                raise
            if response.status not in BUSY or b"retry-after" in response.headers:
                return response
            self._failure = UpstreamFailed("status", f"HTTP {response.status}")
            if not await self._goes_on(self._failure):
                return response

    def _next(self) -> Endpoint:
        """The endpoint to ask now: the one of the session, or one that was not tried yet, if there is one."""
        endpoint = self._pinned
        if endpoint is None:
            out = self._left_out()
            endpoint = self._flow.upstream.choose([*self._tried, *out]) or self._flow.upstream.choose(out)
        elif endpoint in self._left_out():
            endpoint = None
        if endpoint is not None:
            return endpoint
        outliers = self._resending.outliers
        seconds = outliers.wait() if outliers is not None else 0.0
        ejected = UpstreamFailed("ejected", f"no endpoint is asked for another {seconds:.0f} s", sent=False)
        self._leave_session(ejected)
        raise self._failure or ejected

    def _left_out(self) -> list[Endpoint]:
        outliers = self._resending.outliers
        if outliers is None:
            return []
        return [endpoint for endpoint in self._flow.upstream.endpoints if not outliers.admits(endpoint.key)]

    def _elsewhere(self) -> bool:
        """Whether there is an endpoint that was not tried yet."""
        out = self._left_out()
        return self._pinned is None and any(
            endpoint not in self._tried and endpoint not in out for endpoint in self._flow.upstream.endpoints
        )

    async def _attempt(self, endpoint: Endpoint) -> UpstreamResponse:
        outliers = self._resending.outliers
        if outliers is None:
            return await endpoint.send(self._request, self._left())
        outliers.begin(endpoint.key)
        good: bool | None = None
        try:
            response = await endpoint.send(self._request, self._left())
            good = response.status not in BUSY
            return response
        except UpstreamFailed as failure:
            good = fault(failure)
            raise
        finally:
            outliers.end(endpoint.key, good)

    async def _goes_on(self, failure: UpstreamFailed) -> bool:
        """Whether it is tried again, now."""
        missed = unreached(failure)
        lost = self._request.repeatable and failure.kind in _LOST
        attempts = self._resending.attempts
        free = missed or (lost and not attempts and failure.kind == "closed")  # as without retries
        if free and self._elsewhere():
            return True
        if not (failure.kind in _UNREACHED if missed else lost) or self._again >= attempts:
            return False
        pause = self._resending.pause(self._again + 1)
        if self._elapsed() + pause >= self._patience.head or not self._resending.budget.take():
            return False
        self._again += 1
        counts = self._resending.count
        counts[failure.kind] = counts.get(failure.kind, 0) + 1
        await asyncio.sleep(pause)
        return True

    def _left(self) -> Patience:
        """How long this attempt may take, so that all of them take no longer than one may."""
        if self._again == 0:
            return self._patience
        return self._patience.after(self._elapsed())

    def _elapsed(self) -> float:
        return self._resending.now() - self._started

    def _leave_session(self, failure: UpstreamFailed) -> None:
        """A session whose endpoint cannot be asked begins anew, where another endpoint can be."""
        flow = self._flow
        elsewhere = len(flow.upstream.endpoints) > 1
        if (
            self._pinned is not None
            and flow.session is not None
            and elsewhere
            and failure.kind in ("connect", "ejected")
        ):
            raise session_not_found() from failure
