"""What the commands share: exit codes, options, and how texts of others are shown. 0 done, 2 usage (click's own)."""

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
    return _file_option("gateway.yaml", "The configuration: a file, or a folder of *.yaml files.")(command)


def settings_option(command: F) -> F:
    """`-c FILE`: the settings of the injector."""
    return _file_option("injector.yaml", "The settings of the cluster's injector.")(command)


def _file_option(default: str, help_text: str) -> Callable[[F], F]:
    return click.option(
        "-c",
        "--config",
        "path",
        type=click.Path(path_type=Path),
        default=Path(default),
        show_default=True,
        help=help_text,
    )


def printable(text: str) -> str:
    """Text that no terminal acts on and that hides nothing: every other character is written out."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else one.encode("unicode_escape", "replace").decode() for one in text)
