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
    root, ours = logging.getLogger(), logging.getLogger("openmcp")
    levels, handlers, raising = (root.level, ours.level), root.handlers[:], logging.raiseExceptions
    yield
    root.handlers[:] = handlers
    root.setLevel(levels[0])
    ours.setLevel(levels[1])
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


def test_at_debug_libraries_do_not_tell_what_they_send() -> None:
    stream = io.StringIO()
    log.configure("debug", stream)
    logging.getLogger("botocore.parsers").debug("Response body: <SecretAccessKey>wJalr</SecretAccessKey>")
    logging.getLogger("botocore.credentials").info("Found credentials")
    logging.getLogger("openmcp.test").debug("ours")
    assert [json.loads(line)["message"] for line in stream.getvalue().splitlines()] == ["Found credentials", "ours"]
    log.configure("error", stream)
    logging.getLogger("botocore.credentials").warning("not this")
    logging.getLogger("openmcp.test").warning("nor this")
    assert len(stream.getvalue().splitlines()) == 2


def test_configuring_again_replaces() -> None:
    stream, other = io.StringIO(), io.StringIO()
    log.configure("info", stream)
    log.configure("error", other)
    logging.getLogger("openmcp.test").warning("not any more")
    logging.getLogger("openmcp.test").error("this")
    assert stream.getvalue() == ""
    assert len(other.getvalue().splitlines()) == 1
