"""`openmcp test`: what passes, what fails and how it is told, and what is wrong with a file of tests."""

import json
from contextlib import chdir
from pathlib import Path

import pytest
from click.testing import CliRunner

from openmcp.config import scaffold
from openmcp.sidecar.cli import main
from tests.cli.questions import CONFIGURATION


@pytest.fixture(autouse=True)
def folder(tmp_path):
    """A current folder with a configuration one level below."""
    with chdir(tmp_path):
        Path("site").mkdir()
        Path("site/gateway.yaml").write_text(CONFIGURATION)
        yield tmp_path


def run(tests, *arguments):
    """Runs `openmcp test` on a file of these tests: exit code, standard output, standard error."""
    Path("t.yaml").write_text("configuration: site/gateway.yaml\ntests:\n" + "".join(f"  - {test}\n" for test in tests))
    return openmcp("test", "t.yaml", *arguments)


def openmcp(*arguments):
    result = CliRunner().invoke(main, arguments, prog_name="openmcp", catch_exceptions=False)
    return result.exit_code, result.stdout, result.stderr


HEAD = "name: one, agent: key:support-1, server: zendesk"
GRANT = "grants: [{policy: support, rule: ticket-text}]"
TICKET = "tool: get_ticket, arguments: {ticket_id: '7'}"
PASSING = {
    "allow": f"{{{HEAD}, tool: search_x, expect: allow}}",
    "deny": f"{{{HEAD}, tool: delete_x, expect: deny}}",
    "deny by default": f"{{{HEAD}, tool: other, expect: deny}}",
    "by a rule": f"{{{HEAD}, tool: delete_x, expect: {{decision: deny, rule: no-destructive}}}}",
    "by a policy": f"{{{HEAD}, tool: delete_x, expect: {{decision: deny, policy: zendesk-baseline}}}}",
    "by both": f"{{{HEAD}, {TICKET}, expect: {{decision: requireApproval, policy: support, rule: ticket-text}}}}",
    "granted": f"{{{HEAD}, {TICKET}, {GRANT}, expect: allow}}",
    "a grant does not lift a denial": f"{{{HEAD}, tool: delete_x, {GRANT}, expect: deny}}",
    "nor allows by default": f"{{{HEAD}, tool: get_ticket, {GRANT}, expect: deny}}",
    "arguments of every type": f"{{{HEAD}, tool: refund, arguments: {{amount: 1.5, l: [{{a: null}}]}}, expect: allow}}",
    "a text is no number": f"{{{HEAD}, tool: refund, arguments: {{amount: '5'}}, expect: deny}}",
    "a resource": f"{{{HEAD}, resource: 'ticket://7', expect: allow}}",
    "a prompt": f"{{{HEAD}, prompt: p, expect: deny}}",
    "a method": f"{{{HEAD}, method: tools/list, expect: allow}}",
    "claims": "{name: one, agent: 'jwt:i#u', claims: {team: support}, server: zendesk, tool: search_x, expect: allow}",
    "other claims": "{name: one, agent: 'jwt:i#v', claims: {team: x}, server: zendesk, tool: search_x, expect: deny}",
    "a shadow policy decides nothing": f"{{{HEAD}, tool: search_x, expect: {{decision: allow, rule: metadata}}}}",
}


@pytest.mark.parametrize("test", PASSING.values(), ids=PASSING.keys())
def test_it_passes(test):
    assert run([test]) == (0, "ok    one\nt.yaml: 1 test, none failed\n", "")


FAILING = {
    "another decision": (f"{{{HEAD}, tool: search_x, expect: deny}}", "expected deny, found allow by support/metadata"),
    "another rule": (
        f"{{{HEAD}, tool: search_x, expect: {{decision: allow, rule: small}}}}",
        "expected allow by small, found allow by support/metadata",
    ),
    "another policy": (
        f"{{{HEAD}, tool: delete_x, expect: {{decision: deny, policy: support}}}}",
        "expected deny by support, found deny by zendesk-baseline/no-destructive",
    ),
    "by default": (f"{{{HEAD}, tool: other, expect: allow}}", "expected allow, found deny by default"),
    "not granted": (
        f"{{{HEAD}, {TICKET}, expect: allow}}",
        "expected allow, found requireApproval by support/ticket-text",
    ),
    "granted": (
        f"{{{HEAD}, {TICKET}, {GRANT}, expect: requireApproval}}",
        "expected requireApproval, found allow by support/ticket-text (the approval is given)",
    ),
    "what nobody can ask": (
        f"{{{HEAD}, method: tools/lst, expect: deny}}",
        'MCP has no method "tools/lst" (did you mean "tools/list"?)',
    ),
}


@pytest.mark.parametrize(("test", "told"), FAILING.values(), ids=FAILING.keys())
def test_it_fails(test, told):
    code, out, err = run([test])
    assert (code, err) == (1, "")
    assert out.startswith(f"FAIL  one\n      {told}\n")
    assert out.endswith("t.yaml: 1 test, 1 failed\n")


def test_a_failure_comes_with_the_explanation_and_the_others_run():
    tests = [
        f"{{{HEAD}, tool: refund, arguments: {{amount: 11}}, expect: allow}}",
        PASSING["deny"].replace("one", "two"),
    ]
    assert run(tests) == (
        1,
        """FAIL  one
      expected allow, found deny by default
        agent    key:support-1
        server   zendesk
        asks     tools/call refund {"amount": 11}
        decision deny: no rule allows it
                 the agent is told: no policy allows this
        lists    shown
        matched  nothing
        conditions
          allow           support/small
              $.amount lte 10: found 11
ok    two
t.yaml: 2 tests, 1 failed
""",
        "",
    )


