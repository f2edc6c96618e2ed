"""`openmcp audit`: the record is checked, and the key that signs it is made."""

import os
import sys
from pathlib import Path
from typing import Final

import click
import msgspec

from openmcp.sidecar.commands.common import OUTSIDE, WRONG_INPUT, printable
from openmcp.sidecar.telemetry import signing, verify
from openmcp.sidecar.telemetry.records import escaped

_STDIN: Final = Path("-")


@click.group()
def audit() -> None:
    """Check a record, and make the key that signs it."""


@audit.command("verify")
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--key", "keys", multiple=True, metavar="PUBLIC.pem", type=click.Path(path_type=Path), help="May be repeated."
)
@click.option("--live", is_flag=True, help="The record is still being written: it need not have an end.")
@click.option("--json", "as_json", is_flag=True, help="Tell the result as one JSON object.")
def verify_command(files: tuple[Path, ...], keys: tuple[Path, ...], live: bool, as_json: bool) -> None:
    """Check that a record is whole.

    FILE... are all files of one record, in any order; `-` is standard input. Exits with 0 when it is whole, or with 1
    and each place where it is not. With --key, the signatures are checked: without, nobody can tell whether all of it
    was written anew.
    """
    check = verify.Check(_verifier(keys), live=live)
    try:
        for file in files if files == (_STDIN,) else verify.in_order(files):
            if file == _STDIN:
                check.read("stdin", sys.stdin.buffer)
                continue
            with file.open("rb") as stream:
                check.read(str(file), stream)
    except OSError as error:
        click.echo(f"{error.filename} cannot be read: {error.strerror}", err=True)
        sys.exit(OUTSIDE)
    report = check.finish()
    if as_json:
        click.echo(escaped(msgspec.json.format(msgspec.json.encode(report), indent=2)))
    else:
        _tell(report)
    sys.exit(0 if report.whole else WRONG_INPUT)


def _verifier(keys: tuple[Path, ...]) -> signing.Verifier | None:
    pems = []
    for path in keys:
        try:
            pem = path.read_bytes()
            signing.Verifier([pem])
        except (OSError, signing.KeyUnusable) as error:
            said = f"cannot be read: {error.strerror}" if isinstance(error, OSError) else str(error)
            raise click.UsageError(f"--key: {path} {said}") from error
        pems.append(pem)
    return signing.Verifier(pems) if pems else None


def _tell(report: verify.Report) -> None:
    for note in report.notes:
        click.echo(printable(f"note: {note}"), err=True)
    for problem in report.problems:
        click.echo(printable(str(problem)), err=True)
    lines = f"{report.lines} lines (seq {report.first} to {report.last}) in {_count(report.files, 'file')}"
    if not report.whole:
        click.echo(f"not whole: {_count(len(report.problems), 'problem')} in {lines}", err=True)
        return
    click.echo(f"whole: {lines}, chained without a break")
    click.echo(_of_signatures(report))


def _of_signatures(report: verify.Report) -> str:
    anew = "who can write the files could have written all of it anew"
    if report.signatures == "valid":
        open_end = f"; nothing yet covers the last {_count(report.unsigned, 'line')}" if report.unsigned else ""
        return f"signatures: all {report.checkpoints} checkpoints are signed by the key given{open_end}"
    if report.signatures == "unchecked":
        return f"signatures: not checked, as no --key was given: {anew}"
    return f"signatures: there are none (telemetry.audit.signingKey): {anew}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


@audit.command()
@click.argument("file", metavar="FILE", type=click.Path(path_type=Path, dir_okay=False))
def keygen(file: Path) -> None:
    """Make a key (Ed25519) for `telemetry.audit.signingKey`.

    The private key goes to FILE, readable by its owner alone, and the public one, for `audit verify --key`, to
    standard output.
    """
    private, public = signing.generate()
    try:
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
            stream.write(private)
    except FileExistsError:
        click.echo(f"{file} is there already; nothing was written", err=True)
        sys.exit(WRONG_INPUT)
    except OSError as error:
        click.echo(f"{file} cannot be written: {error.strerror}", err=True)
        sys.exit(OUTSIDE)
    click.echo(public.decode(), nl=False)
