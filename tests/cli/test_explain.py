"""`openmcp explain`: every verdict told with what led to it, to people and to machines."""

import json
from contextlib import chdir
from pathlib import Path

import pytest
from click.testing import CliRunner

from openmcp.sidecar.cli import main
from tests.cli.questions import CONFIGURATION


@pytest.fixture(autouse=True)
def folder(tmp_path):
    """A current folder with a configuration."""
    with chdir(tmp_path):
        Path("gateway.yaml").write_text(CONFIGURATION)
        yield tmp_path


def explain(*arguments, agent="key:support-1", server="zendesk"):
    """Runs the command: exit code, standard output, standard error."""
    command = ("explain", "--agent", agent, "--server", server, *arguments)
    result = CliRunner().invoke(main, command, prog_name="openmcp", catch_exceptions=False)
    return result.exit_code, result.stdout, result.stderr


TOLD = {
    "allowed": (
        ["--tool", "refund", "--args", '{"amount": 5}'],
        """agent    key:support-1
server   zendesk
asks     tools/call refund {"amount": 5}
decision allow: by support/small
lists    shown
matched
  allow           support/small   <- decides
""",
    ),
    "denied by default, a condition that does not hold": (
        ["--tool", "refund", "--args", '{"amount": 50, "note": "caf\\u00e9 \\u001b[2J"}'],
        """agent    key:support-1
server   zendesk
asks     tools/call refund {"amount": 50, "note": "café \\u001b[2J"}
decision deny: no rule allows it
         the agent is told: no policy allows this
lists    shown
matched  nothing
conditions
  allow           support/small
      $.amount lte 10: found 50
""",
    ),
    "a condition that cannot be judged": (
        ["--tool", "refund", "--args", '{"amount": "5"}'],
        """agent    key:support-1
server   zendesk
asks     tools/call refund {"amount": "5"}
decision deny: no rule allows it
         the agent is told: no policy allows this
lists    shown
matched  nothing
conditions
  allow           support/small
      $.amount lte 10 cannot be judged: found "5"
""",
    ),
    "denied": (
        ["--tool", "delete_all"],
        """agent    key:support-1
server   zendesk
asks     tools/call delete_all
decision deny: by zendesk-baseline/no-destructive
         the agent is told: destructive tools are off
lists    not shown
matched
  deny            zendesk-baseline/no-destructive   <- decides
""",
    ),
    "an approval": (
        ["--tool", "get_ticket", "--args", '{"ticket_id": "77"}'],
        """agent    key:support-1
server   zendesk
asks     tools/call get_ticket {"ticket_id": "77"}
decision requireApproval: by support/ticket-text
lists    shown, marked [requires approval]
approval support/ticket-text: workflow leads, shows $.ticket_id, holds for $.ticket_id, 1800 s, at most 20 uses
matched
  requireApproval support/ticket-text   <- decides
""",
    ),
    "a shadow policy that would decide otherwise": (
        ["--tool", "search_tickets"],
        """agent    key:support-1
server   zendesk
asks     tools/call search_tickets
decision allow: by support/metadata
lists    shown
matched
  allow           support/metadata   <- decides
  deny            trial/no-searching (shadow)
shadow   deny by trial/no-searching, were the policies in shadow mode enforced
""",
    ),
    "a resource in two forms": (
        ["--resource", "ticket://7/x/../8"],
        """agent    key:support-1
server   zendesk
asks     resources/read ticket://7/x/../8 (judged also as ticket://7/8)
decision allow: by support/read
lists    shown
matched
  allow           support/read   <- decides
""",
    ),
    "a method that is open": (
        ["--method", "tools/list"],
        """agent    key:support-1
server   zendesk
asks     tools/list
decision allow: open to every agent that may use the server
matched  nothing
""",
    ),
}


@pytest.mark.parametrize(("arguments", "told"), TOLD.values(), ids=TOLD.keys())
def test_it_tells_what_decides_and_why(arguments, told):
    assert explain(*arguments) == (0, told, "")


def test_an_agent_without_rules():
    code, out, err = explain("--tool", "search_tickets", agent="key:other")
    assert (code, err) == (0, "")
    assert "decision deny: this agent may not use the server, no rule allows it anything there\n" in out


def test_claims_are_taken_at_their_word():
    _, out, _ = explain("--tool", "search_x", "--claim", "team=support", "--claim", "a=b=c", agent="jwt:https://i/#u")
    assert out.startswith("agent    jwt:https://i/#u (team=support, a=b=c)\n")
    assert "decision allow" in out
    _, out, _ = explain("--tool", "search_x", "--claim", "team=sales", agent="jwt:https://i/#u")
    assert "decision deny" in out


def test_a_completion():
    asked = {"ref": {"type": "ref/resource", "uri": "ticket://{id}"}, "argument": {"name": "id", "value": "7"}}
    _, out, _ = explain("--method", "completion/complete", "--args", json.dumps(asked))
    assert "decision allow: by support/read" in out


