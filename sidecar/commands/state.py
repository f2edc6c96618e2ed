"""`openmcp state`: the store that requests for approval and grants are kept in."""

import asyncio
import sys
from pathlib import Path

import click
import msgspec

from openmcp.config import ConfigurationError, load
from openmcp.config.model import DynamodbState, State
from openmcp.sidecar.commands.common import OUTSIDE, WRONG_INPUT, config_option
from openmcp.sidecar.state.opening import CannotOpen, open_store
from openmcp.sidecar.state.store import StoreUnavailable


@click.group()
def state() -> None:
    """Look after the store of requests for approval and grants."""


@state.command()
@config_option
def create(path: Path) -> None:
    """Make what the store needs, such as the DynamoDB table; what is there already stays as it is.

    AWS credentials are those of the environment, also where sidecars take a role by their SVID: making a table needs
    more rights than using it.
    """
    try:
        said = asyncio.run(_create(load(path).configuration.state))
    except ConfigurationError as error:
        click.echo(str(error), err=True)
        sys.exit(WRONG_INPUT)
    except (CannotOpen, StoreUnavailable) as error:
        click.echo(str(error), err=True)
        sys.exit(OUTSIDE)
    click.echo(said)


async def _create(wanted: State) -> str:
    if isinstance(wanted, DynamodbState):
        wanted = msgspec.structs.replace(wanted, credentials="default", role_arn=None)
    store = open_store(wanted)
    try:
        return await store.create()
    finally:
        await store.close()
