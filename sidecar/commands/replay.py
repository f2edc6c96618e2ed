"""`openmcp replay`: what happened, message by message, and what other policies would have made of it."""

import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import click
import orjson

from openmcp.config import ConfigurationError, agentnames, load
from openmcp.sidecar.commands.common import OUTSIDE, WRONG_INPUT, printable
from openmcp.sidecar.policy.redecide import Redecider, Unknown
from openmcp.sidecar.telemetry import replay as record
from openmcp.sidecar.telemetry.records import encode, escaped
from openmcp.sidecar.telemetry.verify import in_order

_SHOWN: Final = 160
"""Characters of what a message says that are shown."""
_COLOURS: Final = {"allow": "green", "deny": "red", "requireApproval": "yellow"}


def _moment(_: click.Context, __: click.Parameter, value: str) -> str:
    """A time (RFC 3339, or a date; UTC where no zone is given) as a timestamp of the record."""
    if not value:
        return ""
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        raise click.BadParameter(f"{value!r} is not a time; write 2026-07-28T09:30:00Z or 2026-07-28") from None
    moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _agent(_: click.Context, __: click.Parameter, value: str) -> str:
    fault = agentnames.fault(value) if value else None
    if fault is not None:
        raise click.BadParameter(f"no caller is named {value!r} ({fault})")
    return value


@click.command()
@click.option(
    "--audit",
    "files",
    metavar="FILE",
    multiple=True,
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="The record. Its further files may follow.",
)
@click.argument("more", metavar="[FILE]...", nargs=-1, type=click.Path(path_type=Path, dir_okay=False))
@click.option("--session", default="", help="One session: its name in the record, or the id that the client had.")
@click.option(
    "--agent", default="", callback=_agent, help="One agent, as the record names it: spiffe://..., key:ci-bot."
)
@click.option("--server", default="", help="One MCP server.")
@click.option("--since", default="", callback=_moment, metavar="TIME", help="From this time on.")
@click.option("--until", default="", callback=_moment, metavar="TIME", help="Before this time.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object for each message.")
@click.option(
    "--decide",
    "configuration",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Decide on each call again under this configuration, and show what differs.",
)
def replay(  # noqa: PLR0913  # each is an option of the command
    files: tuple[Path, ...],
    more: tuple[Path, ...],
    session: str,
    agent: str,
    server: str,
    since: str,
    until: str,
    as_json: bool,
    configuration: Path | None,
) -> None:
    """Step through what a record tells, in order and in both directions.

    With --decide, exits with 0 when nothing differs, and with 1 when something does or cannot be told.
    """
    wanted = record.Selection(
        session=record.session_of(session) if session else "", agent=agent, server=server, since=since, until=until
    )
    try:
        found = record.entries(in_order((*files, *more)), wanted)
        if configuration is not None:
            sys.exit(_decide_again(found, _redecider(configuration), as_json=as_json))
        told = sum(1 for _ in map(_tell_json, found)) if as_json else _tell(found)
    except OSError as error:
        if error.filename is None:  # of the output, which click knows to handle
            raise
        click.echo(f"{error.filename} cannot be read: {error.strerror}", err=True)
        sys.exit(OUTSIDE)
    if not told:
        click.echo("nothing in the record is about that", err=True)


def _redecider(path: Path) -> Redecider:
    try:
        return Redecider(load(path).configuration)
    except ConfigurationError as error:
        raise click.UsageError(f"--decide: {error}") from error


def _tell_json(entry: record.Entry) -> None:
    click.echo(_json(entry.document()))


def _json(document: dict[str, Any]) -> bytes:
    try:
        return escaped(orjson.dumps(document))
    except TypeError:  # an integer beyond 64 bits, kept as it is
        return escaped(json.dumps(document, separators=(",", ":")).encode())


# The timeline for people.


def _tell(found: Iterable[record.Entry]) -> int:
    day, told = "", 0
    for entry in found:
        told += 1
        date, _, clock = printable(entry.get("time")).rstrip("Z").partition("T")
        if date != day:
            click.echo(click.style(date, bold=True))
            day = date
        for line in _shown(entry):
            click.echo(f"{clock}  {line}" if line is not None else "")
            clock = " " * len(clock)
    return told


def _shown(entry: record.Entry) -> Iterator[str]:
    who = " ".join(filter(None, (entry.get("agent"), "←" if entry.to_agent else "→", entry.get("server"))))
    if entry.kind == record.OTHER:
        yield click.style(_other(entry), fg="yellow")
        return
    indent = "    " if entry.line.get("stream") and entry.to_agent and entry.kind != record.END else ""
    parts = [_session(entry), printable(who), indent + _what(entry), _decision(entry), _outcome(entry)]
    yield "  ".join(filter(None, parts))
    for text in _details(entry):
        yield indent + "      " + text


