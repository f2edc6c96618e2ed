"""A scene whose server has one era alone, and serves the agents of the other one all the same."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from openmcp.config.model import Policy, RequestRule
from openmcp.sidecar.mcp.era import META_VERSION
from openmcp.sidecar.net.response import UpstreamResponse
from openmcp.sidecar.stages.translation.translator import Translator
from tests.stages.scene import MODERN, Json, Scene, Sent, failure, reply, response, scene

INFO = {"name": "fixture", "version": "3"}
CAPABILITIES = {"tools": {"listChanged": True}, "resources": {"subscribe": True}, "logging": {}}
DISCOVERED = {
    "resultType": "complete",
    "supportedVersions": [MODERN],
    "capabilities": CAPABILITIES,
    "_meta": {"io.modelcontextprotocol/serverInfo": INFO},
    "ttlMs": 0,
    "cacheScope": "public",
}

Handler = Callable[[Sent], UpstreamResponse]


@asynccontextmanager
async def translated(*rules: RequestRule | Policy, endpoints: int = 1) -> AsyncIterator[Scene]:
    """A scene with `translate: true`."""
    async with scene(*rules, endpoints=endpoints) as it:
        route = msgspec.structs.replace(it.snapshot.routes["/tools"], translator=Translator(lambda: it.now))
        it.snapshot = it.pipeline.snapshot = msgspec.structs.replace(it.snapshot, routes={"/tools": route})
        yield it


class ModernOnly:
    """A server without sessions: it checks what each request has to carry, and refuses what the legacy era says."""

    def __init__(self, **handlers: Handler) -> None:
        self.handlers = handlers

    def __call__(self, sent: Sent) -> UpstreamResponse:
        if sent.method != "POST":
            return reply(status=405)
        asked = sent.json
        version = sent.headers.get("mcp-protocol-version")
        if version != MODERN:
            return reply(failure(-32022, asked.get("id"), supported=[MODERN], requested=version or ""), 400)
        assert "mcp-session-id" not in sent.headers
        assert asked["params"]["_meta"][META_VERSION] == MODERN
        assert sent.headers["mcp-method"] == asked["method"]
        handler = self.handlers.get(asked["method"].replace("/", "_"))
        if handler is not None:
            return handler(sent)
        if asked["method"] == "server/discover":
            return reply(response(DISCOVERED, asked["id"]))
        return reply(failure(-32601, asked["id"]), 404)


def complete(**members: Any) -> Json:
    """A complete modern result."""
    return {"resultType": "complete"} | members


def text(said: str) -> Json:
    """What a tool says."""
    return {"content": [{"type": "text", "text": said}]}


class LegacyOnly:
    """A server with sessions alone: it refuses what names no session of its own, or another revision."""

    def __init__(self, **handlers: Handler) -> None:
        self.handlers = handlers
        self.sessions: set[str] = set()
        self.begun = 0

    def __call__(self, sent: Sent) -> UpstreamResponse:
        if sent.headers.get("mcp-protocol-version", "2025-11-25") != "2025-11-25":
            return reply(failure(-32000, None, "Bad Request: Unsupported protocol version"), 400)
        asked = sent.json if sent.method == "POST" else {"method": sent.method}
        assert not any(name.startswith("mcp-") for name in sent.headers.keys() - _LEGACY_HEADERS)
        assert "io.modelcontextprotocol" not in sent.body.decode()
        if asked.get("method") == "initialize":
            return self._initialize(sent)
        session = sent.headers.get("mcp-session-id")
        if session not in self.sessions:
            return reply(failure(-32001, None, "Session not found"), 404)
        handler = self.handlers.get(asked.get("method", "answer").replace("/", "_"))
        if handler is not None:
            return handler(sent)
        if sent.method == "DELETE":
            self.sessions.discard(session)
            return reply()
        return reply(status=202) if "id" not in asked else reply(failure(-32601, asked["id"]))

    def _initialize(self, sent: Sent) -> UpstreamResponse:
        self.begun += 1
        name = f"upstream-{self.begun}"
        self.sessions.add(name)
        result = {"protocolVersion": "2025-11-25", "capabilities": CAPABILITIES, "serverInfo": INFO}
        return reply(response(result, sent.json["id"]), mcp_session_id=name)


_LEGACY_HEADERS = {"mcp-protocol-version", "mcp-session-id"}
