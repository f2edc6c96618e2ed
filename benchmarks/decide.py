"""What a decision costs: `python -m benchmarks.decide` from the repository root.

With 10 and with 1,000 rules, of which one or two are about the call: on a name that was decided before, on one that
was never seen, with and without conditions. Microseconds of a whole `PolicySet.authorize`, the median of rounds.
"""

import argparse
import statistics
import time
from collections.abc import Callable

from openmcp.config.model import Action, Condition, Operator, Policy, RequestRule
from openmcp.identity.principal import Principal
from openmcp.sidecar.mcp.surface import call_of
from openmcp.sidecar.mcp.values import Call
from openmcp.sidecar.policy import engine
from openmcp.sidecar.policy.engine import Permit, PolicySet
from openmcp.sidecar.types import Era, Request

AGENT = Principal("key:bench", "apiKey")
CALLS = 2_000
"""Of one round; less than the names that are remembered, so that every one of the unknown is new."""

TICKET = Condition(path="$.ticket.id", op=Operator.MATCHES, value="[0-9]{1,12}")
AMOUNT = Condition(path="$.amount", op=Operator.GT, value=100)


def policies(rules: int, *, conditions: bool) -> PolicySet:
    """Rules for tools of their own, by name and by glob in turns, and the two that are about the calls."""
    others = [
        RequestRule(
            name=f"r{number}",
            action=(Action.ALLOW, Action.DENY, Action.REQUIRE_APPROVAL)[number % 3],
            tools=(f"tool_{number}_*",) if number % 2 else (f"tool_{number}",),
            when=(TICKET,) if conditions else (),
        )
        for number in range(rules - 2)
    ]
    ours = [
        RequestRule(name="ours", action=Action.ALLOW, tools=("get_*",), when=(TICKET,) if conditions else ()),
        RequestRule(
            name="large",
            action=Action.DENY,
            tools=("get_*",) if conditions else ("delete_*",),
            when=(AMOUNT,) if conditions else (),
        ),
    ]
    return PolicySet([Policy(name="bench", servers=("s",), requests=(*others, *ours))])


def call(name: str) -> Call:
    """A tools/call of 2025-11-25."""
    params = {"name": name, "arguments": {"ticket": {"id": "4711"}, "amount": 12, "note": "text"}}
    return call_of(Request(1, "tools/call", params), Era.LEGACY, "2025-11-25")


def measured(made: PolicySet, calls: list[Call], expected: type) -> float:
    """Microseconds of one decision."""
    authorize: Callable[[Principal, str, Call], object] = made.authorize
    before = time.perf_counter()
    for one in calls:
        verdict = authorize(AGENT, "s", one)
    spent = time.perf_counter() - before
    assert isinstance(verdict, expected), verdict
    return spent / len(calls) * 1e6


def rounds(*, conditions: bool, known: bool, count: int) -> list[float]:
    """The medians for 10 and 1,000 rules, measured in turns, each round with names of its own."""
    made = [policies(rules, conditions=conditions) for rules in (10, 1000)]
    same = [call("get_ticket")] * CALLS
    found: list[list[float]] = [[], []]
    for number in range(-1, count):
        calls = same if known else [call(f"get_{number}_{i}") for i in range(CALLS)]
        for spent, one in zip(found, made, strict=True):
            spent.append(measured(one, calls, Permit))
    return [statistics.median(spent[1:]) for spent in found]  # the first round warms up


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=25)
    count = parser.parse_args().rounds
    kind = "sources" if engine.__file__.endswith(".py") else "compiled"
    print(f"decisions, µs, median of {count} rounds of {CALLS:,} ({kind})")
    print(f"{'':44}{'10 rules':>10}{'1,000':>10}{'ratio':>8}")
    for conditions in (False, True):
        for known in (True, False):
            few, many = rounds(conditions=conditions, known=known, count=count)
            title = f"{'two conditions' if conditions else 'no conditions'}, name {'known' if known else 'never seen'}"
            print(f"{title:44}{few:10.2f}{many:10.2f}{many / few:8.2f}")


if __name__ == "__main__":
    main()
