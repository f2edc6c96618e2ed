"""One job of the worker: bytes of a message in, what the sidecar has to look at and the rest as bytes out."""

from typing import Any, Final

import msgspec
import orjson

from openmcp.sidecar.errors import Malformed
from openmcp.sidecar.inspection.findings import Examined
from openmcp.sidecar.inspection.inspector import Inspector
from openmcp.sidecar.mcp import jsonrpc, sse
from openmcp.sidecar.mcp.values import Event
from openmcp.sidecar.types import JsonObject, Message, Notification, Request
from openmcp.sidecar.worker import cutting
from openmcp.sidecar.worker.cutting import BATCH, MOST, Cutter, TooManyParts
from openmcp.sidecar.worker.inspecting import examined
from openmcp.sidecar.worker.values import Cut, Job, Part, Reply

Answer = tuple[Reply, list[bytes]]
"""A reply and its payload."""
_NOTHING: Final = Event(b"")
_NO_MESSAGE: Final[Answer] = (Reply(), [])


def perform(job: Job, given: bytes, inspector: Inspector | None = None) -> Answer:
    """Read one message, and inspect it. What is wrong with it is said in the reply."""
    event, start, data = _NOTHING, 0, given
    if job.event:
        event = sse.event(given) or _NOTHING
        start, data = _data_start(given), event.data
    reply, payload = _NO_MESSAGE
    if not job.event or (data and event.name == b"message"):
        reply, payload = _read(job, data, start, inspector)
    about = msgspec.structs.replace(reply, size=sum(map(len, payload)), name=event.name, id=event.id, retry=event.retry)
    return about, payload


def _read(job: Job, data: bytes, start: int, inspector: Inspector | None) -> Answer:
    found = Examined({})
    try:
        document, canonical = jsonrpc.read_lenient(data)
        kind = _kind(jsonrpc.classify(document))
        if inspector is not None:
            found = examined(inspector, job, kind, document)
            canonical = canonical and found.document is document
            document = found.document
        reply, payload = _taken_apart(document, job.entries, start if canonical else None)
    except Malformed as error:
        return Reply(failure=error.message, malformed=True), []
    except TooManyParts as error:
        return Reply(failure=str(error)), []
    outcome = {"findings": found.findings, "blocked": found.blocked, "unfit": found.unfit}
    return msgspec.structs.replace(reply, kind=kind, length=len(data), **outcome), payload


def _kind(message: Message) -> str:
    if isinstance(message, Request):
        return "request"
    return "notification" if isinstance(message, Notification) else "response"


def _data_start(block: bytes) -> int:
    """Where the data of an event begins that has one line of it."""
    start = 5 if block.startswith(b"data:") else block.find(b"\ndata:") + 6
    return start + 1 if block[start : start + 1] == b" " else start


def _taken_apart(document: JsonObject, entries: str, start: int | None) -> Answer:
    """The parts of a message and its cuts. These lie in the message as it came, from `start` on; with None, and where a
    list is wanted whole, in the payload."""
    name, given = cutting.list_of(document, entries) if entries else ("", [])
    if name:
        document, start = cutting.without(document, name), None
    cutter = Cutter()
    head = cutter.trimmed(document)
    encoded = orjson.dumps(head)
    places = _places(encoded, cutter.values, start)
    if not name and len(encoded) > BATCH:
        name, given = cutting.list_of(head, "")
        head = cutting.without(head, name) if name else head
        encoded = orjson.dumps(head)
    if len(encoded) > MOST:
        raise TooManyParts("the message has too many parts")
    payload = _Payload(cutter, places, inline=start is None)
    reply = Reply(
        canonical=start is not None,
        start=start or 0,
        head=payload.part(encoded),
        list=name,
        batches=tuple(_batches(payload, given)),
    )
    return reply, payload.pieces


def _places(encoded: bytes, values: list[bytes], start: int | None) -> list[int]:
    """Where each cut begins: in the message as it came, or with None where they follow each other."""
    texts, numbers = cutting.split(encoded)
    assert numbers == list(range(len(values)))
    places = []
    at = start or 0
    for text, value in zip(texts, values, strict=False):
        at += len(text) if start is not None else 0
        places.append(at)
        at += len(value)
    return places


class _Payload:
    """What follows a reply: the cuts, where they are not taken from the message itself, and the texts of the parts."""

    def __init__(self, cutter: Cutter, places: list[int], *, inline: bool) -> None:
        self.pieces = list(cutter.values) if inline else []
        self._size = sum(map(len, self.pieces))
        self._cutter = cutter
        self._places = places

    def part(self, encoded: bytes, skip: int = 0, first: int = 0) -> Part:
        """Add a text with marks. The paths of its cuts are without their first `skip` names, and count from `first`."""
        texts, numbers = cutting.split(encoded)
        text = b"null".join(texts)
        start = self._size
        self.pieces.append(text)
        self._size += len(text)
        return Part(start, len(text), tuple(self._cut(number, skip, first) for number in numbers))

    def _cut(self, number: int, skip: int, first: int) -> Cut:
        path = self._cutter.paths[number][skip:]
        if skip:
            index = path[0]
            assert type(index) is int
            path = (index - first, *path[1:])
        return Cut(path, self._places[number], len(self._cutter.values[number]))


def _batches(payload: _Payload, given: list[Any]) -> list[Part]:
    encoded = [jsonrpc.encode(entry) for entry in given]
    groups = cutting.batches(encoded)
    return [payload.part(b"[%b]" % b",".join(encoded[first:last]), 2, first) for first, last in groups]
