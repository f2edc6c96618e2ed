"""Messages that are too large to be read between two other calls: the worker reads them, here they stay bytes.

What the worker hands back is the structure of the message. It is judged and edited by the same code as any other one,
with marks in the places of what is large; the bytes come in again where the message is written.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import orjson

from openmcp.config.model import Policy
from openmcp.sidecar.errors import INVALID_REQUEST, Malformed, UpstreamFailed
from openmcp.sidecar.inspection.findings import Examined
from openmcp.sidecar.mcp import jsonrpc
from openmcp.sidecar.mcp.values import Event
from openmcp.sidecar.stages.context import Flow
from openmcp.sidecar.stages.inspect import LISTED, Inspection
from openmcp.sidecar.types import MODERN, JsonObject, Message, Notification, Request, Response, Subject
from openmcp.sidecar.worker import cutting
from openmcp.sidecar.worker.process import Worker
from openmcp.sidecar.worker.values import Cut, Job, Part, Reply, Rules

_PIECE: Final = 64 * 1024
"""Bytes up to which what is written is put together first."""

Pieces = Sequence[bytes]
Edit = Callable[[Flow, JsonObject], JsonObject]


class Large:
    """Has large messages read, and inspected."""

    def __init__(self, worker: Worker, inspection: Inspection) -> None:
        self._worker = worker
        self._inspection = inspection
        self._policies: tuple[Policy, ...] = ()
        self._number = 0

    async def read(self, flow: Flow, message: Pieces, *, event: bool = False) -> "Reading":
        """A server's message, or the SSE event that holds it. Raises `UpstreamFailed` where it cannot be read.

        Where response rules hold, the reading is the flow's examiner, until another message is looked at.
        """
        reading = await self._read(flow, message, self._inspection.subjects(flow, {}), event=event)
        params = reading.params
        if params and flow.examiner is not None:  # about a task, perhaps: that is known only now
            subjects = self._inspection.subjects(flow, params)
            if subjects != self._inspection.subjects(flow, {}):
                reading = await self._read(flow, message, subjects, event=event)
        return reading

    async def _read(self, flow: Flow, message: Pieces, subjects: tuple[Subject, ...], *, event: bool) -> "Reading":
        rules = self._rules(flow, subjects)
        job = Job(sum(map(len, message)), event, LISTED.get(flow.method, ""), rules)
        reply, payload = await self._worker.perform(job, message)
        if reply.failure and not reply.malformed:
            raise UpstreamFailed("too_large", reply.failure)
        reading = Reading(reply, message, payload)
        flow.examiner = Inspected(subjects, reply) if rules is not None else None
        return reading

    def _rules(self, flow: Flow, subjects: tuple[Subject, ...]) -> Rules | None:
        if flow.snapshot.inspectors.find(flow.principal, flow.server) is None:
            return None
        policies = flow.snapshot.configuration.policies
        if policies is not self._policies:
            self._policies = policies
            self._number += 1
        unseen = ("nextCursor",) if flow.method in LISTED else ("requestState",) if flow.era is MODERN else ()
        schemas = self._inspection.promised(flow)
        return Rules(self._number, flow.principal, flow.server, subjects, unseen, schemas, policies)


class Inspected:
    """How the inspection of a message turned out, which the worker has made: the message is what was left of it."""

    def __init__(self, subjects: tuple[Subject, ...], reply: Reply) -> None:
        self._subjects = subjects
        self._reply = reply
        self._told = False

    def examine(self, subjects: tuple[Subject, ...], document: JsonObject, listed: str = "") -> Examined:
        """See `policy.findings.Examiner`. Findings are told once, also where the message is looked at in parts."""
        if subjects[: len(self._subjects)] != self._subjects:
            raise UpstreamFailed("too_large", "it was inspected as the answer to something else")
        findings = () if self._told else self._reply.findings
        self._told = True
        return Examined(document, self._reply.blocked, findings, self._reply.unfit)


class Reading:
    """A large message that was read; `event` is what was around its data, in a stream."""

    def __init__(self, reply: Reply, message: Pieces, payload: Pieces) -> None:
        self.event = Event(b"" if reply.name == b"message" else b"{}", reply.name, reply.id, reply.retry)
        self._reply = reply
        self._source = message
        self._payload = payload
        self._cuts: list[Pieces] = []
        self._entries: orjson.Fragment | None = None
        self._changed = False
        self._document: JsonObject = self._decoded(reply.head) if reply.kind else {}

    @property
    def empty(self) -> bool:
        """Whether there is no message: an event of another name, or without data."""
        return not self._reply.kind and not self._reply.failure

    @property
    def params(self) -> JsonObject:
        """Of a notification or a request of the server."""
        params: JsonObject = self._document.get("params", {})
        return params

    def message(self) -> Message:
        """The message with marks, which the worker has found to be one. Raises `Malformed` where it is none."""
        if self._reply.failure:
            raise Malformed(INVALID_REQUEST, self._reply.failure)
        document = self._document
        if self._reply.kind == "request":
            return Request(document["id"], document["method"], document.get("params", {}))
        if self._reply.kind == "notification":
            return Notification(document["method"], document.get("params", {}))
        return Response(document.get("id"), document.get("result"), document.get("error"))

    def original(self) -> Pieces | None:
        """The message as it came, where nothing in it changed and it is what we would write."""
        if self._changed or not self._reply.canonical:
            return None
        return _between(self._source, self._reply.start, self._reply.length)

    async def edit_entries(self, flow: Flow, edit: Edit) -> None:
        """Edit a list of many entries in batches, others come in between; the rest of the result is without it."""
        name = self._reply.list
        if not name:
            return
        written: list[bytes] = []
        for part in self._reply.batches:
            entries = self._decoded(part)
            given = edit(flow, {name: entries}).get(name)
            self._changed |= given is not entries
            if given:
                written += (b",", *self._written(given, 1, -1))
            await asyncio.sleep(0)
        self._cuts.append((b"[", *written[1:], b"]"))
        self._entries = cutting.mark(len(self._cuts) - 1)

    def written(self, document: JsonObject) -> Pieces:
        """A document with marks, as it is written."""
        result = document.get("result")
        if self._entries is not None and type(result) is dict and result.get(self._reply.list) == []:
            document = document | {"result": result | {self._reply.list: self._entries}}
        return tuple(_joined(self._written(document)))

    def _written(self, document: Any, start: int | None = None, end: int | None = None) -> list[bytes]:
        texts, numbers = cutting.split(jsonrpc.encode(document)[start:end])
        pieces = [texts[0]]
        for text, number in zip(texts[1:], numbers, strict=True):
            pieces += self._cuts[number]
            pieces.append(text)
        return pieces

    def _decoded(self, part: Part) -> Any:
        document = jsonrpc.decode_lenient(b"".join(_between(self._payload, part.start, part.size)))
        for cut in part.cuts:
            self._cuts.append(self._bytes(cut))
            _put(document, cut.path, cutting.mark(len(self._cuts) - 1))
        return document

    def _bytes(self, cut: Cut) -> Pieces:
        return _between(self._source if self._reply.canonical else self._payload, cut.start, cut.size)


def _put(document: Any, path: tuple[str | int, ...], value: object) -> None:
    for step in path[:-1]:
        document = document[step]
    document[path[-1]] = value


def _between(pieces: Pieces, start: int, size: int) -> tuple[bytes, ...]:
    """So many bytes from `start` on, copied only where a piece is cut."""
    found: list[bytes] = []
    for piece in pieces:
        if start >= len(piece):
            start -= len(piece)
            continue
        if size <= 0:
            break
        taken = piece[start : start + size] if start or size < len(piece) else piece
        found.append(taken)
        size -= len(taken)
        start = 0
    return tuple(found)


def _joined(pieces: Iterable[bytes]) -> Iterable[bytes]:
    """The same bytes, small pieces joined."""
    small: list[bytes] = []
    size = 0
    for piece in pieces:
        if size + len(piece) > _PIECE and small:
            yield b"".join(small)
            small, size = [], 0
        small.append(piece)
        size += len(piece)
    if small:
        yield b"".join(small)
