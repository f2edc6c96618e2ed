"""Standard error of servers in our log: whole lines, no more than can be read, nothing that acts on who reads it."""

import logging

import pytest

from openmcp.sidecar.bridge import grumbling
from openmcp.sidecar.bridge.grumbling import BYTES, LINES, LONGEST, Grumbling


@pytest.fixture
def counted() -> list[tuple[int, int]]:
    """How many lines were logged and how many were not, each time that this was told."""
    return []


@pytest.fixture
def grumbler(caplog: pytest.LogCaptureFixture, counted: list[tuple[int, int]]) -> Grumbling:
    """One of the process `p`."""
    caplog.set_level(logging.INFO, "openmcp.bridge")
    return Grumbling("p", lambda logged, dropped: counted.append((logged, dropped)))


def test_lines_are_logged_when_they_are_whole(grumbler: Grumbling, caplog: pytest.LogCaptureFixture) -> None:
    assert grumbler.feed(b"one\r\n\n  \ntw")
    assert caplog.messages == ["p: one"]
    grumbler.feed(b"o\nthree")
    grumbler.end()
    assert caplog.messages == ["p: one", "p: two", "p: three"]


def test_nothing_in_a_line_acts_on_its_reader(grumbler: Grumbling, caplog: pytest.LogCaptureFixture) -> None:
    grumbler.feed(b"\x1b[2J\x07 forged\r2026 \xe2\x80\xae \xff \xc2\x85\n")
    assert caplog.messages == ["p: \\x1b[2J\\x07 forged\\r2026 \\u202e \N{REPLACEMENT CHARACTER} \\x85"]


def test_an_endless_line_is_cut(grumbler: Grumbling, caplog: pytest.LogCaptureFixture) -> None:
    grumbler.feed(b"x" * (LONGEST + 1))
    assert caplog.messages == ["p: " + "x" * LONGEST]


def test_more_lines_than_can_be_read_are_counted(
    grumbler: Grumbling, caplog: pytest.LogCaptureFixture, counted: list[tuple[int, int]]
) -> None:
    at_first = LINES * grumbling._SAVED
    grumbler.feed(b"x\n" * (at_first + 7))
    assert len(caplog.messages) == at_first
    grumbler.sweep()
    assert caplog.messages[at_first:] == ["p: (7 more lines of its standard error)"]
    grumbler.feed(b"y\n" * (LINES + 1))
    grumbler.end()
    assert caplog.messages[-2:] == ["p: y", "p: (1 more lines of its standard error)"]
    assert counted == [(at_first, 7), (LINES, 1)]


def test_no_more_is_read_than_so_much_at_a_time(grumbler: Grumbling) -> None:
    assert grumbler.feed(b"x" * (BYTES - 1))
    assert not grumbler.feed(b"x")
    grumbler.sweep()
    assert grumbler.feed(b"x")
