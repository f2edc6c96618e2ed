"""Sessions, cursors, states and tasks: whose they are, what they were made for, and for how long."""

from typing import Any

import pytest

from openmcp.identity.principal import Principal
from openmcp.sidecar.errors import Refused, UpstreamFailed
from openmcp.sidecar.sealing import Sealer
from openmcp.sidecar.stages.sessions import MAX_REMEMBERED, Sessions, checked_upstream_id, declared_capabilities
from openmcp.sidecar.stages.tasks import MAX_TASKS, Owner, Tasks
from openmcp.sidecar.stages.tokens import STATE_LIFETIME, Tokens, digest
from openmcp.sidecar.types import Session

SEALER = Sealer(b"k" * 32)
BOT = Principal("key:bot", "apiKey")
SESSION = Session("key:bot", "apiKey", "tools", "e1", "up-1", "2025-11-25", ("elicitation",), 2000)
OTHERS = {
    "principal": Session("key:eve", "apiKey", "tools", "e1", "up-1", "2025-11-25", ("elicitation",), 2000),
    "method": Session("key:bot", "jwt", "tools", "e1", "up-1", "2025-11-25", ("elicitation",), 2000),
    "server": Session("key:bot", "apiKey", "other", "e1", "up-1", "2025-11-25", ("elicitation",), 2000),
    "endpoint": Session("key:bot", "apiKey", "tools", "e2", "up-1", "2025-11-25", ("elicitation",), 2000),
    "upstream id": Session("key:bot", "apiKey", "tools", "e1", "up-2", "2025-11-25", ("elicitation",), 2000),
    "seam": Session("key:bot\0apiKey", "tools", "e1", "up-1", "", "2025-11-25", ("elicitation",), 2000),
}


@pytest.fixture
def held() -> Sessions:
    return Sessions(SEALER, lifetime=100.0)


def refused(call: Any, *arguments: Any) -> tuple[int, int]:
    with pytest.raises(Refused) as caught:
        call(*arguments)
    return caught.value.status, caught.value.code


@pytest.mark.parametrize(
    ("principal", "server", "now", "opens"),
    [
        (BOT, "tools", 1999.0, True),
        (BOT, "tools", 2000.0, False),
        (Principal("key:eve", "apiKey"), "tools", 0.0, False),
        (Principal("key:bot", "jwt"), "tools", 0.0, False),
        (Principal("key:bot", ""), "tools", 0.0, False),
        (BOT, "other", 0.0, False),
        (Principal("", ""), "", 0.0, False),
    ],
)
def test_a_session_opens_to_its_principal_on_its_server_in_its_time(
    held: Sessions, principal: Principal, server: str, now: float, opens: bool
) -> None:
    token = held.issue(SESSION)
    for known_before in (False, True):
        if opens:
            session, name = held.open(token, principal, server, now)
            assert (session, len(name)) == (SESSION, 16)
            assert name not in token
        else:
            assert refused(held.open, token, principal, server, now) == (404, 40400), known_before
        held.open(token, BOT, "tools", 0.0)


@pytest.mark.parametrize("token", ["", "x", "up-1", "x" * 5000, "é", "\xff"])
def test_no_other_string_is_a_session(held: Sessions, token: str) -> None:
    assert refused(held.open, token, BOT, "tools", 0.0) == (404, 40400)


def test_a_session_of_another_key_is_none_also_when_it_was_known(held: Sessions) -> None:
    sealer = Sealer(b"k" * 32)
    mine = Sessions(sealer, 100.0)
    token = mine.issue(SESSION)
    mine.open(token, BOT, "tools", 0.0)
    sealer.rekey(b"l" * 32)
    mine.forget()
    assert refused(mine.open, token, BOT, "tools", 0.0) == (404, 40400)


def test_opened_and_answered_are_bounded(held: Sessions) -> None:
    first = held.issue(SESSION)
    held.open(first, BOT, "tools", 0.0)
    for number in range(MAX_REMEMBERED + 50):
        token = held.issue(Session("key:bot", "apiKey", "tools", "e1", f"up-{number}", "", (), 2000))
        assert held.open(token, BOT, "tools", 0.0)[0].upstream_id == f"up-{number}"
        assert held.answered_id(SESSION, held.request_id(SESSION, number)) == number
        assert len(held._opened) <= MAX_REMEMBERED
        assert len(held._answered) <= MAX_REMEMBERED
    assert first not in held._opened
    assert held.open(first, BOT, "tools", 0.0)[0] == SESSION, "what was forgotten is opened anew"


def test_an_expiry_is_now_and_the_lifetime(held: Sessions) -> None:
    assert held.expiry(1000.7) == 1100


