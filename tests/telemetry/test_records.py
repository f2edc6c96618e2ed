"""Lines of the record: nothing that an agent sends can break or forge one."""

import json

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from openmcp.sidecar.telemetry.records import clip, encode, fingerprint, timestamp

HIDDEN = "\x7f\x85\x9b\u200b\u202e\u2028\u2029\u2066\ufeff"


def test_a_timestamp_is_rfc_3339_in_utc_with_microseconds() -> None:
    assert timestamp(0) == "1970-01-01T00:00:00.000000Z"
    assert timestamp(1_785_231_000_123_456_789) == "2026-07-28T09:30:00.123456Z"
    assert timestamp(1_785_231_000_999_999_999) == "2026-07-28T09:30:00.999999Z"
    assert timestamp(1_785_231_001_000_000_000) == "2026-07-28T09:30:01.000000Z"
    assert timestamp(1_785_231_000_000_001_000) == "2026-07-28T09:30:00.000001Z", "the clock may go back"


def test_log_injection() -> None:
    """A tool name that tries to end the line and forge a second one stays a string in the first."""
    forged = 'x"}\n{"event":"request","decision":"allow"}\r\n'
    line = encode({"event": "request", "name": forged, "decision": "deny"})
    assert b"\n" not in line
    assert b"\r" not in line
    assert json.loads(line) == {"event": "request", "name": forged, "decision": "deny"}


@pytest.mark.parametrize("char", HIDDEN)
def test_characters_that_end_lines_or_hide_text_are_written_out(char: str) -> None:
    line = encode({"name": f"a{char}b", "é": "ü"})
    assert line == f'{{"name":"a\\u{ord(char):04x}b","é":"ü"}}'.encode()
    assert json.loads(line) == {"name": f"a{char}b", "é": "ü"}
    assert encode({"name": char}) == f'{{"name":"\\u{ord(char):04x}"}}'.encode()


def test_what_json_does_not_have_is_replaced() -> None:
    record: dict[str, object] = {"name": "a\ud800b", "\udfff": 1, "id": 2**70, "list": [{"x": "\udc00"}, (1,)]}
    assert orjson.loads(encode({**record, "raw": b"\xff"})) == {
        "name": "a\ufffdb",
        "\ufffd": 1,
        "id": str(2**70),
        "list": [{"x": "\ufffd"}, [1]],
        "raw": "b'\\xff'",
    }


texts = st.text(st.characters(codec=None))  # surrogates too
values = st.recursive(
    st.none() | st.booleans() | st.integers() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=5,
)


@given(st.dictionaries(texts, values, max_size=4))
def test_every_record_becomes_one_line_of_json(record: dict[str, object]) -> None:
    line = encode(record)
    assert len(line.decode().splitlines()) == 1
    assert isinstance(orjson.loads(line), dict)


def test_long_names_are_clipped() -> None:
    assert clip("x" * 512) == "x" * 512
    assert clip("x" * 1000, 10) == "xxxxxxxxxx…(+990)"


def test_a_fingerprint_names_but_does_not_tell() -> None:
    assert fingerprint("secret") == fingerprint("secret") != fingerprint("Secret")
    assert len(fingerprint("\ud800")) == 16
