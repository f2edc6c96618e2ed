"""`openmcp init` and `openmcp validate`: a configuration is written, and checked."""

import json
import shlex
import sys
from pathlib import Path
from typing import Final

import click
import msgspec

from openmcp.config import ConfigurationError, Loaded, Problem, load, scaffold
from openmcp.sidecar.commands.common import OUTSIDE, WRONG_INPUT, config_option

_TEST = ("openmcp test tests/policy.yaml", "tests what the policies decide")
_FILL_IN = ("openmcp validate", "says what is to be filled in")
_NEXT: Final = {
    "local": (
        ("openmcp validate", "checks gateway.yaml"),
        _TEST,
        ("python sample_server.py &", "the MCP server; needs: pip install 'mcp>=2.3,<3'"),
        ("openmcp run", "the gateway; agents call http://127.0.0.1:15001/sample"),
        ("python call.py http://127.0.0.1:15001/sample", "in another terminal: an agent's view of it"),
    ),
    "vm": (
        _FILL_IN,
        _TEST,
        ("sudo install -D -m 644 gateway.yaml /etc/openmcp/gateway.yaml", "where the unit has it"),
        ("sudo install -m 644 openmcp.service /etc/systemd/system/", "its head says what it needs to be there"),
        ("sudo systemctl enable --now openmcp", "then: curl -s http://127.0.0.1:15020/readyz"),
    ),
    "kubernetes": (
        ("openmcp validate -c objects", "says what is to be filled in"),
        _TEST,
        ("kubectl apply -f namespace.yaml", "pods in it will be governed"),
        ("kubectl -n agents create configmap openmcp --from-file=gateway.yaml", "for pods that name it"),
        ("helm upgrade --install openmcp CHART -n openmcp-system --create-namespace --wait -f values.yaml", ""),
        ("kubectl apply -f objects", "CHART is manifests/helm/openmcp"),
        ("kubectl -n agents get openmcp", "whether the objects are accepted"),
    ),
    "gateway": (
        _FILL_IN,
        _TEST,
        ("(umask 077; openssl rand -base64 32 >session.key)", "the same for all replicas"),
        ("openmcp audit keygen audit.pem", "signs the record"),
        ("openmcp run", "needs tls.crt, tls.key and $REDIS_PASSWORD"),
    ),
}
"""Commands to go on with, and what they are for."""


@click.command()
@click.argument("folder", metavar="[DIR]", type=click.Path(path_type=Path, file_okay=False), default=Path())
@click.option(
    "--profile",
    type=click.Choice(list(scaffold.PROFILES)),
    default=scaffold.DEFAULT,
    show_default=True,
    help="Where it is to run: a laptop, a VM with SPIRE, a cluster, or a gateway for many agents.",
)
def init(folder: Path, profile: str) -> None:
    """Write a gateway.yaml and what else it takes to begin.

    They go into DIR, the current folder by default. Those of the profile `local`, with a sample server and a client,
    work as they are; of the others `openmcp validate` says what is to be filled in. Nothing is overwritten.
    """
    try:
        written = scaffold.write(folder, profile)
    except scaffold.AlreadyThere as error:
        click.echo(f"{error}; nothing was written", err=True)
        sys.exit(WRONG_INPUT)
    except OSError as error:
        click.echo(f"{folder} cannot be written to: {error.strerror}", err=True)
        sys.exit(OUTSIDE)
    for file in written:
        click.echo(f"wrote {file}")
    click.echo(_next_steps(folder, profile))


def _next_steps(folder: Path, profile: str) -> str:
    lines = [] if folder == Path() else [f"cd {shlex.quote(str(folder))}"]
    width = max(len(command) for command, what in _NEXT[profile] if what)
    lines += [f"{command:{width}} # {what}" if what else command for command, what in _NEXT[profile]]
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
