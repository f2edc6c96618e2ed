"""`openmcp test`: decisions as they are expected."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import msgspec

from openmcp.config import ConfigurationError, Problem
from openmcp.config.policytests import Expected, PolicyTest, RuleName, load_tests
from openmcp.sidecar.commands.common import WRONG_INPUT, printable
from openmcp.sidecar.commands.explanation import Explanation
from openmcp.sidecar.commands.questions import Question, WrongQuestion, call_for
from openmcp.sidecar.policy.decision import ALLOW, REQUIRE_APPROVAL, Decision, Verdict
from openmcp.sidecar.policy.engine import PolicySet


class Outcome:
    """What became of one test; `explanation` is None where nobody could ask what it asks."""

    def __init__(self, test: PolicyTest, policies: PolicySet) -> None:
        self.test = test
        self.explanation: Explanation | None = None
        self.found: Verdict | None = None
        self.wrong = ""
        question = Question(
            agent=test.agent,
            server=test.server,
            kind=test.kind,
            asked=test.asked,
            arguments=test.arguments,
            claims=test.claims,
        )
        try:
            self.explanation = Explanation(policies, question, call_for(question))
        except WrongQuestion as error:
            self.wrong = str(error)
            return
        decision = self.explanation.decision
        self.found = _granted(decision, test.grants)
        if not _fits(self.found, decision, test.expect):
            self.wrong = f"expected {_expected(test.expect)}, found {_found(self.found, decision)}"

    def lines(self) -> Iterator[str]:
        """For people."""
        yield f"{'FAIL' if self.wrong else 'ok  '}  {printable(self.test.name)}"
        if self.wrong:
            yield f"      {printable(self.wrong)}"
            for line in self.explanation.lines() if self.explanation is not None else ():
                yield f"        {line}"

    def told(self) -> dict[str, Any]:
        """For machines."""
        return {
            "name": self.test.name,
            "passed": not self.wrong,
            "wrong": self.wrong or None,
            "decision": None if self.found is None else self.found.value,
            "explanation": None if self.explanation is None else self.explanation.told(),
        }


@click.command("test")
@click.argument("path", metavar="FILE", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--json", "as_json", is_flag=True, help="Tell the result as one JSON object.")
def test(path: Path, as_json: bool) -> None:
    """Test policies: what agents ask, and the decisions expected.

    FILE names a configuration and lists tests. Exits with 0 when all of them pass, and with 1 and the explanation of
    each that does not.
    """
    try:
        read = load_tests(path)
    except ConfigurationError as error:
        _tell_errors(error.problems, as_json=as_json)
        sys.exit(WRONG_INPUT)
    policies = PolicySet(read.configuration.policies)
    outcomes = [Outcome(one, policies) for one in read.tests]
    failed = sum(1 for outcome in outcomes if outcome.wrong)
    if as_json:
        told = {"passed": not failed, "errors": [], "tests": [outcome.told() for outcome in outcomes]}
        click.echo(json.dumps(told, indent=2))
    else:
        for outcome in outcomes:
            for line in outcome.lines():
                click.echo(line)
        click.echo(f"{path}: {len(outcomes)} test{'s' if len(outcomes) > 1 else ''}, {failed or 'none'} failed")
    sys.exit(WRONG_INPUT if failed else 0)


def _tell_errors(problems: tuple[Problem, ...], *, as_json: bool) -> None:
    if as_json:
        told = {"passed": False, "errors": msgspec.to_builtins(problems), "tests": []}
        click.echo(json.dumps(told, indent=2, ensure_ascii=False))
        return
    for problem in problems:
        click.echo(str(problem), err=True)


def _granted(decision: Decision, grants: tuple[RuleName, ...]) -> Verdict:
    """The verdict where these approvals are given: all that are required have to be."""
    given = {(grant.policy, grant.rule) for grant in grants}
    required = {(rule.policy, rule.rule) for rule in decision.approvals}
    return ALLOW if decision.verdict is REQUIRE_APPROVAL and required <= given else decision.verdict


def _fits(found: Verdict, decision: Decision, expect: Expected) -> bool:
    return (
        found.value == expect.decision
        and expect.policy in (None, decision.policy)
        and expect.rule in (None, decision.rule)
    )


def _expected(expect: Expected) -> str:
    return f"{expect.decision}{_by(expect.policy or '', expect.rule or '')}"


def _found(found: Verdict, decision: Decision) -> str:
    approved = " (the approval is given)" if found is not decision.verdict else ""
    return f"{found.value}{_by(decision.policy, decision.rule) or ' by default'}{approved}"


def _by(policy: str, rule: str) -> str:
    return f" by {'/'.join(filter(None, (policy, rule)))}" if policy or rule else ""
