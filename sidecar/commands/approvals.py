"""`openmcp approvals`: the approver's side on the terminal, against the store itself."""

import asyncio
import json
import re
import sys
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Final, NoReturn, TypeVar

import click

from openmcp.config import ConfigurationError
from openmcp.config.kubernetes import opening
from openmcp.config.model import Configuration, MemoryState
from openmcp.sidecar.approvals.card import PAGE, card_of
from openmcp.sidecar.approvals.console.decisions import BadForm, reason_of, refusal
from openmcp.sidecar.approvals.console.settings import Person
from openmcp.sidecar.approvals.making import make_service, wall_clock
from openmcp.sidecar.approvals.service import ApprovalService
from openmcp.sidecar.approvals.values import Event
from openmcp.sidecar.approvals.words import moment, span
from openmcp.sidecar.build import BuildError
from openmcp.sidecar.commands.approvalrecord import NotRecorded, recorded
from openmcp.sidecar.commands.approvalstore import opened_store
from openmcp.sidecar.commands.approvaltexts import as_json, as_text
from openmcp.sidecar.commands.common import OUTSIDE, WRONG_INPUT, config_option, printable
from openmcp.sidecar.errors import cannot_listen
from openmcp.sidecar.state.lifecycle import APPROVER_FORMS, Conflict
from openmcp.sidecar.state.opening import CannotOpen
from openmcp.sidecar.state.records import ApprovalRecord, Choice, Status, UnknownSchema, Vote
from openmcp.sidecar.state.store import Page, StoreUnavailable

T = TypeVar("T")

