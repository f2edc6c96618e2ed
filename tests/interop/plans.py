"""The interoperability matrix: the servers, what a client does with each, and what must come of it.

A plan is a list of steps, ``{"do": KIND, ...}``; a client makes them in order and reports, for each,
one object ``{KIND: what came of it}``, where an error response is ``{"refused": CODE, "because": TEXT}``.
The report is the same for every client and both eras.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tests.real_parts import install
from tests.support.parts import node
from tests.support.process import ROOT, python_server

NODE_FIXTURES = ROOT / "tests" / "fixtures" / "node"

Step = dict[str, Any]


def said(*texts: str) -> Step:
    """Return the report of a tool that answered with ``texts``."""
    return {"content": [{"type": "text", "text": text} for text in texts], "isError": False}


def user_says(text: str) -> Step:
    """Return the report of a prompt of one message."""
    return {"prompt": [{"role": "user", "content": {"type": "text", "text": text}}]}


@dataclass(frozen=True)
class Upstream:
    """A server of the matrix: how it is started, what is done with it and what must come of it.

    ``parts`` are the real parts it is made of, ``modern`` whether it speaks 2026-07-28 (all speak
    2025-11-25), ``answer`` what the user says to any elicitation, ``options`` the server's own.
    """

    name: str
    parts: tuple[str, ...]
    modern: bool
    plan: Sequence[Step]
    report: Callable[[], Sequence[Step]]
    answer: Step
    options: tuple[str, ...] = ()

    def command(self) -> Sequence[str | Path]:
        """Return the command that starts it; the first line it prints is ``listening on URL``."""
        if self.name == "interop-python":
            return python_server("tests.fixtures.interop_server", *self.options)
        entry = _NODE_ENTRIES[self.name]()
        return node("--import", NODE_FIXTURES / "loopback.mjs", *entry, *self.options)


Routes = tuple[Upstream, str, str]


def _everything() -> Path:
    return install.package_folder("sdk", "@modelcontextprotocol/server-everything") / "dist"


_NODE_ENTRIES: dict[str, Any] = {
    "interop-typescript-1": lambda: [NODE_FIXTURES / "server-v1.mjs"],
    "interop-typescript-2": lambda: [NODE_FIXTURES / "server-v2.mjs"],
    "mcp-servers/everything": lambda: [_everything() / "index.js", "streamableHttp"],
}

# Ours: the same three tools, resource and prompt, on each SDK.
OUR_PLAN: list[Step] = [
    {"do": "tools"},
    {"do": "call", "name": "add", "arguments": {"a": 2, "b": 3}},
    {"do": "progress", "name": "countdown", "arguments": {"steps": 2}},
    {"do": "ask", "name": "ask", "arguments": {"question": "Why?"}},
    {"do": "read", "uri": "note://today"},
    {"do": "prompt", "name": "greet", "arguments": {"name": "Ann"}},
]
OUR_REPORT: list[Step] = [
    {"tools": ["add", "ask", "countdown"]},
    {"call": said("5")},
    {
        "progress": {
            "seen": [
                {"progress": 1, "total": 2, "message": "1 to go"},
                {"progress": 2, "total": 2, "message": "0 to go"},
            ],
            "result": said("lift-off"),
        }
    },
    {"ask": {"asked": ["Why?"], "result": said("accepted: because")}},
    {"read": [{"uri": "note://today", "mimeType": "text/plain", "text": "nothing happened"}]},
    user_says("Hello, Ann!"),
]
OUR_ANSWER = {"answer": "because"}

EVERYTHING_PLAN: list[Step] = [
    {"do": "tools"},
    {"do": "call", "name": "get-sum", "arguments": {"a": 2, "b": 3}},
    {"do": "progress", "name": "trigger-long-running-operation", "arguments": {"duration": 0.1, "steps": 2}},
    {"do": "ask", "name": "trigger-elicitation-request", "arguments": {}},
    {"do": "read", "uri": "demo://resource/static/document/architecture.md"},
    {"do": "prompt", "name": "args-prompt", "arguments": {"city": "Paris"}},
]
EVERYTHING_ANSWER = {"name": "Ann", "check": True}
EVERYTHING_TOOLS = [
    "echo",
    "get-annotated-message",
    "get-env",
    "get-resource-links",
    "get-resource-reference",
    "get-structured-content",
    "get-sum",
    "get-tiny-image",
    "gzip-file-as-resource",
    "simulate-research-query",
    "toggle-simulated-logging",
    "toggle-subscriber-updates",
    "trigger-elicitation-request",
    "trigger-long-running-operation",
    "trigger-url-elicitation",
]


def everything_report() -> list[Step]:
    """Return what must come of ``EVERYTHING_PLAN``; the document read is one the package brings."""
    document = (_everything() / "docs" / "architecture.md").read_text()
    raw = json.dumps({"action": "accept", "content": EVERYTHING_ANSWER}, indent=2)
    return [
        {"tools": EVERYTHING_TOOLS},
        {"call": said("The sum of 2 and 3 is 5.")},
        {
            "progress": {
                "seen": [{"progress": 1, "total": 2}, {"progress": 2, "total": 2}],
                "result": said("Long running operation completed. Duration: 0.1 seconds, Steps: 2."),
            }
        },
        {
            "ask": {
                "asked": ["Please provide inputs for the following fields:"],
                "result": said(
                    "✅ User provided the requested information!",
                    "User inputs:\n- Name: Ann\n- Agreed to terms: true",
                    f"\nRaw result: {raw}",
                ),
            }
        },
        {"read": [{"uri": EVERYTHING_PLAN[4]["uri"], "mimeType": "text/markdown", "text": document}]},
        user_says("What's weather in Paris?"),
    ]


PYTHON = Upstream("interop-python", (), True, OUR_PLAN, lambda: OUR_REPORT, OUR_ANSWER)
TYPESCRIPT_1 = Upstream("interop-typescript-1", ("node", "sdk"), False, OUR_PLAN, lambda: OUR_REPORT, OUR_ANSWER)
TYPESCRIPT_2 = Upstream("interop-typescript-2", ("node", "sdk"), True, OUR_PLAN, lambda: OUR_REPORT, OUR_ANSWER)
EVERYTHING = Upstream(
    "mcp-servers/everything", ("node", "sdk"), False, EVERYTHING_PLAN, everything_report, EVERYTHING_ANSWER
)

# The same with one era alone. The first TypeScript SDK, and the reference server on it, have the legacy one.
LEGACY_ALONE = (
    replace(PYTHON, options=("--era", "legacy")),
    replace(TYPESCRIPT_2, options=("legacy",)),
    TYPESCRIPT_1,
    EVERYTHING,
)
MODERN_ALONE = (replace(PYTHON, options=("--era", "modern")), replace(TYPESCRIPT_2, options=("modern",)))
