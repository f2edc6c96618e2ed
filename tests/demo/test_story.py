"""`openmcp demo` as a process: what it tells is true, the lines it offers work, and nothing is left behind."""

import fcntl
import os
import pty
import re
import shutil
import signal
import struct
import subprocess
import sys
import termios
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.process import OPENMCP

PATIENCE = 180.0
"""Seconds for a whole demo, which takes half a minute where others want the CPU too."""
ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
TOLD = [
    "ready: agents call URL (process N)",
    "support-bot speaks MCP 2026-07-28 through the sidecar",
    "it sees the tools it may call, and no others",
    "the call reached the server, and its answer the agent",
    "the agent's model gets to read why, and can do something else",
    "the server never saw the call: ticket 2 is still there",
    "the customer's address is taken out, the colleague's stays",
    "4000 are beyond what can be asked for",
    "40 waited for a human, and were paid once they agreed",
    "the same call passes, and nobody is asked again",
    "another ticket is another question: nothing was paid",
    "the approval has ended: a human is asked anew",
    "each message came when the server sent it, not at the end",
    "both get the same answer: it does not tell which tools there are",
    "it speaks MCP 2025-11-25, with a session",
    "its own policy holds for it",
    "who called what, and what was decided: nothing is missing",
]
ON_A_TERMINAL = (
    "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
)


class Demo:
    """A running demo; `text` is what it has printed so far, without colours."""

    def __init__(self, process, output):
        self.process = process
        self.raw = ""
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._read, args=(output,), daemon=True)
        self._reader.start()

    def _read(self, output):
        while True:
            try:
                found = os.read(output, 65536)
            except OSError:  # what a terminal says when its other side has closed
                found = b""
            with self._changed:
                self.raw += found.decode()
                self._changed.notify_all()
            if not found:
                return

    @property
    def text(self):
        return ANSI.sub("", self.raw).replace("\r\n", "\n")

    def until(self, pattern):
        with self._changed:
            assert self._changed.wait_for(lambda: re.search(pattern, self.text), PATIENCE), self.text
        return re.search(pattern, self.text)

    @property
    def children(self):
        return [int(number) for number in re.findall(r"\(process (\d+)\)", self.text)]

    def ended(self):
        """Waits for the end; returns the exit code once it is known that nothing was left behind."""
        code = self.process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        assert [number for number in self.children if Path(f"/proc/{number}").exists() or _alive(number)] == []
        assert not Path(re.search(r"\S+/openmcp-demo-[^/]+", self.text)[0]).exists()
        return code


def _alive(number):
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    return True


@contextmanager
def demo(*arguments):
    """Runs it without a terminal."""
    command = [OPENMCP, "demo", *arguments]
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "PYTHONUTF8": "1", "COLUMNS": "80"},
    ) as process:
        try:
            yield Demo(process, process.stdout.fileno())
        finally:
            process.terminate()


@contextmanager
def demo_on_a_terminal():
    """Runs it on a terminal of 80 columns; its other side is yielded as well, to type on."""
    here, there = pty.openpty()
    fcntl.ioctl(there, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    environment = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "LINES", "NO_COLOR")}
    with subprocess.Popen(
        [sys.executable, "-c", ON_A_TERMINAL, OPENMCP, "demo"],
        stdin=there,
        stdout=there,
        stderr=there,
        start_new_session=True,
        env={**environment, "TERM": "xterm-256color", "PYTHONUTF8": "1"},
    ) as process:
        os.close(there)
        try:
            yield Demo(process, here), here
        finally:
            process.terminate()
            process.wait()
            os.close(here)


def calls(text):
    """The tools/call rows of the tables of the record: agent, era, tool, decision, rule."""
    return re.findall(r"^ *[\d.]+ (\S+) +(\S+) +tools/call (\S+) +(\S+) +(\S.*?) +[\d.]+$", text, re.MULTILINE)


