"""Reads a record back: the messages that passed, in their order and both directions, as `openmcp replay` tells them.

Files are read line by line and never kept; what somebody has changed in them is the business of `verify`.
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import msgspec

from openmcp.sidecar.telemetry.records import fingerprint
from openmcp.sidecar.telemetry.verify import MAX_LINE

JsonObject = dict[str, Any]

REQUEST: Final = "request"
NOTIFICATION: Final = "notification"
RESPONSE: Final = "response"
DROPPED: Final = "dropped"
REFUSED: Final = "refused"
END: Final = "end"
OTHER: Final = "other"
_CALLS: Final = {"request": REQUEST, "server-request": REQUEST, "notification": NOTIFICATION}
_ENDS: Final = ("stream-end", "session-end")
_FINGERPRINT: Final = 16
_UNSAID: Final = frozenset(("direction", "seq", "chain", "params", "result", "error", "trace", "span"))


class Selection(msgspec.Struct, frozen=True, kw_only=True):
    """Which lines are wanted; empty: all. `session` is a fingerprint, times are timestamps as the record has them."""

    session: str = ""
    agent: str = ""
    server: str = ""
    since: str = ""
    until: str = ""


class Entry(msgspec.Struct, frozen=True):
    """One line of the record. `kind` says what it is about (see the constants of this module), `to_agent` which way.

    `message` is the JSON-RPC message as it passed; without what it said where the record does not have that (`said` is
    False then), and None where there is no message.
    """

    kind: str
    to_agent: bool
    said: bool
    message: JsonObject | None
    line: JsonObject

    def get(self, member: str) -> str:
        """A member of the line that is a text; empty where there is none."""
        value = self.line.get(member)
        return value if type(value) is str else ""

    def document(self) -> JsonObject:
        """The entry as `--json` tells it: what the line says, and the message put together."""
        document: JsonObject = {"time": self.line.get("time"), "kind": self.kind}
        if self.message is not None:
            document |= {"from": "server" if self.to_agent else "agent", "message": self.message, "said": self.said}
        return document | {key: value for key, value in self.line.items() if key not in _UNSAID}


def session_of(text: str) -> str:
    """The fingerprint of a session, of which `text` is that or the id that the client had."""
    plain = len(text) == _FINGERPRINT and not text.strip("0123456789abcdef")
    return text if plain else fingerprint(text)


def entries(paths: Iterable[Path], wanted: Selection) -> Iterator[Entry]:
    """The entries of the record in these files that are wanted. Raises OSError."""
    files = list(paths)
    begun = _begun(files, wanted.session) if wanted.session else frozenset()
    for line in lines(files):
        if _is_wanted(line, wanted, begun):
            yield entry(line)


def lines(paths: Iterable[Path]) -> Iterator[JsonObject]:
    """The lines that are JSON objects with an event; torn and foreign ones are passed over."""
    for path in paths:
        with path.open("rb") as stream:
            while text := stream.readline(MAX_LINE):
                line = _decoded(text)
                if type(line) is dict and type(line.get("event")) is str:
                    yield line


def _decoded(text: bytes) -> Any:
    """A line, read by the parser that keeps integers of any size; None where it is no JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _begun(files: list[Path], session: str) -> frozenset[object]:
    """The exchanges that began the session: their requests could not name it yet."""
    return frozenset(
        line.get("call")
        for line in lines(files)
        if line.get("session") == session and line.get("method") == "initialize"
    )


def _is_wanted(line: JsonObject, wanted: Selection, begun: frozenset[object]) -> bool:
    time = line.get("time")
    if type(time) is not str or line["event"] == "checkpoint":
        return False
    if (wanted.since and time < wanted.since) or (wanted.until and time >= wanted.until):
        return False
    if line["event"] == "gap":  # what is missing may have been anybody's
        return True
    if wanted.session and line.get("session") != wanted.session and line.get("call") not in begun:
        return False
    return wanted.agent in ("", line.get("agent")) and wanted.server in ("", line.get("server"))


def entry(line: JsonObject) -> Entry:
    """What one line tells."""
    event, to_agent = line["event"], line.get("direction") == "server-to-agent"
    said = "params" in line or "result" in line or "error" in line
    if event in _CALLS:
        return Entry(_CALLS[event], to_agent, said, _call(line, event), line)
    if event == "client-response" or (event == "response" and ("id" in line or said)):
        return Entry(RESPONSE, to_agent, said, _answer(line), line)
    if event == "refused" and said:
        return Entry(REFUSED, True, said, _answer(line), line)
    kind = {"dropped": DROPPED, "refused": REFUSED}.get(event, END if event in (*_ENDS, "response") else OTHER)
    return Entry(kind, to_agent, False, None, line)


def _call(line: JsonObject, event: str) -> JsonObject:
    message: JsonObject = {"jsonrpc": "2.0"}
    if event != "notification":
        message["id"] = line.get("id")
    message["method"] = line.get("method")
    if line.get("params"):
        message["params"] = line["params"]
    return message


def _answer(line: JsonObject) -> JsonObject:
    message: JsonObject = {"jsonrpc": "2.0", "id": line.get("id")}
    for member in ("result", "error"):
        if member in line:
            message[member] = line[member]
    return message
