"""The commands as a user sees them: what they print where, and how they exit."""

import json
import subprocess
import sys
import types
from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path

import pytest
from click import Command, Context, Group
from click.testing import CliRunner

from openmcp.config.model import Address
from openmcp.sidecar.cli import main
from tests.support.golden import check_golden

HEAD = "apiVersion: openmcp.dev/v1alpha1\n"


@pytest.fixture
def folder(tmp_path):
    """An empty current folder."""
    with chdir(tmp_path):
        yield tmp_path


def openmcp(*arguments):
    """Runs the command in this process: exit code, standard output, standard error."""
    result = CliRunner().invoke(main, arguments, prog_name="openmcp", catch_exceptions=False)
    return result.exit_code, result.stdout, result.stderr


@pytest.mark.parametrize(
    ("word", "hint"),
    [("valdate", ' Did you mean "validate"?'), ("replya", ' Did you mean "replay"?'), ("frobnicate", "")],
)
def test_a_command_that_is_misspelt(word, hint):
    code, printed, said = openmcp(word)
    assert (code, printed) == (2, "")
    assert f"Error: No such command '{word}'.{hint}\n" in said


def test_init_then_validate(folder):
    assert openmcp("init") == (
        0,
        "wrote gateway.yaml\n"
        "wrote sample_server.py\n"
        "wrote call.py\n"
        "wrote tests/policy.yaml\n"
        "\n"
        "Next:\n"
        "  openmcp validate                             # checks gateway.yaml\n"
        "  openmcp test tests/policy.yaml               # tests what the policies decide\n"
        "  python sample_server.py &                    # the MCP server; needs: pip install 'mcp>=2.3,<3'\n"
        "  openmcp run                                  # the gateway; agents call http://127.0.0.1:15001/sample\n"
        "  python call.py http://127.0.0.1:15001/sample # in another terminal: an agent's view of it\n",
        "",
    )
    assert openmcp("validate") == (0, "gateway.yaml: valid (servers: 1, policies: 2)\n", "")


def test_init_into_another_folder(folder):
    code, out, _ = openmcp("init", "my project")
    assert code == 0
    assert "wrote my project/gateway.yaml\n" in out
    assert "  cd 'my project'\n" in out


def test_init_overwrites_nothing(folder):
    Path("gateway.yaml").write_text("mine")
    assert openmcp("init") == (1, "", "already there: gateway.yaml; nothing was written\n")
    assert Path("gateway.yaml").read_text() == "mine"
    assert not Path("sample_server.py").exists()


def test_init_where_nothing_can_be_written(folder):
    Path("file").write_text("")
    assert openmcp("init", "file/below") == (3, "", "file/below cannot be written to: Not a directory\n")


def test_validate_tells_errors_and_warnings(folder):
    Path("bad.yaml").write_text(HEAD + "polices: []\nlisten: {mcp: 1}\n")
    assert openmcp("validate", "-c", "bad.yaml") == (
        1,
        "",
        'bad.yaml:2: unknown key "polices" (did you mean "policies"?)\n'
        "bad.yaml:3: listen.mcp: expected host:port, found the number 1 (write 127.0.0.1:1)\n"
        "bad.yaml: not valid, 2 errors\n",
    )
    Path("odd.yaml").write_text(HEAD + "policies: [{name: p, servers: [s]}]\n")
    assert openmcp("validate", "--config", "odd.yaml") == (
        0,
        "odd.yaml: valid (servers: 0, policies: 1)\n",
        'warning: odd.yaml:2: policies[0]: policy "p" has no rules\n'
        'warning: odd.yaml:2: policies[0].servers[0]: no server is named "s" (there are none)\n',
    )


OBJECT = "apiVersion: openmcp.dev/v1alpha1\nkind: ApprovalWorkflow\nmetadata: {name: w, namespace: %s}\nspec: {%s}\n"


def test_validate_takes_objects_of_one_namespace(folder):
    Path("all.yaml").write_text(OBJECT % ("one", "approvers: ['token:a']") + "---\n" + OBJECT % ("two", ""))
    assert openmcp("validate", "-c", "all.yaml", "--namespace", "one") == (
        0,
        "all.yaml: valid (servers: 0, policies: 0, workflows: 1)\n",
        "",
    )
    code, out, err = openmcp("validate", "-c", "all.yaml", "--namespace", "two")
    assert (code, out) == (1, "")
    assert err == "all.yaml:9: spec: `approvers` is required\nall.yaml: not valid, 1 error\n"
    code, out, err = openmcp("validate", "-c", "all.yaml")
    assert (code, out) == (1, "")
    assert 'an object of namespace "two" beside those of "one"' in err


