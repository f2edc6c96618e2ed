"""The comparison itself: what the suite printed is read, and what got worse is named."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.conformance.suite import Outcome, SuiteFailed, read_summary

SUMMARY = """\
Results saved to somewhere

=== SUMMARY ===
✓ tools-list: 3 passed, 0 failed
✗ tools-call: 1 passed, 1 failed
✗ tasks-lifecycle: 0 passed, 2 failed

Total: 4 passed, 3 failed

Not scored for 2026-07-28: 1 scenario(s) run, 1 failing. These do not affect conformance.
  ✗ tasks-lifecycle (extension)
"""


def outcome(*checks: tuple[str, str, str]) -> Outcome:
    return Outcome(passed=0, failed=0, required=frozenset(), failing=frozenset(), checks=Counter(checks))


def test_the_summary_is_read() -> None:
    checks = Counter({("tools-list", "tools-list", "SUCCESS"): 3})

    assert read_summary(SUMMARY, checks) == Outcome(
        passed=4,
        failed=3,
        required=frozenset({"tools-list", "tools-call"}),
        failing=frozenset({"tools-call", "tasks-lifecycle"}),
        checks=checks,
    )
    assert read_summary(SUMMARY, checks).required_passed == 1


def test_output_without_a_summary_is_a_failure() -> None:
    with pytest.raises(SuiteFailed, match="something else"):
        read_summary("something else happened", Counter())


def test_a_check_that_fails_or_is_gone_through_the_sidecar_is_named() -> None:
    direct = outcome(("s", "kept", "SUCCESS"), ("s", "broken", "SUCCESS"), ("s", "gone", "SUCCESS"))
    through = outcome(("s", "kept", "SUCCESS"), ("s", "broken", "FAILURE"), ("s", "new", "WARNING"))

    assert direct.regressions(through) == ["s: broken", "s: gone", "s: new"]


def test_a_check_that_is_better_through_the_sidecar_is_not_named() -> None:
    direct = outcome(("s", "mended", "FAILURE"), ("s", "noted", "INFO"))
    through = outcome(("s", "mended", "SUCCESS"))

    assert direct.regressions(through) == []
