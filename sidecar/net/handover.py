"""From callbacks of the event loop to the tasks that wait for what they bring, in groups.

A future's waiter goes on in the next turn of the loop, when every other connection that has something has been read:
with many of them a call's state is out of the processor's cache by then. Here a group goes on as soon as it is full,
inside the callback that brought its last one, and a turn costs one handle, not one for each.
"""

import asyncio
from collections.abc import Callable, Generator
from contextvars import Context
from typing import Final, Generic, TypeVar, cast
from weakref import WeakKeyDictionary

GROUP: Final = 8
"""Waiters that go on together."""

T = TypeVar("T")


class Turn:
    """The waiters of one loop that can go on."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._ready: list[Callable[[], object]] = []
        self._scheduled = False

    def add(self, step: Callable[[], object]) -> None:
        """Have this one go on: with the next group, and at the latest in the next turn."""
        self._ready.append(step)
        if not self._scheduled:
            self._schedule()
        elif len(self._ready) >= GROUP and asyncio.current_task(self.loop) is None:  # no task runs inside another
            self._go_on()

    def _schedule(self) -> None:
        self._scheduled = True
        self.loop.call_soon(self._run)

    def _run(self) -> None:
        self._scheduled = False
        self._go_on()

    def _go_on(self) -> None:
        ready, self._ready = self._ready, []
        gone = 0
        try:
            for step in ready:
                gone += 1
                step()
        finally:
            if gone < len(ready):  # what ends the process came up
                self._ready = ready[gone:] + self._ready
                if not self._scheduled:
                    self._schedule()


_turns: WeakKeyDictionary[asyncio.AbstractEventLoop, Turn] = WeakKeyDictionary()


def turn() -> Turn:
    """That of the running loop."""
    loop = asyncio.get_running_loop()
    found = _turns.get(loop)
    if found is None:
        found = _turns[loop] = Turn(loop)
    return found


class Handover(Generic[T]):
    """A value for one task, that awaits it once. Future-like, as `asyncio.isfuture` says it."""

    def __init__(self, turn: Turn) -> None:
        self._turn = turn
        self._asyncio_future_blocking = False
        self._wake: Callable[[Handover[T]], object] | None = None
        self._context: Context | None = None
        self._done = False
        self._value: T | None = None
        self._failure: BaseException | None = None

    def __await__(self) -> Generator["Handover[T]", None, T]:
        if not self._done:
            self._asyncio_future_blocking = True
            yield self
        return self.result()

    def give(self, value: T) -> None:
        """Hand over. For the end of a callback of the loop: the task may go on before this returns, and whatever is
        there may have changed then."""
        if self._done:
            return
        self._value, self._done = value, True
        if self._wake is not None:
            self._turn.add(self._step)

    def _step(self) -> None:
        wake, self._wake = self._wake, None
        if wake is not None and self._context is not None:
            self._context.run(wake, self)

    def fail(self, failure: BaseException) -> None:
        """Raise in the task, in the next turn."""
        if not self._done:
            self._failure, self._done = failure, True
            self._wake_soon()

    def give_soon(self, value: T) -> None:
        """Hand over; the task goes on in the next turn."""
        if not self._done:
            self._value, self._done = value, True
            self._wake_soon()

    def done(self) -> bool:
        """Whether there is something for the task, or nothing any more."""
        return self._done

    def _wake_soon(self) -> None:
        wake, self._wake = self._wake, None
        if wake is not None:
            self._turn.loop.call_soon(wake, self, context=self._context)

    # what a task asks of a future

    def result(self) -> T:
        """The value, or raise what it failed with, once."""
        failure, self._failure = self._failure, None
        if failure is not None:
            try:
                raise failure
            finally:
                failure = None  # it holds this frame: only the collector would free the two
        return cast(T, self._value)

    def get_loop(self) -> asyncio.AbstractEventLoop:
        """The loop of the task."""
        return self._turn.loop

    def add_done_callback(self, wake: Callable[["Handover[T]"], object], *, context: Context | None = None) -> None:
        """Remember how the task is woken."""
        self._wake, self._context = wake, context
        if self._done:
            self._wake_soon()

    def cancel(self, msg: object = None) -> bool:
        """End the wait (`Task.cancel`); False where it is over already."""
        if self._done:
            return False
        self.fail(asyncio.CancelledError() if msg is None else asyncio.CancelledError(msg))
        return True
