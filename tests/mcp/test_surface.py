"""What a message touches: read from the body alone, in every spelling of a URI."""

import pytest

from openmcp.sidecar.errors import Refused
from openmcp.sidecar.mcp import methods
from openmcp.sidecar.mcp.surface import call_of, subjects_of
from openmcp.sidecar.mcp.uris import canonical_uri
from openmcp.sidecar.mcp.values import Call
from openmcp.sidecar.types import Era, JsonObject, Kind, Notification, Request, Subject

TOOL, PROMPT, RESOURCE, METHOD = Kind.TOOL, Kind.PROMPT, Kind.RESOURCE, Kind.METHOD


def touched(method: str, params: JsonObject) -> tuple[str, list[tuple[Kind, str]]]:
    message = Request(1, method, params)
    call = call_of(message, Era.LEGACY, "2025-11-25")
    assert call == Call(message, Era.LEGACY, "2025-11-25", call.name, call.subjects)
    return call.name, [(subject.kind, subject.name) for subject in call.subjects]


@pytest.mark.parametrize(
    ("method", "params", "name", "subjects"),
    [
        ("tools/call", {"name": "t", "arguments": {"name": "u"}}, "t", [(TOOL, "t")]),
        ("tools/call", {"name": "file:///a/../b"}, "file:///a/../b", [(TOOL, "file:///a/../b")]),
        ("prompts/get", {"name": "p"}, "p", [(PROMPT, "p")]),
        ("resources/read", {"uri": "x://a"}, "x://a", [(RESOURCE, "x://a")]),
        (
            "resources/read",
            {"uri": "x://A/c/../b"},
            "x://A/c/../b",
            [(RESOURCE, "x://A/c/../b"), (RESOURCE, "x://a/b")],
        ),
        ("resources/subscribe", {"uri": "x://a"}, "x://a", [(RESOURCE, "x://a")]),
        ("resources/unsubscribe", {"uri": "x://a"}, "x://a", [(RESOURCE, "x://a")]),
        ("completion/complete", {"ref": {"type": "ref/prompt", "name": "p"}}, "p", [(PROMPT, "p")]),
        (
            "completion/complete",
            {"ref": {"type": "ref/resource", "uri": "x://{id}"}},
            "x://{id}",
            [(RESOURCE, "x://{id}")],
        ),
        ("subscriptions/listen", {}, "", [(METHOD, "subscriptions/listen")]),
        ("subscriptions/listen", {"notifications": {"toolsListChanged": True}}, "", [(METHOD, "subscriptions/listen")]),
        (
            "subscriptions/listen",
            {"notifications": {"resourceSubscriptions": ["x://a", "x://B/."]}},
            "",
            [(METHOD, "subscriptions/listen"), (RESOURCE, "x://a"), (RESOURCE, "x://B/."), (RESOURCE, "x://b/")],
        ),
        ("tools/list", {"name": "t"}, "", [(METHOD, "tools/list")]),
        ("tasks/get", {"taskId": "1"}, "", [(METHOD, "tasks/get")]),
        ("initialize", {}, "", [(METHOD, "initialize")]),
    ],
)
def test_subjects(method: str, params: JsonObject, name: str, subjects: list[tuple[Kind, str]]) -> None:
    assert touched(method, params) == (name, subjects)


def test_a_notification_touches_its_method() -> None:
    call = call_of(Notification("notifications/cancelled", {"name": "t"}), Era.MODERN, "2026-07-28")
    assert (call.method, call.subjects) == ("notifications/cancelled", (Subject(METHOD, "notifications/cancelled"),))


def test_every_method_that_a_client_may_send_touches_something() -> None:
    for era in Era:
        for method in methods.CLIENT_REQUESTS[era]:
            params = {"name": "n", "uri": "u:x", "ref": {"type": "ref/prompt", "name": "n"}}
            assert call_of(Request(1, method, params), era, "").subjects


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("tools/call", {}),
        ("tools/call", {"name": ""}),
        ("tools/call", {"name": 1}),
        ("tools/call", {"name": ["t"]}),
        ("tools/call", {"Name": "t"}),
        ("prompts/get", {"name": None}),
        ("resources/read", {"name": "x"}),
        ("resources/read", {"uri": {}}),
        ("completion/complete", {}),
        ("completion/complete", {"ref": "p"}),
        ("completion/complete", {"ref": {}}),
        ("completion/complete", {"ref": {"type": "ref/tool", "name": "t"}}),
        ("completion/complete", {"ref": {"type": [], "name": "t"}}),
        ("completion/complete", {"ref": {"type": {}, "name": "t"}}),
        ("completion/complete", {"ref": {"type": "ref/prompt"}}),
        ("completion/complete", {"ref": {"type": "ref/prompt", "uri": "x:"}}),
        ("completion/complete", {"ref": {"type": "ref/prompt", "name": "p", "Name": "q"}}),
        ("completion/complete", {"ref": {"type": "ref/prompt", "TYPE": "ref/resource", "name": "p", "uri": "x:"}}),
        ("completion/complete", {"ref": {"type": "ref/resource", "uri": "x:", "URI": "y:"}}),
        ("subscriptions/listen", {"notifications": []}),
        ("subscriptions/listen", {"notifications": None}),
        ("subscriptions/listen", {"Notifications": {"resourceSubscriptions": ["x:"]}}),
        ("subscriptions/listen", {"notifications": {"resourceSubscriptions": "x:"}}),
        ("subscriptions/listen", {"notifications": {"resourceSubscriptions": [1]}}),
        ("subscriptions/listen", {"notifications": {"resourcesubscriptions": ["x:"]}}),
        ("subscriptions/listen", {"notifications": {"resourceSubscriptions": [], "ResourceSubscriptions": ["x:"]}}),
    ],
)
def test_what_does_not_name_its_subject_properly_is_invalid(method: str, params: JsonObject) -> None:
    with pytest.raises(Refused) as caught:
        touched(method, params)
    assert (caught.value.status, caught.value.code) == (400, -32602)