def test_for_machines():
    code, out, _ = explain("--tool", "get_ticket", "--args", '{"ticket_id": "77"}', "--json")
    rule = {"policy": "support", "rule": "ticket-text", "action": "requireApproval", "shadow": False}
    assert code == 0
    assert json.loads(out) == {
        "agent": "key:support-1",
        "server": "zendesk",
        "method": "tools/call",
        "subjects": [{"kind": "tool", "name": "get_ticket"}],
        "decision": "requireApproval",
        "policy": "support",
        "rule": "ticket-text",
        "reason": "policy support requires an approval",
        "usable": True,
        "listed": "approval",
        "matched": [rule],
        "failed": [],
        "approvals": [
            {
                **rule,
                "workflow": "leads",
                "show": ["$.ticket_id"],
                "bind": ["$.ticket_id"],
                "durationSeconds": 1800.0,
                "maxDurationSeconds": 14400.0,
                "maxUses": 20,
            }
        ],
        "shadow": None,
    }
    _, out, _ = explain("--tool", "get_ticket", "--args", '{"ticket_id": "x"}', "--json")
    told = json.loads(out)
    assert told["failed"] == [{**rule, "why": '$.ticket_id matches "[0-9]{1,12}": found "x"'}]
    assert (told["decision"], told["policy"], told["matched"]) == ("deny", None, [])
    _, out, _ = explain("--tool", "search_x", "--json")
    assert json.loads(out)["shadow"] == {"decision": "deny", "policy": "trial", "rule": "no-searching"}


FORMS = "spiffe://<trust domain>/<path>, jwt:<issuer>#<sub>, key:<name> or anonymous"
WRONG = {
    "a SPIFFE ID with a typo": (
        (["--tool", "t"], {"agent": "spifee://prod/ns/a"}),
        f'no caller is named "spifee://prod/ns/a" (write {FORMS})\n',
    ),
    "a SPIFFE ID of no workload": (
        (["--tool", "t"], {"agent": "spiffe://prod"}),
        'no caller is named "spiffe://prod" (the ID of a trust domain, not of a workload: it has no path)\n',
    ),
    "a glob": (
        (["--tool", "t"], {"agent": "spiffe://prod/*"}),
        "no caller is named \"spiffe://prod/*\" (path segments are letters, digits, '.', '_' and '-', not empty, "
        "neither '.' nor '..'; it is the ID of one workload, not a glob)\n",
    ),
    "a subject without an issuer": (
        (["--tool", "t"], {"agent": "jwt:bob"}),
        'no caller is named "jwt:bob" (write jwt:<issuer>#<sub>)\n',
    ),
    "a key without a name": (
        (["--tool", "t"], {"agent": "key:"}),
        'no caller is named "key:" (write key:<name>, one name of an API key and no glob)\n',
    ),
    "an unknown server": (
        (["--tool", "t"], {"server": "zendsk"}),
        'no server is named "zendsk" (did you mean "zendesk"?)\n',
    ),
    "an unknown method": (
        (["--method", "tools/lst"], {}),
        'MCP has no method "tools/lst" (did you mean "tools/list"?)\n',
    ),
    "a method that names nothing": (
        (["--method", "tools/call"], {}),
        "no agent can send this: params.name must be a non-empty string\n",
    ),
    "a resource that is none": (
        (["--resource", "a b"], {}),
        "no agent can send this: the resource URI has characters that a URI cannot have\n",
    ),
    "another configuration": (
        (["--tool", "t", "-c", "none.yaml"], {}),
        "none.yaml: no such file (`openmcp init` writes one to begin with)\n",
    ),
}


@pytest.mark.parametrize(("asked", "told"), WRONG.values(), ids=WRONG.keys())
def test_wrong_input(asked, told):
    arguments, more = asked
    assert explain(*arguments, **more) == (1, "", told)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "exactly one of --tool, --resource, --prompt and --method"),
        (["--tool", "a", "--prompt", "b"], "exactly one of --tool, --resource, --prompt and --method"),
        (["--tool", "a", "--args", "{"], "not JSON"),
        (["--tool", "a", "--args", '{"a": 1, "\\u0061": 2}'], "a JSON object has the same key twice"),
        (["--tool", "a", "--args", '{"a": 1e400}'], "number is infinity"),
        (["--tool", "a", "--args", '{"a": NaN}'], "not JSON"),
        (["--tool", "a", "--args", '{"a": "\\ud800"}'], "not JSON"),
        (["--tool", "a", "--args", "[1]"], "a JSON object is wanted"),
        (["--tool", "a", "--claim", "team"], "write NAME=VALUE"),
        (["--resource", "a://b", "--args", "{}"], "--args has no meaning with --resource"),
    ],
)
def test_usage(arguments, told):
    code, out, err = explain(*arguments)
    assert (code, out) == (2, "")
    assert told in err