def test_validate_without_a_file(folder):
    assert openmcp("validate") == (
        1,
        "",
        "gateway.yaml: no such file (`openmcp init` writes one to begin with)\ngateway.yaml: not valid, 1 error\n",
    )


def test_validate_for_machines(folder):
    Path("gateway.yaml").write_text(HEAD + "polices: []\n")
    code, out, err = openmcp("validate", "--json")
    assert (code, err) == (1, "")
    assert json.loads(out) == {
        "valid": False,
        "errors": [
            {
                "file": "gateway.yaml",
                "line": 2,
                "path": "",
                "message": 'unknown key "polices"',
                "hint": 'did you mean "policies"?',
            }
        ],
        "warnings": [],
    }
    Path("gateway.yaml").write_text(HEAD + "policies: [{name: p, servers: ['*']}]\n")
    code, out, err = openmcp("validate", "--json")
    assert (code, err) == (0, "")
    told = json.loads(out)
    assert (told["valid"], told["errors"]) == (True, [])
    assert [warning["message"] for warning in told["warnings"]] == [
        'policy "p" has no rules',
        'no server is named "*"',
    ]


@pytest.mark.parametrize("arguments", [("validate", "--jsno"), ("nonsense",), ("init", "a", "b")])
def test_usage(folder, arguments):
    code, out, err = openmcp(*arguments)
    assert (code, out) == (2, "")
    assert "Usage:" in err


@pytest.mark.parametrize("outcome", [0, 1, 3])
def test_run_hands_the_file_on_and_ends_as_the_gateway_ends(folder, monkeypatch, outcome):
    given = []
    fake = types.ModuleType("openmcp.sidecar.serve")
    fake.run = lambda *arguments: given.append(arguments) or outcome
    monkeypatch.setitem(sys.modules, "openmcp.sidecar.serve", fake)
    monkeypatch.setattr("openmcp.sidecar.serve", fake, raising=False)
    assert openmcp("run", "-c", "x.yaml") == (outcome, "", "")
    assert openmcp("run", "-c", "x.yaml", "--admin", "0.0.0.0:15020", "--log-level", "debug") == (outcome, "", "")
    path = Path("x.yaml")
    assert given == [(path, None, None), (path, Address(host="0.0.0.0", port=15020), "debug")]


@pytest.mark.parametrize(
    ("arguments", "given"),
    [
        ((), (False, True, None)),
        (("--wait",), (True, True, None)),
        (("--no-wait", "--no-auto", "--port", "8080"), (False, False, 8080)),
    ],
)
def test_demo_stays_up_where_asked(monkeypatch, arguments, given):
    monkeypatch.setattr("openmcp.sidecar.demo.missing", lambda: None)
    monkeypatch.setattr("openmcp.sidecar.demo.run", lambda *, wait, auto, port: 99 * ((wait, auto, port) != given))
    assert openmcp("demo", *arguments) == (0, "", "")


def test_demo_says_what_it_lacks(monkeypatch):
    monkeypatch.setattr("openmcp.sidecar.demo.missing", lambda: "the demo needs x")
    assert openmcp("demo") == (3, "", "the demo needs x\n")


@pytest.mark.parametrize("name", ["openmcp", "gateway"])
def test_both_names_are_installed(folder, name):
    command = Path(sys.executable).with_name(name)
    told = subprocess.run([command, "--version"], capture_output=True, text=True, check=True)
    assert told.stdout == f"{name} 0.1.0\n"


def test_validating_does_not_load_the_network(folder):
    code = (
        "import sys; from openmcp.sidecar import cli; "
        "sys.exit(any(name in sys.modules for name in ('asyncio', 'httptools', 'uvloop', 'openmcp.sidecar.app')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    "command",
    ["", "init", "validate", "run", "demo", "explain", "test", "audit", "replay", "inject", "injector"],
)
def test_help(command):
    code, out, err = openmcp(*([command] if command else []), "--help")
    assert (code, err) == (0, "")
    check_golden(f"cli/help{'-' if command else ''}{command}.txt", out)


def test_the_readme_names_every_command() -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    names = main.list_commands(Context(main))
    assert "run" in names
    assert [name for name in names if f"| `openmcp {name}" not in readme] == []


def test_every_option_is_told_of_somewhere() -> None:
    root = Path(__file__).parents[2]
    told = "".join(page.read_text() for page in (root / "README.md", *(root / "docs").rglob("*.md")))
    options = {name for command in _commands(main) for option in command.params for name in option.opts}
    assert {"--admin", "--grants", "--duration"} <= options
    assert {name for name in options if name.startswith("--") and name not in told} == {"--version"}


def _commands(command: Command) -> Iterator[Command]:
    yield command
    if isinstance(command, Group):
        for name in command.list_commands(Context(command)):
            inner = command.get_command(Context(command), name)
            assert inner is not None
            yield from _commands(inner)