def test_the_story_comes_out_as_told():
    with demo() as played:  # without a terminal it does not wait
        assert played.ended() == 0
    text = played.text
    told = re.sub(r"process \d+", "process N", re.sub(r"http://\S+", "URL", text))
    assert re.findall(r"^✓ (.*)$", told, re.MULTILINE) == TOLD
    assert text.rstrip().endswith("All of it came out as told.")
    assert calls(text) == [
        ("support-bot", "modern", "search_tickets", "allow", "daily-work"),
        ("support-bot", "modern", "delete_ticket", "deny", "no-deleting"),
        ("support-bot", "modern", "get_customer", "allow", "daily-work"),
        ("support-bot", "modern", "refund", "deny", "(no rule)"),
        ("support-bot", "modern", "refund", "granted", "money"),
        ("support-bot", "modern", "refund", "granted", "money"),
        ("support-bot", "modern", "refund", "pending", "money"),
        ("support-bot", "modern", "refund", "pending", "money"),
        ("support-bot", "modern", "export_tickets", "allow", "daily-work"),
        ("support-bot", "modern", "reset_password", "deny", "(no rule)"),
        ("support-bot", "modern", "no_such_tool", "deny", "(no rule)"),
        ("night-bot", "legacy", "search_tickets", "allow", "look-up"),
    ]
    assert re.search(r"^ +3 progress messages *$", text, re.MULTILINE)
    assert "    Denied: deleting tickets is left to people (decision " in text
    assert [line for line in text.splitlines() if len(line) > 80] == []
    assert "\x1b" not in played.raw


def offered(text):
    """The lines to copy, by what they are said to do."""
    part = re.split(r"\n\d+\. Now you.*\n", text)[1].split("\nWhat you do shows here:")[0]
    return dict(re.findall(r"^# (.*):\n((?:.+\n?)+)", part, re.MULTILINE))


def shell(lines):
    return subprocess.run(["bash", "-c", lines], capture_output=True, text=True, timeout=PATIENCE, check=True).stdout


@pytest.mark.skipif(shutil.which("curl") is None, reason="the lines to copy are for curl, which is not installed")
def test_a_user_at_a_terminal_tries_things_and_presses_ctrl_c():
    with demo_on_a_terminal() as (played, keyboard):
        played.until(r"Approve it there; after 90 seconds the demo does\.")
        rid = played.until(r"requests/(apr_[a-z2-7]{26})")[1]
        configuration = played.until(r"What agents may do: (\S+)")[1]
        assert "approved" in shell(f"{OPENMCP} approvals approve {rid} -c {configuration}")
        played.until("What you do shows here:")
        assert "The same from a terminal" not in played.text
        assert "\x1b[" in played.raw
        call, delete, change, watch, admin = offered(played.text).values()

        assert "Password reset mail does not arrive" in shell(call)
        assert "deleting tickets is left to people" in shell(delete)
        assert shell(change) == ""
        played.until(r"\d +reload +ok")
        assert '"text":"deleted"' in shell(delete)
        assert '"ready": true' in shell(admin)
        assert "openmcp_requests_total" in shell(admin)
        assert "delete_ticket" in shell(watch.replace("tail -f", "tail"))

        played.until(r"delete_ticket +allow")
        tried = calls(played.text.split("What you do shows here:")[1])
        assert [row[2:] for row in tried] == [
            ("get_ticket", "allow", "daily-work"),
            ("delete_ticket", "deny", "no-deleting"),
            ("delete_ticket", "allow", "no-deleting"),
        ]
        os.write(keyboard, b"\x03")
        assert played.ended() == 0


def test_a_signal_in_the_middle_ends_it_all_and_a_second_one_does_no_harm():
    with demo() as played:
        played.until("1 of 3: page 1")
        played.process.send_signal(signal.SIGTERM)
        played.process.send_signal(signal.SIGINT)
        assert played.ended() == 3
    assert "Ended" in played.text


def test_a_sidecar_that_ends_ends_the_demo():
    with demo("--wait") as played:
        played.until("What you do shows here:")
        os.kill(played.children[1], signal.SIGKILL)
        assert played.ended() == 3
    assert "openmcp demo: sidecar ended with exit code -9" in played.text


def test_nobody_reads_on():
    """`openmcp demo | head -1`: no traceback, and nothing is left behind."""
    command = f"{OPENMCP} demo | head -1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("OpenMCP: ")
