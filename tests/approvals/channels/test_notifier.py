"""Telling channels: once, again where it failed, late rather than never, and what became of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from openmcp.config.model import Workflow
from openmcp.sidecar.approvals.channels import notifier as module
from openmcp.sidecar.approvals.channels.channel import ChannelFailed
from openmcp.sidecar.approvals.channels.notifier import Notifier
from openmcp.sidecar.state.lifecycle import RESEND_AFTER
from openmcp.sidecar.state.memory import MemoryStore
from openmcp.sidecar.state.records import ApprovalRecord, Status
from openmcp.sidecar.state.store import StoreUnavailable
from tests.approvals.scene import Scene, spec

LEADS = Workflow(name="leads", approvers=("token:ann", "token:bob"))
DOWN = ChannelFailed("it is down")
WRONG = ChannelFailed("the token is not accepted", lasting=True)


class Recording:
    """A channel that keeps what it is told; `faults` are what its next attempts end with."""

    updates = True

    def __init__(self, name: str = "chat") -> None:
        self.name = name
        self.sent: list[ApprovalRecord] = []
        self.updated: list[tuple[str, Status]] = []
        self.faults: list[ChannelFailed] = []
        self.attempts = 0
        self.held: asyncio.Event | None = None
        self.changed = asyncio.Event()

    async def send(self, record: ApprovalRecord, now: int) -> str:
        await self._attempt()
        self.sent.append(record)
        return f"{self.name}-{len(self.sent)}"

    async def update(self, record: ApprovalRecord, reference: str, now: int) -> None:
        await self._attempt()
        self.updated.append((reference, record.status))

    async def close(self) -> None:
        pass

    async def _attempt(self) -> None:
        self.attempts += 1
        self.changed.set()
        if self.held is not None:
            await self.held.wait()
        if self.faults:
            raise self.faults.pop(0)


class Desk(Scene):
    """A service, its notifier, and a channel."""

    def __init__(self, store: MemoryStore | None = None, per_hour: int = 60) -> None:
        super().__init__(store)
        self.chat = Recording()
        self.results: list[str] = []
        self.others = 0
        self.turned = asyncio.Event()
        self.notifier = Notifier(
            self.service,
            [self.chat],
            {"leads": ("chat",), "others": ()},
            lambda: self.now,
            per_hour=per_hour,
            on_result=self._result,
        )
        self.service._on_event = self._event

    def _event(self, event: Any) -> None:
        self.events.append(event)
        self.notifier.heed(event)

    def _result(self, channel: str, result: str) -> None:
        assert channel == "chat"
        self.results.append(result)
        self.turned.set()

    async def until(self, *results: str) -> None:
        """Wait until the attempts so far ended so."""
        async with asyncio.timeout(20):
            while self.results != list(results):
                self.turned.clear()
                await self.turned.wait()
        await asyncio.sleep(0)

    async def nothing_more(self) -> None:
        """Wait until all that was to be told before now has had its turn: another request comes after it."""
        self.others += 1
        last = (await self.ask(agent="key:other", arguments={"ticket_id": f"O-{self.others}"})).record
        async with asyncio.timeout(20):
            while not self.chat.sent or self.chat.sent[-1].key != last.key:
                self.turned.clear()
                await self.turned.wait()
        self.results.pop()
        self.chat.attempts -= 1
        self.chat.sent.pop()

    async def noted(self, record: ApprovalRecord, holds: Callable[[ApprovalRecord], object]) -> ApprovalRecord:
        """The record, once this holds of it."""
        async with asyncio.timeout(20):
            while True:
                found = await self.store.get(record.key, self.now)
                assert found is not None
                if holds(found):
                    return found
                await asyncio.sleep(0)


@pytest.fixture
async def desk(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Desk]:
    monkeypatch.setattr(module, "PAUSES", (0.0, 0.0))
    monkeypatch.setattr(module, "LOOK_AGAIN", 3600.0)
    desk = Desk()
    desk.notifier.start()
    yield desk
    await desk.notifier.stop()


async def test_a_request_is_told_of_once(desk: Desk) -> None:
    pending = await desk.ask()
    await desk.until("sent")
    found = await desk.noted(pending.record, lambda record: record.notified[0].reference)
    assert [(notice.channel, notice.reference) for notice in found.notified] == [("chat", "chat-1")]
    assert desk.chat.sent[0].rid == pending.record.rid
    await desk.ask()
    desk.now += 60_000
    await desk.notifier.look()
    await desk.until("sent", "updated")  # which shows that it was asked again
    assert len(desk.chat.sent) == 1


async def test_an_agent_that_asks_again_and_again_changes_the_message_less_and_less_often(desk: Desk) -> None:
    pending = await desk.ask()
    await desk.until("sent")
    await desk.noted(pending.record, lambda record: record.notified[0].reference)
    for _ in range(2, 17):
        await desk.ask()
        await desk.nothing_more()
    assert len(desk.chat.updated) == 4


async def test_the_decision_is_shown_in_place(desk: Desk) -> None:
    pending = await desk.ask()
    await desk.until("sent")
    await desk.noted(pending.record, lambda record: record.notified[0].reference)
    await desk.approve(pending.record)
    await desk.until("sent", "updated")
    assert desk.chat.updated == [("chat-1", Status.APPROVED)]
    record = await desk.store.get(pending.record.key, desk.now)
    assert record is not None
    await desk.service.revoke(record, "token:bob", (), "")
    await desk.until("sent", "updated", "updated")
    assert desk.chat.updated[-1] == ("chat-1", Status.REVOKED)


async def test_a_decision_while_the_message_is_on_its_way_is_shown_too(desk: Desk) -> None:
    desk.chat.held = asyncio.Event()
    pending = await desk.ask()
    await desk.chat.changed.wait()
    await desk.deny(pending.record)
    desk.chat.held.set()
    await desk.until("sent", "updated")
    assert desk.chat.updated == [("chat-1", Status.DENIED)]


async def test_a_decision_of_another_process_is_shown(desk: Desk) -> None:
    pending = await desk.ask()
    await desk.until("sent")
    await desk.noted(pending.record, lambda record: record.notified[0].reference)
    other = Scene(desk.store)
    other.now = desk.now
    await other.deny(pending.record)
    await desk.notifier.look()
    await desk.until("sent", "updated")
    assert desk.chat.updated == [("chat-1", Status.DENIED)]


async def test_a_failure_is_tried_again(desk: Desk) -> None:
    desk.chat.faults = [DOWN, DOWN]
    await desk.ask()
    await desk.until("failed", "failed", "sent")
    (health,) = desk.notifier.report()
    assert (health.fault, health.failed, health.sent) == ("", 2, 1)
    assert desk.notifier.notes() == ()


async def test_a_failure_is_seen_until_it_works_again(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAUSES", (3600.0,))
    desk.chat.faults = [DOWN]
    await desk.ask()
    await desk.until("failed")
    (health,) = desk.notifier.report()
    assert (health.fault, health.failed, health.sent, health.since) == ("it is down", 1, 0, desk.now)
    assert desk.notifier.notes() == ("chat does not work: it is down",)


async def test_a_channel_that_is_broken_for_long_is_told_late(desk: Desk) -> None:
    desk.chat.faults = [DOWN, DOWN, DOWN]
    pending = await desk.ask()
    await desk.until("failed", "failed", "failed")
    await desk.notifier.look()
    await desk.nothing_more()
    assert desk.chat.attempts == 3, "the claim holds still"
    assert (await desk.ask()).record.status is Status.PENDING
    desk.now += RESEND_AFTER
    await desk.notifier.look()
    await desk.until("failed", "failed", "failed", "sent")
    found = await desk.noted(pending.record, lambda record: record.notified[0].reference)
    assert found.notified[0].reference == "chat-1"


async def test_what_somebody_has_to_change_is_not_tried_at_once_again(desk: Desk) -> None:
    desk.chat.faults = [WRONG]
    await desk.ask()
    await desk.until("failed")
    await desk.nothing_more()
    assert desk.chat.attempts == 1
    desk.now += RESEND_AFTER
    await desk.notifier.look()
    await desk.until("failed", "sent")


async def test_two_processes_tell_once(desk: Desk) -> None:
    other = Desk(desk.store)
    other.now = desk.now
    other.notifier.start()
    await desk.ask()
    other.notifier.heed(desk.events[0])
    for one, another in ((desk, "a"), (other, "b")):
        one.others += ord(another)
        await one.nothing_more()
    assert desk.chat.attempts + other.chat.attempts == 1
    await other.notifier.stop()


async def test_what_another_process_opened_and_did_not_tell_of_is_told(desk: Desk) -> None:
    other = Scene(desk.store)
    pending = await other.ask()
    await desk.notifier.look()
    await desk.nothing_more()
    assert desk.chat.attempts == 0, "it has a second to do so itself"
    desk.now += 1000
    await desk.notifier.look()
    await desk.until("sent")
    assert desk.chat.sent[0].rid == pending.record.rid


async def test_workflows_without_a_channel_tell_nobody(desk: Desk) -> None:
    await desk.ask(spec(workflow=Workflow(name="others", approvers=("token:ann",))))
    desk.now += 10_000
    await desk.notifier.look()
    await desk.nothing_more()
    assert desk.chat.attempts == 0


async def test_an_agent_that_asks_for_much_is_told_of_for_a_while() -> None:
    desk = Desk(per_hour=2)
    desk.notifier.start()
    for number in range(4):
        await desk.ask(arguments={"ticket_id": f"T-{number}"})
    await desk.until("sent", "sent")
    desk.now += 10_000
    await desk.notifier.look()
    await desk.nothing_more()
    assert desk.chat.attempts == 2
    await desk.ask(agent="key:other")
    await desk.until("sent", "sent", "sent")
    await desk.notifier.stop()


async def test_trying_again_is_not_counted_as_another_request() -> None:
    desk = Desk(per_hour=2)
    desk.notifier.start()
    desk.chat.faults = [WRONG, WRONG, WRONG]
    await desk.ask()
    await desk.until("failed")
    for tried in (2, 3):
        desk.now += RESEND_AFTER
        await desk.notifier.look()
        await desk.until(*["failed"] * tried)
    await desk.ask(arguments={"ticket_id": "T-8"})
    await desk.until("failed", "failed", "failed", "sent")
    await desk.notifier.stop()


async def test_what_is_over_is_told_to_nobody(desk: Desk) -> None:
    desk.chat.faults = [WRONG]
    pending = await desk.ask()
    await desk.until("failed")
    await desk.deny(pending.record)
    desk.now += RESEND_AFTER
    await desk.notifier.look()
    await desk.nothing_more()
    assert desk.chat.attempts == 1


async def test_a_store_that_is_away_stops_nothing(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    note = desk.store.note

    tried = asyncio.Event()

    async def away(*_: object) -> Any:
        tried.set()
        raise StoreUnavailable("away")

    monkeypatch.setattr(desk.store, "note", away)
    pending = await desk.ask()
    await tried.wait()
    assert desk.chat.attempts == 0
    monkeypatch.setattr(desk.store, "note", note)
    desk.now += 1000
    await desk.notifier.look()
    await desk.until("sent")
    assert desk.chat.sent[0].rid == pending.record.rid


async def test_a_defect_of_a_channel_does_not_silence_it(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    send = desk.chat.send

    async def broken(*_: object) -> str:
        raise KeyError("x")

    monkeypatch.setattr(desk.chat, "send", broken)
    await desk.ask()
    await desk.until("failed")
    monkeypatch.setattr(desk.chat, "send", send)
    await desk.ask(arguments={"ticket_id": "T-8"})
    await desk.until("failed", "sent")