@pytest.mark.parametrize("upstream_id", [1, "1", 0, "", -5, "x" * 500])
def test_a_servers_request_is_answered_once_on_its_session(held: Sessions, upstream_id: int | str) -> None:
    token = held.request_id(SESSION, upstream_id)
    assert token == held.request_id(SESSION, upstream_id), "the same request keeps its id, also after resumption"
    for session in OTHERS.values():
        assert refused(held.answered_id, session, token) == (400, -32600)
    answered = held.answered_id(SESSION, token)
    assert (answered, type(answered)) == (upstream_id, type(upstream_id))
    assert refused(held.answered_id, SESSION, token) == (400, -32600), "twice"


@pytest.mark.parametrize("token", [None, 1, "", "1", "x" * 5000])
def test_no_other_id_is_one_of_a_request(held: Sessions, token: Any) -> None:
    assert refused(held.answered_id, SESSION, token) == (400, -32600)


def test_ids_stay_short_whoever_the_agent_and_whatever_the_session(held: Sessions) -> None:
    """A client's answer with an id of more than 1024 characters would be malformed."""
    long = Session("spiffe://acme.example/" + "p" * 2000, "mtls", "tools", "e1", "u" * 2000, "2025-11-25", (), 2000)
    assert len(held.request_id(long, 1)) < 100
    assert len(held.event_id(long, "1", {})) < 100


def test_an_event_id_resumes_on_its_session_alone_and_names_its_stream(held: Sessions) -> None:
    stream = {"id": 1, "method": "tools/call", "params": {"name": "t"}}
    token = held.event_id(SESSION, "42", stream).decode()
    assert held.resume(SESSION, token) == ("42", stream)
    for session in OTHERS.values():
        assert refused(held.resume, session, token) == (404, 40400)
    for wrong in ("", "42", token[:-1], held.issue(SESSION), held.request_id(SESSION, 42), "x" * 5000):
        assert refused(held.resume, SESSION, wrong) == (404, 40400)


@pytest.mark.parametrize("value", [b"\xff", b"a b", b"a\tb", b"\x7f", "ä".encode(), b"x" * 5000])
def test_a_servers_session_id_is_visible_ascii(value: bytes) -> None:
    with pytest.raises(UpstreamFailed, match="protocol"):
        checked_upstream_id(value)
    assert checked_upstream_id(b"!~,;=") == "!~,;="


@pytest.mark.parametrize(
    ("params", "declared"),
    [
        ({}, ()),
        ({"capabilities": None}, ()),
        ({"capabilities": ["sampling"]}, ()),
        ({"capabilities": {"sampling": {}, "roots": {"listChanged": True}, "x": {}}}, ("roots", "sampling")),
        ({"capabilities": {"sampling": {"tools": {}}}}, ("sampling", "sampling.tools")),
        ({"capabilities": {"elicitation": {"form": {}, "url": {}}}}, ("elicitation", "elicitation.url")),
        ({"capabilities": {"elicitation": None}}, ("elicitation",)),
    ],
)
def test_what_a_client_declared(params: dict[str, Any], declared: tuple[str, ...]) -> None:
    assert declared_capabilities(params) == declared


# Cursors and states


def test_a_cursor_belongs_to_an_agent_a_server_and_a_list() -> None:
    tokens = Tokens(SEALER)
    token = tokens.seal_cursor("key:bot", "tools", "tools/list", "e1", "page 2")
    assert tokens.open_cursor("key:bot", "tools", "tools/list", token) == ("page 2", "e1")
    for asked in (
        ("key:eve", "tools", "tools/list", token),
        ("key:bot", "other", "tools/list", token),
        ("key:bot", "tools", "prompts/list", token),
        ("key:bot", "tools", "tools/list", "page 2"),
        ("key:bot", "tools", "tools/list", ""),
    ):
        assert refused(tokens.open_cursor, *asked) == (400, -32602)


ASKED = digest("tools/call", {"name": "pay", "arguments": {"amount": 1, "to": "a"}})


