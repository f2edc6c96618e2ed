"""Install the real parts the tests run against, pinned and cached outside the repository.

    python tests/real_parts/install.py            every part
    python tests/real_parts/install.py node sdk   only these
    python tests/real_parts/install.py --list     what there is, and what is installed

A part is a folder of ``npm/``, ``go/`` or ``maven/`` here:

npm
    ``package.json`` names exact versions, ``package-lock.json`` the checksum of
    every file that is fetched. Packages' own install scripts are not run.
go
    ``go.mod`` names the versions and, as ``tool``, the programs; ``go.sum`` the
    checksum of every module. The programs are built, which takes minutes once,
    and know their versions as those do that are published. A ``main.go`` is a
    program too, of libraries for which none is published as a module.
maven
    ``pom.xml`` names the version, ``checksums.txt`` every file that comes with
    it and its SHA-256, as ``sha256sum`` writes them; any other file is a failure.

What is installed lies under ``$OPENMCP_PARTS``, else ``${XDG_CACHE_HOME:-~/.cache}/openmcp/parts``,
in a folder named after the part and its lock files, so a changed pin is a new
folder and a half-finished installation is never taken for a whole one.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

RECIPES = Path(__file__).resolve().parent
LOCKS = {
    "npm": ("package.json", "package-lock.json"),
    "go": ("go.mod", "go.sum"),
    "maven": ("pom.xml", "checksums.txt"),
}
"""The files of a part's recipe, by its kind; the checksum of all but an npm part's ``package.json`` names it."""

KINDS = {folder.name: kind for kind in LOCKS for folder in (RECIPES / kind).iterdir() if folder.is_dir()}
PARTS = tuple(sorted(KINDS))

PAUSES = (2.0, 15.0)
"""Seconds before a command that failed is run again: all of them download, and Go asks its proxy for each file once."""

_ARCHITECTURES = {"x86_64": "x64", "amd64": "x64", "aarch64": "arm64", "arm64": "arm64"}
_MAVEN_COPY = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies"
_GO_FLAGS = ("-mod=readonly", "-buildvcs=false", "-trimpath")
_GO_STAMPS = (
    ("k8s.io/component-base/version.gitVersion", "k8s.io/kubernetes", r".+"),
    ("helm.sh/helm/v3/internal/version.version", "helm.sh/helm/v3", r".+"),
    ("helm.sh/helm/v3/pkg/chartutil.k8sVersionMinor", "k8s.io/kubernetes", r"(?<=^v1\.)\d+"),
)
"""Variables that a build gets the version of a module written into, and which part of that: of what clients look at."""

_GO_TAGS = {"prometheus": "remove_all_sd"}
"""Build tags of a part: Prometheus without the clients of all clouds, which take most of the time to build it."""

_GO_FILES = {
    "envoygateway": ("github.com/envoyproxy/gateway", "charts/gateway-helm/charts/crds/crds"),
    "aigateway": ("github.com/envoyproxy/ai-gateway", "manifests/charts/ai-gateway-crds-helm/templates"),
}
"""A folder of a module that a part brings as it is, as ``bin/files``; a part without tools brings nothing else."""


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
    if part not in KINDS:
        raise PartError(f"{part}: no such part (there are: {', '.join(PARTS)})")
    names = [name for name in _inputs(part) if name != "package.json"]
    pins = b"".join((_recipe(part) / name).read_bytes() for name in names)
    return cache_root() / f"{part}-{hashlib.sha256(pins).hexdigest()[:16]}"


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


def program(part: str, name: str) -> Path:
    """Return the path of a program that the Go ``part`` builds; it exists only once the part is installed."""
    return part_folder(part) / "bin" / name


def files(part: str) -> Path:
    """Return the folder of the files that the Go ``part`` brings from a module; it exists only once it is installed."""
    return part_folder(part) / "bin" / "files"


def libraries(part: str) -> Path:
    """Return the folder of the Java libraries of the Maven ``part``; it exists only once the part is installed."""
    return part_folder(part) / "lib"


def install(part: str) -> Path:
    """Install ``part`` unless it is there, and return its folder.

    :raises PartError: npm, Go or Maven is missing, or an installation failed; its output is in the text.
    """
    target = part_folder(part)
    if target.is_dir():
        return target
    make = {"npm": _npm, "go": _go, "maven": _maven}[KINDS[part]]
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{part}-", dir=target.parent) as work:
        for name in _inputs(part):
            shutil.copy(_recipe(part) / name, work)
        made = make(part, Path(work))
        _put_in_place(Path(work), (*_inputs(part), made), target)
    return target


def _inputs(part: str) -> tuple[str, ...]:
    """The files of a part's recipe: its lock files, and the program in Go that some have."""
    own = ("main.go",) if (_recipe(part) / "main.go").exists() else ()
    return (*LOCKS[KINDS[part]], *own)


