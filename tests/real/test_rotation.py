"""The short form of `make soak ARGS=rotation`."""

from __future__ import annotations

import asyncio

import pytest

from tests.soak.rotation import Plan, run, world
from tests.support.parts import require

pytestmark = pytest.mark.real


def test_no_call_fails_while_identities_change():
    require("spire")
    plan = Plan.of(30)
    with world(plan) as there:
        report = asyncio.run(run(plan, there))
    print(report.text())
    assert (report.faults, report.tally.failures) == ([], [])
    assert report.tally.calls > 0.8 * plan.seconds * 50
    assert report.tally.streams >= 4
    assert report.tally.listened >= 2
