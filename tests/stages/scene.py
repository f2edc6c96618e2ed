"""The pipeline between an agent and a server that are both written in the test: no socket, no process, no waiting.

async with scene(allow(tools=["good"])) as it:
it.server = answers(result({"content": []}))
answer = await it.agent.call("good")
"""

import asyncio
import hashlib
import itertools
import json
import tempfile
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import msgspec

from openmcp.config.model import (
    ApiKey,
    ApiKeyAgents,
    Configuration,
    Identity,
    Limits,
    Listen,
    Policy,
    RequestRule,
    Server,
)
from openmcp.sidecar import build
from openmcp.sidecar.errors import UpstreamFailed
from openmcp.sidecar.mcp import era, sse
from openmcp.sidecar.net.pool import Upstream, endpoint_key
from openmcp.sidecar.net.response import UpstreamResponse
from openmcp.sidecar.net.values import Outgoing, Patience
from openmcp.sidecar.pipeline import Pipeline
from openmcp.sidecar.policy.engine import PolicySet
from openmcp.sidecar.ports import HttpRequest
from openmcp.sidecar.sealing import Sealer
from openmcp.sidecar.stages.approvals import Approvals
from openmcp.sidecar.stages.desk import Desk
from openmcp.sidecar.stages.pins import Pins
from openmcp.sidecar.stages.record import Recorder
from openmcp.sidecar.stages.requests import Requests
from openmcp.sidecar.stages.results import Results
from openmcp.sidecar.stages.sessions import Sessions
from openmcp.sidecar.stages.tasks import Tasks
from openmcp.sidecar.stages.tokens import Tokens
from openmcp.sidecar.telemetry import audit
from openmcp.sidecar.telemetry.audit import AuditLog
from openmcp.sidecar.telemetry.metrics import Metrics
from tests.policy.rules import policy

MODERN = "2026-07-28"
NOW = 1_800_000_000.0
Json = dict[str, Any]


# The server's side


