"""`openmcp bridge`: a stdio server is served over Streamable HTTP."""

import asyncio
import sys
from collections.abc import AsyncGenerator, Iterable
from pathlib import Path

import click

from openmcp.config import ConfigurationError, Loaded
from openmcp.config.model import (
    Action,
    Address,
    Configuration,
    Identity,
    Listen,
    NoneAgents,
    Policy,
    RequestRule,
    Secret,
    Server,
    Stdio,
)
from openmcp.sidecar.commands.common import OUTSIDE
from openmcp.sidecar.errors import UpstreamFailed

_NAME = "bridge"


class _Fixed:
    """A configuration that does not change (`serve.serve`)."""

    problem = ""

    def watch(self, paths: Iterable[str | Path]) -> None:
        """No file is part of it."""

    def poke(self) -> None:
        """There is nothing to read again."""

    async def changes(self) -> AsyncGenerator[Loaded | ConfigurationError, None]:
        """None ever."""
        await asyncio.Event().wait()
        yield ConfigurationError(())


@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option("--port", type=click.IntRange(0, 65535), default=15001, show_default=True, help="On 127.0.0.1; 0: any.")
@click.option("--path", default="/mcp", show_default=True, help="The path that clients call.")
@click.option(
    "--env", "variables", multiple=True, metavar="NAME[=VALUE]", help="A variable for CMD: our own, or with this value."
)
@click.option("--cwd", type=click.Path(exists=True, file_okay=False), help="The folder that CMD runs in.")
@click.option("--share", type=click.Choice(["session", "server"]), help="One process for each session, or for all.")
@click.argument("command", nargs=-1, required=True, metavar="-- CMD ...", type=click.UNPROCESSED)
def bridge(
    port: int, path: str, variables: tuple[str, ...], cwd: str | None, share: str | None, command: tuple[str, ...]
) -> None:
    """Serve a stdio MCP server over Streamable HTTP.

    To callers of this machine alone, who may do everything: for policies, approvals and callers from elsewhere write a
    gateway.yaml with `servers: [{name: ..., stdio: {command: ...}}]`.
    """
    from openmcp.sidecar import serve  # the other commands do not pay for the network
    from openmcp.sidecar.bridge.spawning import launch

    if not path.startswith("/"):
        raise click.BadParameter("begins with /", param_hint="--path")
    program, *arguments = command
    stdio = Stdio(
        command=program,
        args=tuple(arguments),
        env=tuple(_variable(text) for text in variables),
        cwd=cwd,
        per_agent=Stdio(command="").processes,  # callers are not told apart here
        share="session" if share == "session" else "server" if share == "server" else None,
    )
    try:
        launch(stdio)
    except UpstreamFailed as error:
        click.echo(error.detail, err=True)
        sys.exit(OUTSIDE)
    sys.exit(serve.serve(_Fixed(), Loaded(_configuration(stdio, port, path), ()), "openmcp bridge"))


def _variable(text: str) -> tuple[str, str | Secret]:
    name, given, value = text.partition("=")
    if not name:
        raise click.BadParameter("is NAME or NAME=VALUE", param_hint="--env")
    return (name, value) if given else (name, Secret(env=name))


def _configuration(stdio: Stdio, port: int, path: str) -> Configuration:
    everything = RequestRule(name="everything", action=Action.ALLOW)
    return Configuration(
        listen=Listen(mcp=Address(host="127.0.0.1", port=port), admin=Address(host="127.0.0.1", port=0)),
        identity=Identity(workload_api="", agents=(NoneAgents(),)),
        servers=(Server(name=_NAME, path=path, stdio=stdio),),
        policies=(Policy(name="everybody", servers=(_NAME,), requests=(everything,)),),
    )
