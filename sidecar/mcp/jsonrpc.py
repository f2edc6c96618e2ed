"""JSON-RPC 2.0 as MCP uses it, read strictly and written canonically.

Source: MCP basic/index "Messages" (2025-03-26 to 2026-07-28), RFC 8259. What is forwarded is always our
own serialisation of what was judged, so two parsers can never read two different messages.
"""

import json
from typing import Any, Final, NoReturn

import orjson

from openmcp.sidecar.errors import INVALID_REQUEST, PARSE_ERROR, Malformed
from openmcp.sidecar.types import JsonObject, Message, MessageId, Notification, Request, Response

MAX_DEPTH: Final = 64
MAX_ID_LENGTH: Final = 1024
SAFE_INTEGER: Final = 2**53 - 1
_MEMBERS: Final = frozenset(("jsonrpc", "id", "method", "params", "result", "error"))
_AS_ZEROS: Final = bytes.maketrans(b"123456789", b"000000000")
_LONG_NUMBER: Final = b"0" * 18


def encode(document: Any) -> bytes:
    """Serialise a JSON value to compact UTF-8; integers of any size keep their value."""
    try:
        return orjson.dumps(document)
    except TypeError:  # orjson stops at 64-bit integers; the standard library does not
        return json.dumps(document, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()


def decode(body: bytes) -> Any:
    """Parse one JSON document without duplicate keys anywhere; raises `Malformed` otherwise."""
    return read(body)[0]


def read(body: bytes) -> tuple[Any, bool]:
    """As `decode`, and whether `body` is byte for byte what `encode` makes of the document."""
    document = _loads(body)
    _refuse_depth(body, document)  # before the serialiser, which gives up at a depth that the parser reads
    # A document that serialises to the very same bytes cannot have held a duplicate key.
    if orjson.dumps(document) == body:
        return document, True
    return _decode_exactly(body, unique=True), False


def decode_lenient(body: bytes) -> Any:
    """Parse a server's document: as `decode`, but of duplicate keys the last wins (it is re-serialised)."""
    return read_lenient(body)[0]


def read_lenient(body: bytes) -> tuple[Any, bool]:
    """As `decode_lenient`, and whether `body` is byte for byte what `encode` makes of the document."""
    document = _loads(body)
    _refuse_depth(body, document)
    canonical = orjson.dumps(document) == body
    # orjson turns an integer beyond 64 bits into a float, which comes out different.
    if not canonical and _LONG_NUMBER in body.translate(_AS_ZEROS):
        document = _decode_exactly(body, unique=False)
    return document, canonical


def parse(body: bytes) -> Message:
    """Parse a client's body into one message; raises `Malformed` with -32700 or -32600."""
    return classify(decode(body))


def parse_reply(body: bytes) -> Message:
    """Parse a server's body into one message; raises `Malformed`."""
    return classify(decode_lenient(body))


def classify(document: Any) -> Message:
    """Decide what a decoded document is: request, notification or response, never two of them."""
    if type(document) is not dict:
        raise Malformed(INVALID_REQUEST, "the body must be one JSON-RPC message: a JSON object")
    if document.get("jsonrpc") != "2.0":
        raise Malformed(INVALID_REQUEST, 'member "jsonrpc" must be "2.0"')
    if not all(member in _MEMBERS for member in document):
        raise Malformed(INVALID_REQUEST, "the message has members that JSON-RPC does not know")
    if "method" in document:
        return _classify_call(document)
    return _classify_response(document)


def message_id(document: Any) -> MessageId | None:
    """The id to echo in an error about a message that was refused, or None."""
    if type(document) is not dict:
        return None
    value = document.get("id")
    return value if valid_id(value) else None


def request_document(request: Request) -> JsonObject:
    """The JSON object of a request."""
    return {"jsonrpc": "2.0", "id": request.id, "method": request.method, "params": request.params}


def notification_document(notification: Notification) -> JsonObject:
    """The JSON object of a notification; empty `params` are left out."""
    document: JsonObject = {"jsonrpc": "2.0", "method": notification.method}
    if notification.params:
        document["params"] = notification.params
    return document


def response_document(response: Response) -> JsonObject:
    """The JSON object of a response."""
    document: JsonObject = {"jsonrpc": "2.0", "id": response.id}
    if response.error is not None:
        document["error"] = response.error
    else:
        document["result"] = response.result
    return document


def document_of(message: Message) -> JsonObject:
    """The JSON object of any message."""
    if isinstance(message, Request):
        return request_document(message)
    if isinstance(message, Notification):
        return notification_document(message)
    return response_document(message)


def _loads(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Malformed(PARSE_ERROR, f"the body is not valid JSON in UTF-8: {error}") from None


def _decode_exactly(body: bytes, *, unique: bool) -> Any:
    """The slow, exact way: big integers kept, duplicate keys refused where `unique`."""
    hook = _unique_pairs if unique else None
    try:
        return json.loads(body, object_pairs_hook=hook, parse_constant=_refuse_constant)
    except RecursionError:
        raise Malformed(INVALID_REQUEST, f"the body is nested deeper than {MAX_DEPTH}") from None
    except ValueError as error:
        raise Malformed(PARSE_ERROR, f"the body is not valid JSON: {error}") from None


def _unique_pairs(pairs: list[tuple[str, Any]]) -> JsonObject:
    mapping = dict(pairs)
    if len(mapping) != len(pairs):
        raise Malformed(INVALID_REQUEST, "a JSON object has the same key twice")
    return mapping


def _refuse_constant(name: str) -> NoReturn:
    raise Malformed(PARSE_ERROR, f"{name} is not a JSON number")


def _refuse_depth(body: bytes, document: Any) -> None:
    # Nesting costs two bytes a level.
    if len(body) > 2 * MAX_DEPTH and _nests(document, MAX_DEPTH):
        raise Malformed(INVALID_REQUEST, f"the body is nested deeper than {MAX_DEPTH}")


def _nests(value: object, levels: int) -> bool:
    """Whether objects and lists stand in each other deeper than this."""
    if isinstance(value, dict):
        return levels == 0 or any(_nests(child, levels - 1) for child in value.values())
    if isinstance(value, list):
        return levels == 0 or any(_nests(child, levels - 1) for child in value)
    return False


def _classify_call(document: JsonObject) -> Request | Notification:
    method = document["method"]
    if type(method) is not str or not method:
        raise Malformed(INVALID_REQUEST, 'member "method" must be a non-empty string')
    if "result" in document or "error" in document:
        raise Malformed(INVALID_REQUEST, "a message is a request or a response, not both")
    params = document.get("params", {})
    if type(params) is not dict:
        raise Malformed(INVALID_REQUEST, 'member "params" must be an object')
    _refuse_lookalikes(params, "params")
    meta = params.get("_meta")
    if meta is not None:
        if type(meta) is not dict:
            raise Malformed(INVALID_REQUEST, 'member "params._meta" must be an object')
        _refuse_lookalikes(meta, "params._meta")
    if "id" not in document:
        return Notification(method, params)
    if not valid_id(document["id"]):
        raise Malformed(INVALID_REQUEST, 'member "id" must be a string or a safe integer')
    return Request(document["id"], method, params)


def _classify_response(document: JsonObject) -> Response:
    result, error = document.get("result"), document.get("error")
    if "params" in document or ("result" in document) == ("error" in document):
        raise Malformed(INVALID_REQUEST, "a response has exactly one of the members result and error")
    identifier = document.get("id")
    if "error" in document:
        if type(error) is not dict or type(error.get("code")) is not int or type(error.get("message")) is not str:
            raise Malformed(INVALID_REQUEST, 'member "error" must have an integer code and a message')
        if identifier is None:
            return Response(None, None, error)
    elif type(result) is not dict:
        raise Malformed(INVALID_REQUEST, 'member "result" must be an object')
    if not valid_id(identifier):
        raise Malformed(INVALID_REQUEST, 'member "id" must be a string or a safe integer')
    return Response(identifier, result, error)


def valid_id(value: Any) -> bool:
    """Whether this can be an id or a progress token: a string of bounded length or a safe integer."""
    if type(value) is int:  # not bool
        return -SAFE_INTEGER <= value <= SAFE_INTEGER
    return type(value) is str and len(value) <= MAX_ID_LENGTH


def _refuse_lookalikes(mapping: JsonObject, where: str) -> None:
    """Refuse keys which another parser could take for each other: `Name` beside `name`, a trailing NUL."""
    keys = tuple(mapping)
    if keys in _good_keys:
        return
    text = "".join(keys)
    if len({key.casefold() for key in keys}) != len(keys):
        raise Malformed(INVALID_REQUEST, f"{where} has keys that differ in letter case alone")
    posing = [key for key in keys if _JUDGED.get(key.casefold(), key) != key]
    if posing and where == "params":
        meant = _JUDGED[posing[0].casefold()]
        raise Malformed(INVALID_REQUEST, f"params has a key that differs from {meant} in letter case alone")
    if not text.isprintable():
        raise Malformed(INVALID_REQUEST, f"{where} has a key with unprintable characters")
    if len(text) <= _REMEMBERED_CHARACTERS and not posing:
        if len(_good_keys) >= _REMEMBERED_SETS:
            _good_keys.clear()
        _good_keys.add(keys)


_JUDGED: Final = {
    member.casefold(): member
    for member in (
        "_meta",
        "argument",
        "arguments",
        "context",
        "cursor",
        "inputResponses",
        "name",
        "ref",
        "requestState",
        "task",
        "taskId",
        "uri",
    )
}
"""What is judged: a server that ignores case would read `Arguments`, of which no condition has seen anything."""
_REMEMBERED_SETS: Final = 512
_REMEMBERED_CHARACTERS: Final = 256
_good_keys: Final[set[tuple[str, ...]]] = set()  # agents send the same few sets of keys