@pytest.mark.parametrize(
    ("written", "canonical"),
    [
        ("file:///etc/passwd", "file:///etc/passwd"),
        ("FILE:///etc/passwd", "file:///etc/passwd"),
        ("file:///a/../etc/passwd", "file:///etc/passwd"),
        ("file:///../../etc/passwd", "file:///etc/passwd"),
        ("file:///a/./b/.", "file:///a/b/"),
        ("file:///a/b/..", "file:///a/"),
        ("file:///a/%2e%2e/etc/passwd", "file:///etc/passwd"),
        ("file:///a/%2E./etc", "file:///etc"),
        ("file:///%65tc/p%61sswd", "file:///etc/passwd"),
        ("file:///a%2fb", "file:///a%2Fb"),
        ("file:///caf%c3%a9", "file:///caf%C3%A9"),
        ("file:////etc//passwd", "file:///etc/passwd"),
        ("file://localhost/etc/passwd", "file:///etc/passwd"),
        ("file://LocalHost//etc", "file:///etc"),
        ("https://Example.COM/A/../B?q=../x#../y", "https://example.com/B?q=../x"),
        ("https://example.com//a", "https://example.com//a"),
        ("https://example.com", "https://example.com/"),
        ("https://example.com?q", "https://example.com/?q"),
        ("https://example.com:443/a", "https://example.com/a"),
        ("https://example.com:/a", "https://example.com/a"),
        ("https://example.com:08443/a", "https://example.com:8443/a"),
        ("https://example.com./a", "https://example.com/a"),
        ("https://user:word@example.com/a", "https://example.com/a"),
        ("https://good.example@example.com/a", "https://example.com/a"),
        ("https:example.com/a", "https://example.com/a"),
        ("https:///example.com/a", "https://example.com/a"),
        ("http://%65xample.com:80/a", "http://example.com/a"),
        ("ws://[0:0:0:0:0:0:0:1]:80/a", "ws://[::1]/a"),
        ("file:///etc/passwd?x", "file:///etc/passwd"),
        ("file:///etc/passwd#x", "file:///etc/passwd"),
        ("my_notes://team/a/../private", "my_notes://team/private"),
        ("My_Notes://team", "my_notes://team"),
        ("note://%70rivate/a", "note://private/a"),
        ("note://caf%c3%a9/a", "note://caf%C3%A9/a"),
        ("note://User@Team:443/a?b#c", "note://user@team:443/a?b#c"),
        ("file:etc/passwd", "file:///etc/passwd"),
        ("note:///team/monday", "note:///team/monday"),
        ("note:///team/../private/diary", "note:///private/diary"),
        ("note:/.//other/x", "note:////other/x"),
        ("ticket:a/../secret", "ticket:secret"),
        ("ticket:../secret", "ticket:secret"),
        ("ticket:open/./1", "ticket:open/1"),
        ("urn:isbn:1", "urn:isbn:1"),
        ("test://static-text", "test://static-text"),
        ("test://template/{id}/data", "test://template/{id}/data"),
        ("file:///a/..b/c..", "file:///a/..b/c.."),
        ("file:///a/.hidden", "file:///a/.hidden"),
        ("file:///100%", "file:///100%"),
        ("plain/../name", "name"),
        ("/allowed/../etc/passwd", "/etc/passwd"),
        ("a/../FILE:x", "file:///x"),
        ("", ""),
    ],
)
def test_a_uri_is_judged_as_written_and_in_canonical_form(written: str, canonical: str) -> None:
    assert canonical_uri(written) == canonical
    assert canonical_uri(canonical) == canonical
    both = (Subject(RESOURCE, written), Subject(RESOURCE, canonical))
    assert subjects_of(RESOURCE, written) == (both[:1] if written == canonical else both)


@pytest.mark.parametrize(
    "uri",
    [
        "file:///a\\..\\b",
        "file:///a b",
        "file:///a\tb",
        "file:///a\nb",
        "file:///a\0b",
        "\x1ffile:///etc",
        "file:///a\u200bb",
        "file:///a\u2028b",
        "http://[::1",
        "http://a\u2100b/",
        "file:///a/..%2fb",
        "file:///a/%2e%2e%2Fetc/passwd",
        "file:///a/..%5c..%5cb",
        "file:///a%2F..",
        "file:///a/%2e%5Cb",
        "file:///allowed/x?/../../etc/passwd",
        "file:///allowed/x#/../../etc/passwd",
        "file:///allowed/x?a/%2e%2e%2fb",
        "note://public/a?/../../private",
        "note://public/../private",
        "note://public/a/../../private",
        "note://../private",
        "note://%2e%2e/private",
        "note://public%2F..%2Fprivate/a",
    ],
)
def test_a_uri_that_two_readers_could_take_for_two_is_refused(uri: str) -> None:
    with pytest.raises(Refused) as caught:
        subjects_of(RESOURCE, uri)
    assert (caught.value.status, caught.value.code) == (400, -32602)