@dataclass(frozen=True)
class Sent:
    """One HTTP request as the server got it."""

    endpoint: str
    method: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The decoded body."""
        return json.loads(self.body)


class _Connection:
    """What an answer needs of its connection; `released` tells whether it was read to its end."""

    def __init__(self) -> None:
        self.released: bool | None = None

    def release(self, response: UpstreamResponse, *, complete: bool) -> None:
        self.released = complete

    def resume(self) -> None:
        """Nothing was paused."""

    def expect_end(self) -> None:
        """Nobody waits for the rest."""
        self.released = True


def reply(body: bytes | Json | list[Any] = b"", status: int = 200, **headers: str) -> UpstreamResponse:
    """A complete answer; keywords set headers."""
    response = UpstreamResponse(_Connection())  # type: ignore[arg-type]  # a stand-in
    response.status = status
    if not isinstance(body, bytes):
        body = json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode()
    response.headers = {b"content-type": b"application/json"} if body else {}
    response.headers |= {key.replace("_", "-").encode(): value.encode("latin-1") for key, value in headers.items()}
    response.body = body
    response.end(None)
    return response


def stream(*events: Json | bytes, broken: bool = False, open_end: bool = False, **headers: str) -> UpstreamResponse:
    """An SSE answer of these messages (or raw bytes), each in a piece of its own."""
    response = reply(**headers)
    response.streaming, response._ended = True, False
    response.headers[b"content-type"] = b"text/event-stream"
    for one in events:
        response.take(one if isinstance(one, bytes) else b"data: " + json.dumps(one).encode() + b"\n\n")
    if broken:
        response.end(UpstreamFailed("closed", "the connection broke"))
    elif not open_end:
        response.end(None)
    return response


def event(message: Json | None = None, identifier: str | None = None, retry: int | None = None) -> bytes:
    """One event with an id."""
    data = b"" if message is None else json.dumps(message).encode()
    name = None if identifier is None else identifier.encode()
    return sse.encode(sse.Event(data, id=name, retry=retry))


def response(result: Json | None = None, identifier: Any = 1, **members: Any) -> Json:
    """A JSON-RPC response."""
    document: Json = {"jsonrpc": "2.0", "id": identifier}
    return document | (members or {"result": {"content": []} if result is None else result})


def failure(code: int, identifier: Any = 1, message: str = "m", **data: Any) -> Json:
    """A JSON-RPC error."""
    error: Json = {"code": code, "message": message}
    return {"jsonrpc": "2.0", "id": identifier, "error": error | ({"data": data} if data else {})}


def notification(method: str, /, **params: Any) -> Json:
    """A JSON-RPC notification of either side."""
    return {"jsonrpc": "2.0", "method": f"notifications/{method}", "params": params}


def request(method: str, /, identifier: Any = 1, **params: Any) -> Json:
    """A JSON-RPC request of either side."""
    return {"jsonrpc": "2.0", "id": identifier, "method": method, "params": params}


Answering = Callable[[Sent], UpstreamResponse | Awaitable[UpstreamResponse]]


def always(make: Callable[[], UpstreamResponse]) -> Answering:
    """A server that answers everything alike."""
    return lambda sent: make()


def legacy(sent: Sent) -> UpstreamResponse:
    """A plain server with sessions: initializes, accepts notifications, says "done" to the rest."""
    if sent.method != "POST":
        return reply(status=405 if sent.method == "GET" else 200)
    asked = sent.json
    if "id" not in asked or "method" not in asked:
        return reply(status=202)
    if asked["method"] == "initialize":
        result = {"protocolVersion": asked["params"]["protocolVersion"], "capabilities": {}, "serverInfo": {}}
        return reply(response(result, asked["id"]), mcp_session_id="upstream-1")
    return reply(response({"content": [{"type": "text", "text": "done"}]}, asked["id"]))


# The agent's side


@dataclass
class Answer:
    """What the agent got; the answering side of an exchange."""

    request: HttpRequest
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    finished: bool = False
    aborted: bool = False
    begun: asyncio.Event = field(default_factory=asyncio.Event)

    def respond(self, status: int, headers: bytes, body: bytes) -> None:
        assert not self.status, "one answer to one request"
        self._head(status, headers)
        self.body, self.finished = body, True

    def start_stream(self, headers: bytes, keep_alive: bytes) -> None:
        assert not self.status, "one answer to one request"
        self._head(200, headers)

    def write(self, data: bytes) -> None:
        assert self.status == 200
        assert not self.finished
        self.body += data

    def flush(self) -> None:
        """Everything is seen at once here."""

    async def drain(self) -> None:
        """This agent reads fast."""

    def finish(self) -> None:
        assert not self.finished
        self.finished = True

    def abort(self) -> None:
        self.aborted = True

    def _head(self, status: int, headers: bytes) -> None:
        self.status = status
        lines = headers.decode("ascii").split("\r\n")
        assert lines.pop() == "", "each line is ended"
        pairs = [line.split(": ", 1) for line in lines]
        self.headers = dict(pairs)
        assert len(self.headers) == len(pairs)
        self.begun.set()

    @property
    def json(self) -> Any:
        assert self.headers["content-type"] == "application/json", (self.status, self.body)
        return json.loads(self.body)

    @property
    def result(self) -> Any:
        assert "result" in self.json, self.json
        return self.json["result"]

    @property
    def code(self) -> tuple[int, int]:
        """HTTP status and JSON-RPC error code."""
        return self.status, self.json["error"]["code"]

    @property
    def events(self) -> list[sse.Event]:
        assert self.headers["content-type"] == "text/event-stream", (self.status, self.body)
        return sse.Parser(1 << 20).feed(self.body)

    @property
    def messages(self) -> list[Any]:
        """The JSON messages of a stream."""
        return [json.loads(one.data) for one in self.events if one.data]


@dataclass
class Agent:
    """One caller, known by its key; `session` is sent along once it has one."""

    scene: "Scene"
    key: str
    session: str | None = None
    version: str | None = "2025-11-25"

    async def send(
        self,
        body: bytes | Json | list[Any] = b"",
        method: str = "POST",
        repeated: Iterable[str] = (),
        **headers: str | None,
    ) -> Answer:
        """One HTTP request to its end; keywords set headers, None leaves one out."""
        answer = self.begin(body, method, repeated, **headers)
        await asyncio.wait_for(self.scene.pipeline(answer), 20)
        return answer

    def begin(
        self,
        body: bytes | Json | list[Any] = b"",
        method: str = "POST",
        repeated: Iterable[str] = (),
        **headers: str | None,
    ) -> Answer:
        """The exchange of one HTTP request, not handled yet."""
        raw = body if isinstance(body, bytes) else json.dumps(body, separators=(",", ":")).encode()
        given: dict[str, str | None] = {"host": "127.0.0.1", "x-api-key": self.key}
        given |= {"accept": "application/json, text/event-stream"}
        if method == "POST":
            given["content-type"] = "application/json"
        given |= {"mcp-session-id": self.session, "mcp-protocol-version": self.version}
        given |= {name.replace("_", "-"): value for name, value in headers.items()}
        lines = {name.encode(): value.encode("latin-1") for name, value in given.items() if value is not None}
        names = frozenset(name.encode() for name in repeated)
        return Answer(HttpRequest(method, "/tools", lines, names, raw))

    async def ask(self, method: str, /, identifier: Any = 1, **params: Any) -> Answer:
        """A legacy request."""
        return await self.send(request(method, identifier, **params))

    async def call(self, tool: str, identifier: Any = 1, **more: Any) -> Answer:
        """A legacy tools/call."""
        return await self.ask("tools/call", identifier, name=tool, **more)

    async def initialize(self, **capabilities: Any) -> Answer:
        """Begin a session, and keep its id."""
        answer = await self.send(
            request("initialize", protocolVersion="2025-11-25", capabilities=capabilities, clientInfo={}),
            mcp_protocol_version=None,
        )
        self.session = answer.headers.get("mcp-session-id")
        return answer

    async def modern(
        self, method: str, /, identifier: Any = 1, capabilities: Json | None = None, **params: Any
    ) -> Answer:
        """A request of 2026-07-28 with the headers it needs."""
        body, headers = self.modern_request(method, identifier, capabilities, **params)
        return await self.send(body, **headers)

    def modern_request(
        self, method: str, /, identifier: Any = 1, capabilities: Json | None = None, **params: Any
    ) -> tuple[Json, dict[str, str]]:
        """Body and headers of a request of 2026-07-28."""
        meta = {era.META_VERSION: MODERN, era.META_CAPABILITIES: capabilities or {}} | params.pop("_meta", {})
        body = request(method, identifier, **params, _meta=meta)
        headers = {"mcp_protocol_version": MODERN, "mcp_method": method}
        named = params.get("name", params.get("uri", params.get("taskId")))
        return body, headers | ({"mcp_name": named} if isinstance(named, str) else {})


class _Audit:
    """The record, as it is on disk."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "audit.jsonl"
        self._lines: list[Json] = []
        self._read = 0
        self._refused = threading.Event()
        self.log = AuditLog(self._path, deny_on_failure=True, on_change=lambda _: self._refused.set())

    @property
    def lines(self) -> list[Json]:
        """All of them but the checkpoints, in so far as they could be written."""
        if self._refused.is_set():
            return self._lines
        assert self.log.flush(5)
        with self._path.open("rb") as written:
            written.seek(self._read)
            new = written.read()
        self._read += len(new)
        self._lines += [line for line in map(json.loads, new.splitlines()) if line["event"] != "checkpoint"]
        return self._lines

    def refuse(self) -> None:
        """From now on nothing can be written: where its file was there is a folder."""
        assert self.log.flush(5)
        self._path.unlink()
        self._path.mkdir()
        self.log.reopen()
        assert self._refused.wait(5)

    def close(self) -> None:
        """End its thread."""
        if self._refused.is_set():
            self.log.close(0)  # give up what cannot be written
        self.log.close(5)  # it would make its file anew while the folder is removed


