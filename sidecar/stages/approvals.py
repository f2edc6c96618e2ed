"""Calls that need an approval: a human is asked, the call waits a while, and is made under the grant, once per use.

What an agent gets that has to wait longer depends on its client:

    2026-07-28, tools/call, extension tasks   a task (`heldtasks`), which the client polls
    2026-07-28                                held, then a requestState with which the client comes back, 8 times; then
    up to 2025-11-25                          held, then
                                              "pending": repeat the identical call, the grant answers it

Nothing is ever carried out for a client that has gone; the request stays, and a later call finds the grant.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Final

from openmcp.identity.refusal import KeysNeeded
from openmcp.sidecar.approvals.asking import question_of, specs_of
from openmcp.sidecar.approvals.service import ApprovalService, Denied, Granted, Pending
from openmcp.sidecar.approvals.values import Question, Spec
from openmcp.sidecar.errors import INTERNAL_ERROR, INVALID_REQUEST, Refused, Unidentified
from openmcp.sidecar.mcp import answers, era, methods
from openmcp.sidecar.mcp.values import Call
from openmcp.sidecar.policy.decision import DENY, REQUIRE_APPROVAL, Approved, Decision
from openmcp.sidecar.policy.engine import Permit
from openmcp.sidecar.stages import admit, answering, asking, held
from openmcp.sidecar.stages.asking import Said
from openmcp.sidecar.stages.context import Flow
from openmcp.sidecar.stages.desk import CALL, Desk
from openmcp.sidecar.stages.held import Held, Holding
from openmcp.sidecar.stages.heldtasks import HeldTasks, TaskRun
from openmcp.sidecar.stages.pins import WITHHELD
from openmcp.sidecar.stages.record import Recorder
from openmcp.sidecar.stages.results import Results
from openmcp.sidecar.stages.snapshot import Snapshot
from openmcp.sidecar.stages.tokens import Tokens, digest
from openmcp.sidecar.state.lifecycle import Conflict
from openmcp.sidecar.state.records import ApprovalRecord, Status, UnknownSchema
from openmcp.sidecar.state.store import StoreUnavailable
from openmcp.sidecar.types import MODERN, JsonObject

ROUNDS: Final = 8
"""How often a client is asked to come back; SDKs give up after ten times."""
REASON_KEY: Final = "dev.openmcp/reason"
"""The member of `_meta` by which an agent may say why it wants something."""

_TRIES: Final = 5
"""How often one call may find that what it was granted has gone meanwhile."""
_NOT_ASKED: Final = frozenset(
    ("completion/complete", "subscriptions/listen", "resources/subscribe", "resources/unsubscribe")
)
"""What no human is asked for: it comes with each key that is typed, or goes on when the grant has ended."""
_CANCELLED: Final = "notifications/cancelled"

_AWAY: Final = "approvals cannot be looked up now: try again later"
_UNASKED: Final = "this needs an approval, and no human is asked for a {}"
_RESTLESS: Final = "the approval was used up or taken back while the call waited: repeat it"
_RELOADED: Final = "the configuration has changed while the call waited: repeat it"
_STOPPING: Final = "the sidecar is stopping: repeat the call"

Found = Permit | Decision | Said | Pending
"""How a call stands after it has waited."""


class Approvals:
    """Settles what needs an approval. `now` gives Unix seconds; `snapshot`, which the pipeline sets, the
    configuration in force, and `trusted`, whether the certificate of a caller still counts."""

    def __init__(
        self,
        tokens: Tokens,
        results: Results,
        recorder: Recorder,
        desk: Desk,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.desk = desk
        self.holding = Holding(recorder)
        self.tasks = HeldTasks(self.desk, self.holding, now)
        self._tokens = tokens
        self._results = results
        self.recorder = recorder
        self.snapshot: Callable[[], Snapshot] | None = None
        self.trusted: Callable[[Flow], bool] | None = None
        self._now = now

    async def settle(self, flow: Flow, call: Call, decision: Decision) -> Permit | None:
        """A permit for a call that needs an approval, once it has it; None where the flow has been answered instead.

        Raises `Refused` where the caller may not call any more.
        """
        token = CALL.set(flow.id)
        try:
            found = await self._held(flow, call, decision)
        except (StoreUnavailable, UnknownSchema) as error:
            answering.deny(flow, Decision(DENY, reason=_AWAY))
            flow.outcome, flow.why = "state", str(error)
            return None
        finally:
            CALL.reset(token)
        if isinstance(found, Permit):
            return found
        self._answer(flow, call, found)
        return None

    def report(self) -> JsonObject:
        """How approvals stand, for /readyz."""
        desk = self.desk
        if desk.service is None:
            return {"state": "none"}
        return {"state": desk.problem or "ok", "store": desk.kind, "held": len(self.holding), "tasks": len(self.tasks)}

    async def intercept(self, flow: Flow, call: Call) -> bool:
        """Whether a permitted message was about something that is held here, and was answered."""
        if call.method != _CANCELLED:
            return await self.tasks.serve(flow, call)
        if not self.holding.cancel(flow, call.message.params.get("requestId")):
            return False
        answering.respond(flow, 202, b"", b"")
        return True

    async def _held(self, flow: Flow, call: Call, decision: Decision) -> Found:
        service = self.desk.service
        if service is None or call.method in _NOT_ASKED:
            return Decision(DENY, reason=_UNASKED.format(call.method))
        patience = self._patience(flow)
        found: Found = Decision(DENY, reason=_STOPPING)
        with self.holding.hold(flow, asyncio.get_running_loop().time()) as one:
            try:
                async with one.scope:
                    found = await self._wait(one, call, decision, (service, patience))
            except TimeoutError:
                found = one.pending or found
        if one.ended == held.CANCELLED:
            raise Refused(200, INVALID_REQUEST, "the request was cancelled", reason="cancelled")
        return found

    async def _wait(self, one: Held, call: Call, decision: Decision, by: tuple[ApprovalService, float]) -> Found:
        """Ask until a use was claimed, nothing helps any more, or the time is up."""
        flow, (service, patience) = one.flow, by
        loop = asyncio.get_running_loop()
        deadline = loop.time() + patience
        for _ in range(_TRIES):
            question, specs = _asked(flow, call, decision)
            answer = await self.desk.reach(service.ask(question, specs))
            found: Found
            if isinstance(answer, Granted):
                found = await self._use(flow, call, decision, answer, specs)
            elif isinstance(answer, Pending):
                one.pending, flow.approval = answer, answer.record.rid
                found = await self._decided(one, call, answer, deadline - loop.time())
            elif isinstance(answer, Denied):
                flow.approval = answer.record.rid
                return asking.denied(answer.record, self._milliseconds())
            else:
                return asking.refused(answer.text)
            if not isinstance(found, Decision) or found.verdict is not REQUIRE_APPROVAL:
                return found
            decision = found
        return Decision(DENY, reason=_RESTLESS)

    async def _use(
        self, flow: Flow, call: Call, decision: Decision, granted: Granted, specs: Sequence[Spec]
    ) -> Permit | Decision:
        """Take one use, and have policy judge once more: it may deny by now, or want more than was approved. A rule may
        have kept its name and ask of others; then what they say is waited for."""
        assert self.snapshot is not None
        if not self.recorder.accepting:
            raise Refused(503, INTERNAL_ERROR, "the record cannot be written: nothing is let through", reason="record")
        try:
            record = await self.desk.reach(granted.claim())
        except Conflict:
            return self._judged(flow, call)
        flow.approval = record.rid
        if self.snapshot() is not flow.snapshot:
            anew = self._judged(flow, call)
            if isinstance(anew, Permit) or anew.verdict is not REQUIRE_APPROVAL or _asked(flow, call, anew)[1] != specs:
                return anew
        return self._judged(flow, call, Approved(call, frozenset(decision.approvals), record.rid))

    async def _decided(self, one: Held, call: Call, answer: Pending, left: float) -> Found:
        """What has become of a request within so many seconds; `answer` itself where nothing has."""
        flow, record, service = one.flow, answer.record, self.desk.service
        assert service is not None
        if left <= 0 or self._makes_task(flow):
            return answer
        one.note = f"waiting for a human to approve {record.rid}"
        found = await service.wait(record, left)
        if found is None:
            return answer
        if found.rid == record.rid and found.status is not Status.APPROVED:
            return asking.over(found, record, self._milliseconds())
        return self._judged(flow, call)

    def _judged(self, flow: Flow, call: Call, approved: Approved | None = None) -> Permit | Decision:
        """What policy says now, of the caller as it is known now."""
        trusted = self.trusted
        assert self.snapshot is not None
        assert trusted is not None
        after = self.snapshot()
        route = after.routes.get(flow.request.path)
        if route is None or route.upstream is not flow.upstream:
            raise Refused(200, INTERNAL_ERROR, _RELOADED, reason="reloaded")
        try:
            principal = admit.identify(after, route, flow.request)
        except KeysNeeded:
            raise Unidentified(503, "no_keys", "the keys of the token's issuer cannot be had") from None
        if not trusted(flow):
            raise Unidentified(401, "changed", "the CA of its certificate has been taken away since it has called")
        if principal != flow.principal:
            raise Unidentified(401, "changed", "it is known by another name since it has called")
        flow.snapshot, flow.route = after, route
        if call.method == "tools/call" and self._results.withheld(flow):
            return Decision(DENY, rule="pinTools", reason=WITHHELD)
        return after.policies.authorize(principal, flow.server, call, approved)

    def _answer(self, flow: Flow, call: Call, found: Decision | Said | Pending) -> None:
        """Tell the agent that its call was not made, and what to do."""
        if isinstance(found, Decision):
            answering.deny(flow, found)
        elif isinstance(found, Said):
            self._tell(flow, call, found)
        else:
            self._defer(flow, call, found.record)

    def _defer(self, flow: Flow, call: Call, record: ApprovalRecord) -> None:
        """The next rung: a task, another round, or the word that it is pending."""
        said = asking.pending(record, self._milliseconds())
        result: JsonObject | None = None
        if isinstance(flow.exchange, TaskRun):
            flow.exchange.pending = record
        elif self._makes_task(flow):
            result = self.tasks.create(flow, record)
        else:
            result = self._another_round(flow, call)
        if result is None:
            self._tell(flow, call, said)
            return
        flow.outcome = said.outcome
        meta = said.data | {answers.DECISION_KEY: flow.id}
        answering.send(flow, 200, {"jsonrpc": "2.0", "id": flow.message_id, "result": result | {"_meta": meta}})

    def _another_round(self, flow: Flow, call: Call) -> JsonObject | None:
        """What brings the client back with the same call, if it is one that comes back, and has not too often."""
        params = call.message.params
        if flow.era is not MODERN or call.method not in methods.INPUT_REQUIRED or not self._patience(flow):
            return None
        named = digest(call.method, params)
        number = self._tokens.round(flow.agent, flow.server, named, params.get("requestState"), self._now())
        if number >= ROUNDS or (not number and ("requestState" in params or "inputResponses" in params)):
            return None  # what the server has asked for would not come again
        state = self._tokens.seal_round(flow.agent, flow.server, named, number + 1, self._now())
        return {"resultType": "input_required", "requestState": state}

    def _tell(self, flow: Flow, call: Call, said: Said) -> None:
        flow.outcome = said.outcome
        data = said.data | {answers.DECISION_KEY: flow.id}
        if call.method == "tools/call":
            result = answers.tool_error(said.text, flow.era, data)
            answering.send(flow, 200, {"jsonrpc": "2.0", "id": flow.message_id, "result": result})
        else:
            answering.send(flow, 200, answers.error(flow.message_id, said.code, said.text, data))

    def _makes_task(self, flow: Flow) -> bool:
        return not isinstance(flow.exchange, TaskRun) and self.tasks.takes(flow)

    def _patience(self, flow: Flow) -> float:
        """Seconds for which a call is held."""
        if isinstance(flow.exchange, TaskRun) or not self.holding.has_room(flow):
            return 0.0
        settings = flow.snapshot.configuration.approvals
        return settings.hold if held.progress_token(flow) is None else settings.hold_with_progress

    def _milliseconds(self) -> int:
        return int(self._now() * 1000)


def _asked(flow: Flow, call: Call, decision: Decision) -> tuple[Question, list[Spec]]:
    """What is asked of whom, under the configuration that the flow has now."""
    specs = specs_of(decision, flow.snapshot.policies, flow.snapshot.configuration.approvals)
    reason = era.meta_of(call.message.params).get(REASON_KEY)
    return question_of(flow.principal, flow.server, call, reason if type(reason) is str else ""), specs
