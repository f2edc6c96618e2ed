"""The pages of docs/quickstart, executed: every block of a page is a command that works, or what it prints.

All commands of a page go to one shell, in a fresh home folder, in a network of its own where the kernel gives one (else
the ports of the pages have to be free). What a page shows below a command is what the command has printed; a line `...`
stands for any lines. The block with `pip install` is replaced by this environment, since it downloads a lot: with
OPENMCP_INSTALL=1 it is executed as well, in a copy of the sources, before the rest.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.parts import require
from tests.support.process import OPENMCP, ROOT

FOLDER = ROOT / "docs" / "quickstart"
PAGES = sorted(FOLDER.glob("*.md"))
INSTALL = os.environ.get("OPENMCP_INSTALL") == "1"
PATIENCE = 180.0
"""Seconds for a page, on a machine that does other things too."""
PROMISED = 600.0
"""Seconds from nothing to one's own server, with the installation."""
MARK = "~~~ block"
VARYING = (
    (r"apr_[0-9a-z]{26}", "apr_ID"),
    (r"\(decision [0-9a-f]{16}\)", "(decision ID)"),
    (r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d(\.\d+)?)?( UTC|Z)?", "TIME"),
    (r"\d\d:\d\d:\d\d(\.\d+)?", "TIME"),
    (r"\b[0-9a-f]{16,64}\b", "DIGEST"),
    (r"\b\d+(\.\d+)? (ms|µs)\b", "SOME ms"),
    (r"again in \d+ s", "again in SOME s"),
    (r"(?m) +$", ""),
)
"""Of what is printed: what is another one each time."""


@dataclass(frozen=True)
class Block:
    """Commands of a page and what it shows of their output, if anything."""

    line: int
    commands: str
    shown: str | None

    @property
    def installs(self) -> bool:
        """Whether this is the installation."""
        return "pip install" in self.commands


def blocks(text: str) -> list[Block]:
    """Return the blocks of a page in their order; there is nothing else between fences."""
    found = [
        Block(text.count("\n", 0, match.start()) + 2, match[1], match[2])
        for match in re.finditer(r"^```sh\n(.*?)^```$(?:\n\n^```\n(.*?)^```$)?", text, re.DOTALL | re.MULTILINE)
    ]
    fences = len(re.findall(r"^```", text, re.MULTILINE))
    assert fences == 2 * sum(1 if block.shown is None else 2 for block in found), "a block that is not executed"
    return found


def script(page: list[Block]) -> str:
    """Return the commands with a line after each block that tells whether one of them failed, and when it was done."""
    parts = []
    for number, block in enumerate(page):
        if not block.installs:
            parts.append(block.commands)
        elif INSTALL:
            parts.append(". ~/venv/bin/activate\n")
        parts.append(f'printf "\\n%s %s %s %s\\n" "{MARK}" {number} "$failed" "$EPOCHREALTIME"; failed=0\n')
    return "".join(parts)


def told(text: str) -> str:
    """Return what was printed with what varies left out."""
    for pattern, name in VARYING:
        text = re.sub(pattern, name, text)
    return text.strip("\n")


def same(shown: str, printed: str) -> bool:
    """Whether the page shows what was printed."""
    pattern = "\n".join(
        r"[^\n]*(?:\n[^\n]*)*" if line == "..." else re.escape(line) for line in told(shown).split("\n")
    )
    return re.fullmatch(pattern, told(printed)) is not None


def shell(folder: Path) -> list[str]:
    """Return the command of a shell that reads its script in `folder`, where there can be in a network of its own."""
    inside = f"ip link set lo up && exec bash {folder}/page.sh"
    alone = ["unshare", "--map-root-user", "--net", "bash", "-c"]
    if shutil.which("unshare") is not None and shutil.which("ip") is not None:
        tried = subprocess.run([*alone, "ip link set lo up"], capture_output=True, check=False)
        if tried.returncode == 0:
            return [*alone, inside]
    return ["bash", str(folder / "page.sh")]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home folder, and in it a clone with the sources where they are to be installed."""
    clone = tmp_path / "openmcp"
    clone.mkdir()
    if INSTALL:
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
        for name in filter(None, listed.split("\0")):
            (clone / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, clone / name, follow_symlinks=False)
    return tmp_path


def run(page: list[Block], home: Path) -> tuple[list[str], list[int], list[float]]:
    """Execute a page; return for each block what it printed and how it ended; the seconds of installing and of each."""
    path = f"{'' if INSTALL else f'{OPENMCP.parent}:'}{os.environ['PATH']}:/usr/sbin:/sbin"
    env = {"HOME": str(home), "PATH": path, "LANG": "C.UTF-8", "TMPDIR": str(home)}
    began = time.monotonic()
    for block in page if INSTALL else ():
        if block.installs:
            subprocess.run(
                ["bash", "-ec", block.commands], cwd=home / "openmcp", env=os.environ | {"HOME": str(home)}, check=True
            )
    installing = time.monotonic() - began
    start = f'failed=0; trap "failed=\\$?" ERR; printf "%s %s %s %s\\n" "{MARK}" start 0 "$EPOCHREALTIME"\n'
    (home / "page.sh").write_text(start + script(page))
    process = subprocess.Popen(
        shell(home),
        cwd=home / "openmcp",
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        printed, _ = process.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise AssertionError(f"not done in time; so far:\n{process.communicate()[0]}") from None
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # what a page that failed did not get to stop
    parts = re.split(rf"^{MARK} (\S+) (\d+) ([\d.]+)\n", printed, flags=re.MULTILINE)
    times = [float(text) for text in parts[3::4]]
    seconds = [installing, *(after - before for before, after in zip(times, times[1:], strict=False))]
    return [text.replace(str(home), "~") for text in parts[4:-1:4]], [int(text) for text in parts[6::4]], seconds


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_does_what_it_says(page: Path, home: Path):
    read = blocks(page.read_text(encoding="utf-8"))
    if "redis-server" in page.read_text() and shutil.which("redis-server") is None:
        require("redis-server")
    outputs, codes, seconds = run(read, home)
    assert len(outputs) == len(codes) == len(read), outputs[-1:]
    for block, output, code in zip(read, outputs, codes, strict=True):
        where = f"{page.name}:{block.line}: {block.commands}--- printed, exit code {code} ---\n{output}"
        if block.shown is None:
            assert code == 0, where
        else:
            assert same(block.shown, output), where
    spent = ", ".join(f"{what:.1f}" for what in seconds)
    print(f"{page.stem}: {sum(seconds):.0f} s ({spent})")
    assert sum(seconds) < PROMISED
    assert subprocess.run(["pgrep", "-f", str(home)], capture_output=True, check=False).stdout == b""


def test_there_is_a_page_for_each_reader():
    assert [page.stem for page in PAGES] == ["app-developer", "platform-engineer", "security-engineer"]
    index = (ROOT / "docs" / "quickstart.md").read_text(encoding="utf-8")
    assert [f"quickstart/{page.name}" in index for page in PAGES] == [True] * 3


def test_what_a_page_must_not_do():
    """The reading of pages itself: an output that differs, a block that nobody runs."""
    assert same("a\n...\nz\n", "a\nb\nc\nz\n")
    assert same("apr_" + "a" * 26 + "\n", "apr_" + "b" * 26 + "\n")
    assert not same("allow\n", "deny\n")
    assert not same("a\n", "a\nb\n")
    with pytest.raises(AssertionError, match="not executed"):
        blocks("```yaml\na: 1\n```\n")
