"""What a program gets of the machine, and of the sidecar that starts it: what is listed, and no more."""

import json
import os
import resource
import stat
from pathlib import Path

import pytest

from tests.bridge.conftest import Behind
from tests.bridge.test_hostile import INITIALIZE, UNREACHED, failed
from tests.bridge.test_sessions import said
from tests.support.gate import call, initialize


async def test_limits_are_those_of_each_process(behind: Behind) -> None:
    limits = {"memory": "200MiB", "openFiles": 64, "cpu": "90s"}
    async with behind.gate(limits=limits) as sidecar, sidecar.connect() as agent:
        await initialize(agent)
        told = json.loads(said(await agent.ask(call("allowed_confined", bytes=10))))
        assert told["limits"] == {"core": [0, 0], "data": [200 << 20] * 2, "nofile": [64, 64], "cpu": [90, 90]}
        assert said(await agent.ask(call("allowed_swallow", bytes=100 << 20))) == "swallowed"
        assert said(await agent.ask(call("allowed_swallow", bytes=300 << 20))) == "MemoryError"


async def test_without_limits_there_is_no_dump_of_its_memory_and_else_ours_hold(behind: Behind) -> None:
    async with behind.gate() as sidecar, sidecar.connect() as agent:
        await initialize(agent)
        told = json.loads(said(await agent.ask(call("allowed_confined"))))
        assert told["limits"]["core"] == [0, 0]
        assert told["limits"]["nofile"] == list(resource.getrlimit(resource.RLIMIT_NOFILE))


async def test_no_descriptor_of_ours_is_inherited(behind: Behind, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("a key")
    given = os.open(tmp_path / "secret", os.O_RDONLY)
    os.set_inheritable(given, True)
    try:
        async with behind.gate() as sidecar, sidecar.connect() as agent:
            await initialize(agent)
            told = json.loads(said(await agent.ask(call("allowed_confined"))))
    finally:
        os.close(given)
    assert [number for number, _ in told["descriptors"]] == [0, 1, 2]
    assert not any("secret" in target for _, target in told["descriptors"])


async def test_a_program_of_the_folder_we_run_in_is_not_what_a_name_means(
    behind: Behind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planted = tmp_path / "planted"
    planted.write_text("#!/bin/sh\ntouch ran\n")
    planted.chmod(planted.stat().st_mode | stat.S_IXUSR)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f":.:{os.environ['PATH']}:")
    async with behind.gate(command="planted") as sidecar, sidecar.connect() as agent:
        failed(await agent.ask(call("allowed_echo") | INITIALIZE), UNREACHED)
        assert "no program planted" in await sidecar.page("/readyz")
    assert not (tmp_path / "ran").exists()