class Scene:
    """A pipeline, the agents and the server around it."""

    def __init__(self, policies: Iterable[Policy], endpoints: int, in_flight: int, folder: Path) -> None:
        keys = tuple(ApiKey(name=name, sha256=hashlib.sha256(name.encode()).hexdigest()) for name in ("bot", "eve"))
        server = Server(
            name="tools",
            path="/tools",
            endpoints=tuple(f"http://127.0.0.1:{number + 1}/mcp" for number in range(endpoints)),
            limits=Limits(response_bytes=10_000, in_flight=in_flight),
        )
        configuration = Configuration(
            listen=Listen(),
            identity=Identity(agents=(ApiKeyAgents(keys=keys),)),
            servers=(server,),
            policies=tuple(policies),
        )
        self.server: Answering = legacy
        self.sent: list[Sent] = []
        self.now = NOW
        places = tuple(_Place(self, url) for url in server.endpoints)
        self.upstream = Upstream(server, lambda *_: None, adapters=places)
        self.snapshot = build.Builder(Metrics("0")).snapshot(configuration, {server: self.upstream})
        self.audit = _Audit(folder)
        recorder = Recorder(self.audit.log, Metrics("test"))
        sealer, tasks = Sealer(b"k" * 32), Tasks()
        tokens = Tokens(sealer)
        results = Results(tokens, tasks, Pins(recorder.tool_changed), lambda: self.now)
        self.approvals = Approvals(tokens, results, recorder, Desk(), lambda: self.now)
        self.sessions = Sessions(sealer, 3600.0)
        self.pipeline = Pipeline(
            self.snapshot,
            self.sessions,
            Requests(tokens, tasks, lambda: self.now, self.approvals.tasks.owns),
            results,
            self.approvals,
            itertools.count(1).__next__,
        )
        self.agent = Agent(self, "bot")
        self.eve = Agent(self, "eve")

    def govern(self, *rules: RequestRule) -> None:
        """Other rules from now on, as after a reload."""
        self.pipeline.snapshot = msgspec.structs.replace(
            self.snapshot, policies=PolicySet([policy(*rules, servers=["tools"])])
        )

    def recorded(self, event_name: str) -> list[Json]:
        """The lines of one event."""
        return [line for line in self.audit.lines if line["event"] == event_name]

    @property
    def ended(self) -> Json:
        """The last line of the last exchange."""
        return [line for line in self.audit.lines if "latency" in line][-1]

    @property
    def dropped(self) -> list[str]:
        """Why messages of the server were not passed on."""
        return [line["reason"] for line in self.recorded("dropped")]

    async def background(self) -> None:
        """Wait for what the pipeline does on the side."""
        await asyncio.gather(*self.pipeline.relays.background)


