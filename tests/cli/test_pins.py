"""`openmcp pins`: an operator sees what changed, and accepts it."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from openmcp.config.model import PinTools, Server
from openmcp.sidecar.cli import main
from openmcp.sidecar.stages.pins import Pins, digest

CONFIGURATION = """
apiVersion: openmcp.dev/v1alpha1
identity: {agents: [{type: none}]}
servers:
  - {name: zendesk, endpoints: ["http://127.0.0.1:9/mcp"], pinTools: {file: pins.json}}
  - {name: plain, endpoints: ["http://127.0.0.1:9/mcp"], pinTools: true}
policies:
  - {name: p, servers: ["*"], requests: [{name: all, action: allow}]}
"""
TOOL: dict[str, Any] = {"name": "search", "description": "Finds tickets"}
PULLED = TOOL | {"description": "Finds \x1b[2Jtickets"}


@pytest.fixture
def gateway(tmp_path: Path) -> Path:
    path = tmp_path / "gateway.yaml"
    path.write_text(CONFIGURATION)
    return path


def server(gateway: Path) -> Server:
    pinned = PinTools(file=str(gateway.with_name("pins.json")))
    return Server(name="zendesk", path="/zendesk", endpoints=("http://127.0.0.1:9/mcp",), pin_tools=pinned)


def see(gateway: Path, *entries: dict[str, Any]) -> list[bool]:
    """A sidecar sees these tools."""
    pins = Pins(lambda *_: None)
    shown = [pins.admits(server(gateway), entry) for entry in entries]
    pins.save(server(gateway))
    return shown


def run(gateway: Path, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["pins", arguments[0], "-c", str(gateway), *arguments[1:]])


def test_what_changed_is_shown_accepted_and_then_let_through(gateway: Path) -> None:
    assert see(gateway, TOOL, PULLED, TOOL | {"name": "other"}) == [True, False, True]
    listed = run(gateway, "list").output
    assert f"ok       zendesk  other  {digest(TOOL | {'name': 'other'})}" in listed
    assert f"changed  zendesk  search  {digest(PULLED)}" in listed
    assert '- "description": "Finds tickets",' in listed
    assert '+ "description": "Finds \\u001b[2Jtickets",' in listed, "nothing of it acts on the terminal"
    accepted = run(gateway, "accept", "--server", "zendesk", "search")
    assert (accepted.exit_code, accepted.output) == (0, f"accepted zendesk search {digest(PULLED)}\n")
    assert see(gateway, PULLED) == [True]


def test_the_list_for_machines(gateway: Path) -> None:
    see(gateway, TOOL, PULLED)
    [told] = json.loads(run(gateway, "list", "--json").output)
    assert told == {
        "server": "zendesk",
        "tool": "search",
        "changed": True,
        "pinned": digest(TOOL),
        "seen": digest(PULLED),
        "definition": TOOL,
        "offered": PULLED,
    }


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("accept", "--server", "zendesk", "never"), 1, "no such tool is pinned: never"),
        (("accept", "--server", "other", "search"), 1, 'there is no server "other"'),
        (("accept", "--server", "plain", "search"), 1, "the pins of plain are not kept in a file"),
        (("accept", "--server", "zendesk"), 2, "Missing argument"),
        (("list", "--server", "plain"), 1, "pinTools: {file: pins.json}"),
    ],
)
def test_what_cannot_be_accepted_is_said(gateway: Path, arguments: tuple[str, ...], code: int, says: str) -> None:
    see(gateway, TOOL)
    result = run(gateway, *arguments)
    assert result.exit_code == code
    assert says in result.output


def test_a_broken_file_is_named(gateway: Path) -> None:
    gateway.with_name("pins.json").write_text("{")
    result = run(gateway, "list")
    assert result.exit_code == 3
    assert "pins.json: not a file of pins" in result.output


def test_nothing_pinned_is_an_empty_list(gateway: Path) -> None:
    assert run(gateway, "list", "--json").output == "[]\n"
