"""The ports of programs under test: chosen some time before a program listens there, and nobody's until then."""

import json
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from subprocess import PIPE

import pytest

from tests.support.process import ROOT, free_ports

CHOSEN = Path("/proc/sys/net/ipv4/ip_local_port_range")
"""Those that Linux gives to whoever leaves the choice to it."""


def test_no_port_is_given_twice_to_tests_that_run_side_by_side():
    given = "from tests.support.process import free_ports; print(free_ports(100), flush=True)"
    command = [sys.executable, "-c", f"{given}; input()"]
    with ExitStack() as stack:
        others = [
            stack.enter_context(subprocess.Popen(command, cwd=ROOT, stdin=PIPE, stdout=PIPE, text=True))
            for _ in range(3)
        ]
        found = [free_ports(100), *(json.loads(each.stdout.readline()) for each in others)]
        for each in others:
            each.communicate("\n")
    assert len({port for ports in found for port in ports}) == 400


def test_no_port_is_given_by_the_kernel_meanwhile():
    if not CHOSEN.exists():
        pytest.skip("another system")
    low, high = map(int, CHOSEN.read_text().split())
    assert [port for port in free_ports(100) if low <= port <= high] == []