@pytest.mark.parametrize("state", ["upstream state", "", None])
def test_a_state_belongs_to_an_agent_a_server_a_request_and_a_time(state: str | None) -> None:
    tokens = Tokens(SEALER)
    token = tokens.seal_state("key:bot", "tools", "e1", ASKED, state, 1000.0)
    assert tokens.open_state("key:bot", "tools", ASKED, token, 1000.0) == (state, "e1")
    end = 1000.0 + STATE_LIFETIME
    assert tokens.open_state("key:bot", "tools", ASKED, token, end - 1) == (state, "e1")
    for asked in (
        ("key:eve", "tools", ASKED, token, 1000.0),
        ("key:bot", "other", ASKED, token, 1000.0),
        ("key:bot", "tools", digest("tools/call", {"name": "pay", "arguments": {"amount": 2}}), token, 1000.0),
        ("key:bot", "tools", ASKED, token, end),
        ("key:bot", "tools", ASKED, token[:-2], 1000.0),
        ("key:bot", "tools", ASKED, "upstream state", 1000.0),
        ("key:bot", "tools", ASKED, None, 1000.0),
        ("key:bot", "tools", ASKED, 7, 1000.0),
    ):
        assert refused(tokens.open_state, *asked) == (400, -32602)


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("prompts/get", {"name": "pay", "arguments": {"amount": 1, "to": "a"}}),
        ("tools/call", {"name": "pay2", "arguments": {"amount": 1, "to": "a"}}),
        ("tools/call", {"name": "pay", "arguments": {"amount": 1.0, "to": "a"}}),
        ("tools/call", {"name": "pay", "arguments": {"amount": "1", "to": "a"}}),
        ("tools/call", {"name": "pay", "arguments": {"amount": True, "to": "a"}}),
        ("tools/call", {"name": "pay", "arguments": {"amount": 1, "to": "a", "x": None}}),
        ("tools/call", {"name": "pay", "arguments": {"amount": 2**70, "to": "a"}}),
        ("tools/call", {"name": "pay"}),
        ("tools/call", {"name": "pay", "arguments": {"amount": 1, "to": "a"}, "uri": "x:"}),
    ],
)
def test_another_request_has_another_digest(method: str, params: dict[str, Any]) -> None:
    assert digest(method, params) != ASKED


def test_what_a_retry_adds_and_the_order_of_keys_do_not_count() -> None:
    retry = {
        "inputResponses": {},
        "requestState": "x",
        "_meta": {},
        "arguments": {"to": "a", "amount": 1},
        "name": "pay",
    }
    assert digest("tools/call", retry) == ASKED
    assert digest("tools/call", {"arguments": {"n": 2**70}}) != digest("tools/call", {"arguments": {"n": 2**70 + 1}})


# Tasks

MINE = Owner("key:bot", "slow", "e1")


@pytest.mark.parametrize(
    ("result", "identifier"),
    [
        ({"task": {"taskId": "t1"}}, "t1"),
        ({"resultType": "task", "taskId": "t1"}, "t1"),
        ({"taskId": "t1"}, None),
        ({"resultType": "complete", "taskId": "t1"}, None),
        ({"task": "t1"}, None),
        ({"task": {}}, None),
        ({"task": {"taskId": 1}}, None),
        ({"task": {"taskId": "t" * 2000}}, None),
        ({"content": []}, None),
    ],
)
def test_a_task_is_known_from_the_result_that_made_it(result: dict[str, Any], identifier: str | None) -> None:
    known = Tasks()
    known.remember("tools", result, *MINE)
    if identifier is None:
        assert not known._owners
        return
    assert known.owner("tools", "key:bot", {"taskId": identifier}) == MINE
    assert known.owned("tools", "key:bot", identifier)
    for server, principal, params in (
        ("tools", "key:eve", {"taskId": identifier}),
        ("other", "key:bot", {"taskId": identifier}),
        ("tools", "key:bot", {"taskId": "t2"}),
        ("tools", "key:bot", {"taskId": [identifier]}),
        ("tools", "key:bot", {}),
    ):
        assert refused(known.owner, server, principal, params) == (400, -32602)
        assert not known.owned(server, principal, params.get("taskId"))


def test_a_task_keeps_its_first_owner() -> None:
    known = Tasks()
    known.remember("tools", {"task": {"taskId": "t1"}}, *MINE)
    known.remember("tools", {"task": {"taskId": "t1"}}, "key:eve", "slow", "e2")
    assert known.owner("tools", "key:bot", {"taskId": "t1"}) == MINE


def test_the_oldest_task_is_forgotten_first() -> None:
    known = Tasks()
    for number in range(MAX_TASKS + 2):
        known.remember("tools", {"task": {"taskId": f"t{number}"}}, *MINE)
    remembered = [number for number in range(MAX_TASKS + 2) if known.owned("tools", "key:bot", f"t{number}")]
    assert remembered == list(range(2, MAX_TASKS + 2))


def test_many_tasks_of_one_agent_make_no_others_unknown() -> None:
    known, more = Tasks(), 5
    known.remember("tools", {"task": {"taskId": "old"}}, "key:other", "slow", "e1")
    for number in range(MAX_TASKS + more):
        known.remember("tools", {"task": {"taskId": f"t{number}"}}, *MINE)
    known.remember("tools", {"task": {"taskId": "new"}}, "key:third", "slow", "e1")
    assert known.owned("tools", "key:other", "old")
    assert known.owned("tools", "key:third", "new")
    assert len(known._owners) == MAX_TASKS
    gone = [number for number in range(MAX_TASKS) if not known.owned("tools", "key:bot", f"t{number}")]
    assert gone == list(range(more + 2)), "the oldest go first"
