"""`openmcp injector`: the admission webhook of Kubernetes."""

import sys
from pathlib import Path

import click

from openmcp.config import ConfigurationError
from openmcp.sidecar.commands.common import OUTSIDE, WRONG_INPUT, settings_option
from openmcp.sidecar.errors import cannot_listen
from openmcp.sidecar.version import VERSION


@click.command()
@settings_option
def injector(path: Path) -> None:
    """Put the sidecar into the pods of a cluster.

    Serves the mutating webhook, keeps its certificate, and writes the conditions of MCPServers, MCPPolicies and
    ApprovalWorkflows. Each admission is a line on standard output. SIGTERM lets other replicas take over, and ends.
    """
    from openmcp.injector import serve, settings  # the other commands do not pay for it
    from openmcp.sidecar.telemetry import log

    try:
        made = settings.load(path)
    except ConfigurationError as error:
        click.echo(str(error), err=True)
        sys.exit(WRONG_INPUT)
    log.configure(made.log_level)
    try:
        serve.run(made, VERSION)
    except serve.CannotStart as error:
        click.echo(str(error), err=True)
        sys.exit(OUTSIDE)
    except OSError as error:
        click.echo(cannot_listen(error), err=True)
        sys.exit(OUTSIDE)
