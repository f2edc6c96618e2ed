"""The clients of the interoperability matrix; each plays a plan and returns its report."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mcp import types
from mcp.client.client import Client, ConnectMode
from mcp.client.sse import sse_client
from mcp.shared.exceptions import MCPError

from tests.interop.plans import Step, Upstream
from tests.real_parts import install
from tests.support.parts import node, sdk_environment
from tests.support.process import ROOT

NODE_SECONDS = 60  # for a whole plan; a client that hangs is killed then


class ClientFailed(AssertionError):
    """A client ended with an error; what it printed is in the text."""


@dataclass
class PythonClient:
    """The Python SDK's client, in this process. ``mode`` is the SDK's own: legacy, auto or a version. ``sse``: over the
    HTTP+SSE of 2024-11-05."""

    mode: ConnectMode
    sse: bool = False

    async def play(self, url: str, upstream: Upstream) -> list[Step]:
        """Make the steps of the plan; the first line of the report says who answered and how."""
        asked: list[str] = []

        async def elicited(context: Any, params: types.ElicitRequestParams) -> types.ElicitResult:
            asked.append(params.message)
            return types.ElicitResult(action="accept", content=upstream.answer)

        over = sse_client(url) if self.sse else url
        async with Client(over, mode=self.mode, elicitation_callback=elicited) as client:
            name = client.server_info.name if client.server_info else None
            report: list[Step] = [{"connected": {"server": name, "version": client.protocol_version}}]
            for step in upstream.plan:
                try:
                    came: Any = await self._step(client, step, asked)
                except MCPError as error:
                    came = {"refused": error.error.code, "because": error.error.message}
                report.append({step["do"]: came})
        return report

    async def _step(self, client: Client, step: Step, asked: list[str]) -> Any:
        if step["do"] == "tools":
            return sorted(tool.name for tool in (await client.list_tools()).tools)
        if step["do"] == "read":
            return [_plain(each) for each in (await client.read_resource(step["uri"])).contents]
        if step["do"] == "prompt":
            prompt = await client.get_prompt(step["name"], step["arguments"])
            return [_plain(message) for message in prompt.messages]
        return await self._call(client, step, asked)

    async def _call(self, client: Client, step: Step, asked: list[str]) -> Any:
        seen: list[Step] = []

        async def progressed(progress: float, total: float | None, message: str | None) -> None:
            whole = {"progress": progress, "total": total, "message": message}
            seen.append({key: value for key, value in whole.items() if value is not None})

        watch = progressed if step["do"] == "progress" else None
        result = await client.call_tool(step["name"], step["arguments"], progress_callback=watch)
        said = {"content": [_plain(each) for each in result.content], "isError": bool(result.is_error)}
        if step["do"] == "progress":
            return {"seen": seen, "result": said}
        return {"asked": asked, "result": said} if step["do"] == "ask" else said


def _plain(value: Any) -> Any:
    return value.model_dump(by_alias=True, exclude_none=True, mode="json")


@dataclass
class NodeClient:
    """A client on a TypeScript SDK: ``script`` is a file in ``node/``."""

    script: str
    mode: str

    async def play(self, url: str, upstream: Upstream) -> list[Step]:
        """Run the script with the plan; its standard output is the report, one object per line."""
        script = ROOT / "tests" / "interop" / "node" / self.script
        given = [url, self.mode, json.dumps(upstream.plan), json.dumps(upstream.answer)]
        printed = run_node(script, *given)
        return [json.loads(line) for line in printed.splitlines()]


@dataclass
class Inspector:
    """The MCP inspector's command line: one process for each request, connected anew."""

    era: str

    def ask(self, url: str, *arguments: str) -> Any:
        """Make one request and return its result as the inspector prints it."""
        entry = install.package_folder("inspector", "@modelcontextprotocol/inspector")
        options = ["--cli", "--server-url", url, "--transport", "http", "--protocol-era", self.era]
        with tempfile.TemporaryDirectory(prefix="openmcp-inspector-") as home:
            command = node(entry / "clients" / "launcher" / "build" / "index.js", *options)
            printed = _run([*command, "--format", "json", "--quiet", *arguments], {"HOME": home})
        return json.loads(printed)["result"]


def run_node(script: Path, *arguments: str) -> str:
    """Run one of our scripts on the TypeScript SDKs and return what it printed.

    :raises ClientFailed: it ended with an error.
    """
    return _run(node(script, *arguments), sdk_environment())


def _run(command: Sequence[Any], env: dict[str, str]) -> str:
    done = subprocess.run(
        [str(part) for part in command],
        env={"PATH": "/usr/bin:/bin", **env},
        capture_output=True,
        text=True,
        timeout=NODE_SECONDS,
        check=False,
    )
    if done.returncode != 0:
        raise ClientFailed(f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done.stdout
