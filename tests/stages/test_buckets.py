"""Token buckets: how many get through, when again, and what is kept of them."""

import tracemalloc

from hypothesis import given
from hypothesis import strategies as st

from openmcp.sidecar.stages import buckets
from openmcp.sidecar.stages.buckets import Buckets, Rate

KEY = ("agent", "")


def passed(made: Buckets, times: list[float]) -> list[bool]:
    """What becomes of messages at these times."""
    through = []
    for now in times:
        through.append(made.wait(KEY, now) == 0.0)
        if through[-1]:
            made.take(KEY, now)
    return through


def test_a_burst_gets_through_at_once_and_then_one_at_a_time() -> None:
    made = Buckets(Rate(requests=60, per=60.0, burst=3), 100.0)
    assert passed(made, [100.0] * 5) == [True, True, True, False, False]
    assert made.wait(KEY, 100.25) == 0.75
    assert passed(made, [101.0, 101.0]) == [True, False]
    assert passed(made, [200.0] * 4) == [True, True, True, False]


def test_a_burst_of_one_spaces_them_out() -> None:
    made = Buckets(Rate(requests=10, per=1.0, burst=1), 0.0)
    assert passed(made, [5.0, 5.05, 5.1, 5.1]) == [True, False, True, False]


@given(st.integers(1, 50), st.floats(0.1, 100.0), st.integers(1, 20), st.floats(0.0, 1e8))
def test_a_burst_gets_through_at_any_time(requests: int, per: float, burst: int, now: float) -> None:
    made = Buckets(Rate(requests, per, burst), now)
    assert passed(made, [now] * burst) == [True] * burst
    assert passed(made, [now]) == [False]


@given(
    st.integers(1, 50),
    st.floats(0.1, 100.0),
    st.integers(1, 20),
    st.lists(st.floats(0.0, 10.0), min_size=1, max_size=200),
)
def test_never_more_than_burst_and_rate(requests: int, per: float, burst: int, gaps: list[float]) -> None:
    """Within any time there are at most as many as the bucket holds, and what falls in meanwhile."""
    made = Buckets(Rate(requests, per, burst), 0.0)
    now, times, through = 0.0, [], []
    for gap in gaps:
        now += gap
        made.sweep(now)
        times.append(now)
        through += passed(made, [now])
    taken = [at for at, good in zip(times, through, strict=True) if good]
    for first in range(len(taken)):
        for last in range(first, len(taken)):
            most = burst + (taken[last] - taken[first]) * requests / per
            assert last - first + 1 <= most + 1e-3


@given(st.lists(st.tuples(st.integers(0, 200), st.integers(1, 6)), min_size=1, max_size=12))
def test_the_generations_change_nothing(visits: list[tuple[int, int]]) -> None:
    """What is let go was full: a gateway that sweeps lets through what one would that keeps everything."""
    swept, kept = (Buckets(Rate(requests=1, per=10.0, burst=6), 0.0) for _ in range(2))
    step = 0
    for pause, calls in visits:
        for _ in range(pause):
            step += 1
            swept.sweep(step * 0.7)
        now = step * 0.7
        for _ in range(calls):
            assert swept.wait(KEY, now) == kept.wait(KEY, now)
            if kept.wait(KEY, now) == 0.0:
                swept.take(KEY, now)
                kept.take(KEY, now)


def test_nothing_is_left_of_buckets_that_nobody_uses() -> None:
    made = Buckets(Rate(requests=10, per=1.0, burst=10), 0.0)
    for number in range(1000):
        made.take((f"agent{number}", ""), 0.5)
    assert len(made) == 1000
    made.sweep(1.0)
    assert len(made) == 1000
    made.sweep(2.0)
    assert len(made) == 0


def test_a_token_can_be_given_back() -> None:
    made = Buckets(Rate(requests=1, per=60.0, burst=1), 0.0)
    made.take(KEY, 5.0)
    assert made.wait(KEY, 5.0) == 60.0
    made.give_back(KEY)
    assert made.wait(KEY, 5.0) == 0.0


def test_made_up_tools_share_a_bucket() -> None:
    made = Buckets(Rate(requests=1, per=60.0, burst=1), 0.0)
    for number in range(1000):
        key = made.key("mallory", f"tool{number}")
        if made.wait(key, 0.0) == 0.0:
            made.take(key, 0.0)
    assert len(made) == buckets.MOST_TOOLS + 1
    assert made.wait(made.key("mallory", "one more"), 0.0) > 0.0
    assert made.wait(made.key("mallory", "tool0"), 0.0) > 0.0
    assert made.wait(made.key("alice", "tool0"), 0.0) == 0.0
    assert made.key("alice", "tool0") == ("alice", "tool0")


def test_made_up_tools_give_no_second_bucket() -> None:
    made = Buckets(Rate(requests=1, per=60.0, burst=1), 0.0)
    made.take(made.key("mallory", "export"), 59.0)
    made.sweep(60.0)
    for number in range(1000):
        key = made.key("mallory", f"tool{number}")
        if made.wait(key, 60.0) == 0.0:
            made.take(key, 60.0)
    assert made.wait(made.key("mallory", "export"), 60.0) == 59.0
    assert len(made) == 1 + buckets.MOST_TOOLS
    made.sweep(120.0)
    made.sweep(180.0)
    assert made.key("mallory", "another") == ("mallory", "another")


def test_agents_without_number_share_a_bucket() -> None:
    made = Buckets(Rate(requests=1, per=60.0, burst=1), 0.0)
    for number in range(buckets.MOST + 500):
        key = made.key(f"agent{number}", "")
        if made.wait(key, 0.0) == 0.0:
            made.take(key, 0.0)
    assert len(made) == buckets.MOST + 1
    assert made.key("agent0", "") == ("agent0", "")


def test_ten_thousand_agents_cost_little() -> None:
    made = Buckets(Rate(requests=100, per=3600.0, burst=20), 0.0)
    tracemalloc.start()
    try:
        for number in range(10_000):
            made.take(made.key(f"spiffe://prod.acme.example/ns/team-{number}/sa/agent", "search_tickets"), 0.5)
        size, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(made) == 10_000
    assert size < 6 * 2**20
