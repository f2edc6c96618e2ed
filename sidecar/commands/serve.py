"""`openmcp run` and `openmcp demo`: a sidecar runs."""

import sys
from pathlib import Path

import click

from openmcp.config.addresses import parse_address
from openmcp.config.model import Address
from openmcp.sidecar.commands.common import OUTSIDE, config_option


def _address(context: click.Context, option: click.Parameter, text: str | None) -> Address | None:
    if text is None:
        return None
    try:
        return parse_address(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


@click.command()
@config_option
@click.option(
    "--admin",
    metavar="HOST:PORT",
    callback=_address,
    help="Serve /healthz, /readyz and /metrics here, not at listen.admin.",
)
@click.option(
    "--log-level", type=click.Choice(["debug", "info", "warning", "error"]), help="Goes before telemetry.logLevel."
)
def run(path: Path, admin: Address | None, log_level: str | None) -> None:
    """Serve a configuration.

    SIGHUP or a changed file reloads it; SIGTERM lets the calls under way finish and ends.
    """
    from openmcp.sidecar import serve  # the other commands do not pay for the network

    sys.exit(serve.run(path, admin, log_level))


@click.command()
@click.option("--wait/--no-wait", default=None, help="Stay up afterwards, or end. Default: stay up on a terminal.")
@click.option("--port", type=click.IntRange(1, 65535), help="Where agents call the sidecar. Default: a free port.")
@click.option("--auto/--no-auto", default=None, help="Approve by itself, or let you. Default: you, on a terminal.")
def demo(wait: bool | None, port: int | None, auto: bool | None) -> None:
    """Show the whole story on this machine.

    Starts a sample MCP server, the sidecar and agents that are allowed, denied, and wait for an approval, and shows the
    record.
    """
    from openmcp.sidecar import demo as story  # the other commands do not pay for it

    if missing := story.missing():
        click.echo(missing, err=True)
        sys.exit(OUTSIDE)
    terminal = sys.stdin.isatty() and sys.stdout.isatty()
    waits, approves = terminal if wait is None else wait, not terminal if auto is None else auto
    sys.exit(story.run(wait=waits, auto=approves, port=port))
