"""A real sidecar in this process, on free loopback ports, in front of hostile servers.

The policy: the tools `allowed*`, the prompts `allowed*` and the resources `file:///public/*` may be used by anybody,
`forbidden*` by nobody. Two agents have keys, `alice` and `bob`.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from openmcp.config.filesource import FileSource
from openmcp.sidecar.app import App
from tests.support.raw import Answer, Connection, connect

LEGACY = "2025-11-25"
MODERN = "2026-07-28"
PATIENCE = 10.0
KEYS = {"alice": "key-of-alice", "bob": "key-of-bob"}
POLICY: dict[str, Any] = {
    "name": "test",
    "servers": ["*"],
    "requests": [
        {"name": "never", "tools": ["forbidden*"], "prompts": ["forbidden*"], "action": "deny"},
        {"name": "tools", "tools": ["allowed*"], "action": "allow"},
        {"name": "prompts", "prompts": ["allowed*"], "action": "allow"},
        {"name": "public", "resources": ["file:///public/*"], "action": "allow"},
    ],
}


def configuration(*urls: str, **server: Any) -> dict[str, Any]:
    """Return a configuration with one server at these endpoints; keywords are further members of the server."""
    identity = [{"name": name, "sha256": hashlib.sha256(key.encode()).hexdigest()} for name, key in KEYS.items()]
    return {
        "apiVersion": "openmcp.dev/v1alpha1",
        "listen": {"mcp": "127.0.0.1:0", "admin": "127.0.0.1:0"},
        "identity": {"agents": [{"type": "apiKey", "keys": identity}]},
        "servers": [{"name": "server", "endpoints": list(urls), "health": {"interval": "1h"}, **server}],
        "policies": [POLICY],
    }


@dataclass
class Gate:
    """A running sidecar."""

    app: App
    record: Path
    file: Path
    stack: list[Connection] = field(default_factory=list)

    @property
    def url(self) -> str:
        """Return the listener's base URL."""
        return "http://{}:{}".format(*self.app.mcp_address)

    def connect(
        self, agent: str = "alice", path: str = "/server", **headers: str
    ) -> AbstractAsyncContextManager[Connection]:
        """Open a connection as this agent."""
        return connect(self.url, path, x_api_key=KEYS[agent], **headers)

    async def records(self) -> list[dict[str, Any]]:
        """Return the record so far, without checkpoints."""
        assert await asyncio.to_thread(self.app.audit.flush, PATIENCE)
        return self.written()

    def written(self) -> list[dict[str, Any]]:
        """Return what is in the record's file, without checkpoints."""
        lines = [json.loads(line) for line in self.record.read_text().splitlines()]
        return [line for line in lines if line["event"] != "checkpoint"]

    async def recorded(self, *, ends: bool = False, **fields: Any) -> dict[str, Any]:
        """Return the only record that has these fields; waits for it, as the answer goes out before its record.

        `ends`: one that ends an exchange, whatever its event.
        """
        async with asyncio.timeout(PATIENCE):
            while True:
                lines = [line for line in await self.records() if not ends or "latency" in line]
                found = [line for line in lines if fields.items() <= line.items()]
                if found:
                    assert len(found) == 1, found
                    return found[0]
                await asyncio.sleep(0.01)

    async def page(self, path: str) -> str:
        """Return what operators are told: head and body of the answer."""
        reader, writer = await asyncio.open_connection(*self.app.admin_address)
        writer.write(f"GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n".encode())
        text = (await reader.read()).decode()
        writer.close()
        return text

    async def has_identity(self, spiffe_id: str) -> None:
        """Wait until the sidecar has this identity."""
        async with asyncio.timeout(PATIENCE):
            while True:
                if f'"{spiffe_id}"' in await self.page("/readyz"):
                    return
                await asyncio.sleep(0.01)

    def reload(self, changed: dict[str, Any]) -> None:
        """Take over another configuration."""
        self.file.write_text(json.dumps(changed))
        self.app.reload(FileSource(self.file).load().configuration)


@asynccontextmanager
async def gate(folder: Path, config: dict[str, Any]) -> AsyncIterator[Gate]:
    """Run a sidecar with this configuration; its record goes to a file in `folder`."""
    record = folder / "audit.jsonl"
    file = folder / "gateway.yaml"
    file.write_text(json.dumps({"telemetry": {"audit": {"output": {"file": str(record)}}}, **config}))
    app = App(FileSource(file).load().configuration)
    await app.start()
    try:
        yield Gate(app, record, file)
    finally:
        await app.stop(patience=0.0)


def message(method: str, identifier: Any = 1, **params: Any) -> dict[str, Any]:
    """Return a request; a notification where the id is None."""
    document: dict[str, Any] = {"jsonrpc": "2.0", "method": method, "params": params}
    return document if identifier is None else document | {"id": identifier}


def call(name: str = "allowed", identifier: Any = 1, **arguments: Any) -> dict[str, Any]:
    """Return a tools/call."""
    return message("tools/call", identifier, name=name, arguments=arguments)


def modern(document: dict[str, Any], version: str = MODERN, **capabilities: Any) -> dict[str, Any]:
    """Return a message with the `_meta` of 2026-07-28."""
    meta = {
        "io.modelcontextprotocol/protocolVersion": version,
        "io.modelcontextprotocol/clientCapabilities": capabilities,
    }
    params = document["params"]
    return {**document, "params": {**params, "_meta": {**params.get("_meta", {}), **meta}}}


def modern_headers(document: dict[str, Any]) -> dict[str, str]:
    """Return the headers that a modern request has to carry, as keywords of `Connection.ask`."""
    params = document["params"]
    headers = {"mcp_protocol_version": MODERN, "mcp_method": document["method"]}
    if document["method"] in ("tools/call", "prompts/get"):
        headers["mcp_name"] = params["name"]
    elif document["method"] == "resources/read":
        headers["mcp_name"] = params["uri"]
    elif document["method"].startswith("tasks/"):
        headers["mcp_name"] = params["taskId"]
    return headers


async def ask_modern(agent: Connection, document: dict[str, Any], **capabilities: Any) -> Answer:
    """Send a proper modern request."""
    return await agent.ask(modern(document, **capabilities), **modern_headers(document))


async def initialize(agent: Connection, version: str = LEGACY, **capabilities: Any) -> str:
    """Open a legacy session on this connection; its later requests carry the id, which is returned."""
    answer = await agent.ask(
        message(
            "initialize",
            0,
            protocolVersion=version,
            capabilities=capabilities,
            clientInfo={"name": "t", "version": "1"},
        )
    )
    assert answer.status == 200, answer
    session = answer.header("mcp-session-id")
    assert session is not None, answer
    agent.headers |= {"mcp-session-id": session, "mcp-protocol-version": version}
    return session
