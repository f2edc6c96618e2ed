"""What the commands share: exit codes and options. 0 done, 2 usage (click's own)."""

from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

import click

WRONG_INPUT: Final = 1
OUTSIDE: Final = 3
"""Something outside of this program and its input failed."""

F = TypeVar("F", bound=Callable[..., object])


def config_option(command: F) -> F:
    """`-c FILE`: the configuration."""
    return click.option(
        "-c",
        "--config",
        "path",
        type=click.Path(path_type=Path),
        default=Path("gateway.yaml"),
        show_default=True,
        help="The configuration: a file, or a folder of *.yaml files.",
    )(command)
