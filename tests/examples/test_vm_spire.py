"""examples/vm-spire runs as its README says, against real SPIRE; its unit is one that systemd takes, and tight."""

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from openmcp.config import load
from tests.real_parts.install import part_folder
from tests.support.parts import require
from tests.support.process import OPENMCP, ROOT, free_ports

FOLDER = ROOT / "examples" / "vm-spire"
README = (FOLDER / "README.md").read_text(encoding="utf-8")
PATIENCE = 180.0
EXPOSURE = 15
"""In tenths, of 100: as `systemd-analyze security` counts."""


@pytest.fixture
def folder(tmp_path):
    """A copy, so that nothing is written into the example."""
    return shutil.copytree(FOLDER, tmp_path / "vm-spire")


def ports(folder: Path) -> dict[str, str]:
    """Give the example ports that are free; what `run.sh` has to know of them."""
    spire, server, mcp, admin = free_ports(4)
    text = (folder / "gateway.yaml").read_text()
    for written, free in (("15001", mcp), ("15020", admin), ("9443", server)):
        assert text.count(f":{written}") == 1
        text = text.replace(f":{written}", f":{free}")
    (folder / "gateway.yaml").write_text(text)
    return {
        "SPIRE_PORT": str(spire),
        "SERVER_PORT": str(server),
        "GATEWAY": f"http://127.0.0.1:{mcp}/tickets",
        "READY": f"http://127.0.0.1:{admin}/readyz",
    }


def environment(folder: Path) -> dict[str, str]:
    """What `run.sh` needs to find SPIRE, ours, and ports."""
    places = {"SPIRE_BIN": str(part_folder("spire") / "bin"), "PATH": f"{OPENMCP.parent}:{os.environ['PATH']}"}
    return {**os.environ, **places, **ports(folder)}


@pytest.fixture
def temporary():
    """A folder for temporary files whose name is short: the path of a Unix socket has 107 bytes at most."""
    with tempfile.TemporaryDirectory(prefix="vm-") as name:
        yield Path(name)


@pytest.mark.real
def test_the_readme(folder, temporary):
    require("spire")
    command, output = re.findall(r"```(?:sh)?\n(.*?)```", README, re.DOTALL)[1:3]
    done = subprocess.run(
        command.split(),
        cwd=folder,
        env={**environment(folder), "TMPDIR": str(temporary)},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert (done.stdout, done.returncode) == (output, 0), done.stderr
    assert list(temporary.iterdir()) == []


@pytest.mark.real
def test_it_leaves_nothing_behind_where_it_is_stopped(folder, temporary):
    require("spire")
    with subprocess.Popen(
        ["./run.sh"],
        cwd=folder,
        env={**environment(folder), "TMPDIR": str(temporary)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout is not None
        until = "== a SPIRE agent for each machine\n"
        assert until in iter(process.stdout.readline, "")
        (work,) = temporary.iterdir()
        process.terminate()
        assert process.wait(PATIENCE) == 130
        process.stdout.read()  # to its end: no child holds it any more
    assert not work.exists()


def test_it_says_what_is_missing(folder, tmp_path):
    bash = shutil.which("bash")
    assert bash is not None
    for name in ("dirname", "mktemp"):
        found = shutil.which(name)
        assert found is not None
        (tmp_path / name).symlink_to(found)
    done = subprocess.run(
        [bash, "run.sh"], cwd=folder, env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr == "spire-server is not on the PATH (see README.md)\n"


def test_nothing_is_to_be_said_against_the_configuration():
    loaded = load(FOLDER / "gateway.yaml")
    assert loaded.warnings == ()
    assert loaded.configuration.identity.workload_api is None


@pytest.fixture
def unit(tmp_path):
    """The unit, for the `openmcp` that is installed here: systemd looks whether there is such a program."""
    text = (FOLDER / "openmcp.service").read_text()
    assert text.count("/opt/openmcp/bin/openmcp ") == 1
    path = tmp_path / "openmcp.service"
    path.write_text(text.replace("/opt/openmcp/bin/openmcp ", f"{OPENMCP} "))
    return path


def analyzed(*arguments: object) -> tuple[int, str]:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("systemd-analyze is not installed")
    done = subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def test_systemd_takes_the_unit(unit):
    assert analyzed("verify", unit) == (0, "")


def test_the_unit_may_do_little(unit):
    code, said = analyzed("security", "--offline=true", f"--threshold={EXPOSURE}", unit)
    assert code == 0, said
    assert "Overall exposure level" in said