_UNITS: Final = {"s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_PAGE: Final = 200


def _milliseconds(context: click.Context, option: click.Parameter, value: str | None) -> int | None:
    """`15m`."""
    if value is None:
        return None
    found = re.fullmatch(r"([1-9][0-9]{0,8})([smhd])", value)
    if found is None:
        raise click.BadParameter(f"{value!r} is not a duration: write 90s, 15m, 4h or 2d")
    return int(found[1]) * _UNITS[found[2]]


class _Wrong(Exception):
    """The input is wrong; the text says why and what to do."""


def _as_option(command: Callable[..., None]) -> Callable[..., None]:
    return click.option(
        "--as",
        "who",
        metavar="APPROVER",
        help="Who decides, as the workflow lists them. Default: its only token: approver.",
    )(command)


_reason_option = click.option("--reason", default="", metavar="TEXT", help="Why; kept with the decision.")
_id_argument = click.argument("rid", metavar="ID")


@click.group()
def approvals() -> None:
    """Decide on what agents ask for.

    Works on the store of the configuration's `state`, with the rights that its files and credentials give: who may
    write there may decide as anybody who is on the list.
    """


@approvals.command()
@config_option
def serve(path: Path) -> None:
    """Serve the pages where people decide.

    At approvals.console.listen, for sidecars that share this configuration's state. SIGHUP or a changed file reloads
    workflows and who may log in; SIGTERM ends it.
    """
    from openmcp.config.filesource import FileSource
    from openmcp.sidecar.approvals.console.settings import CannotServe
    from openmcp.sidecar.commands import approvalserve  # the other commands do not pay for the network

    try:
        source, loaded = opening.opened(FileSource(path))
        _check_shared(path, loaded.configuration)
        approvalserve.run(path, source, loaded)
    except (ConfigurationError, CannotServe, _Wrong) as error:
        _end(str(error), WRONG_INPUT)
    except (CannotOpen, BuildError, opening.NoCluster) as error:
        _end(str(error), OUTSIDE)
    except OSError as error:
        _end(cannot_listen(error), OUTSIDE)


@approvals.command("list")
@config_option
@click.option("--history", "ended", is_flag=True, help="What has ended, too, the latest first.")
@click.option("--json", "json_wanted", is_flag=True, help="Tell the result as one JSON array.")
def list_(path: Path, ended: bool, json_wanted: bool) -> None:
    """List requests that wait for a decision, and grants that hold."""
    found = _run(path, lambda service: _all(service, ended), changes=False)
    if json_wanted:
        click.echo(json.dumps([as_json(record) for record in found], indent=2))
        return
    for record in found:
        for line in as_text(card_of(record, wall_clock(), PAGE)):
            click.echo(line)
    if not found:
        click.echo("nothing waits for a decision, and no grant holds", err=True)


@approvals.command()
@config_option
@_as_option
@click.option(
    "--duration", callback=_milliseconds, help="How long the grant holds: 15m, 4h. Default: what the rule says."
)
@click.option("--uses", type=click.IntRange(1), help="Calls that the grant is good for. Default: what the rule says.")
@_reason_option
@_id_argument
def approve(path: Path, who: str | None, duration: int | None, uses: int | None, reason: str, rid: str) -> None:
    """Approve a request.

    The grant is never longer, nor for more calls, than the rule allows and everybody who approved has chosen.
    """
    record = _run(path, lambda service: _vote(service, rid, who, Choice.APPROVE, (reason, duration, uses)))
    if record.status is Status.PENDING:
        click.echo(f"counted for {record.rid}; {card_of(record, wall_clock()).missing} wanted")
        return
    assert record.grant_until is not None
    uses_left = "any number of calls" if record.uses_left is None else f"{record.uses_left} calls"
    click.echo(f"approved {record.rid} until {moment(record.grant_until)}, {uses_left}")


@approvals.command()
@config_option
@_as_option
@_reason_option
@_id_argument
def deny(path: Path, who: str | None, reason: str, rid: str) -> None:
    """Deny a request; that ends it, whoever else approved it."""
    record = _run(path, lambda service: _vote(service, rid, who, Choice.DENY, (reason, None, None)))
    click.echo(f"denied {record.rid}")


@approvals.command()
@config_option
@_as_option
@_reason_option
@_id_argument
def revoke(path: Path, who: str | None, reason: str, rid: str) -> None:
    """Take a grant back. Processes that use it notice within some seconds."""
    record = _run(path, lambda service: _revoke(service, rid, who, reason))
    click.echo(f"revoked {record.rid}")


def _run(path: Path, work: Callable[[ApprovalService], Awaitable[T]], *, changes: bool = True) -> T:
    """Do something with the service of a configuration, and write down what that `changes`; or end with the exit code
    that says why not."""
    try:
        configuration = opening.loaded(path).configuration
        _check_shared(path, configuration)
        audit = configuration.telemetry.audit
        with recorded(audit) if changes else nullcontext(_unheard) as heard:
            return asyncio.run(_with_service(configuration, work, heard))
    except (ConfigurationError, _Wrong, Conflict) as error:
        _end(printable(str(error)) if not isinstance(error, ConfigurationError) else str(error), WRONG_INPUT)
    except (CannotOpen, BuildError, opening.NoCluster, NotRecorded, StoreUnavailable, UnknownSchema) as error:
        _end(str(error), OUTSIDE)


def _end(text: str, code: int) -> NoReturn:
    click.echo(text, err=True)
    sys.exit(code)


def _check_shared(path: Path, configuration: Configuration) -> None:
    if isinstance(configuration.state, MemoryState):
        raise _Wrong(
            f"{path}: requests are kept in the memory of the sidecar, which no other process sees: decide in its "
            "console, or write state: {type: sqlite, path: approvals.db}"
        )


async def _with_service(
    configuration: Configuration, work: Callable[[ApprovalService], Awaitable[T]], heard: Callable[[Event], None]
) -> T:
    async with opened_store(configuration) as store:
        return await work(make_service(configuration.approvals, store, heard))


def _unheard(event: Event) -> None:
    raise AssertionError(f"what only looks has changed something: {event.kind}")


async def _all(service: ApprovalService, ended: bool) -> list[ApprovalRecord]:
    found = await _pages(service.pending) + await _pages(service.grants)
    if not ended:
        return found
    # What has ended by time is written down by who also records it; here it is only shown.
    due = list(await service.store.list_due(wall_clock(), _PAGE))
    return found + due + await _pages(lambda limit, cursor: service.store.history(wall_clock(), limit, cursor))


async def _pages(read: Callable[[int, str | None], Awaitable[Page]]) -> list[ApprovalRecord]:
    found: list[ApprovalRecord] = []
    cursor: str | None = None
    while True:
        page = await read(_PAGE, cursor)
        found += page.records
        cursor = page.cursor
        if cursor is None:
            return found


async def _find(service: ApprovalService, rid: str) -> ApprovalRecord:
    record = await service.find(rid)
    if record is None:
        raise _Wrong(
            f"there is no request {rid}: see `openmcp approvals list`; an ended one is asked anew under a new id"
        )
    return record


def _approver(record: ApprovalRecord, who: str | None) -> str:
    """Who decides: as they say, or the only one there can be."""
    if who is not None:
        if not who.startswith(APPROVER_FORMS):
            raise _Wrong(f"{who} is not a person who can approve: write one of {', '.join(APPROVER_FORMS)} and a name")
        return who
    tokens = dict.fromkeys(name for need in record.needs for name in need.approvers if name.startswith("token:"))
    if len(tokens) == 1:
        return next(iter(tokens))
    listed = ", ".join(tokens) or "; ".join(", ".join(need.approvers) for need in record.needs)
    raise _Wrong(f"say who decides: --as APPROVER (on the list: {listed})")


async def _vote(
    service: ApprovalService,
    rid: str,
    who: str | None,
    choice: Choice,
    said: tuple[str, int | None, int | None],
) -> ApprovalRecord:
    record = await _find(service, rid)
    approver = _approver(record, who)
    reason, duration, uses = said
    try:
        text = reason_of({"reason": reason}, required=service.needs_reason(record))
    except BadForm as error:
        raise _Wrong(f"{error} Write --reason TEXT") from None
    _check_limits(record, duration, uses)
    refused = refusal(record, Person(approver), service.workflows, choice, wall_clock())
    if refused:
        raise _Wrong(f"{record.rid}: {refused}")
    vote = Vote(approver=approver, choice=choice, at=0, reason=text, duration=duration, uses=uses)
    return await service.vote(record, vote)


def _check_limits(record: ApprovalRecord, duration: int | None, uses: int | None) -> None:
    """What is more than allowed is refused, where the store would silently give less."""
    card = card_of(record, wall_clock())
    longest = card.durations[-1].milliseconds
    if duration is not None and duration > longest:
        raise _Wrong(f"--duration: the grant may hold for {span(longest)} at most")
    if uses is not None and card.most_uses is not None and uses > card.most_uses:
        raise _Wrong(f"--uses: the grant may be good for {card.most_uses} calls at most")


async def _revoke(service: ApprovalService, rid: str, who: str | None, reason: str) -> ApprovalRecord:
    record = await _find(service, rid)
    approver = _approver(record, who)
    return await service.revoke(record, approver, (), reason)
