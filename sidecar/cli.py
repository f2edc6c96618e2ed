"""The command `openmcp`. Exit codes: 0 done, 1 the input is wrong, 2 usage, 3 something outside failed."""

from importlib import import_module
from typing import Final

import click

from openmcp.sidecar.version import VERSION

COMMANDS: Final = {
    "init": "configuration",
    "validate": "configuration",
    "run": "serve",
    "demo": "serve",
    "bridge": "bridge",
    "explain": "explain",
    "test": "policytest",
    "pins": "pins",
    "plan": "plan",
    "audit": "audit",
    "replay": "replay",
    "state": "state",
    "approvals": "approvals",
    "inject": "inject",
    "injector": "injector",
}
"""The module of `openmcp.sidecar.commands` that holds each; imported when it is called: `run` pays for no other."""


class _Commands(click.Group):
    """Finds commands by name."""

    def resolve_command(
        self, context: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """See click."""
        try:
            return super().resolve_command(context, args)
        except click.UsageError as error:
            from openmcp.config.problems import did_you_mean  # only when something is wrong

            hint = did_you_mean(args[0], COMMANDS)
            if hint is None:
                raise
            raise click.UsageError(f"{error.message} {hint[0].upper()}{hint[1:]}", context) from None

    def list_commands(self, context: click.Context) -> list[str]:
        """See click."""
        return sorted(COMMANDS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        """See click."""
        if name not in COMMANDS:
            return None
        found: click.Command = getattr(import_module(f"openmcp.sidecar.commands.{COMMANDS[name]}"), name)
        return found


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(VERSION, message="%(prog)s %(version)s")
def main() -> None:
    """Identity, policy and a record between AI agents and MCP servers."""


if __name__ == "__main__":
    main()
