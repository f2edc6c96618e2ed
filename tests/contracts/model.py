"""A state machine that plays with a store through two connections and compares every answer with a model.

The model is written from the rules for people (README of approvals), not from the code: what is granted to whom, how
long, how often.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import msgspec
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from openmcp.sidecar.state.lifecycle import Conflict
from openmcp.sidecar.state.records import ApprovalRecord, Choice, Status, Vote
from openmcp.sidecar.state.store import StateStore
from tests.contracts.requests import HOUR, LEADS, MINUTE, NOW, new_key, request

T = TypeVar("T")
PEOPLE = ("token:ann", "token:bob", "token:cy")
NEEDS = (
    msgspec.structs.replace(LEADS, approvers=PEOPLE, required=2),
    msgspec.structs.replace(LEADS, rule="money", approvers=("token:cy", "oidc:group:money"), required=1),
)
questions = st.integers(0, 1)
sides = st.integers(0, 1)


class _Known:
    """What the model knows of one question."""

    def __init__(self) -> None:
        self.key = new_key()
        self.rid = ""
        self.old_rids: list[str] = []
        self.state = "none"
        self.ends = 0
        self.again_from = 0
        self.yes: dict[str, Vote] = {}
        self.left: int | None = None
        self.used = 0
        self.max_uses: int | None = None


class StoreMachine(RuleBasedStateMachine):
    """Two connections, two questions, one clock."""

    def __init__(self, connect: Callable[[], Awaitable[StateStore]]) -> None:
        super().__init__()
        self._connect = connect
        self._runner = asyncio.Runner()
        self._stores: list[StateStore] = []
        self.now = NOW
        self.known = [_Known(), _Known()]

    @initialize()
    def start(self) -> None:
        async def both() -> list[StateStore]:
            return [await self._connect(), await self._connect()]

        self._stores = self._runner.run(both())

    def teardown(self) -> None:
        async def close() -> None:
            for store in self._stores:
                await store.close()

        self._runner.run(close())
        self._runner.close()

    def _do(self, call: Coroutine[Any, Any, T]) -> T | Conflict:
        async def attempt() -> T | Conflict:
            try:
                return await call
            except Conflict as conflict:
                return conflict

        return self._runner.run(attempt())

    def _tick(self, known: _Known) -> None:
        """What time does to a question."""
        if known.state in ("pending", "approved") and self.now >= known.ends:
            known.state = "expired" if known.state == "pending" else "lapsed"

    @rule(seconds=st.sampled_from((0, 1, 59, 60, 300, 1800, 3600)), off=st.integers(-1, 1))
    def time_passes(self, seconds: int, off: int) -> None:
        self.now += max(0, seconds * 1000 + off)
        for known in self.known:
            self._tick(known)

    @rule(of=questions)
    def time_comes_to_an_end(self, of: int) -> None:
        known = self.known[of]
        if known.state in ("pending", "approved"):
            self.now = max(self.now, known.ends)
            for one in self.known:
                self._tick(one)

    @rule(of=questions, side=sides, max_uses=st.none() | st.integers(1, 3))
    def ask(self, of: int, side: int, max_uses: int | None) -> None:
        known = self.known[of]
        asked = request(known.key, now=self.now, needs=NEEDS, max_uses=max_uses, max_duration=2 * HOUR)
        answer = self._do(self._stores[side].open(asked, self.now))
        assert not isinstance(answer, Conflict)
        record, created = answer
        cooling = known.state == "denied" and self.now < known.again_from
        assert created is (known.state not in ("pending", "approved") and not cooling)
        if created:
            known.old_rids += [known.rid] if known.rid else []
            known.rid, known.state, known.ends = asked.rid, "pending", asked.pending_until
            known.yes, known.left, known.used, known.max_uses = {}, None, 0, max_uses
        assert record.rid == known.rid

    @rule(
        of=questions,
        side=sides,
        who=st.sampled_from((*PEOPLE, "oidc:user:dan", "token:eve", "spiffe://acme.example/ns/support/sa/agent")),
        yes=st.booleans(),
        minutes=st.none() | st.integers(1, 300),
        uses=st.none() | st.integers(1, 4),
    )
    def vote(self, of: int, side: int, who: str, yes: bool, minutes: int | None, uses: int | None) -> None:
        known = self.known[of]
        choice = Choice.APPROVE if yes else Choice.DENY
        groups = ("oidc:group:money",) if who == "oidc:user:dan" else ()
        duration = None if minutes is None else minutes * MINUTE
        vote = Vote(approver=who, choice=choice, at=self.now, groups=groups, duration=duration, uses=uses)
        answer = self._do(self._stores[side].vote(known.key, known.rid, vote, self.now))
        listed = who in PEOPLE or bool(groups)
        if known.state != "pending" or not listed:
            replayed = listed and not isinstance(answer, Conflict) and vote.choice in _said(answer, who)
            assert isinstance(answer, Conflict) or replayed
            return
        assert not isinstance(answer, Conflict)
        if not yes:
            known.state, known.again_from = "denied", self.now + 5 * MINUTE
        elif who not in known.yes:
            known.yes[who] = vote
            self._decide(known)

    def _decide(self, known: _Known) -> None:
        if len(known.yes.keys() & set(PEOPLE)) < 2 or not known.yes.keys() & {"token:cy", "oidc:user:dan"}:
            return
        votes = known.yes.values()
        known.state = "approved"
        known.ends = self.now + min(2 * HOUR, *(HOUR if one.duration is None else one.duration for one in votes))
        limits = [one.uses for one in votes if one.uses is not None]
        known.left = min(limits + ([known.max_uses] if known.max_uses else []), default=None)

    @rule(of=questions, many=st.integers(1, 6))
    def use_at_once(self, of: int, many: int) -> None:
        known = self.known[of]

        async def race() -> list[object]:
            calls = (self._stores[n % 2].consume(known.key, known.rid, self.now) for n in range(many))
            return list(await asyncio.gather(*calls, return_exceptions=True))

        results = self._runner.run(race())
        assert all(isinstance(one, ApprovalRecord | Conflict) for one in results)
        taken = sum(isinstance(one, ApprovalRecord) for one in results)
        expected = 0
        if known.state == "approved":
            expected = many if known.left is None else min(many, known.left)
        assert taken == expected
        known.used += taken
        if known.left is not None and taken:
            known.left -= taken
            known.state = "exhausted" if known.left == 0 else known.state

    @rule(of=questions, side=sides)
    def revoke(self, of: int, side: int) -> None:
        known = self.known[of]
        answer = self._do(self._stores[side].revoke(known.key, known.rid, "token:ann", "", self.now))
        assert isinstance(answer, Conflict) is (known.state not in ("approved", "revoked"))
        known.state = "revoked" if known.state == "approved" else known.state

    @rule(of=questions, side=sides)
    def withdraw(self, of: int, side: int) -> None:
        known = self.known[of]
        answer = self._do(self._stores[side].cancel(known.key, known.rid, "agent", self.now))
        assert isinstance(answer, Conflict) is (known.state not in ("pending", "cancelled"))
        known.state = "cancelled" if known.state == "pending" else known.state

    @rule(of=questions, side=sides)
    def settle(self, of: int, side: int) -> None:
        known = self.known[of]
        self._do(self._stores[side].settle(known.key, known.rid, self.now))

    @precondition(lambda self: any(known.old_rids for known in self.known))
    @rule(of=questions, side=sides, use=st.booleans())
    def an_old_link_does_nothing(self, of: int, side: int, use: bool) -> None:
        known = self.known[of]
        for rid in known.old_rids[-1:]:
            store = self._stores[side]
            vote = Vote(approver="token:ann", choice=Choice.APPROVE, at=self.now)
            answer = self._do(
                store.consume(known.key, rid, self.now) if use else store.vote(known.key, rid, vote, self.now)
            )
            assert isinstance(answer, Conflict)

    @invariant()
    def both_see_what_is(self) -> None:
        for store in self._stores:
            found = self._runner.run(store.get_many([known.key for known in self.known], self.now))
            for known in self.known:
                record = found.get(known.key)
                assert (known.state == "none") is (record is None)
                if record is not None:
                    assert (record.rid, record.status) == (known.rid, Status(known.state))
                    assert record.used == known.used
                    assert record.status is not Status.APPROVED or record.uses_left == known.left


def _said(answer: object, who: str) -> list[Choice]:
    return [vote.choice for vote in answer.votes if vote.approver == who] if isinstance(answer, ApprovalRecord) else []
