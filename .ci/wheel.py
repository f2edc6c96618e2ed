"""Builds the wheel that is shipped: the modules on the way of a message compiled to C by mypyc, the rest as they are.

    python .ci/wheel.py DIST        leaves openmcp-<version>-<platform>.whl in the folder DIST

Needs a C compiler and the packages of the dev group. The sources are copied to a temporary folder first, so that no
compiled module ever lies beside its source. Everything also runs uncompiled, as `pip install .` installs it: slower.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("config", "identity", "injector", "sidecar")
COMPILED = (
    *(
        f"mcp/{name}"
        for name in ("answers", "capabilities", "era", "headers", "jsonrpc", "methods", "sse", "surface", "uris")
    ),
    *(
        f"policy/{name}"
        for name in ("agents", "asked", "bounded", "combining", "conditions", "engine", "globs", "index", "rules")
    ),
    *(
        f"inspection/{name}"
        for name in ("blobs", "edits", "effects", "inspector", "inspectors", "members", "redaction")
    ),
    *(f"detection/{name}" for name in ("candidates", "contacts", "credentials", "encodings", "finder", "folding")),
    *(f"detection/{name}" for name in ("numbers", "readings", "sets")),
    *("sealing", "pipeline"),
    *(f"net/{name}" for name in ("exchange", "framing", "handover", "http1", "pool", "response", "upstream")),
    *(f"net/{name}" for name in ("fields", "floods", "http2", "outbox", "stream", "tail", "uploads")),
    *(f"stages/{name}" for name in ("admit", "batch", "context", "forward", "record", "reply", "requests", "results")),
    *(f"stages/{name}" for name in ("answering", "connections", "embedded", "inspect", "relays", "sessions")),
    *("stages/payloads", "stages/spans", "stages/streams", "stages/pins", "stages/tasks"),
    *("stages/resend", "stages/limits", "stages/buckets", "net/outliers", "net/resending", "net/shares"),
    *(f"telemetry/{name}" for name in ("audit", "chain", "metrics", "operations", "records", "trace")),
    *("worker/cutting", "stages/large"),
)
"""Modules of `openmcp.sidecar`. Those that define msgspec structs stay out: mypyc does not know their metaclass."""
ELSEWHERE = ("identity/agents",)
"""The same of `openmcp`."""

FLAGS = "-DNDEBUG -fwrapv -g0 -fvisibility=hidden -fno-semantic-interposition -fno-plt"
"""The first two are Python's own, which CFLAGS replace: without them each assertion of its headers is checked. With the
last three, functions of one module call those of another as directly as their own."""

SETUP = """
from mypyc.build import mypycify
from setuptools import setup

setup(ext_modules=mypycify(["--ignore-missing-imports", *{files!r}], opt_level="3", debug_level="0"))
"""


def main() -> None:
    """Build, and say where the wheel is."""
    destination = Path(sys.argv[1]).resolve()
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder)
        copy(tree)
        command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "."]
        environment = os.environ | {"MYPYPATH": str(tree), "CFLAGS": f"{os.environ.get('CFLAGS', '')} {FLAGS}"}
        subprocess.run([*command, "--wheel-dir", str(destination)], cwd=tree, check=True, env=environment)  # noqa: S603 - nothing of it comes from outside
    print(*sorted(destination.glob("openmcp-*.whl")), sep="\n")


def copy(tree: Path) -> None:
    """Lay the sources out as they are imported, with the build that compiles them."""
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tree / "openmcp" / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("LICENSE", "README.md"):
        shutil.copy(ROOT / name, tree)
    project = (ROOT / "pyproject.toml").read_text()
    project, found = re.subn(r"^package-dir = .*\n", "", project, flags=re.M)
    assert found == 1, "pyproject.toml has another package-dir than this script knows"
    (tree / "pyproject.toml").write_text(project)
    files = [f"openmcp/{name}.py" for name in (*(f"sidecar/{name}" for name in COMPILED), *ELSEWHERE)]
    (tree / "setup.py").write_text(SETUP.format(files=files))


if __name__ == "__main__":
    main()
