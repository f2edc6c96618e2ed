"""Which revision a message speaks: body and header together, for every combination."""

from typing import Any

import pytest

from openmcp.sidecar.errors import Refused
from openmcp.sidecar.mcp import era
from openmcp.sidecar.types import Era, JsonObject, Notification, Request

MODERN = "2026-07-28"
FUTURE = "2027-01-01"


def meta(version: Any = MODERN, capabilities: Any = None) -> JsonObject:
    """The metadata of a modern request."""
    declared = {} if capabilities is None else capabilities
    return {"_meta": {era.META_VERSION: version, era.META_CAPABILITIES: declared}}


def unsupported(requested: str, supported: tuple[str, ...]) -> tuple[int, int, JsonObject]:
    return 400, -32022, {"supported": list(supported), "requested": requested}


MISMATCH = (400, -32020, None)
INCOMPLETE = (400, -32602, None)

REQUESTS: dict[str, tuple[str | None, JsonObject, object]] = {
    # legacy: nothing modern in the body
    "no header": (None, {}, (Era.LEGACY, "2025-03-26")),
    "2025-03-26": ("2025-03-26", {}, (Era.LEGACY, "2025-03-26")),
    "2025-06-18": ("2025-06-18", {}, (Era.LEGACY, "2025-06-18")),
    "2025-11-25": ("2025-11-25", {}, (Era.LEGACY, "2025-11-25")),
    "other metadata": ("2025-11-25", {"_meta": {"progressToken": 1}}, (Era.LEGACY, "2025-11-25")),
    "2024-10-07": ("2024-10-07", {}, unsupported("2024-10-07", era.SUPPORTED_VERSIONS)),
    "a future header": (FUTURE, {}, unsupported(FUTURE, era.SUPPORTED_VERSIONS)),
    "garbage": ("latest", {}, unsupported("latest", era.SUPPORTED_VERSIONS)),
    "an empty header": ("", {}, unsupported("", era.SUPPORTED_VERSIONS)),
    "two versions in one header": (
        "2025-11-25, 2025-06-18",
        {},
        unsupported("2025-11-25, 2025-06-18", era.SUPPORTED_VERSIONS),
    ),
    # modern: body and header agree
    "modern": (MODERN, meta(), (Era.MODERN, MODERN)),
    "modern with capabilities": (MODERN, meta(capabilities={"roots": {}}), (Era.MODERN, MODERN)),
    # they disagree: 400, never a guess
    "modern body without header": (None, meta(), MISMATCH),
    "modern body, legacy header": ("2025-11-25", meta(), MISMATCH),
    "modern body, future header": (FUTURE, meta(), MISMATCH),
    "modern header, legacy version in the body": (MODERN, meta("2025-11-25"), MISMATCH),
    "modern header, future version in the body": (MODERN, meta(FUTURE), MISMATCH),
    "modern header, other letters": (MODERN, meta(MODERN + " "), MISMATCH),
    # modern and not whole
    "modern header, no metadata": (MODERN, {}, INCOMPLETE),
    "modern header, empty metadata": (MODERN, {"_meta": {}}, INCOMPLETE),
    "no capabilities": (MODERN, {"_meta": {era.META_VERSION: MODERN}}, INCOMPLETE),
    "no version": (MODERN, {"_meta": {era.META_CAPABILITIES: {}}}, INCOMPLETE),
    "version a number": (MODERN, meta(20260728), INCOMPLETE),
    "version a list": (MODERN, meta([MODERN]), INCOMPLETE),
    "version null": (MODERN, meta() | {"_meta": {era.META_VERSION: None, era.META_CAPABILITIES: {}}}, INCOMPLETE),
    "capabilities a list": (MODERN, meta(capabilities=[]), INCOMPLETE),
    # agreement on what nobody speaks
    "future in both": (FUTURE, meta(FUTURE), unsupported(FUTURE, era.MODERN_VERSIONS)),
    "legacy in both": ("2025-11-25", meta("2025-11-25"), unsupported("2025-11-25", era.MODERN_VERSIONS)),
}


def outcome(message: Request | Notification, header: str | None) -> object:
    try:
        return era.determine(message, header)
    except Refused as refusal:
        return refusal.status, refusal.code, refusal.data


@pytest.mark.parametrize(("header", "params", "expected"), REQUESTS.values(), ids=REQUESTS.keys())
@pytest.mark.parametrize("method", ["tools/call", "initialize", "server/discover", "ping", "x/y"])
def test_the_era_of_a_request_follows_from_body_and_header_whatever_it_asks(
    method: str, header: str | None, params: JsonObject, expected: object
) -> None:
    assert outcome(Request(1, method, params), header) == expected


@pytest.mark.parametrize(
    ("header", "params", "expected"),
    [
        (None, {}, (Era.LEGACY, "2025-03-26")),
        ("2025-11-25", {}, (Era.LEGACY, "2025-11-25")),
        (MODERN, {}, (Era.MODERN, MODERN)),
        (MODERN, meta(), (Era.MODERN, MODERN)),
        (MODERN, {"_meta": {"traceparent": "x"}}, (Era.MODERN, MODERN)),
        ("2025-11-25", meta(), MISMATCH),
        (None, meta(), MISMATCH),
        (MODERN, meta(FUTURE), MISMATCH),
        (FUTURE, {}, unsupported(FUTURE, era.SUPPORTED_VERSIONS)),
    ],
)
def test_a_notification_needs_no_metadata_and_may_not_contradict(
    header: str | None, params: JsonObject, expected: object
) -> None:
    assert outcome(Notification("notifications/cancelled", params), header) == expected
