"""`openmcp init` and `openmcp validate`: a configuration is written, and checked."""

import json
import shlex
import sys
from pathlib import Path

import click
import msgspec

from openmcp.config import ConfigurationError, Loaded, Problem, load, scaffold
from openmcp.sidecar.commands.common import OUTSIDE, WRONG_INPUT, config_option


@click.command()
@click.argument("folder", metavar="[DIR]", type=click.Path(path_type=Path, file_okay=False), default=Path())
def init(folder: Path) -> None:
    """Write a gateway.yaml, a sample server and policy tests.

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
        "openmcp test tests/policy.yaml # tests what the policies decide",
        "python sample_server.py &      # the MCP server; needs: pip install 'mcp>=2.3,<3'",
        "openmcp run                    # the gateway; agents call http://127.0.0.1:15001/sample",
    ]
    return "\nNext:\n" + "\n".join(f"  {line}" for line in lines)


@click.command()
@config_option
@click.option("--namespace", metavar="NAME", help="Of Kubernetes objects, check those of this namespace.")
@click.option("--json", "as_json", is_flag=True, help="Tell the result as one JSON object.")
def validate(path: Path, namespace: str | None, as_json: bool) -> None:
    """Check a configuration, or objects of Kubernetes.

    Exits with 0, or with 1 and every error with its line and a hint.
    """
    try:
        result: Loaded | ConfigurationError = load(path, namespace)
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
    counts = {"servers": made.servers, "policies": made.policies, "workflows": made.approvals.workflows}
    found = ", ".join(f"{name}: {len(each)}" for name, each in counts.items() if each or name != "workflows")
    click.echo(f"{path}: valid ({found})")
