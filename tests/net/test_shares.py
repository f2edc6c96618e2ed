"""Places that agents share."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openmcp.sidecar.errors import UpstreamFailed
from openmcp.sidecar.net.shares import GREED, Shares


def fill(shares: Shares, agent: str) -> tuple[list[bool], UpstreamFailed]:
    """Take places until there is one no more; whether each was counted, and what was said then."""
    taken: list[bool] = []
    while True:
        try:
            taken.append(shares.take(agent))
        except UpstreamFailed as failure:
            return taken, failure


@pytest.mark.parametrize("most", [1, 2, 3, 4, 7, 256])
def test_an_agent_without_others_may_have_all(most: int) -> None:
    taken, failure = fill(Shares(most, "calls are under way"), "a")
    assert len(taken) == most
    assert str(failure) == f"overloaded: {most} calls are under way"


def test_what_others_need_is_left() -> None:
    shares = Shares(256, "calls are under way")
    shares.give_back("b", counted=shares.take("b"))
    greedy, failure = fill(shares, "a")
    assert len(greedy) == 208
    assert str(failure) == "share: 208 of at most 256 calls are under way, and this agent has its share"
    second, failure = fill(shares, "b")
    assert (len(second), failure.kind) == (36, "share")
    assert len(fill(shares, "c")[0]) == 9
    assert shares.take("d")


def test_who_had_all_gives_way_once_another_comes() -> None:
    shares = Shares(8, "streams are open")
    greedy, _ = fill(shares, "a")
    with pytest.raises(UpstreamFailed, match="overloaded: 8 streams are open"):
        shares.take("b")
    shares.give_back("a", counted=greedy.pop())
    with pytest.raises(UpstreamFailed, match="share: 7 of at most 8"):
        shares.take("a")
    assert shares.take("b")


@given(st.integers(1, 40), st.lists(st.tuples(st.sampled_from("abcd"), st.booleans())))
def test_shares_add_up(most: int, steps: list[tuple[str, bool]]) -> None:
    shares = Shares(most, "calls")
    held: list[tuple[str, bool]] = []
    for agent, begins in steps:
        mine = [one for one in held if one[0] == agent]
        if begins:
            try:
                held.append((agent, shares.take(agent)))
            except UpstreamFailed:
                free = most - len(held)
                assert sum(counted for _, counted in mine) >= GREED * free, "refused without need"
        elif mine:
            held.remove(mine[0])
            shares.give_back(agent, counted=mine[0][1])
        assert shares.taken == len(held) <= most
    for agent, counted in held:
        shares.give_back(agent, counted=counted)
    assert (shares.taken, shares._held) == (0, {}), "nothing is remembered of who has nothing"
