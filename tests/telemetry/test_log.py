"""The log of the process."""

import io
import json
import logging
from collections.abc import Iterator

import pytest

from openmcp.sidecar.telemetry import log


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def restore() -> Iterator[None]:
    root = logging.getLogger()
    level, handlers, raising = root.level, root.handlers[:], logging.raiseExceptions
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.raiseExceptions = raising


def test_json_lines_where_it_is_no_terminal() -> None:
    stream = io.StringIO()
    log.configure("info", stream)
    logger = logging.getLogger("openmcp.test")
    logger.debug("not this")
    logger.warning("endpoint %s\nis gone", "a", extra={"server": "zendesk", "status": 503})
    try:
        raise ValueError("boom\nbang")
    except ValueError:
        logger.exception("fault")
    first, second = map(json.loads, stream.getvalue().splitlines())
    assert first.pop("time").endswith("Z")
    assert first == {
        "level": "warning",
        "logger": "openmcp.test",
        "message": "endpoint a\nis gone",
        "server": "zendesk",
        "status": 503,
    }
    assert second["exception"].endswith("ValueError: boom\nbang")


def test_readable_on_a_terminal_and_text_cannot_act_on_it() -> None:
    stream = Terminal()
    log.configure("info", stream)
    logging.getLogger("openmcp.test").info("a \x1b[31mred\nline", extra={"server": "zendesk"})
    assert stream.getvalue()[8:] == " info    a \\x1b[31mred\\nline server=zendesk\n"


def test_configuring_again_replaces() -> None:
    stream, other = io.StringIO(), io.StringIO()
    log.configure("info", stream)
    log.configure("error", other)
    logging.getLogger("openmcp.test").warning("not any more")
    logging.getLogger("openmcp.test").error("this")
    assert stream.getvalue() == ""
    assert len(other.getvalue().splitlines()) == 1