class _Place:
    """An endpoint of the scene's server, without the sockets that its URL names."""

    def __init__(self, scene: Scene, url: str) -> None:
        self.url = url
        self.key = endpoint_key(url)
        self.healthy = True
        self.failures = 0
        self.unwell = self.problem = ""
        self.idle = self.active = 0
        self._scene = scene

    async def send(self, request: Outgoing, patience: Patience) -> UpstreamResponse:
        pairs = [line.split(": ", 1) for line in request.headers.decode("ascii").split("\r\n") if line]
        assert len(dict(pairs)) == len(pairs), "each header once"
        sent = Sent(self.url, request.method.decode(), dict(pairs), request.body)
        self._scene.sent.append(sent)
        answer = self._scene.server(sent)
        return answer if isinstance(answer, UpstreamResponse) else await answer

    async def exchange(self, request: Outgoing, lines: bytes, patience: Patience) -> UpstreamResponse:
        raise AssertionError("nobody checks the health of this one")

    def review(self) -> None:
        """There are no connections."""

    retire = close = review

    async def closed(self) -> None:
        """As above."""

    def sweep(self, now: float) -> None:
        """As above."""


@asynccontextmanager
async def scene(*rules: RequestRule | Policy, endpoints: int = 1, in_flight: int = 256) -> AsyncIterator[Scene]:
    """A scene under these rules (of one policy for all agents) or policies."""
    policies = [one for one in rules if isinstance(one, Policy)]
    plain = [one for one in rules if isinstance(one, RequestRule)]
    with tempfile.TemporaryDirectory() as folder, patch.object(audit, "BATCH_INTERVAL", 0.0):
        it = Scene([*policies, policy(*plain, servers=["tools"])], endpoints, in_flight, Path(folder))
        try:
            yield it
            assert (it.upstream.in_flight, it.upstream.streams) == (0, 0), "every call is counted out"
            ends = [line for line in it.audit.lines if "latency" in line]
            assert all(one["status"] or one["outcome"] == "client_gone" for one in ends), "every exchange was answered"
        finally:
            it.audit.close()
