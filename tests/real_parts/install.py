"""Install the real parts the tests run against, pinned and cached outside the repository.

    python tests/real_parts/install.py            every part
    python tests/real_parts/install.py node sdk   only these
    python tests/real_parts/install.py --list     what there is, and what is installed

A part is a folder of ``npm/`` here: ``package.json`` names exact versions and
``package-lock.json`` the checksum of every file that is fetched. What is
installed lies under ``$OPENMCP_PARTS``, else ``${XDG_CACHE_HOME:-~/.cache}/openmcp/parts``,
in a folder named after the part and its lock file, so a changed pin is a new
folder and a half-finished installation is never taken for a whole one.
Packages' own install scripts are not run.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

RECIPES = Path(__file__).resolve().parent / "npm"
PARTS = tuple(sorted(folder.name for folder in RECIPES.iterdir() if folder.is_dir()))

_ARCHITECTURES = {"x86_64": "x64", "amd64": "x64", "aarch64": "arm64", "arm64": "arm64"}


class PartError(Exception):
    """A part could not be installed; the text says which and why."""


def cache_root() -> Path:
    """Return the folder all installed parts lie in; it may not exist yet."""
    if chosen := os.environ.get("OPENMCP_PARTS"):
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "openmcp" / "parts"


def part_folder(part: str) -> Path:
    """Return where ``part`` is, or would be, installed.

    :raises PartError: there is no such part.
    """
    if part not in PARTS:
        raise PartError(f"{part}: no such part (there are: {', '.join(PARTS)})")
    lock = (RECIPES / part / "package-lock.json").read_bytes()
    return cache_root() / f"{part}-{hashlib.sha256(lock).hexdigest()[:16]}"


def is_installed(part: str) -> bool:
    """Return whether ``part`` is there, complete and of the pinned version."""
    return part_folder(part).is_dir()


def node_binary() -> Path:
    """Return the path of the pinned Node.js; it exists only once ``node`` is installed.

    :raises PartError: no Node.js is published for this machine.
    """
    machine = _ARCHITECTURES.get(platform.machine().lower())
    if sys.platform != "linux" or machine is None:
        raise PartError(f"node: no pinned build for {sys.platform} {platform.machine()}")
    return part_folder("node") / "node_modules" / f"node-linux-{machine}" / "bin" / "node"


def package_folder(part: str, package: str) -> Path:
    """Return the folder of an npm ``package`` that the installed ``part`` brings."""
    return part_folder(part) / "node_modules" / package


def install(part: str) -> Path:
    """Install ``part`` unless it is there, and return its folder.

    :raises PartError: npm is missing, or an installation failed; its output is in the text.
    """
    target = part_folder(part)
    if target.is_dir():
        return target
    npm = shutil.which("npm")
    if npm is None:
        raise PartError(f"{part}: npm is needed to install it, and is not on the PATH")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{part}-", dir=target.parent) as work:
        for name in ("package.json", "package-lock.json"):
            shutil.copy(RECIPES / part / name, work)
        _run_npm(npm, part, work)
        _put_in_place(Path(work), target)
    return target


def _run_npm(npm: str, part: str, work: str) -> None:
    command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
    done = subprocess.run(command, cwd=work, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise PartError(f"{part}: npm ci failed\n{done.stdout}{done.stderr}")


def _put_in_place(work: Path, target: Path) -> None:
    ready = work / "ready"
    ready.mkdir()
    for entry in ("package.json", "package-lock.json", "node_modules"):
        (work / entry).rename(ready / entry)
    try:
        ready.rename(target)
    except OSError:
        if not target.is_dir():  # else another run was faster: the same part
            raise


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; 0 when all asked for is installed, 3 when something failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("part", nargs="*", help=f"of {', '.join(PARTS)}; default: all")
    parser.add_argument("--list", action="store_true", help="say what is installed, and where")
    options = parser.parse_args(arguments)
    failed = False
    for part in options.part or PARTS:
        try:
            if not options.list:
                install(part)
            print(f"{part}: {part_folder(part) if is_installed(part) else 'not installed'}", flush=True)
        except PartError as error:
            print(error, file=sys.stderr)
            failed = True
    return 3 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
