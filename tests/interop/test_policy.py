"""What official clients make of a policy: filtered lists, denied calls, denied requests of other kinds."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from tests.interop.clients import NodeClient, PythonClient
from tests.interop.plans import OUR_PLAN, OUR_REPORT, PYTHON, Step, said
from tests.support.parts import require
from tests.support.process import allow_all, mcp_server, sidecar

MODERN = "2026-07-28"
UNKNOWN = "no policy allows this"
DENIED = {"refused": 40300, "because": f"Denied: {UNKNOWN}"}

PLAN: list[Step] = [
    *OUR_PLAN,
    {"do": "call", "name": "no-such-tool", "arguments": {}},
    {"do": "read", "uri": "note://no-such-note"},
]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A server of which agents may only add, and may not count down."""
    rules = [
        {"name": "calculator", "tools": ["add", "countdown"], "action": "allow"},
        {"name": "no-rockets", "tools": ["count*"], "action": "deny", "message": "rockets are off"},
    ]
    policy = {"name": "calculator", "servers": ["upstream"], "requests": rules}
    with (
        mcp_server(PYTHON.name, PYTHON.command()) as server,
        sidecar({**allow_all(upstream=server), "policies": [policy]}) as gateway,
    ):
        yield f"{gateway.url}/upstream"


def without_decision_ids(report: list[Step]) -> Any:
    """Return the report with every decision's id, which is another each time, replaced by ``ID``."""
    return json.loads(re.sub(r"\(decision [0-9a-f]{16}\)", "(decision ID)", json.dumps(report)))


def tool_denied(reason: str) -> dict[str, Any]:
    return {**said(f"Denied: {reason} (decision ID)"), "isError": True}


REPORT = [
    {"tools": ["add"]},
    OUR_REPORT[1],
    {"progress": {"seen": [], "result": tool_denied("rockets are off")}},
    {"ask": {"asked": [], "result": tool_denied(UNKNOWN)}},
    {"read": DENIED},
    {"prompt": DENIED},
    {"call": tool_denied(UNKNOWN)},  # as what there is and is not allowed
    {"read": DENIED},
]


@pytest.mark.parametrize("mode", ["legacy", "auto"])
async def test_the_python_client_is_told_what_is_denied(url: str, mode: str) -> None:
    report = await PythonClient(mode).play(url, replace(PYTHON, plan=PLAN))

    assert without_decision_ids(report[1:]) == REPORT


@pytest.mark.real
@pytest.mark.parametrize(
    ("script", "mode"), [("client-v1.mjs", "-"), ("client-v2.mjs", "legacy"), ("client-v2.mjs", MODERN)]
)
async def test_typescript_clients_are_told_what_is_denied(url: str, script: str, mode: str) -> None:
    require("node", "sdk")
    report = await NodeClient(script, mode).play(url, replace(PYTHON, plan=PLAN))

    assert without_decision_ids(report[1:]) == REPORT
