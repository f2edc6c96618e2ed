"""What is fuzzed, and what must hold whatever the bytes are. A target returns, or raises: then a fault was found.

Each takes bytes of which the first few say how the rest is cut into pieces.
"""

import asyncio
import json
from collections.abc import Callable, Coroutine
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec

from openmcp.identity.agents import Identifier
from openmcp.identity.forwarded import Forwarded
from openmcp.identity.jwt_issuer import Jwts, Terms
from openmcp.identity.jwt_svid import JwtSvids
from openmcp.identity.peer import Peer
from openmcp.identity.principal import Principal
from openmcp.sidecar.errors import Malformed
from openmcp.sidecar.mcp import jsonrpc, sse
from openmcp.sidecar.net.http2 import Http2Connection
from openmcp.sidecar.net.opening import PREFACE
from openmcp.sidecar.types import Notification, Request, Response
from tests.fakes.pki import JwtKey, jwks
from tests.fuzz import wire
from tests.identity.asking import NOW, ask, bearer
from tests.identity.forging import signed
from tests.identity.issuing import AUDIENCE, ISSUER, Bundles, Keys

Event = tuple[bytes, bytes, bytes | None, int | None]
_loop: asyncio.AbstractEventLoop | None = None


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run to the end on one loop for all runs; an exception that only the loop saw is raised as well."""
    global _loop
    if _loop is None or _loop.is_closed():
        _loop = asyncio.new_event_loop()
    unseen: list[dict[str, Any]] = []
    _loop.set_exception_handler(lambda _, context: unseen.append(context))
    result = _loop.run_until_complete(coroutine)
    assert not unseen, unseen
    return result


def pieces(data: bytes) -> tuple[bytes, list[bytes]]:
    """The bytes without the first three, and the same cut at the places that those name."""
    cuts, rest = data[:3], data[3:]
    places = sorted({cut * (len(rest) + 1) // 256 for cut in cuts})
    edges = [0, *places, len(rest)]
    return rest, [rest[start:end] for start, end in zip(edges, edges[1:], strict=False)]


def listener(data: bytes) -> None:
    """A listener's connection: however requests are cut into pieces, the same is understood and answered."""
    whole, cut = pieces(data)
    understood, refused, written = run(wire.listened([whole]))
    again = run(wire.listened(cut))
    assert again[0] == understood[: len(again[0])] or again[0][: len(understood)] == understood, "other requests"
    if not (refused or again[1]):
        assert again == (understood, refused, written)
    assert len(refused) <= 1, "one connection was refused twice"
    for _, path, headers, _, body in understood:
        names = [name for name, _ in headers]
        assert path.startswith("/")
        assert names == [name.lower() for name in names]
        assert len(body) <= wire.BODY_LIMIT
        assert not any(set(value) & set(b"\r\n\0") for _, value in headers), "a line end inside of a header"
    assert written.count(b"HTTP/1.1 ") >= len(understood)


def http2(data: bytes) -> None:
    """A connection of HTTP/2, behind its preface: only whole requests are understood, and only frames are written."""
    whole, cut = pieces(data)
    for given in ([PREFACE + whole], [PREFACE, *cut]):
        understood, refused, written = run(wire.listened(given, Http2Connection))
        for _, path, headers, _, body in understood:
            assert path.startswith("/")
            assert len(body) <= wire.BODY_LIMIT
            for name, value in headers:
                assert name == name.lower().lstrip(b":"), "a name that no HTTP/1.1 would bring"
                assert not set(value) & set(b"\r\n\0"), "a line end inside of a header"
        at = answers = 0
        while at < len(written):
            assert len(written) - at >= 9, "half a frame"
            length, kind = int.from_bytes(written[at : at + 3]), written[at + 3]
            assert length <= 16384
            assert kind in (0, 1, 3, 4, 6, 7, 8), "a frame that we never send"
            answers += kind == 1
            at += 9 + length
        assert at == len(written), "half a frame"
        assert answers <= len(understood) * 2 + len(refused), "more answers than requests"


def upstream(data: bytes) -> None:
    """A server's answer: an answer or a class of failure, the same for every way of cutting, and always an end."""
    whole, cut = pieces(data)
    one, other = run(wire.answered([whole])), run(wire.answered(cut))
    assert len(one) == len(other), (one, other)
    if len(one) > 1:
        assert one[:2] == other[:2], "another head"
        if one[3] == other[3]:
            assert one[2] == other[2], "another body"


