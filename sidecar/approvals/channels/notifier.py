"""Telling channels of requests: once for each, again where it failed, and what has become of them.

A request is claimed in the store before its message is sent, so that one process sends it; the claim lapses where that
process dies (`lifecycle.RESEND_AFTER`). The store is looked through now and then for what nobody was told of: a
channel that is broken for an hour is told late, and the request is never lost by it. A message that may have been
taken although no answer came is sent again: twice is better than never.
"""

import asyncio
import logging
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Final

import msgspec

from openmcp.sidecar.approvals.channels.channel import Channel, ChannelFailed
from openmcp.sidecar.approvals.service import ApprovalService
from openmcp.sidecar.approvals.values import Event, Kind
from openmcp.sidecar.state.lifecycle import RESEND_AFTER, Conflict
from openmcp.sidecar.state.records import ApprovalRecord, Status, UnknownSchema
from openmcp.sidecar.state.store import MANY, StoreUnavailable

_log = logging.getLogger("openmcp.approvals")

LOOK_AGAIN: Final = 5.0
"""Seconds between two looks through the store."""

PAUSES: Final = (1.0, 2.0, 4.0, 8.0, 16.0)
"""Seconds before another attempt; together, and with the time that attempts take, less than a claim holds."""

_WAITING: Final = 1000
"""Messages of one channel that wait to be sent; the store has the others."""

_WATCHED: Final = 2000
_PAGE: Final = 200
_HOUR: Final = 3_600_000
_CHANGES: Final = frozenset(Kind) - {Kind.OPENED, Kind.USED, Kind.CAPPED}

_NOT_SENT: Final = (Conflict, StoreUnavailable, UnknownSchema)


class Health(msgspec.Struct, frozen=True):
    """How a channel does: what is wrong (empty: nothing), since when (Unix milliseconds), messages sent and failed."""

    channel: str
    fault: str = ""
    since: int = 0
    sent: int = 0
    failed: int = 0


