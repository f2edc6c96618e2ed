"""A task goes on within the callback that brings what it waits for."""

import asyncio
from contextvars import ContextVar

import pytest

from openmcp.sidecar.net.handover import Handover

WHOSE: ContextVar[str] = ContextVar("WHOSE", default="nobody")


async def waiting(handover: Handover[str], said: list[str]) -> str:
    """Await it, and say what came, in whose context."""
    value = await handover
    said.append(f"{value} for {WHOSE.get()}")
    return value


def begin(handover: Handover[str], said: list[str]) -> "asyncio.Task[str]":
    before = WHOSE.set("the waiter")
    task = asyncio.ensure_future(waiting(handover, said))
    WHOSE.reset(before)
    return task


async def called(loop: asyncio.AbstractEventLoop, callback) -> None:
    """Have the loop call it, as it calls those of sockets: with no task running."""
    done = loop.create_future()

    def call() -> None:
        try:
            done.set_result(callback())
        except BaseException as error:
            done.set_exception(error)

    loop.call_soon(call)
    await done


async def test_a_task_goes_on_before_the_callback_returns() -> None:
    loop, said = asyncio.get_running_loop(), []
    handover: Handover[str] = Handover(loop)
    task = begin(handover, said)
    await asyncio.sleep(0)

    def give() -> None:
        handover.give("now")
        assert said == ["now for the waiter"]
        assert task.done()
        handover.give("twice")

    await called(loop, give)
    assert (task.result(), said) == ("now", ["now for the waiter"])


async def test_no_task_runs_inside_another() -> None:
    said: list[str] = []
    handover: Handover[str] = Handover(asyncio.get_running_loop())
    task = begin(handover, said)
    await asyncio.sleep(0)
    handover.give("later")
    assert said == []
    assert await task == "later"
    assert said == ["later for the waiter"]


async def test_what_is_there_before_somebody_waits_is_had_at_once() -> None:
    loop = asyncio.get_running_loop()
    handover: Handover[str] = Handover(loop)
    handover.give("early")
    assert handover.done()
    assert await handover == "early"
    failed: Handover[str] = Handover(loop)
    failed.fail(ValueError("no"))
    with pytest.raises(ValueError, match="no"):
        await failed


@pytest.mark.parametrize("how", ["give_soon", "fail"])
async def test_the_next_turn_where_that_is_asked_for(how: str) -> None:
    loop, said = asyncio.get_running_loop(), []
    handover: Handover[str] = Handover(loop)
    task = begin(handover, said)
    await asyncio.sleep(0)

    def give() -> None:
        if how == "fail":
            handover.fail(ValueError("no"))
        else:
            handover.give_soon("soon")
        assert not task.done()
        assert not handover.cancel()

    await called(loop, give)
    (outcome,) = await asyncio.gather(task, return_exceptions=True)
    assert (outcome == "soon") == (how == "give_soon")
    assert isinstance(outcome, ValueError) == (how == "fail")


async def test_a_cancelled_wait_takes_nothing_more() -> None:
    loop, said = asyncio.get_running_loop(), []
    handover: Handover[str] = Handover(loop)
    task = begin(handover, said)
    await asyncio.sleep(0)
    assert task.cancel("enough")
    await called(loop, lambda: handover.give("late"))
    with pytest.raises(asyncio.CancelledError, match="enough"):
        await task
    assert said == []


async def test_a_task_that_is_cancelled_with_its_value_on_the_way_does_not_get_it() -> None:
    said: list[str] = []
    handover: Handover[str] = Handover(asyncio.get_running_loop())
    task = begin(handover, said)
    await asyncio.sleep(0)
    handover.give("on the way")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert said == []


async def test_tasks_in_python_go_on_likewise() -> None:
    loop, said = asyncio.get_running_loop(), []
    handover: Handover[str] = Handover(loop)
    task = asyncio.tasks._PyTask(waiting(handover, said), loop=loop)
    await asyncio.sleep(0)
    await called(loop, lambda: handover.give("here"))
    assert said == ["here for nobody"]
    assert await task == "here"