def _session(entry: record.Entry) -> str:
    return click.style(printable(entry.get("session")[:6] or "······"), dim=True)


def _other(entry: record.Entry) -> str:
    if entry.get("event") == "gap":
        missing = printable(str(entry.line.get("dropped")))
        return f"({missing} lines are missing here: the output refused, and they were dropped)"
    said = (entry.get(member) for member in ("event", "server", "name", "outcome", "reason"))
    return printable(f"({' '.join(filter(None, said))})")


def _what(entry: record.Entry) -> str:
    identifier = entry.line.get("id")
    number = f"#{identifier}" if identifier is not None and entry.kind != record.NOTIFICATION else ""
    verb = {record.RESPONSE: "answer to", record.DROPPED: "dropped", record.REFUSED: "refused"}.get(entry.kind, "")
    if entry.get("event") == "client-response":
        return printable(f"answer to the server's {number}")
    if entry.kind == record.END:
        verb = entry.get("event") if entry.get("event") != "response" else "accepted"
    return printable(" ".join(filter(None, (verb, entry.get("method"), entry.get("name"), number))))


def _decision(entry: record.Entry) -> str:
    decision = entry.get("decision")
    if not decision:
        return ""
    rule = f"{entry.get('policy')}/{entry.get('rule')}" if entry.get("rule") else "no rule"
    shadow = entry.line.get("shadow")
    instead = f", in shadow: {shadow.get('decision')}" if type(shadow) is dict else ""
    return click.style(printable(f"{decision} ({rule}{instead})"), fg=_COLOURS.get(decision))


def _outcome(entry: record.Entry) -> str:
    outcome, latency = entry.get("outcome"), entry.line.get("latency")
    parts = [outcome or entry.get("reason") if entry.to_agent or entry.kind == record.REFUSED else ""]
    if type(latency) is dict and type(latency.get("total_us")) is int:
        parts.append(f"{latency['total_us'] / 1000:.1f} ms")
    text = printable(" ".join(filter(None, parts)))
    return text if outcome in ("", "ok") else click.style(text, fg="red")


def _details(entry: record.Entry) -> Iterator[str]:
    for member in ("params", "result", "error"):
        if entry.line.get(member):
            yield click.style(_cut(entry.line[member]), dim=True)
    clipped = entry.line.get("clipped")
    if type(clipped) is dict:
        yield click.style(printable(f"({clipped.get('bytes')} bytes, too long to be kept)"), dim=True)
    for member in ("removed", "findings"):
        kinds = _kinds(entry.line.get(member))
        if kinds:
            yield click.style(printable(f"{member}: {kinds}"), fg="magenta")


def _cut(value: object) -> str:
    text = printable(_json({"": value})[4:-1].decode())
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _kinds(entries: object) -> str:
    """What was found, and how often."""
    given = [one for one in entries if type(one) is dict] if type(entries) is list else []
    counted: Counter[str] = Counter()
    for one in given:
        count = one.get("count", 1)
        counted[str(one.get("what"))] += count if type(count) is int else 1
    return ", ".join(f"{what} ×{count}" for what, count in counted.items())


# Deciding again.


def _decide_again(found: Iterable[record.Entry], redecider: Redecider, *, as_json: bool) -> int:
    decided = differ = untold = 0
    for entry in found:
        if not entry.get("decision") or entry.to_agent:
            continue
        decided += 1
        now = redecider.decide(entry.line)
        if isinstance(now, Unknown):
            untold += 1
            new = {"decision": "depends", "reason": now.why}
        elif now.word == entry.get("decision"):
            continue
        else:
            differ += 1
            new = {"decision": now.word, "policy": now.policy, "rule": now.rule, "reason": now.reason}
        (_tell_difference_json if as_json else _tell_difference)(entry, new)
    same = decided - differ - untold
    click.echo(f"{decided} decisions: {same} the same, {differ} different, {untold} cannot be told", err=True)
    return WRONG_INPUT if differ or untold else 0


def _tell_difference_json(entry: record.Entry, new: dict[str, str]) -> None:
    named = ("time", "call", "session", "agent", "server", "method", "name", "id")
    told: dict[str, object] = {member: entry.line[member] for member in named if member in entry.line}
    was = {member: entry.get(member) for member in ("decision", "policy", "rule", "reason")}
    click.echo(encode(told | {"was": was, "now": new}))


def _tell_difference(entry: record.Entry, new: dict[str, str]) -> None:
    who = printable(f"{entry.get('time')}  {entry.get('agent')} → {entry.get('server')}  ")
    rule = f" ({new['policy']}/{new['rule']})" if new.get("rule") else ""
    now = click.style(printable(f"{new['decision']}{rule}"), fg=_COLOURS.get(new["decision"], "magenta"))
    reason = f": {printable(new['reason'])}" if new["reason"] else ""
    click.echo(f"{who}{_what(entry)}  was {_decision(entry)}, now {now}{reason}")
