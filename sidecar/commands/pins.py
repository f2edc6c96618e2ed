"""`openmcp pins`: what servers' tools were pinned to, what changed since, and accepting it."""

import difflib
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import click

from openmcp.config import ConfigurationError, load
from openmcp.config.model import Server
from openmcp.sidecar.commands.common import OUTSIDE, WRONG_INPUT, config_option
from openmcp.sidecar.stages.pinfile import PinFile, Pinned


@click.group()
def pins() -> None:
    """Look at pinned tools, and accept those that changed.

    For servers with pinTools: {file: PATH}; what is pinned without a file is forgotten at the next start.
    """


@pins.command("list")
@config_option
@click.option("--server", help="Of this server alone.")
@click.option("--json", "as_json", is_flag=True, help="Tell the result as one JSON array.")
def list_(path: Path, server: str | None, as_json: bool) -> None:
    """List the tools and whether they are as they were pinned; show what changed."""
    found = [(name, tool, one) for name, tools in _pinned(path, server) for tool, one in sorted(tools.items())]
    if as_json:
        click.echo(json.dumps([_told(*entry) for entry in found], indent=2, ensure_ascii=False))
        return
    for name, tool, one in found:
        click.echo(f"{'ok     ' if one.pinned == one.seen else 'changed'}  {name}  {_printable(tool)}  {one.seen}")
        for line in _changes(one):
            click.echo(f"         {line}")


@pins.command()
@config_option
@click.option("--server", required=True, help="The server whose tools these are.")
@click.argument("tools", metavar="TOOL...", nargs=-1, required=True)
def accept(path: Path, server: str, tools: tuple[str, ...]) -> None:
    """Trust the definitions that the server now gives for these tools.

    Running sidecars take it up at once.
    """
    [(_, known)] = _pinned(path, server)
    missing = [tool for tool in tools if tool not in known]
    if missing:
        click.echo(f"no such tool is pinned: {', '.join(map(_printable, missing))}", err=True)
        sys.exit(WRONG_INPUT)
    file = _file(_server(path, server))
    try:
        file.accept(list(tools))
    except (OSError, ValueError) as error:
        click.echo(f"{file.path}: {error}", err=True)
        sys.exit(OUTSIDE)
    for tool in tools:
        click.echo(f"accepted {server} {_printable(tool)} {known[tool].seen}")


def _pinned(path: Path, server: str | None) -> list[tuple[str, Mapping[str, Pinned]]]:
    chosen = [_server(path, server)] if server is not None else _pinning(path)
    found = []
    for one in chosen:
        file = _file(one)
        try:
            found.append((one.name, file.changed() or {}))
        except (OSError, ValueError) as error:
            click.echo(f"{file.path}: {error}", err=True)
            sys.exit(OUTSIDE)
    return found


def _pinning(path: Path) -> list[Server]:
    """The servers whose pins are kept in files."""
    return [one for one in _servers(path) if one.pin_tools is not None and one.pin_tools.file is not None]


def _servers(path: Path) -> tuple[Server, ...]:
    try:
        return load(path).configuration.servers
    except ConfigurationError as error:
        click.echo(str(error), err=True)
        sys.exit(WRONG_INPUT)


def _server(path: Path, name: str) -> Server:
    found = [one for one in _servers(path) if one.name == name]
    if not found:
        click.echo(f'{path}: there is no server "{_printable(name)}"', err=True)
        sys.exit(WRONG_INPUT)
    if found[0].pin_tools is None or found[0].pin_tools.file is None:
        click.echo(f"{path}: the pins of {name} are not kept in a file: pinTools: {{file: pins.json}}", err=True)
        sys.exit(WRONG_INPUT)
    return found[0]


def _file(server: Server) -> PinFile:
    assert server.pin_tools is not None
    assert server.pin_tools.file is not None
    return PinFile(Path(server.pin_tools.file), server.name)


def _told(server: str, tool: str, one: Pinned) -> dict[str, object]:
    told: dict[str, object] = {"server": server, "tool": tool, "changed": one.pinned != one.seen}
    told |= {"pinned": one.pinned, "seen": one.seen}
    return told | {"definition": json.loads(one.definition), "offered": json.loads(one.offered)}


def _changes(one: Pinned) -> Iterator[str]:
    if one.pinned == one.seen:
        return
    before, after = (json.dumps(json.loads(text), indent=1).splitlines() for text in (one.definition, one.offered))
    # JSON in ASCII: nothing in it acts on a terminal.
    yield from difflib.unified_diff(before, after, "pinned", "seen", n=1, lineterm="")


def _printable(text: str) -> str:
    return json.dumps(text)[1:-1]