class Reference:
    """A second SSE parser, written after the standard's text alone: the whole stream, line by line."""

    def __init__(self, stream: bytes) -> None:
        self.events: list[Event] = []
        self._reset()
        text = stream.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        for line in text.split(b"\n")[:-1]:
            if line:
                field, _, value = line.partition(b":")
                self._field(field, value[1:] if value.startswith(b" ") else value)
            else:
                self._dispatch()

    def _reset(self) -> None:
        self._data: list[bytes] = []
        self._name = b"message"
        self._id: bytes | None = None
        self._retry: int | None = None

    def _dispatch(self) -> None:
        if self._data or self._id is not None or self._retry is not None:
            self.events.append((b"\n".join(self._data), self._name, self._id, self._retry))
        self._reset()

    def _field(self, field: bytes, value: bytes) -> None:
        if field == b"data":
            self._data.append(value)
        elif field == b"event":
            self._name = value or b"message"
        elif field == b"id" and b"\0" not in value:
            self._id = value
        elif field == b"retry" and value and not value.strip(b"0123456789") and len(value) <= 9:
            self._retry = int(value)


def parsed(chunks: list[bytes]) -> list[Event]:
    """What our parser makes of a stream that comes in these chunks."""
    parser = sse.Parser(1 << 20)
    events = [event for chunk in chunks for event in parser.feed(chunk)]
    return [(event.data, event.name, event.id, event.retry) for event in events]


def events(data: bytes) -> None:
    """An SSE stream: read as the standard says, cut anywhere; and what is written anew is read as the same."""
    whole, cut = pieces(data)
    expected = Reference(whole).events
    assert parsed([whole]) == expected
    assert parsed(cut) == expected
    single = [sse.Event(*event) for event in expected if b"\n" not in event[0]]
    assert parsed([b"".join(map(sse.encode, single))]) == [(one.data, one.name, one.id, one.retry) for one in single]


def messages(data: bytes) -> None:
    """A JSON-RPC message: malformed, or one that another parser reads just as we do, before and after us."""
    for parse in (jsonrpc.parse, jsonrpc.parse_reply):
        try:
            message = parse(data)
        except Malformed:
            continue
        again = jsonrpc.encode(jsonrpc.document_of(message))
        assert parse(again) == message
        assert b"\n" not in again
        theirs, ours = json.loads(data), json.loads(again)
        if isinstance(message, Request):
            theirs.setdefault("params", {})
        elif isinstance(message, Notification) and not message.params:
            theirs.pop("params", None)
        elif isinstance(message, Response) and message.id is None:
            theirs.setdefault("id", None)
        assert ours == theirs


_KEY = JwtKey("k", ec.derive_private_key(7, ec.SECP256R1()), "ES256")  # always the same: inputs stay reproducible
_PROXY = Peer("10.0.0.1")
_CALLERS = Identifier(
    [
        JwtSvids(Bundles({"example.org": jwks(_KEY)}), AUDIENCE, ["example.org"], clock=lambda: NOW),
        Jwts(Terms(ISSUER, (AUDIENCE,)), Keys(jwks(_KEY, use="sig")), clock=lambda: NOW),
        Forwarded(["10.0.0.0/8"], ["example.org"]),
    ]
)


def credentials(data: bytes) -> None:
    """A token, a proxy's header, and the header and claims (two lines) of a token that is signed well: they are refused
    for one of our reasons, or the caller is who they say."""
    assert not isinstance(ask(_CALLERS, bearer(data), _PROXY), Principal), "nobody has signed that"
    found = ask(_CALLERS, {b"x-forwarded-client-cert": data}, _PROXY)
    assert not isinstance(found, Principal) or f"={found.name}" in data.decode("latin-1").replace('"', "")
    header, _, claims = data.partition(b"\n")
    found = ask(_CALLERS, bearer(signed(_KEY, header, claims)), _PROXY)
    if isinstance(found, Principal):
        said = json.loads(claims)
        assert found.name == (said["sub"] if found.method == "jwtSvid" else f"jwt:{said['iss']}#{said['sub']}")
        assert found.name.isprintable()
        assert said["exp"] > NOW - 31
        assert AUDIENCE in said["aud"]


TARGETS: dict[str, Callable[[bytes], None]] = {
    "listener": listener,
    "http2": http2,
    "upstream": upstream,
    "events": events,
    "messages": messages,
    "credentials": credentials,
}
UNCUT = ("messages", "credentials")
"""Those whose bytes are not cut into pieces."""


def _frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3) + bytes((kind, flags)) + stream.to_bytes(4) + payload


