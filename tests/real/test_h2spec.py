"""The conformance suite for HTTP/2 (RFC 9113, RFC 7541), against the whole sidecar."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.fakes.pki import Ca
from tests.real_parts import install
from tests.support.gate import Gate, configuration, gate
from tests.support.hostile import hostile
from tests.support.parts import require

pytestmark = pytest.mark.real

PLAIN = ["Sends invalid connection preface"]
"""What fails in the clear, by the names of its cases: no preface of HTTP/2 is a request of HTTP/1.1 there, a bad one,
and so is answered before the connection is closed."""
PATIENCE = "60"
"""Seconds for what a case awaits. None passes by waiting in vain: only a fault, or a machine that stands still, takes
longer than a moment."""


@pytest.fixture(params=[False, True], ids=["clear", "tls"])
async def sidecar(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Gate]:
    """A sidecar, with TLS or without."""
    async with hostile() as server:
        made = configuration(server.url)
        if request.param:
            pem = tmp_path / "listener.pem"
            pem.write_bytes(Ca("example.org").leaf([], dns=["localhost"]).pem())
            made["listen"]["tls"] = {"certificate": {"file": str(pem)}, "key": {"file": str(pem)}}
        async with gate(tmp_path, made) as running:
            yield running


async def test_h2spec(sidecar: Gate, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    require("h2spec")
    tls = "tls" in request.node.callspec.id
    host, port = sidecar.app.mcp_address
    report = tmp_path / "h2spec.xml"
    command = [install.program("h2spec", "h2spec"), "-h", host, "-p", str(port), "-P", "/server", "-o", PATIENCE]
    command += ["-j", report, *(["-t", "-k"] if tls else [])]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=False)
    cases = [case for case in ElementTree.parse(report).iter("testcase") if case.get("package")]
    assert len(cases) == 145, done.stdout + done.stderr
    failed, skipped = (
        [case.get("classname") for case in cases if any(case.find(kind) is not None for kind in kinds)]
        for kinds in (("failure", "error"), ("skipped",))
    )
    assert (failed, skipped) == ([] if tls else PLAIN, []), done.stdout
