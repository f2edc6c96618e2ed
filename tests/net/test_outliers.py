"""When an endpoint is left out, for how long, and how it comes back; how many calls may be tried again."""

import pytest

from openmcp.config.model import Outliers as Rule
from openmcp.config.model import Retries, Server
from openmcp.sidecar.net.outliers import Outliers
from openmcp.sidecar.net.resending import Budget, Resending


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def made(clock: Clock, count: int = 2, *, failures: int = 3, share: float = 0.5) -> Outliers:
    rule = Rule(failures=failures, eject_for=30.0, max_ejected=share)
    return Outliers(rule, [f"e{number}" for number in range(count)], clock)


def calls(outliers: Outliers, key: str, *ends: bool | None) -> None:
    for good in ends:
        outliers.begin(key)
        outliers.end(key, good)


def test_failures_in_a_row_leave_an_endpoint_out(clock: Clock) -> None:
    outliers = made(clock)
    calls(outliers, "e0", False, False)
    assert outliers.admits("e0")
    calls(outliers, "e0", False)
    assert (outliers.admits("e0"), outliers.admits("e1"), outliers.ejected("e0")) == (False, True, True)
    assert outliers.wait() == 30.0


def test_a_success_in_between_begins_the_row_anew(clock: Clock) -> None:
    outliers = made(clock)
    calls(outliers, "e0", False, False, True, False, False)
    assert outliers.admits("e0")


def test_what_says_nothing_of_the_endpoint_does_not_count(clock: Clock) -> None:
    outliers = made(clock)
    calls(outliers, "e0", False, False, None, None, None)
    assert outliers.admits("e0")
    calls(outliers, "e0", False)  # nor does it begin the row anew
    assert not outliers.admits("e0")


def test_one_call_finds_out_whether_it_is_back(clock: Clock) -> None:
    outliers = made(clock, failures=1)
    calls(outliers, "e0", False)
    clock.now += 29.9
    assert not outliers.admits("e0")
    clock.now += 0.2
    assert outliers.admits("e0")
    outliers.begin("e0")
    assert not outliers.admits("e0")  # the others wait for what it finds
    outliers.end("e0", None)
    assert outliers.admits("e0")  # it found nothing: the next one tries
    assert outliers.ejected("e0")
    calls(outliers, "e0", True)
    assert (outliers.admits("e0"), outliers.ejected("e0"), outliers.ejections("e0")) == (True, False, 1)


def test_each_time_in_a_row_is_longer_up_to_a_limit(clock: Clock) -> None:
    outliers = made(clock, failures=2)
    calls(outliers, "e0", False)
    lasted = []
    for _ in range(6):
        calls(outliers, "e0", False)
        lasted.append(outliers.wait())
        clock.now += outliers.wait()
    assert lasted == [30.0, 60.0, 120.0, 240.0, 300.0, 300.0]
    calls(outliers, "e0", True, False, False)
    assert outliers.wait() == 30.0


def test_calls_that_were_under_way_bring_no_more_time(clock: Clock) -> None:
    outliers = made(clock, failures=1)
    for _ in range(5):
        outliers.begin("e0")
    for _ in range(5):
        outliers.end("e0", False)
    assert (outliers.wait(), outliers.ejections("e0")) == (30.0, 1)


def test_a_late_success_of_a_call_from_before_brings_it_back(clock: Clock) -> None:
    outliers = made(clock, failures=1)
    outliers.begin("e0")
    calls(outliers, "e0", False)
    outliers.end("e0", True)
    assert outliers.admits("e0")


@pytest.mark.parametrize(("count", "share", "most"), [(1, 0.5, 0), (1, 1.0, 1), (2, 0.5, 1), (5, 0.5, 2), (3, 1.0, 3)])
def test_no_more_than_their_share_is_left_out(clock: Clock, count: int, share: float, most: int) -> None:
    outliers = made(clock, count, failures=1, share=share)
    for number in range(count):
        calls(outliers, f"e{number}", False)
    assert sum(not outliers.admits(f"e{number}") for number in range(count)) == most


def test_a_budget_is_a_share_of_the_calls(clock: Clock) -> None:
    budget = Budget(0.2, clock)
    while budget.take():
        pass
    taken = 0
    for _ in range(1000):
        budget.earn()
        taken += budget.take()
    assert taken in (199, 200)


def test_a_budget_has_ten_in_a_second_besides(clock: Clock) -> None:
    budget = Budget(0.0, clock)
    while budget.take():
        pass
    taken = 0
    for _ in range(1000):
        clock.now += 0.01
        taken += budget.take()
    assert 99 <= taken <= 100
    clock.now += 3600.0
    assert sum(budget.take() for _ in range(100)) == 20  # no more is saved up


def test_pauses_are_any_part_of_a_time_that_doubles(clock: Clock) -> None:
    server = Server(name="s", path="/s", endpoints=("http://h/",), retries=Retries(backoff=0.1))
    longest = Resending(server, ("e",), clock, lambda: 1.0)
    assert [longest.pause(number) for number in range(1, 7)] == [0.1, 0.2, 0.4, 0.8, 1.0, 1.0]
    assert Resending(server, ("e",), clock, lambda: 0.0).pause(3) == 0.0