_CUTS = b"\x10\x80\xf0"
_HELLO = _frame(4, 0, 0)
_BLOCK = b"\x83\x86\x84\x41\x01x\x40\x06accept\x01a"
"""POST, http, / and the host x by the static table (RFC 7541, 6), then a field for the dynamic one."""
_AGAIN = b"\x83\x86\x84\xbf\xbe"
_REQUEST = b"POST /server HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
_OK = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
_SSE = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
SEEDS: dict[str, list[bytes]] = {
    "listener": [
        _CUTS
        + _REQUEST
        + b"content-length: 5\r\n\r\nhello"
        + b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
        _CUTS + _REQUEST + b"transfer-encoding: chunked\r\n\r\n5;x=y\r\nhello\r\n0\r\nx: y\r\n\r\n",
        _CUTS
        + _REQUEST
        + b"connection: upgrade\r\nupgrade: h2c\r\ncontent-length: 5\r\n\r\nhello"
        + _REQUEST
        + b"\r\n",
        _CUTS + _REQUEST + b"expect: 100-continue\r\ncontent-length: 5\r\n\r\nhello",
        _CUTS + b"HEAD / HTTP/1.0\r\n\r\n" + b"CONNECT x:80 HTTP/1.1\r\nhost: x\r\n\r\n",
        _CUTS + b"\r\n\r\nDELETE /x?y HTTP/1.1\r\nHost: x\r\nAccept: a\r\nAccept: b\r\nX: \xff\r\n\r\n",
        _CUTS + b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
    "http2": [
        _CUTS + _HELLO + _frame(1, 5, 1, _BLOCK) + _frame(1, 4, 3, _AGAIN) + _frame(0, 1, 3, b"hello"),
        _CUTS + _HELLO + _frame(1, 4, 1, _BLOCK) + _frame(0, 8, 1, b"\2hi\0\0") + _frame(1, 5, 1, b"\0\1x\1y"),
        _CUTS + _HELLO + _frame(1, 1, 1, _BLOCK[:9]) + _frame(9, 4, 1, _BLOCK[9:]) + _frame(3, 0, 1, b"\0\0\0\x08"),
        _CUTS + _HELLO + _frame(1, 0x25, 1, b"\0\0\0\0\7" + _BLOCK) + _frame(2, 0, 3, b"\0\0\0\1\7"),
        _CUTS + _HELLO + _frame(4, 0, 0, b"\0\4\0\0\0\1") + _frame(1, 5, 1, _BLOCK) + _frame(8, 0, 1, b"\0\0\0\5"),
        _CUTS + _HELLO + _frame(6, 0, 0, bytes(8)) + _frame(7, 0, 0, bytes(8)) + _frame(0xFA, 0, 0, b"x"),
    ],
    "upstream": [
        _CUTS + _OK + b"content-length: 2\r\n\r\n{}" + _OK,
        _CUTS + _OK + b"transfer-encoding: chunked\r\n\r\n2;x\r\n{}\r\n0\r\nx: y\r\n\r\n",
        _CUTS + _OK + b"\r\n{}",
        _CUTS + _SSE + b"a\r\ndata: {}\n\n\r\n0\r\n\r\n",
        _CUTS + b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No\r\nmcp-session-id: a\r\nmcp-session-id: b\r\n\r\n",
        _CUTS + b"HTTP/1.0 404 X\r\nconnection: keep-alive\r\ncontent-length: 0\r\n\r\n",
        _CUTS + b"HTTP/1.1 101 X\r\nupgrade: x\r\nconnection: upgrade\r\n\r\nx",
        _CUTS + b"HTTP/1.1 200 X\r\ncontent-encoding: gzip\r\ncontent-length: 0\r\n\r\n",
    ],
    "events": [
        _CUTS + b"\xef\xbb\xbfdata: {}\r\n\r\nevent: x\rid: 1\rretry: 10\rdata\r\rdata:a\ndata: b\n\n",
        _CUTS + b": comment\n\n\nid\n\nretry: x\nid: \0\ndata\n\n",
    ],
    "messages": [
        b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"x","arguments":{"a":[1,2.5,null,true]}}}',
        b'{"jsonrpc":"2.0","id":"\\u00e9","result":{"x":123456789012345678901234567890}}',
        b'{"jsonrpc":"2.0","error":{"code":-32600,"message":"x"}, "id" : null}',
        b'{"jsonrpc":"2.0","method":"notifications/progress","params":{"_meta":{"a":1},"progress":1e3}}',
    ],
    "credentials": [
        b'{"alg":"ES256","kid":"k","typ":"JWT"}\n{"sub":"spiffe://example.org/a","aud":["openmcp"],"exp":1800000300}',
        b'{"kid":"k","alg":"ES256"}\n{"sub":"alice","iss":"https://idp.acme.example/","aud":"openmcp","exp":1800000300,'
        b'"nbf":1.8e9,"iat":1800000000,"groups":["a",1,true,null,{}],"x":1e-3}',
        b'{"crit":["b64"],"b64":false,"alg":"none"}\n{"sub":"spiffe://example.org/a\\n","aud":"openmcp","exp":"1"}',
        b'By=spiffe://example.org/p;Hash=ab01;Subject="CN=\\"a\\",O=b";URI=spiffe://example.org/a,URI="spiffe://example.org/b"',
    ],
}
"""Where fuzzing starts: each seed reaches another part of the code."""
