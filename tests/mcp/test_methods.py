"""The methods of each era and direction: default deny, and the table of wire.md as the specification has it."""

import pytest

from openmcp.sidecar.errors import Refused, UpstreamFailed
from openmcp.sidecar.mcp import answers, methods
from openmcp.sidecar.mcp.answers import DECISION_KEY
from openmcp.sidecar.types import Era

LISTS_AND_READS = {
    "tools/list",
    "tools/call",
    "resources/list",
    "resources/read",
    "resources/templates/list",
    "prompts/list",
    "prompts/get",
    "completion/complete",
}


def test_what_a_client_may_ask() -> None:
    assert {
        Era.LEGACY: LISTS_AND_READS
        | {"initialize", "ping", "resources/subscribe", "resources/unsubscribe", "logging/setLevel"}
        | {"tasks/get", "tasks/result", "tasks/list", "tasks/cancel"},
        Era.MODERN: LISTS_AND_READS
        | {"server/discover", "subscriptions/listen"}
        | {"tasks/get", "tasks/update", "tasks/cancel"},
    } == methods.CLIENT_REQUESTS


def test_what_a_server_may_ask_and_of_whom() -> None:
    assert methods.SERVER_REQUESTS == {
        "ping": "",
        "sampling/createMessage": "sampling",
        "roots/list": "roots",
        "elicitation/create": "elicitation",
    }


def test_only_what_has_no_effect_may_be_repeated() -> None:
    assert methods.REPEATABLE.isdisjoint(
        {"tools/call", "completion/complete", "resources/subscribe", "tasks/cancel", "tasks/update", "logging/setLevel"}
    )


def test_what_names_nothing_else_is_basic_and_what_names_something_is_not() -> None:
    asked = methods.CLIENT_REQUESTS[Era.LEGACY] | methods.CLIENT_REQUESTS[Era.MODERN]
    assert methods.BASIC.isdisjoint(methods.NAMED)
    assert asked - methods.BASIC == {*methods.NAMED, "completion/complete"}


def test_a_denied_call_is_a_result_that_a_model_can_read() -> None:
    legacy = answers.denied_call(7, Era.LEGACY, "tools are off", "d1")
    assert legacy == {
        "jsonrpc": "2.0",
        "id": 7,
        "result": {
            "content": [{"type": "text", "text": "Denied: tools are off (decision d1)"}],
            "isError": True,
            "_meta": {DECISION_KEY: "d1"},
        },
    }
    modern = answers.denied_call(7, Era.MODERN, "tools are off", "d1")
    assert modern["result"] == legacy["result"] | {"resultType": "complete"}


def test_any_other_denial_is_an_error_of_ours() -> None:
    assert answers.denied("a", "no policy allows this", "d1") == {
        "jsonrpc": "2.0",
        "id": "a",
        "error": {"code": 40300, "message": "Denied: no policy allows this", "data": {DECISION_KEY: "d1"}},
    }


@pytest.mark.parametrize(
    "kind", ["connect", "timeout", "closed", "protocol", "too_large", "status", "overloaded", "share", "unheard of"]
)
def test_a_failure_tells_its_class_and_no_details(kind: str) -> None:
    answer = answers.failed(1, UpstreamFailed(kind, "10.0.0.7:8443 refused with secret"))
    assert answer["error"]["code"] == -32603
    assert answer["error"]["message"]
    assert "secret" not in str(answer)
    assert "10.0.0.7" not in str(answer)


def test_a_refusal_carries_its_data_and_a_long_method_is_clipped() -> None:
    refusal = Refused(400, -32022, "no", reason="r", data={"supported": []})
    assert answers.refused(None, refusal) == {
        "jsonrpc": "2.0",
        "id": None,
        "error": {"code": -32022, "message": "no", "data": {"supported": []}},
    }
    unknown = answers.unknown_method("x" * 1000)
    assert (unknown.status, unknown.code, len(unknown.message) < 200) == (404, -32601, True)
