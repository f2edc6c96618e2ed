"""W3C trace context."""

from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openmcp.sidecar.telemetry.trace import child, new, onward, parse, threshold, traceparent, tracestate
from openmcp.sidecar.telemetry.values import TraceContext

TRACE = "0af7651916cd43dd8448eb211c80319c"
SPAN = "b7ad6b7169203331"


def numbers(*values: int) -> Callable[[], int]:
    given: Iterator[int] = iter(values)
    return lambda: next(given)


@pytest.mark.parametrize(
    ("header", "flags"),
    [
        (f"00-{TRACE}-{SPAN}-01", 1),
        (f"00-{TRACE}-{SPAN}-00", 0),
        (f"00-{TRACE}-{SPAN}-ff", 3),  # unknown bits are not passed on
        (f"01-{TRACE}-{SPAN}-01", 1),  # a version to come
        (f"cc-{TRACE}-{SPAN}-01-what-the-future-holds", 1),
        (f"cc-{TRACE}-{SPAN}-01-", 1),
    ],
)
def test_valid(header: str, flags: int) -> None:
    assert parse(header) == TraceContext(TRACE, SPAN, flags)


@pytest.mark.parametrize(
    "header",
    [
        "",
        "00",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE}-{SPAN}-01-more",
        f"00-{TRACE}-{SPAN}-01-",
        f"00-{TRACE}-{SPAN}-0",
        f"00-{TRACE}-{SPAN}-01\n",
        f"00-{TRACE}-{SPAN}-01 ",
        f" 00-{TRACE}-{SPAN}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{TRACE[:-1]}g-{SPAN}-01",
        f"00-{TRACE[:-1]}-{SPAN}-01",
        f"00_{TRACE}_{SPAN}_01",
        f"cc-{TRACE}-{SPAN}-01.what",
        f"0-{TRACE}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-0\u0661",
    ],
)
def test_malformed(header: str) -> None:
    assert parse(header) is None


@given(st.text() | st.text("0123456789abcdef-", min_size=53, max_size=57))
def test_garbage_is_refused_and_nothing_else_is_accepted(header: str) -> None:
    context = parse(header)
    assert context is None or traceparent(context)[3:53] == header[3:53]


def test_a_child_is_a_new_span_of_the_same_trace() -> None:
    parent = TraceContext(TRACE, SPAN, 1)
    assert child(parent, numbers(0, 0, 255)) == TraceContext(TRACE, "00000000000000ff", 1)
    assert traceparent(parent) == f"00-{TRACE}-{SPAN}-01"


def test_a_new_trace_has_no_zero_ids() -> None:
    context = new(numbers(0, 0, 7, 0, 9), threshold(1))
    assert context == TraceContext("0" * 31 + "7", "0" * 15 + "9", 1)
    assert parse(traceparent(context)) == context
    assert new(numbers(1, 2, 3)).flags == 0


@pytest.mark.parametrize(
    ("share", "low", "flags"),
    [
        (0, 2**64 - 1, 0),
        (1, 1, 1),
        (0.25, 3 << 54, 1),
        (0.25, (3 << 54) - 1, 0),
        (0.25, 0xFF << 56 | 1, 0),  # the first byte of the half is not among the random ones
    ],
)
def test_a_share_of_the_traces_that_begin_is_sampled_by_their_id(share: float, low: int, flags: int) -> None:
    assert new(numbers(1, low, 3), threshold(share)).flags == flags


@given(st.integers(1, 2**64 - 1))
def test_the_span_of_the_call_that_goes_on_is_another_one_of_the_same_trace(span: int) -> None:
    here = TraceContext(TRACE, f"{span:016x}", 1)
    there = onward(here)
    assert (there.trace_id, there.flags) == (TRACE, 1)
    assert there.span_id != here.span_id
    assert parse(traceparent(there)) == there


@pytest.mark.parametrize(
    ("value", "passed"),
    [
        ("rojo=00f067aa0ba902b7,congo=t61rcWkgMzE", "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"),
        (" a=1 ,\t, b=2", "a=1,b=2"),
        ("fw529a3039@dt=FfSD34!x", "fw529a3039@dt=FfSD34!x"),
        (",".join(f"k{n}=v" for n in range(32)), ",".join(f"k{n}=v" for n in range(32))),
        (",".join(f"k{n}=v" for n in range(33)), None),
        ("a=" + "v" * 256, "a=" + "v" * 256),
        ("a=" + "v" * 257, None),
        (f"a={'v' * 256},b={'v' * 252}", None),
        ("a=1,a=2", None),
        ("A=1", None),
        ("a", None),
        ("a=", None),
        ("a=b=c", None),
        ("a=1\r\nx: y", None),
        ("a=\u00e9", None),
        ("", None),
        (" , ,", None),
    ],
)
def test_tracestate(value: str, passed: str | None) -> None:
    assert tracestate(value) == passed
