"""The commands. Exit codes: 0 done, 1 the input is wrong, 2 usage, 3 something outside failed."""

import json
import shlex
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import TypeVar

import click
import msgspec

from openmcp.config import ConfigurationError, Loaded, Problem, load, scaffold

WRONG_INPUT = 1
OUTSIDE = 3

F = TypeVar("F", bound=Callable[..., object])


def _config_option(command: F) -> F:
    return click.option(
        "-c",
        "--config",
        "path",
        type=click.Path(path_type=Path),
        default=Path("gateway.yaml"),
        show_default=True,
        help="The configuration: a file, or a folder of *.yaml files.",
    )(command)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(version("openmcp"), message="%(prog)s %(version)s")
def main() -> None:
    """Identity, policy and a record between AI agents and MCP servers."""


@main.command()
@click.argument("folder", metavar="[DIR]", type=click.Path(path_type=Path, file_okay=False), default=Path())
def init(folder: Path) -> None:
    """Write a gateway.yaml and a sample MCP server.

    They go into DIR, the current folder by default, and work as they are. Nothing is overwritten.
    """
    try:
        written = scaffold.write(folder)
    except scaffold.AlreadyThere as error:
        click.echo(f"{error}; nothing was written", err=True)
        sys.exit(WRONG_INPUT)
    except OSError as error:
        click.echo(f"{folder} cannot be written to: {error.strerror}", err=True)
        sys.exit(OUTSIDE)
    for file in written:
        click.echo(f"wrote {file}")
    click.echo(_next_steps(folder))


def _next_steps(folder: Path) -> str:
    lines = [] if folder == Path() else [f"cd {shlex.quote(str(folder))}"]
    lines += [
        "openmcp validate               # checks gateway.yaml",
        "python sample_server.py &      # the MCP server; needs: pip install 'mcp>=2.3,<3'",
        "openmcp run                    # the gateway; agents call http://127.0.0.1:15001/sample",
    ]
    return "\nNext:\n" + "\n".join(f"  {line}" for line in lines)


@main.command()
@_config_option
@click.option("--json", "as_json", is_flag=True, help="Tell the result as one JSON object.")
def validate(path: Path, as_json: bool) -> None:
    """Check a configuration.

    Exits with 0, or with 1 and every error with its line and a hint.
    """
    try:
        result: Loaded | ConfigurationError = load(path)
    except ConfigurationError as error:
        result = error
    errors = result.problems if isinstance(result, ConfigurationError) else ()
    if as_json:
        click.echo(_as_json(errors, result.warnings))
    else:
        _tell(path, result)
    sys.exit(WRONG_INPUT if errors else 0)


def _as_json(errors: tuple[Problem, ...], warnings: tuple[Problem, ...]) -> str:
    told = {"valid": not errors, "errors": msgspec.to_builtins(errors), "warnings": msgspec.to_builtins(warnings)}
    return json.dumps(told, indent=2, ensure_ascii=False)


def _tell(path: Path, result: Loaded | ConfigurationError) -> None:
    for warning in result.warnings:
        click.echo(f"warning: {warning}", err=True)
    if isinstance(result, ConfigurationError):
        click.echo(str(result), err=True)
        count = len(result.problems)
        click.echo(f"{path}: not valid, {count} error{'s' if count > 1 else ''}", err=True)
        return
    made = result.configuration
    click.echo(f"{path}: valid (servers: {len(made.servers)}, policies: {len(made.policies)})")


@main.command()
@_config_option
def run(path: Path) -> None:
    """Serve a configuration.

    SIGHUP or a changed file reloads it; SIGTERM lets the calls under way finish and ends.
    """
    from openmcp.sidecar import app  # the other commands do not pay for the network

    sys.exit(app.run(path))


@main.command()
@click.option("--wait/--no-wait", default=None, help="Stay up afterwards, or end. Default: stay up on a terminal.")
@click.option("--port", type=click.IntRange(1, 65535), help="Where agents call the sidecar. Default: a free port.")
def demo(wait: bool | None, port: int | None) -> None:
    """Show the whole story on this machine.

    Starts a sample MCP server, the sidecar and agents that are allowed and denied, and shows the record.
    """
    from openmcp.sidecar import demo as story  # the other commands do not pay for it

    if missing := story.missing():
        click.echo(missing, err=True)
        sys.exit(OUTSIDE)
    terminal = sys.stdin.isatty() and sys.stdout.isatty()
    sys.exit(story.run(wait=terminal if wait is None else wait, port=port))


if __name__ == "__main__":
    main()
