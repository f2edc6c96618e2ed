"""What every state store does. A store's own test file subclasses `StoreContract` and says how to connect to it.

The clock is an argument of every verb, so nothing here waits for time to pass.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from openmcp.sidecar.state.lifecycle import Conflict
from openmcp.sidecar.state.records import ApprovalRecord, Notice, Status
from openmcp.sidecar.state.store import BadCursor, Page, StateStore, cursor_of
from tests.contracts.model import StoreMachine
from tests.contracts.requests import HOUR, LEADS, MINUTE, NOW, new_key, new_rid, no, request, yes

Connect = Callable[[], Awaitable[StateStore]]


async def outcomes(*calls: Coroutine[Any, Any, Any]) -> Counter[str]:
    """How many of these, all at once, came back with a status and how many were refused for what reason."""
    found: Counter[str] = Counter()
    for result in await asyncio.gather(*calls, return_exceptions=True):
        if isinstance(result, Conflict):
            found[result.reason] += 1
        elif isinstance(result, BaseException):
            raise result
        else:
            found[(result[0] if isinstance(result, tuple) else result).status.value] += 1
    return found


class StoreContract(ABC):
    """The suite; `connect` gives a store as another process would have it, on the state that the test has."""

    examples = 15
    """Of games against the model."""

    @pytest.fixture
    @abstractmethod
    def connect(self) -> Connect:
        """A further connection to one state."""

    @pytest.fixture
    async def stores(self, connect: Connect) -> AsyncIterator[tuple[StateStore, StateStore]]:
        """Two processes on one state."""
        one, two = await connect(), await connect()
        yield one, two
        await one.close()
        await two.close()

    @pytest.fixture
    async def store(self, stores: tuple[StateStore, StateStore]) -> StateStore:
        """One of them."""
        return stores[0]

    async def granted(self, store: StateStore, **changes: Any) -> ApprovalRecord:
        """A grant in the store."""
        record, created = await store.open(request(**changes), NOW)
        assert created
        return await store.vote(record.key, record.rid, yes(), NOW)

    async def test_a_record_comes_back_as_it_was_given(self, stores: tuple[StateStore, StateStore]) -> None:
        asked = request(why=("ü", 'a "quote"'), shown=(("$.a", '"\\u0000"'),), bound=None, max_uses=3)
        assert await stores[0].open(asked, NOW) == (asked, True)
        assert await stores[1].get(asked.key, NOW) == asked
        assert await stores[1].get(new_key(), NOW) is None

    async def test_fifty_askers_make_one_request(self, stores: tuple[StateStore, StateStore]) -> None:
        key = new_key()
        answers = await asyncio.gather(*(stores[n % 2].open(request(key), NOW + n) for n in range(50)))
        assert sum(created for _, created in answers) == 1
        assert len({record.rid for record, _ in answers}) == 1
        found = await stores[0].get(key, NOW)
        assert found is not None
        assert found.asked == 50
        assert sorted(record.asked for record, _ in answers) == list(range(1, 51))

    async def test_approval_and_denial_at_once_have_one_winner(self, stores: tuple[StateStore, StateStore]) -> None:
        for _ in range(5):
            record, _ = await stores[0].open(request(), NOW)
            found = await outcomes(
                stores[0].vote(record.key, record.rid, yes(), NOW), stores[1].vote(record.key, record.rid, no(), NOW)
            )
            known = await stores[0].get(record.key, NOW)
            assert known is not None
            assert found == {known.status.value: 1, "ended": 1}
            assert len(known.votes) == 1

    async def test_votes_of_many_at_once_all_count(self, stores: tuple[StateStore, StateStore]) -> None:
        people = tuple(f"token:p{n}" for n in range(8))
        need = msgspec.structs.replace(LEADS, approvers=people, required=8)
        record, _ = await stores[0].open(request(needs=(need,)), NOW)
        await asyncio.gather(
            *(stores[n % 2].vote(record.key, record.rid, yes(one), NOW) for n, one in enumerate(people))
        )
        known = await stores[1].get(record.key, NOW)
        assert known is not None
        assert {vote.approver for vote in known.votes} == set(people)
        assert known.status is Status.APPROVED

    async def test_a_decision_that_is_played_again_changes_nothing(self, store: StateStore) -> None:
        record = await self.granted(store, max_uses=5)
        await store.consume(record.key, record.rid, NOW + 1)
        before = await store.get(record.key, NOW + 2)
        assert await store.vote(record.key, record.rid, yes(at=NOW + 2, duration=2 * HOUR), NOW + 2) == before
        assert await store.get(record.key, NOW + 2) == before

    async def test_what_ends_now_has_ended(self, store: StateStore) -> None:
        record, _ = await store.open(request(), NOW)
        end = record.pending_until
        assert (await store.get(record.key, end - 1)) == record
        expired = await store.get(record.key, end)
        assert expired is not None
        assert (expired.status, expired.ended_at) == (Status.EXPIRED, end)
        with pytest.raises(Conflict, match="expired"):
            await store.vote(record.key, record.rid, yes(), end)

        record = await self.granted(store)
        assert record.grant_until == NOW + HOUR
        assert (await store.consume(record.key, record.rid, NOW + HOUR - 1)).status is Status.APPROVED
        with pytest.raises(Conflict, match="lapsed") as refused:
            await store.consume(record.key, record.rid, NOW + HOUR)
        assert refused.value.reason == "ended"
        (lapsed,) = (await store.get_many([record.key], NOW + HOUR)).values()
        assert lapsed.status is Status.LAPSED

    async def test_one_use_among_twenty_is_one(self, stores: tuple[StateStore, StateStore]) -> None:
        record = await self.granted(stores[0], max_uses=1)
        found = await outcomes(*(stores[n % 2].consume(record.key, record.rid, NOW + 1) for n in range(20)))
        assert found["exhausted"] == 1
        assert found.total() == 20
        assert set(found) <= {"exhausted", "ended", "uses"}
        known = await stores[0].get(record.key, NOW + 2)
        assert known is not None
        assert (known.status, known.used, known.uses_left) == (Status.EXHAUSTED, 1, 0)

    async def test_uses_are_counted_one_by_one(self, stores: tuple[StateStore, StateStore]) -> None:
        record = await self.granted(stores[0], max_uses=7)
        found = await outcomes(*(stores[n % 2].consume(record.key, record.rid, NOW + 1) for n in range(12)))
        assert found["approved"] + found["exhausted"] == 7
        record = await self.granted(stores[0])
        await asyncio.gather(*(stores[n % 2].consume(record.key, record.rid, NOW + n) for n in range(20)))
        known = await stores[0].get(record.key, NOW + 20)
        assert known is not None
        assert (known.used, known.uses_left) == (20, None)

    async def test_several_uses_at_once_are_all_or_none(self, store: StateStore) -> None:
        record = await self.granted(store, max_uses=3)
        assert (await store.consume(record.key, record.rid, NOW, 2)).uses_left == 1
        with pytest.raises(Conflict) as refused:
            await store.consume(record.key, record.rid, NOW, 2)
        assert refused.value.reason == "uses"
        with pytest.raises(Conflict):
            await store.consume(record.key, record.rid, NOW, 0)
        assert (await store.consume(record.key, record.rid, NOW, 1)).status is Status.EXHAUSTED

    async def test_nothing_is_used_before_it_is_approved(self, store: StateStore) -> None:
        record, _ = await store.open(request(), NOW)
        with pytest.raises(Conflict) as refused:
            await store.consume(record.key, record.rid, NOW)
        assert refused.value.reason == "pending"

    async def test_revoking_wins(self, stores: tuple[StateStore, StateStore]) -> None:
        record = await self.granted(stores[0])
        revoked = await stores[1].revoke(record.key, record.rid, "token:ann", "a mistake", NOW + 5)
        assert (revoked.status, revoked.ended_by, revoked.ended_at) == (Status.REVOKED, "token:ann", NOW + 5)
        assert await stores[0].revoke(record.key, record.rid, "token:bob", "too", NOW + 6) == revoked
        with pytest.raises(Conflict, match="revoked"):
            await stores[0].consume(record.key, record.rid, NOW + 6)
        with pytest.raises(Conflict, match="revoked"):
            await stores[0].vote(record.key, record.rid, yes("token:bob"), NOW + 6)

    async def test_no_use_after_a_revocation_among_many(self, stores: tuple[StateStore, StateStore]) -> None:
        record = await self.granted(stores[0])
        taken: list[ApprovalRecord] = []

        async def take() -> None:
            for _ in range(10):
                taken.append(await stores[0].consume(record.key, record.rid, NOW + 1))

        results = await asyncio.gather(
            take(), take(), stores[1].revoke(record.key, record.rid, "token:ann", "", NOW), return_exceptions=True
        )
        assert isinstance(results[2], ApprovalRecord)
        assert [one for one in taken if one.version > results[2].version] == []
        known = await stores[0].get(record.key, NOW + 2)
        assert known is not None
        assert (known.status, known.used) == (Status.REVOKED, len(taken))

    async def test_an_older_generation_is_refused(self, store: StateStore) -> None:
        first, _ = await store.open(request(), NOW)
        later = first.pending_until
        second, created = await store.open(request(first.key, now=later), later)
        assert created
        assert second.rid != first.rid
        for call in (
            store.vote(first.key, first.rid, yes(), later),
            store.consume(first.key, first.rid, later),
            store.revoke(first.key, first.rid, "token:ann", "", later),
            store.cancel(first.key, first.rid, "agent", later),
            store.settle(first.key, first.rid, later),
            store.note(first.key, first.rid, Notice(channel="mail", at=later), later),
        ):
            with pytest.raises(Conflict) as refused:
                await call
            assert refused.value.reason == "stale"
        assert await store.get(first.key, later) == second
        granted = await store.vote(second.key, second.rid, yes(), later)
        for call in (
            store.consume(first.key, first.rid, later),
            store.revoke(first.key, first.rid, "token:ann", "", later),
        ):
            with pytest.raises(Conflict) as refused:
                await call
            assert refused.value.reason == "stale"
        assert await store.get(first.key, later) == granted

    async def test_what_is_not_there_is_unknown(self, store: StateStore) -> None:
        for call in (
            store.vote(new_key(), new_rid(), yes(), NOW),
            store.consume(new_key(), new_rid(), NOW),
            store.settle(new_key(), new_rid(), NOW),
        ):
            with pytest.raises(Conflict) as refused:
                await call
            assert refused.value.reason == "unknown"
        assert await store.by_rid(new_rid(), NOW) is None
        assert await store.get_many([new_key()], NOW) == {}
        assert await store.get_many([], NOW) == {}

    async def test_a_denial_cools_down(self, store: StateStore) -> None:
        record, _ = await store.open(request(), NOW)
        denied = await store.vote(record.key, record.rid, no(reason="not today"), NOW + 1)
        assert (denied.status, denied.end_reason) == (Status.DENIED, "not today")
        end = denied.cooldown_until
        assert end == NOW + 1 + record.cooldown
        assert await store.open(request(record.key, now=end - 1), end - 1) == (denied, False)
        again, created = await store.open(request(record.key, now=end), end)
        assert (created, again.status) == (True, Status.PENDING)

    async def test_every_end_lets_the_question_be_put_again(self, store: StateStore) -> None:
        ended = []
        for _ in range(3):
            record, _ = await store.open(request(), NOW)
            ended.append(record)
        await store.cancel(ended[0].key, ended[0].rid, "agent", NOW)
        await store.vote(ended[1].key, ended[1].rid, yes(), NOW)
        await store.revoke(ended[1].key, ended[1].rid, "token:ann", "", NOW)
        await store.vote(ended[2].key, ended[2].rid, yes(uses=1), NOW)
        await store.consume(ended[2].key, ended[2].rid, NOW)
        ended.append(await self.granted(store))
        after = NOW + HOUR
        for record in ended:
            again, created = await store.open(request(record.key, now=after), after)
            assert created
            assert (again.status, again.votes, again.used) == (Status.PENDING, (), 0)

    async def test_a_grant_is_not_asked_for_again(self, store: StateStore) -> None:
        record = await self.granted(store)
        assert await store.open(request(record.key), NOW + 1) == (record, False)

    async def test_withdrawing(self, store: StateStore) -> None:
        record, _ = await store.open(request(), NOW)
        gone = await store.cancel(record.key, record.rid, record.agent, NOW + 1)
        assert (gone.status, gone.ended_at) == (Status.CANCELLED, NOW + 1)
        assert await store.cancel(record.key, record.rid, record.agent, NOW + 2) == gone
        with pytest.raises(Conflict, match="cancelled"):
            await store.vote(record.key, record.rid, yes(), NOW + 2)
        granted = await self.granted(store)
        with pytest.raises(Conflict, match="approved"):
            await store.cancel(granted.key, granted.rid, granted.agent, NOW)

    async def test_one_process_settles_an_end(self, stores: tuple[StateStore, StateStore]) -> None:
        record, _ = await stores[0].open(request(), NOW)
        assert (await stores[0].settle(record.key, record.rid, NOW))[1] is False
        end = record.pending_until
        assert [one.key for one in await stores[1].list_due(end, 1000) if one.key == record.key] == [record.key]
        results = await asyncio.gather(*(stores[n % 2].settle(record.key, record.rid, end + n) for n in range(8)))
        assert sum(wrote for _, wrote in results) == 1
        assert {(one.status, one.ended_at) for one, _ in results} == {(Status.EXPIRED, end)}
        assert [one.key for one in await stores[1].list_due(end, 1000) if one.key == record.key] == []

    async def test_one_process_sends_a_message(self, stores: tuple[StateStore, StateStore]) -> None:
        record, _ = await stores[0].open(request(), NOW)
        claim = Notice(channel="mail", at=NOW)
        found = await outcomes(*(stores[n % 2].note(record.key, record.rid, claim, NOW) for n in range(8)))
        assert found == {"pending": 1, "told": 7}
        sent = await stores[0].note(record.key, record.rid, Notice(channel="mail", at=NOW, reference="17"), NOW)
        assert sent.notified == (Notice(channel="mail", at=NOW, reference="17"),)
        with pytest.raises(Conflict):
            await stores[1].note(record.key, record.rid, Notice(channel="mail", at=NOW + HOUR), NOW + 1)

    async def test_a_request_is_found_by_its_id(self, stores: tuple[StateStore, StateStore]) -> None:
        record, _ = await stores[0].open(request(), NOW)
        assert await self.eventually(lambda: stores[1].by_rid(record.rid, NOW), record) == record
        later = record.pending_until
        again, _ = await stores[0].open(request(record.key, now=later), later)
        assert await self.eventually(lambda: stores[1].by_rid(again.rid, later), again) == again
        assert await self.eventually(lambda: stores[1].by_rid(record.rid, later), None) is None

    async def test_lists(self, store: StateStore) -> None:
        agent = f"key:{new_rid()}"
        pending = [
            (await store.open(request(agent=agent, pending_until=NOW + MINUTE * (9 - n)), NOW))[0] for n in range(5)
        ]
        grants = [await self.granted(store, agent=agent, duration=MINUTE * (n + 1)) for n in range(3)]
        ended = []
        for n in range(3):
            record = await self.granted(store, agent=agent)
            ended.append(await store.revoke(record.key, record.rid, "token:ann", "", NOW + n))

        async def listed(read: Callable[[str | None], Awaitable[Page]]) -> list[ApprovalRecord]:
            return [one for one in await self.everything(read) if one.agent == agent]

        assert await listed(lambda cursor: store.list_pending(NOW, 2, cursor)) == pending[::-1]
        assert await listed(lambda cursor: store.list_grants(NOW, 2, cursor)) == grants
        assert await listed(lambda cursor: store.history(NOW, 2, cursor)) == ended[::-1]
        later = NOW + 2 * MINUTE
        assert await listed(lambda cursor: store.list_grants(later, 100, cursor)) == grants[2:]
        due = [one for one in await store.list_due(NOW + 5 * MINUTE, 1000) if one.agent == agent]
        assert {one.key for one in due} == {one.key for one in (*grants, pending[4])}
        assert {one.status for one in due} == {Status.LAPSED, Status.EXPIRED}

    async def test_a_list_goes_on_where_time_has_passed_since(self, store: StateStore) -> None:
        agent = f"key:{new_rid()}"
        pending = [
            (await store.open(request(agent=agent, pending_until=NOW + MINUTE * (n + 1)), NOW))[0] for n in range(4)
        ]
        place = cursor_of(pending[1])
        for now, left in ((NOW, pending[2:]), (pending[1].pending_until, pending[2:]), (NOW + 3 * MINUTE, pending[3:])):
            page = await store.list_pending(now, 1000, place)
            assert [one for one in page.records if one.agent == agent] == left

    async def test_a_cursor_of_somewhere_else_is_refused(self, store: StateStore) -> None:
        for cursor in ("", "x", "bm8=", "MTI6", "OjEy", "MTI6YTtE", "MTI6YWJj"):
            with pytest.raises(BadCursor):
                await store.list_pending(NOW, 10, cursor)

    async def test_all_have_the_same_key(self, stores: tuple[StateStore, StateStore], connect: Connect) -> None:
        keys = await asyncio.gather(*(stores[n % 2].hmac_key() for n in range(10)))
        assert len(set(keys)) == 1
        assert len(keys[0]) == 32
        third = await connect()
        assert await third.hmac_key() == keys[0]
        await third.close()

    async def test_creating_what_is_there_does_nothing(self, store: StateStore) -> None:
        record = await self.granted(store)
        key = await store.hmac_key()
        assert await store.create()
        assert await store.get(record.key, NOW) == record
        assert await store.hmac_key() == key

    async def test_who_subscribes_is_told_of_changes_made_here(self, store: StateStore) -> None:
        told: list[ApprovalRecord] = []
        store.subscribe(told.append)
        asked = request(max_uses=2)
        results = [(await store.open(asked, NOW))[0], (await store.open(asked, NOW))[0]]
        results += [await store.vote(asked.key, asked.rid, yes(), NOW)]
        results += [await store.consume(asked.key, asked.rid, NOW)]
        revoked = await store.revoke(asked.key, asked.rid, "token:ann", "", NOW)
        await store.revoke(asked.key, asked.rid, "token:ann", "", NOW)
        await store.get(asked.key, NOW)
        assert told == [*results, revoked]

    def test_against_a_model(self, connect: Connect) -> None:
        run_state_machine_as_test(
            lambda: StoreMachine(connect),
            settings=settings(
                max_examples=self.examples,
                stateful_step_count=25,
                deadline=None,
                suppress_health_check=list(HealthCheck),
            ),
        )

    @staticmethod
    async def eventually(
        read: Callable[[], Awaitable[ApprovalRecord | None]], wanted: ApprovalRecord | None
    ) -> ApprovalRecord | None:
        """What an index tells once it has caught up: some are behind by a moment."""
        for _ in range(100):
            found = await read()
            if found == wanted:
                return found
            await asyncio.sleep(0.02)
        return await read()

    @staticmethod
    async def everything(read: Callable[[str | None], Awaitable[Page]]) -> list[ApprovalRecord]:
        """All pages of a list."""
        found: list[ApprovalRecord] = []
        cursor: str | None = None
        while True:
            page = await read(cursor)
            found += page.records
            cursor = page.cursor
            if cursor is None:
                return found