def test_for_machines():
    code, out, err = run([PASSING["allow"], FAILING["not granted"][0].replace("one", "two")], "--json")
    told = json.loads(out)
    assert (code, err, told["passed"], told["errors"]) == (1, "", False, [])
    assert [(one["name"], one["passed"], one["decision"]) for one in told["tests"]] == [
        ("one", True, "allow"),
        ("two", False, "requireApproval"),
    ]
    assert told["tests"][1]["wrong"] == FAILING["not granted"][1]
    assert told["tests"][1]["explanation"]["rule"] == "ticket-text"
    assert (run([PASSING["allow"]], "--json")[0], json.loads(run([PASSING["allow"]], "--json")[1])["passed"]) == (
        0,
        True,
    )


ONE_THING = (
    "tests[0]: exactly one of `tool`, `prompt`, `resource` and `method` is wanted (write what the agent asks for)"
)
ERRORS = {
    "an unknown key": (
        f"{{{HEAD}, tool: t, expect: allow, argments: {{}}}}",
        'tests[0]: unknown key "argments" (did you mean "arguments"?)',
    ),
    "an unknown decision": (
        f"{{{HEAD}, tool: t, expect: alow}}",
        'tests[0].expect: unknown expect "alow" (did you mean "allow"?)',
    ),
    "nothing asked": (f"{{{HEAD}, expect: allow}}", ONE_THING),
    "two things asked": (f"{{{HEAD}, tool: a, prompt: b, expect: allow}}", ONE_THING),
    "arguments of a resource": (
        f"{{{HEAD}, resource: 'a://b', arguments: {{}}, expect: allow}}",
        "tests[0]: `arguments` has no meaning with `resource` (a resource is read by its URI alone)",
    ),
    "arguments that are none": (
        f"{{{HEAD}, tool: a, arguments: [1], expect: allow}}",
        "tests[0].arguments: expected a mapping, found a list",
    ),
    "no expectation": (f"{{{HEAD}, tool: a}}", "tests[0]: `expect` is required"),
    "an agent that nobody is": (
        "{name: one, agent: 'spiffe:/prod/x', server: zendesk, tool: t, expect: deny}",
        'tests[0].agent: no caller is named "spiffe:/prod/x" (does not begin with spiffe://)',
    ),
    "an unknown server": (
        "{name: one, agent: anonymous, server: zendsk, tool: t, expect: deny}",
        'tests[0].server: no server is named "zendsk" (did you mean "zendesk"?)',
    ),
    "an unknown rule": (
        f"{{{HEAD}, tool: a, expect: {{decision: deny, rule: smal}}}}",
        'tests[0].expect.rule: no rule is named "smal" (did you mean "small"?)',
    ),
    "a rule of another policy": (
        f"{{{HEAD}, tool: a, expect: {{decision: deny, policy: trial, rule: small}}}}",
        'tests[0].expect.rule: no rule is named "small" (one of: no-searching)',
    ),
    "an unknown policy": (
        f"{{{HEAD}, tool: a, expect: {{decision: deny, policy: suport}}}}",
        'tests[0].expect.policy: no policy is named "suport" (did you mean "support"?)',
    ),
    "a grant of no approval": (
        f"{{{HEAD}, tool: a, grants: [{{policy: support, rule: small}}], expect: deny}}",
        'tests[0].grants[0]: the rule "small" requires no approval (its action is allow)',
    ),
    "an unknown grant": (
        f"{{{HEAD}, tool: a, grants: [{{policy: support, rule: x}}], expect: deny}}",
        'tests[0].grants[0].rule: no rule is named "x" (one of: metadata, small, ticket-text, read)',
    ),
}


@pytest.mark.parametrize(("test", "told"), ERRORS.values(), ids=ERRORS.keys())
def test_an_error_names_its_place_and_a_remedy(test, told):
    assert run([test]) == (1, "", f"t.yaml:3: {told}\n")


def test_all_errors_are_told_at_once_also_to_machines():
    tests = [ERRORS["an unknown key"][0], ERRORS["nothing asked"][0].replace("one", "two"), PASSING["allow"]]
    code, _, err = run(tests)
    assert (code, [line.split(": ")[0] for line in err.splitlines()]) == (1, ["t.yaml:3", "t.yaml:4", "t.yaml:5"])
    assert 'duplicate test name "one" (first at line 3)' in err
    code, out, err = run(tests, "--json")
    told = json.loads(out)
    assert (code, err, told["passed"], told["tests"], len(told["errors"])) == (1, "", False, [], 3)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (None, "t.yaml: no such file"),
        ("", "t.yaml: empty (begin with configuration: gateway.yaml)"),
        ("tests: []\n", "t.yaml:1: `configuration` is required"),
        ("configuration: site/gateway.yaml\ntests: []\n", "t.yaml:2: tests: an empty list"),
        (
            "configuration: none.yaml\ntests: [{name: n, agent: anonymous, server: s, tool: t, expect: deny}]\n",
            "none.yaml: no such file",
        ),
        (
            "configuration: site/gateway.yaml\n---\ntests: []\n",
            "t.yaml:3: a second document (one file of tests is one document)",
        ),
    ],
)
def test_a_file_that_cannot_be_used(text, told):
    if text is not None:
        Path("t.yaml").write_text(text)
    code, out, err = openmcp("test", "t.yaml")
    assert (code, out) == (1, "")
    assert told in err


def test_the_tests_that_init_writes_pass():
    scaffold.write(Path("new"))
    code, out, _ = openmcp("test", "new/tests/policy.yaml")
    assert (code, out.count("ok  ")) == (0, 3)


def test_usage():
    assert openmcp("test")[0] == 2