class _Post:
    """One channel with what waits for it."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.health = Health(channel.name)
        self.jobs: OrderedDict[tuple[str, str], ApprovalRecord] = OrderedDict()
        """The records to tell of, or to change the message of, by key and generation."""
        self.ready = asyncio.Event()

    def put(self, record: ApprovalRecord) -> None:
        """Wait for its turn; the latest state of a record takes the place of an earlier one."""
        name = (record.key, record.rid)
        before = self.jobs.get(name)
        if (before is None and len(self.jobs) < _WAITING) or (before is not None and before.version <= record.version):
            self.jobs[name] = record
            self.ready.set()

    async def take(self) -> ApprovalRecord:
        """The next one."""
        while not self.jobs:
            self.ready.clear()
            await self.ready.wait()
        return self.jobs.popitem(last=False)[1]


class Notifier:
    """Tells channels, each by a task of its own. `workflows` are the names of channels by the names of workflows.

    `heed` takes the events of this process. `on_result` is told of each attempt: the channel, and `sent`, `updated` or
    `failed`. At most `per_hour` requests of an agent are told of in an hour.
    """

    def __init__(
        self,
        service: ApprovalService,
        channels: Sequence[Channel],
        workflows: Mapping[str, Sequence[str]],
        clock: Callable[[], int],
        *,
        per_hour: int = 60,
        on_result: Callable[[str, str], None] = lambda channel, result: None,
    ) -> None:
        self._service = service
        self._posts = {channel.name: _Post(channel) for channel in channels}
        self._workflows = workflows
        self._clock = clock
        self._per_hour = per_hour
        self._on_result = on_result
        self._told: dict[str, deque[int]] = {}
        self._watched: OrderedDict[str, ApprovalRecord] = OrderedDict()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin to tell, in the running event loop."""
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._work(post)) for post in self._posts.values()]
        if self._posts:
            self._tasks.append(loop.create_task(self._look()))

    async def stop(self) -> None:
        """End all of it; what was not sent is found in the store by the next process."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for post in self._posts.values():
            await post.channel.close()

    def heed(self, event: Event) -> None:
        """Take up what has happened in this process."""
        if event.kind is Kind.OPENED:
            if event.notify and self._may_tell(event.record):
                self._put(event.record)
        elif event.kind in _CHANGES and event.record.notified and _is_news(event):
            self._put(event.record)

    def report(self) -> tuple[Health, ...]:
        """How the channels do."""
        return tuple(post.health for post in self._posts.values())

    def notes(self) -> tuple[str, ...]:
        """The same for people: a line for each channel that does not work."""
        return tuple(f"{one.channel} does not work: {one.fault}" for one in self.report() if one.fault)

    def _put(self, record: ApprovalRecord) -> None:
        for name in self._channels(record):
            self._posts[name].put(record)

    def _channels(self, record: ApprovalRecord) -> list[str]:
        """The channels of its workflows, and those that were told when the workflows were others."""
        wanted = [name for need in record.needs for name in self._workflows.get(need.workflow, ())]
        told = [notice.channel for notice in record.notified]
        return [name for name in dict.fromkeys((*wanted, *told)) if name in self._posts]

    def _may_tell(self, record: ApprovalRecord) -> bool:
        """Whether one more request of this agent is told of; that counts."""
        now = self._clock()
        self._told = {agent: times for agent, times in self._told.items() if times[-1] > now - _HOUR}
        times = self._told.setdefault(record.agent, deque(maxlen=self._per_hour))
        if len(times) == self._per_hour and times[0] > now - _HOUR:
            return False
        times.append(now)
        return True

    async def _look(self) -> None:
        while True:
            try:
                await self.look()
            except (StoreUnavailable, UnknownSchema) as error:
                _log.debug("cannot look for requests to tell of: %s", error)
            await asyncio.sleep(LOOK_AGAIN)

    async def look(self) -> None:
        """Look through the store once: for requests that a channel was not told of, and what has become of others."""
        seen: set[str] = set()
        cursor: str | None = None
        while True:
            page = await self._service.pending(_PAGE, cursor)
            for record in page.records:
                seen.add(record.key)
                self._watch(record)
                if self._is_untold(record) and (record.notified or self._may_tell(record)):  # counted at the first try
                    self._put(record)
            cursor = page.cursor
            if cursor is None:
                break
        await self._ended([key for key in self._watched if key not in seen])

    def _is_untold(self, record: ApprovalRecord) -> bool:
        """Whether a channel was not told, nor is being told by anybody now."""
        now = self._clock()
        for name in self._channels(record):
            notice = next((one for one in record.notified if one.channel == name), None)
            lapsed = notice is not None and not notice.reference and now - notice.at >= RESEND_AFTER
            waiting = (record.key, record.rid) in self._posts[name].jobs
            if (notice is None or lapsed) and not waiting and record.opened + 1000 <= now:
                return True
        return False

    def _watch(self, record: ApprovalRecord) -> None:
        """Keep in mind a request that was told of: another process may decide it; show its votes meanwhile."""
        if not any(notice.channel in self._posts and notice.reference for notice in record.notified):
            return
        before = self._watched.get(record.key)
        self._watched[record.key] = record
        if before is not None and before.votes != record.votes:
            self._put(record)
        while len(self._watched) > _WATCHED:
            self._watched.popitem(last=False)

    async def _ended(self, keys: list[str]) -> None:
        for at in range(0, len(keys), MANY):
            found = await self._service.store.get_many(keys[at : at + MANY], self._clock())
            for key in keys[at : at + MANY]:
                before = self._watched.pop(key)
                record = found.get(key)
                if record is not None and record.rid == before.rid:
                    self._put(record)

    async def _work(self, post: _Post) -> None:
        while True:
            record = await post.take()
            try:
                await self._handle(post, record)
            except Exception:  # a defect in a channel must not silence it
                _log.exception("channel %s: request %s", post.channel.name, record.rid)
                self._failed(post, "a defect: see the log")

    async def _handle(self, post: _Post, record: ApprovalRecord) -> None:
        notice = next((one for one in record.notified if one.channel == post.channel.name), None)
        if notice is not None and notice.reference:
            if not post.channel.updates:
                return
            await self._update(post, record, notice.reference)
        elif record.status is Status.PENDING:
            await self._send(post, record)

    async def _send(self, post: _Post, record: ApprovalRecord) -> None:
        with suppress(*_NOT_SENT):  # told by another process, or over; of a store that is away the next look tells
            claimed = await self._service.note(record, post.channel.name)
            if claimed.status is not Status.PENDING:
                return
            reference = await self._attempts(post, lambda: post.channel.send(claimed, self._clock()), "sent")
            if reference is not None:
                noted = await self._service.note(claimed, post.channel.name, reference)
                if (noted.status, noted.votes) != (claimed.status, claimed.votes):  # while it was being sent
                    post.put(noted)
                self._watch(noted)

    async def _update(self, post: _Post, record: ApprovalRecord, reference: str) -> None:
        async def work() -> str:
            await post.channel.update(record, reference, self._clock())
            return reference

        await self._attempts(post, work, "updated")

    async def _attempts(self, post: _Post, work: Callable[[], Awaitable[str]], word: str) -> str | None:
        for pause in (*PAUSES, None):
            try:
                reference = await work()
            except ChannelFailed as error:
                self._failed(post, str(error))
                if pause is None or error.lasting:
                    return None
                await asyncio.sleep(pause)
            else:
                self._worked(post, word)
                return reference
        return None

    def _worked(self, post: _Post, word: str) -> None:
        if post.health.fault:
            _log.info("channel %s works again", post.channel.name)
        post.health = Health(post.channel.name, sent=post.health.sent + 1, failed=post.health.failed)
        self._on_result(post.channel.name, word)

    def _failed(self, post: _Post, fault: str) -> None:
        """Said once, until it works again or fails in another way."""
        before = post.health
        if before.fault != fault:
            _log.warning("channel %s does not work: %s", post.channel.name, fault)
        since = before.since if before.fault else self._clock()
        post.health = Health(before.channel, fault, since, before.sent, before.failed + 1)
        self._on_result(post.channel.name, "failed")


def _is_news(event: Event) -> bool:
    """Whether a message is worth changing: agents ask again every few seconds, and are counted at 2, 4, 8, 16..."""
    asked = event.record.asked
    return event.kind is not Kind.ASKED_AGAIN or asked & (asked - 1) == 0
