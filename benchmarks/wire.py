"""The requests of the load, as bytes, and a plain client for set-up and checks."""

from __future__ import annotations

import http.client
import json
from collections.abc import Mapping
from dataclasses import dataclass

from benchmarks.processes import BenchmarkError

MODERN, LEGACY = "2026-07-28", "2025-11-25"
PATH = "/mcp"
TOOL, WATCH = "get_weather", "watch"
EXPECTED = '"isError":false'  # of the tool's own answer; a denial carries true


@dataclass(frozen=True)
class Request:
    """One POST of one JSON-RPC message."""

    headers: Mapping[str, str]
    body: bytes

    def raw(self, port: int) -> bytes:
        """The request as HTTP/1.1 on a keep-alive connection."""
        lines = [f"POST {PATH} HTTP/1.1", f"Host: 127.0.0.1:{port}", *(f"{k}: {v}" for k, v in self.headers.items())]
        return "\r\n".join([*lines, f"Content-Length: {len(self.body)}", "", ""]).encode() + self.body


@dataclass(frozen=True)
class Answer:
    """Status, headers in lower case, and body of an answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def tools_call(session: str | None = None) -> Request:
    """A `tools/call`: of the stateless revision, or with `session` of the one before it."""
    return _call(TOOL, {"city": "Springfield", "units": "metric", "days": 3}, {}, session)


def watch_call(events: int, per_second: int = 0) -> Request:
    """A `tools/call` answered by a stream: `events` progress notifications, 0 for one and then silence."""
    return _call(WATCH, {"events": events, "perSecond": per_second}, {"progressToken": "w1"}, None)


def initialize(port: int) -> str:
    """Begins a session of the legacy era through whatever listens on `port`; returns its id.

    Raises BenchmarkError when no session comes back.
    """
    try:
        answer = send(port, initialize_request())
        session = answer.headers.get("mcp-session-id", "")
        told = send(port, initialized_notification(session))
    except (OSError, http.client.HTTPException) as e:
        raise BenchmarkError(f"initialize on port {port}: {e!r}") from e
    if answer.status != 200 or not session or told.status != 202:
        raise BenchmarkError(f"initialize on port {port}: {answer}, then {told}")
    return session


def initialize_request() -> Request:
    """The first message of a session."""
    info = {"name": "benchmark", "version": "1"}
    params = {"protocolVersion": LEGACY, "capabilities": {}, "clientInfo": info}
    return Request(_headers(), _json({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params}))


def initialized_notification(session: str) -> Request:
    """The second."""
    return Request(_legacy(session), _json({"jsonrpc": "2.0", "method": "notifications/initialized"}))


def send(port: int, request: Request) -> Answer:
    """One exchange on a connection of its own. Raises OSError, http.client.HTTPException."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("POST", PATH, request.body, dict(request.headers))
        response = connection.getresponse()
        return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
    finally:
        connection.close()


def answers(port: int) -> bool:
    """Whether a tools/call on `port` gets its result."""
    try:
        answer = send(port, tools_call())
    except (OSError, http.client.HTTPException):
        return False
    return answer.status == 200 and EXPECTED.encode() in answer.body


def get(port: int, path: str) -> int:
    """The status of a GET; 0 while nothing listens."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return 0
    finally:
        connection.close()


def _call(tool: str, arguments: Mapping[str, object], meta: Mapping[str, object], session: str | None) -> Request:
    about = dict(meta)
    if session is None:
        about["io.modelcontextprotocol/protocolVersion"] = MODERN
        about["io.modelcontextprotocol/clientCapabilities"] = {}
        headers = {**_headers(), "MCP-Protocol-Version": MODERN, "Mcp-Method": "tools/call", "Mcp-Name": tool}
    else:
        headers = _legacy(session)
    params: dict[str, object] = {"name": tool, "arguments": arguments, **({"_meta": about} if about else {})}
    return Request(headers, _json({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}))


def _headers() -> dict[str, str]:
    return {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}


def _legacy(session: str) -> dict[str, str]:
    return {**_headers(), "MCP-Protocol-Version": LEGACY, "Mcp-Session-Id": session}


def _json(message: object) -> bytes:
    return json.dumps(message, separators=(",", ":")).encode()
