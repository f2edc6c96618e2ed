"""The durations of operations: which series there are, and that nobody can make more of them."""

import pytest

from openmcp.sidecar.telemetry import semconv
from openmcp.sidecar.telemetry.metrics import TOOLS_PER_SERVER, UNALLOWED_TOOLS_PER_SERVER
from openmcp.sidecar.telemetry.operations import Operations
from openmcp.sidecar.telemetry.spans import Ended, Shape
from openmcp.sidecar.telemetry.values import TraceContext

HERE = TraceContext("1" * 32, "2" * 16, 0)


def shape(
    method: str = "tools/call", name: str = "t", decision: str = "allow", outcome: str = "ok", code: int = 0
) -> Shape:
    return Shape("POST", "s", method, name, "", "a", "", decision, "", "", outcome, code, 200, "https://h/mcp")


def ended(what: Shape, seconds: float = 1.0, asked: float = 0.25, session: float = 0.0) -> Ended:
    return Ended(what, HERE, "", None, "c", "", None, "", 0, seconds, asked, seconds, session)


def labels(operations: Operations, metric: str) -> list[dict[str, object]]:
    return [dict(attributes) for name, attributes, _, _ in operations.stock() if name == metric]


def test_an_operation_and_the_call_in_it_are_counted_by_themselves() -> None:
    operations = Operations()
    operations.count(ended(shape(), seconds=0.75))
    operations.count(ended(shape(), seconds=400.0, asked=-1.0))
    found = {name: (counts, total) for name, _, counts, total in operations.stock()}
    low, high = [0] * 15, [0] * 15
    low[6], low[14], high[5] = 1, 1, 1
    assert found == {semconv.SERVER_OPERATION: (tuple(low), 400.75), semconv.CLIENT_OPERATION: (tuple(high), 0.5)}
    assert labels(operations, semconv.CLIENT_OPERATION)[0]["server.port"] == 443


def test_a_session_is_counted_by_the_exchange_that_ends_it() -> None:
    operations = Operations()
    operations.count(ended(shape(method="", name=""), session=7.0))
    assert {name: total for name, _, _, total in operations.stock()} == {
        semconv.SERVER_SESSION: 7.0,
        semconv.CLIENT_SESSION: 7.0,
    }


@pytest.mark.parametrize(
    ("decision", "kept"), [("allow", TOOLS_PER_SERVER), ("deny", UNALLOWED_TOOLS_PER_SERVER), ("", 100)]
)
def test_made_up_names_make_no_series_without_end(decision: str, kept: int) -> None:
    operations = Operations()
    for number in range(5000):
        operations.count(ended(shape(name=f"t{number}", decision=decision)))
    operations.count(ended(shape(name="t7", decision=decision)))
    names = [label["gen_ai.tool.name"] for label in labels(operations, semconv.SERVER_OPERATION)]
    assert len(names) == len(set(names)) == kept + 1
    assert "other" in names
    everything = [counts for name, _, counts, _ in operations.stock() if name == semconv.SERVER_OPERATION]
    assert sum(map(sum, everything)) == 5001


def test_made_up_methods_and_codes_make_no_series_without_end() -> None:
    operations = Operations()
    for number in range(1, 1000):
        operations.count(ended(shape(method=f"no/{number}", outcome="rpc_error", code=number)))
    for metric in (semconv.SERVER_OPERATION, semconv.CLIENT_OPERATION):
        found = labels(operations, metric)
        assert {label["mcp.method.name"] for label in found} == {"_OTHER"}
        assert len(found) == 65
        assert {label["error.type"] for label in found} == {label["rpc.response.status_code"] for label in found}
        assert found[-1]["error.type"] == "_OTHER"


def test_uris_are_no_labels() -> None:
    operations = Operations()
    operations.count(ended(shape(method="resources/read", name="file:///a")))
    assert "mcp.resource.uri" not in labels(operations, semconv.SERVER_OPERATION)[0]


@pytest.mark.parametrize(
    ("method", "outcome", "code", "status", "ours", "theirs"),
    [
        ("tools/call", "ok", 0, 200, "", ""),
        ("tools/call", "tool_error", 0, 200, "tool_error", "tool_error"),
        ("tools/call", "denied", 0, 200, "tool_error", ""),
        ("tools/call", "pending", 0, 200, "tool_error", ""),
        ("prompts/get", "denied", 40300, 200, "40300", ""),
        ("notifications/initialized", "denied", 0, 202, "", ""),
        ("tools/call", "rpc_error", -32602, 200, "", "-32602"),
        ("tools/call", "rpc_error", -32000, 200, "-32000", "-32000"),
        ("tools/call", "timeout", -32603, 200, "-32603", "timeout"),
        ("tools/call", "untrusted", -32603, 200, "-32603", "untrusted"),
        ("tools/call", "identity", -32603, 200, "-32603", "identity"),
        ("tools/call", "credential", -32603, 200, "-32603", "credential"),
        ("tools/call", "client_gone", 0, 0, "client_gone", "client_gone"),
        ("resources/read", "malformed", -32600, 400, "", ""),
        ("", "unknown_notification", 0, 202, "", ""),
    ],
)
def test_what_counts_as_an_error(method: str, outcome: str, code: int, status: int, ours: str, theirs: str) -> None:
    assert semconv.server_error(method, outcome, code, status) == ours
    assert semconv.client_error(outcome, code) == theirs
