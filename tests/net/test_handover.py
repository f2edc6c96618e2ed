"""Tasks go on in groups, inside the callback that fills one, and in the next turn at the latest."""

import asyncio
import gc
import weakref
from contextvars import ContextVar, copy_context

import pytest

from openmcp.sidecar.net.handover import GROUP, Handover, turn

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


async def test_a_full_group_goes_on_before_the_callback_returns() -> None:
    loop, said = asyncio.get_running_loop(), []
    handovers: list[Handover[str]] = [Handover(turn()) for _ in range(GROUP + 1)]
    tasks = [begin(handover, said) for handover in handovers]
    await asyncio.sleep(0)

    def give() -> None:
        for number, handover in enumerate(handovers):
            assert len(said) == (GROUP if number == GROUP else 0)
            handover.give(str(number))
            handover.give("twice")
        assert [task.done() for task in tasks] == [True] * GROUP + [False]

    await called(loop, give)
    assert [await task for task in tasks] == [str(number) for number in range(GROUP + 1)]
    assert said == [f"{number} for the waiter" for number in range(GROUP + 1)]


async def test_no_task_runs_inside_another() -> None:
    said: list[str] = []
    handovers: list[Handover[str]] = [Handover(turn()) for _ in range(GROUP + 1)]
    tasks = [begin(handover, said) for handover in handovers]
    await asyncio.sleep(0)
    for handover in handovers:
        handover.give("later")
    assert said == []
    assert await asyncio.gather(*tasks) == ["later"] * len(tasks)
    assert said == ["later for the waiter"] * len(tasks)


async def test_one_alone_goes_on_in_the_next_turn() -> None:
    loop, said = asyncio.get_running_loop(), []
    handover: Handover[str] = Handover(turn())
    task = begin(handover, said)
    await asyncio.sleep(0)
    await called(loop, lambda: handover.give("alone"))
    assert await task == "alone"


async def test_what_ends_one_ends_no_other() -> None:
    """A task lets what ends the process through; who waits behind it goes on all the same."""
    loop, said = asyncio.get_running_loop(), []
    first: Handover[str] = Handover(turn())
    second: Handover[str] = Handover(turn())
    seen: list[dict[str, object]] = []
    loop.set_exception_handler(lambda _, context: seen.append(context))

    def broken(wake: object) -> None:
        raise ValueError("a step that fails")

    first.add_done_callback(broken, context=copy_context())
    task = begin(second, said)
    await asyncio.sleep(0)

    def give() -> None:
        first.give("first")
        second.give("second")

    await called(loop, give)
    assert await task == "second"
    assert [str(context["exception"]) for context in seen] == ["a step that fails"]


async def test_what_is_there_before_somebody_waits_is_had_at_once() -> None:
    handover: Handover[str] = Handover(turn())
    handover.give("early")
    assert handover.done()
    assert await handover == "early"
    failed: Handover[str] = Handover(turn())
    failed.fail(ValueError("no"))
    with pytest.raises(ValueError, match="no"):
        await failed


@pytest.mark.parametrize("how", ["give_soon", "fail"])
async def test_the_next_turn_where_that_is_asked_for(how: str) -> None:
    loop, said = asyncio.get_running_loop(), []
    handover: Handover[str] = Handover(turn())
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
    handover: Handover[str] = Handover(turn())
    task = begin(handover, said)
    await asyncio.sleep(0)
    assert task.cancel("enough")
    await called(loop, lambda: handover.give("late"))
    with pytest.raises(asyncio.CancelledError, match="enough"):
        await task
    assert said == []


async def test_a_task_that_is_cancelled_with_its_value_on_the_way_does_not_get_it() -> None:
    said: list[str] = []
    handover: Handover[str] = Handover(turn())
    task = begin(handover, said)
    await asyncio.sleep(0)
    handover.give("on the way")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert said == []


async def test_tasks_in_python_go_on_likewise() -> None:
    loop, said = asyncio.get_running_loop(), []
    handover: Handover[str] = Handover(turn())
    task = asyncio.tasks._PyTask(waiting(handover, said), loop=loop)
    await asyncio.sleep(0)
    await called(loop, lambda: handover.give("here"))
    assert said == ["here for nobody"]
    assert await task == "here"


class Failure(Exception):
    """One that can be referred to weakly."""


async def test_a_failure_leaves_nothing_for_the_collector() -> None:
    def begun() -> tuple["weakref.ref[Failure]", "asyncio.Task[str]"]:
        handover: Handover[str] = Handover(turn())
        task, failure = begin(handover, []), Failure()
        asyncio.get_running_loop().call_soon(handover.fail, failure)
        return weakref.ref(failure), task

    gc.disable()
    try:
        left, task = begun()
        await asyncio.wait((task,))
        assert isinstance(task.exception(), Failure)
        del task
        await asyncio.sleep(0)
        assert left() is None
    finally:
        gc.enable()
