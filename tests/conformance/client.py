"""The client the conformance suite's client scenarios run, on the Python SDK.

The suite calls ``python -m tests.conformance.client [--through] URL`` with the scenario in the
environment. With ``--through`` a sidecar that allows everything is put between this client and URL.

One behaviour serves all scenarios: list the tools, then make the calls the scenario names, else call
every tool that was listed; get the prompts and read the resources there are; what the user or the
model is asked is answered with defaults.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Awaitable
from contextlib import ExitStack
from typing import Any

from mcp import types
from mcp.client.client import Client, ConnectMode
from mcp.shared.exceptions import MCPError
from pydantic import BaseModel, ValidationError

from tests.support.process import allow_all, sidecar

LEGACY_ONLY_MOCKS = {"json-schema-ref-no-deref"}  # this mock answers initialize alone, at every version

SAMPLES: dict[str, Any] = {"string": "x", "integer": 1, "number": 1, "boolean": False, "object": {}, "array": []}


async def elicited(context: Any, params: types.ElicitRequestParams) -> types.ElicitResult:
    """Accept, with the default of every field that has one, and something for every one required."""
    schema = getattr(params, "requested_schema", {})
    fields = schema.get("properties", {})
    defaults = {name: field["default"] for name, field in fields.items() if "default" in field}
    return types.ElicitResult(action="accept", content={**sample_arguments(schema), **defaults})


async def sampled(context: Any, params: types.CreateMessageRequestParams) -> types.CreateMessageResult:
    """Answer for the model."""
    return types.CreateMessageResult(role="assistant", content=types.TextContent(text="yes"), model="none")


async def roots(context: Any) -> types.ListRootsResult:
    """Name no roots."""
    return types.ListRootsResult(roots=[])


def connect(url: str) -> Client:
    """Return a client of the era the suite asks for, with every capability that can be declared."""
    scenario = os.environ.get("MCP_CONFORMANCE_SCENARIO", "")
    modern = os.environ.get("MCP_CONFORMANCE_PROTOCOL_VERSION", "") >= "2026-07-28"
    mode: ConnectMode = "auto" if modern and scenario not in LEGACY_ONLY_MOCKS else "legacy"
    return Client(url, mode=mode, elicitation_callback=elicited, sampling_callback=sampled, list_roots_callback=roots)


def planned_calls(tools: list[types.Tool]) -> list[tuple[str, dict[str, Any]]]:
    """Return the calls to make, in order: those of the scenario that were listed, else all."""
    context = json.loads(os.environ.get("MCP_CONFORMANCE_CONTEXT") or "{}")
    listed = {tool.name: tool for tool in tools}
    if "toolCalls" in context:
        named = context["toolCalls"]
        return [(call["name"], call.get("arguments") or {}) for call in named if call["name"] in listed]
    if "json_schema_echo" in listed:  # sent back as it was received
        return [("json_schema_echo", {"schema": listed["json_schema_2020_12_tool"].input_schema})]
    return [(tool.name, sample_arguments(tool.input_schema)) for tool in tools]


def sample_arguments(schema: dict[str, Any]) -> dict[str, Any]:
    """Return arguments with a value of the right type for everything ``schema`` requires."""
    properties = schema.get("properties", {})
    return {name: SAMPLES.get(properties.get(name, {}).get("type")) for name in schema.get("required", [])}


async def run(url: str) -> None:
    """Do what the scenario wants to see; a refused call is reported and does not end the run."""
    async with connect(url) as client:
        for name, arguments in planned_calls((await client.list_tools()).tools):
            await report(name, client.call_tool(name, arguments))
        if client.server_capabilities.prompts:
            for prompt in (await client.list_prompts()).prompts:
                await report(prompt.name, client.get_prompt(prompt.name))
        if client.server_capabilities.resources:
            for resource in (await client.list_resources()).resources:
                await report(resource.uri, client.read_resource(resource.uri))


async def report(what: str, request: Awaitable[BaseModel]) -> None:
    """Make a request and print, for the suite's log, what came of it."""
    try:
        print(what, (await request).model_dump_json(exclude_none=True), file=sys.stderr)
    except (MCPError, ValidationError) as error:  # the SDK raises the latter for an invalid result
        print(what, "refused:", error, file=sys.stderr)


def main() -> None:
    """Run against the last argument, through a sidecar where asked."""
    url = sys.argv[-1]
    with ExitStack() as stack:
        if "--through" in sys.argv[1:-1]:
            gateway = stack.enter_context(sidecar(allow_all(suite=url)))
            url = f"{gateway.url}/suite"
        asyncio.run(run(url))


if __name__ == "__main__":
    main()