def _recipe(part: str) -> Path:
    return RECIPES / KINDS[part] / part


def _npm(part: str, work: Path) -> str:
    npm = shutil.which("npm")
    if npm is None:
        raise PartError(f"{part}: npm is needed to install it, and is not on the PATH")
    _run(part, [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"], work, {})
    return "node_modules"


def _go(part: str, work: Path) -> str:
    """Build the tools of the module in ``work``: with cgo, which SPIRE's database needs.

    An older Go, from 1.21 on, fetches the one that ``go.mod`` asks for, unless ``GOTOOLCHAIN`` says otherwise.
    """
    module = (work / "go.mod").read_text()
    wanted = next(line for line in module.splitlines() if line.startswith("go "))
    needs = f"{part}: {wanted} or newer (https://go.dev/dl) and a C compiler are needed to build it"
    go, compiler = shutil.which("go"), shutil.which(os.environ.get("CC", "cc").partition(" ")[0])
    if go is None or compiler is None:
        raise PartError(f"{needs}; not on the PATH: {'go' if go is None else 'the C compiler'}")
    environment = {"CGO_ENABLED": "1", "GOWORK": "off", "GOTOOLCHAIN": os.environ.get("GOTOOLCHAIN", "auto")}
    programs = ["tool"] if "\ntool " in module else ["."] if (work / "main.go").exists() else []
    if programs:
        flags = [*_GO_FLAGS, *([f"-tags={_GO_TAGS[part]}"] if part in _GO_TAGS else [])]
        command = [go, "build", *flags, f"-ldflags={_linking(module)}", "-o", f"bin{os.sep}", *programs]
        _run(part, command, work, environment, needs)
    if part in _GO_FILES:
        name, folder = _GO_FILES[part]
        told = json.loads(_run(part, [go, "mod", "download", "-json", name], work, environment, needs))
        copied = shutil.copytree(Path(told["Dir"]) / folder, work / "bin" / "files")
        for path in (copied, *copied.rglob("*")):  # Go lets nobody write to them, nor remove them
            path.chmod(path.stat().st_mode | 0o200)
    return "bin"


def _linking(module: str) -> str:
    """Return the options of the linker for a ``go.mod``: no symbols, and the versions in it for who asks."""
    versions = dict(re.findall(r"^\t(\S+) (v\S+)", module, re.MULTILINE))
    stamps = [
        f"-X {variable}={found[0]}"
        for variable, name, part in _GO_STAMPS
        if (found := re.search(part, versions.get(name, "")))
    ]
    return " ".join(("-s", "-w", *stamps))


def _maven(part: str, work: Path) -> str:
    maven = shutil.which("mvn")
    if maven is None:
        raise PartError(f"{part}: Maven is needed to install it, and is not on the PATH")
    _run(part, [maven, "-B", "-q", _MAVEN_COPY, "-DoutputDirectory=lib", "-DincludeScope=runtime"], work, {})
    lines = (work / "checksums.txt").read_text().splitlines()
    wanted = {name: digest for digest, name in (line.split("  ") for line in lines)}
    found = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in (work / "lib").iterdir()}
    wrong = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
    if wrong:
        raise PartError(f"{part}: not what was pinned: {', '.join(wrong)}")
    return "lib"


def _run(part: str, command: list[str], work: Path, environment: Mapping[str, str], hint: str = "") -> str:
    whole = {**os.environ, **environment}
    for pause in (*PAUSES, None):
        done = subprocess.run(command, cwd=work, env=whole, capture_output=True, text=True, check=False)
        if done.returncode == 0 or pause is None:
            break
        time.sleep(pause)
    if done.returncode != 0:
        name = f"{Path(command[0]).name} {command[1]}"
        raise PartError("\n".join(filter(None, (f"{part}: {name} failed", done.stdout + done.stderr, hint))))
    return done.stdout


def _put_in_place(work: Path, entries: Sequence[str], target: Path) -> None:
    ready = work / "ready"
    ready.mkdir()
    for entry in entries:
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
