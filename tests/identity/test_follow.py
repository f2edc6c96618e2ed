"""Following a stream: what is waited between two attempts, and what is closed."""

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from openmcp.identity import follow
from openmcp.identity.follow import Follower
from openmcp.identity.material import CallFailed


class Line:
    """A stream that gives what it was made with: updates, and failures that it raises. Then it ends in order, or stays
    silent."""

    def __init__(self, *items: str | Exception, hangs: bool = False) -> None:
        self._items = iter(items)
        self._hangs = hangs
        self.is_closed = False

    async def read(self) -> str | None:
        item = next(self._items, None)
        if item is None and self._hangs:
            await asyncio.Event().wait()
        if isinstance(item, Exception):
            raise item
        return item

    def close(self) -> None:
        self.is_closed = True


class Following:
    """A follower of these streams, one after the other. `pauses` are the longest waits between them, none of which is
    waited in truth; `taken` and `failures` are what it brought."""

    def __init__(self, lines: tuple[Line, ...], monkeypatch: pytest.MonkeyPatch) -> None:
        self.pauses: list[float] = []
        self.taken: list[str] = []
        self.failures: list[str] = []
        self.all_opened = asyncio.Event()
        self._lines = iter(lines)
        self.follower = Follower(self._open, self.taken.append, lambda failed: self.failures.append(str(failed)))
        monkeypatch.setattr(follow.random, "uniform", self._pause)

    def _open(self) -> Line:
        line = next(self._lines, None)
        if line is None:
            self.all_opened.set()
            line = Line(hangs=True)
        return line

    def _pause(self, low: float, high: float) -> float:
        assert low == high / 2
        self.pauses.append(high)
        return 0


@pytest.fixture
async def followed(monkeypatch) -> AsyncIterator[Callable[..., "asyncio.Future[Following]"]]:
    """Follow these streams until the last of them has ended."""
    begun: list[Following] = []

    async def begin(*lines: Line) -> Following:
        following = Following(lines, monkeypatch)
        begun.append(following)
        following.follower.start()
        async with asyncio.timeout(20):
            await following.all_opened.wait()
        return following

    yield begin
    for following in begun:
        await following.follower.stop()
        assert asyncio.all_tasks() == {asyncio.current_task()}, "it waits for its end"


BROKEN = CallFailed("unreachable", "gone")


async def test_the_pauses_grow_up_to_the_longest(followed):
    following = await followed(*(Line(BROKEN) for _ in range(6)))
    assert following.pauses == [0.2, 0.4, 0.8, 1.6, follow.LONGEST, follow.LONGEST]
    assert following.failures == ["unreachable: gone"] * 6
    assert following.follower.trouble is BROKEN


async def test_after_an_update_they_begin_anew(followed):
    following = await followed(Line(BROKEN), Line(BROKEN), Line("a", BROKEN), Line(BROKEN))
    assert (following.pauses, following.taken) == ([0.2, 0.4, 0.2, 0.4], ["a"])


async def test_a_stream_that_ends_in_order_is_opened_again_without_a_word(followed):
    following = await followed(Line("a", "b"), Line("c"))
    assert (following.taken, following.failures, following.follower.trouble) == (["a", "b", "c"], [], None)


async def test_a_stream_that_ends_without_an_update_is_a_failure(followed):
    following = await followed(Line())
    assert following.failures == ["refused: ended without an update"]


async def test_each_stream_is_closed(followed):
    lines = (Line("a"), Line(BROKEN), Line(ValueError("on purpose")))
    following = await followed(*lines)
    assert [line.is_closed for line in lines] == [True, True, True]
    assert following.failures == ["unreachable: gone", "refused: ValueError"]


async def test_one_that_never_answers_is_given_up(followed, monkeypatch):
    monkeypatch.setattr(follow, "FIRST_ANSWER", 0.01)
    line = Line(hangs=True)
    following = await followed(line)
    assert (following.failures[0], line.is_closed) == ("unreachable: no answer", True)


async def test_one_that_has_answered_may_be_silent(followed, monkeypatch):
    monkeypatch.setattr(follow, "FIRST_ANSWER", 0.01)
    silent = Line("a", hangs=True)
    monkeypatch.setattr(Line, "close", lambda line: None)
    following = Following((silent,), monkeypatch)
    following.follower.start()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await following.all_opened.wait()
    following.follower.reopen()
    await following.all_opened.wait()
    await following.follower.stop()
    assert (following.taken, following.failures) == (["a"], [])


async def test_what_was_not_started_is_stopped_and_opened_again_by_nobody():
    follower = Follower(Line, lambda _: None, lambda _: None)
    follower.reopen()
    await follower.stop()
    assert follower.trouble is None
