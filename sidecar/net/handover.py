"""From a callback of the event loop to the task that waits for what it brings, without a turn of the loop between.

A future's waiter goes on in the next turn, when every other connection that has something has been read: with many of
them a call's state is out of the processor's cache by then, and each turn costs a handle and a queue.
"""

import asyncio
from collections.abc import Callable, Generator
from contextvars import Context
from typing import Generic, TypeVar, cast

T = TypeVar("T")


class Handover(Generic[T]):
    """A value for one task, that awaits it once. Future-like, as `asyncio.isfuture` says it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
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
        """Hand over, and have the task go on before this returns. For the end of a callback of the loop: whatever is
        there may have changed afterwards. In a task it is the next turn, since no task runs inside another."""
        if self._done:
            return
        self._value, self._done = value, True
        wake, context = self._wake, self._context
        if wake is None or context is None:
            return
        self._wake = None
        if asyncio.current_task(self._loop) is None:
            context.run(wake, self)
        else:
            self._loop.call_soon(wake, self, context=context)

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
            self._loop.call_soon(wake, self, context=self._context)

    # what a task asks of a future

    def result(self) -> T:
        """The value, or raise what it failed with."""
        if self._failure is not None:
            raise self._failure
        return cast(T, self._value)

    def get_loop(self) -> asyncio.AbstractEventLoop:
        """The loop of the task."""
        return self._loop

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
