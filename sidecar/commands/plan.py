"""`openmcp plan`: the configuration as resources of Envoy Gateway."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from openmcp.config import ConfigurationError
from openmcp.config.kubernetes import opening
from openmcp.sidecar.commands.common import OUTSIDE, WRONG_INPUT, config_option, printable

if TYPE_CHECKING:
    from openmcp.config.plan import Plan, Target


def _label(_: click.Context, __: click.Parameter, value: str) -> str:
    from openmcp.config.plan import is_label

    if not is_label(value):
        raise click.BadParameter("lower-case letters, digits and `-`, at most 63")
    return value


@click.command()
@config_option
@click.option("--name", default="openmcp", show_default=True, callback=_label, help="Of the Gateway.")
@click.option("-n", "--namespace", default="openmcp", show_default=True, callback=_label, help="Of all resources.")
@click.option("--sidecar", metavar="SERVICE", help="Lead to the sidecars behind this: NAME:PORT, NAME.NAMESPACE:PORT.")
@click.option("--ai-gateway", is_flag=True, help="Make an MCPRoute of Envoy AI Gateway for each server.")
@click.option("--strict", is_flag=True, help="Write nothing, and exit with 1, where there is a warning.")
@click.option("--json", "as_json", is_flag=True, help="Tell resources, warnings and needs as one JSON object.")
def plan(path: Path, *, strict: bool, as_json: bool, **wanted: Any) -> None:
    """Write the resources of Envoy Gateway for a configuration.

    They go to standard output, for kubectl apply. What of the configuration Envoy cannot enforce is told on standard
    error, and what the resources need that is not among them: secrets, bundles, settings of Envoy Gateway.
    """
    from openmcp.config import plan as planning  # the other commands do not pay for it

    target = _target(**wanted)
    try:
        made = planning.plan(opening.loaded(path).configuration, target)
    except (ConfigurationError, planning.CannotPlan) as error:
        click.echo(str(error), err=True)
        sys.exit(WRONG_INPUT)
    except opening.NoCluster as error:
        click.echo(f"{path}: source: {error}", err=True)
        sys.exit(OUTSIDE)
    refused = strict and bool(made.warnings)
    _tell(made, as_json=as_json, with_resources=not refused)
    sys.exit(WRONG_INPUT if refused else 0)


def _target(name: str, namespace: str, sidecar: str | None, ai_gateway: bool) -> "Target":
    from openmcp.config.plan import Target, service

    behind = service(sidecar, namespace) if sidecar is not None else None
    if sidecar is not None and behind is None:
        raise click.BadParameter("write NAME:PORT or NAME.NAMESPACE:PORT", param_hint="--sidecar")
    if behind is not None and ai_gateway:
        raise click.UsageError("--ai-gateway leads to the servers, --sidecar to sidecars: one of them")
    return Target(name=name, namespace=namespace, sidecar=behind, ai_gateway=ai_gateway)


def _tell(made: "Plan", *, as_json: bool, with_resources: bool) -> None:
    from openmcp.config.yamltext import write_manifests

    resources = list(made.documents) if with_resources else []
    if as_json:
        told = {"warnings": [str(one) for one in made.warnings], "needs": [str(one) for one in made.needs]}
        click.echo(json.dumps({"resources": resources, **told}, indent=2, ensure_ascii=False))
        return
    for kind, notices in (("warning", made.warnings), ("needs", made.needs)):
        for one in notices:
            click.echo(printable(f"{kind}: {one}"), err=True)
    if resources:
        click.echo(write_manifests(resources), nl=False)
