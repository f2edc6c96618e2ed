"""`openmcp inject`: the sidecar in manifests, as the webhook would put it into their pods."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from openmcp.config import ConfigurationError
from openmcp.sidecar.commands.common import OUTSIDE, WRONG_INPUT, printable, settings_option

if TYPE_CHECKING:
    from openmcp.injector.manifests import Note


@click.command()
@click.option("-f", "files", multiple=True, required=True, metavar="FILE", help="Manifests; - for standard input.")
@settings_option
@click.option("-n", "--namespace", default="default", show_default=True, help="Of objects that name none.")
def inject(files: tuple[str, ...], path: Path, namespace: str) -> None:
    """Put the sidecar into manifests.

    Writes all documents to standard output, those with pods or templates of pods changed as the webhook would change
    them, and says on standard error what became of each. Where a pod cannot be governed, it writes no documents and
    exits with 1.
    """
    from openmcp.config.yamltext import write_manifests
    from openmcp.injector import manifests, settings  # the other commands do not pay for it

    try:
        made = settings.load(path)
    except ConfigurationError as error:
        click.echo(str(error), err=True)
        sys.exit(WRONG_INPUT)
    documents, notes = manifests.inject_all(_read(files), made, namespace)
    for note in notes:
        _tell(note)
    if any(note.outcome == "refused" for note in notes):
        sys.exit(WRONG_INPUT)
    click.echo(write_manifests(documents), nl=False)


def _read(files: tuple[str, ...]) -> list[Any]:
    from openmcp.config.yamltext import NotYaml, read_manifests

    documents: list[Any] = []
    for file in files:
        try:
            with click.open_file(file, "rb") as stream:
                documents += read_manifests(stream.read())
        except NotYaml as error:
            click.echo(f"{file}: not YAML: {printable(str(error))}", err=True)
            sys.exit(WRONG_INPUT)
        except OSError as error:
            click.echo(f"{file}: cannot be read: {error.strerror}", err=True)
            sys.exit(OUTSIDE)
    return documents


def _tell(note: "Note") -> None:
    for warning in note.warnings:
        click.echo(f"warning: {printable(note.name)}: {printable(warning)}", err=True)
    for reason in note.reasons:
        click.echo(f"{printable(note.name)}: {note.outcome}: {printable(reason)}", err=True)
