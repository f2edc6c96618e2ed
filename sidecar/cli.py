"""The command `openmcp`. Exit codes: 0 done, 1 the input is wrong, 2 usage, 3 something outside failed."""

from importlib.metadata import version

import click

from openmcp.sidecar.commands.audit import audit
from openmcp.sidecar.commands.configuration import init, validate
from openmcp.sidecar.commands.explain import explain
from openmcp.sidecar.commands.pins import pins
from openmcp.sidecar.commands.policytest import test
from openmcp.sidecar.commands.replay import replay
from openmcp.sidecar.commands.serve import demo, run


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(version("openmcp"), message="%(prog)s %(version)s")
def main() -> None:
    """Identity, policy and a record between AI agents and MCP servers."""


for command in (init, validate, run, demo, explain, test, pins, audit, replay):
    main.add_command(command)


if __name__ == "__main__":
    main()
