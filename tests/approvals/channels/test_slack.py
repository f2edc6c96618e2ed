"""Slack: what approvers see there, what they can do there, and what is refused."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from collections.abc import AsyncIterator
from contextlib import nullcontext
from typing import Any

import pytest
from aiohttp import web

from openmcp.config.model import Workflow
from openmcp.sidecar.approvals.channels.channel import ChannelFailed
from openmcp.sidecar.approvals.channels.slack import Slack
from openmcp.sidecar.approvals.channels.slackapi import SlackApi
from openmcp.sidecar.approvals.channels.slackhttp import SlackEndpoint
from openmcp.sidecar.approvals.console.settings import Incoming
from openmcp.sidecar.approvals.service import Granted
from openmcp.sidecar.state.memory import MemoryStore
from openmcp.sidecar.state.records import ApprovalRecord, Status
from openmcp.sidecar.state.store import StoreUnavailable
from tests.approvals.scene import Scene, spec
from tests.contracts.requests import MINUTE
from tests.fakes.slack import CHANNEL, SECRET, TOKEN, FakeSlack, fake_slack, pressed, signed, submitted

LEADS = Workflow(name="leads", approvers=("slack:U0ANN", "slack:U0BOB"))
INJECTION = "<!channel> <https://evil.example|click> *bold* :tada: <@U0ANN>"


class Office(Scene):
    """A service with a channel in Slack, and the endpoint that Slack calls."""

    def __init__(self, slack: FakeSlack, store: MemoryStore | None = None) -> None:
        super().__init__(store)
        self.slack = slack
        self.refused = 0
        self.channel = Slack(
            ("leads-slack", CHANNEL),
            SlackApi(slack.url, lambda: TOKEN),
            self.service,
            lambda: self.now,
            lambda rid: f"https://approvals.example/requests/{rid}",
        )
        self.endpoint = SlackEndpoint([(self.channel, lambda: SECRET)], lambda: self.now, self._refuse)

    def _refuse(self) -> None:
        self.refused += 1

    async def asked(self, workflow: Workflow = LEADS, arguments: Any = None, **approval: Any) -> ApprovalRecord:
        """A request, pending."""
        fields = {"duration": 1800.0, "max_duration": 14400.0, "max_uses": 20, **approval}
        answer = await self.ask(
            spec(workflow=workflow, why=INJECTION, **fields),
            arguments=arguments or {"ticket_id": "T-7"},
            reason=INJECTION,
        )
        return answer.record

    async def post(self, payload: dict[str, Any]) -> Any:
        """Slack posts an interaction; the status and the body of the answer."""
        answer = await self.endpoint(signed(payload, self.now))
        return answer.status, answer.body

    async def dialogue(self, action: str, rid: str, count: int = 1, **who: str) -> dict[str, Any]:
        """What opens when a button is pressed."""
        assert await self.post(pressed(action, rid, **who)) == (200, b"")
        opened = await self.slack.seen("views.open", count)
        view: dict[str, Any] = opened["view"]
        return view

    async def status(self, record: ApprovalRecord) -> Status:
        """How a request stands."""
        found = await self.service.find(record.rid)
        assert found is not None
        return found.status


@pytest.fixture
async def office() -> AsyncIterator[Office]:
    async with fake_slack() as slack:
        office = Office(slack)
        yield office
        await office.channel.close()


def texts(tree: Any) -> list[str]:
    """All texts that Slack would show, with their types."""
    if isinstance(tree, list):
        return [text for one in tree for text in texts(one)]
    if not isinstance(tree, dict):
        return []
    own = [tree["text"]] if tree.get("type") == "plain_text" else []
    return own + [text for value in tree.values() for text in texts(value)]


def buttons(message: dict[str, Any]) -> list[str]:
    return [
        one["text"]["text"] for block in message["blocks"] if block["type"] == "actions" for one in block["elements"]
    ]


async def test_a_request_is_a_message_with_buttons(office: Office) -> None:
    record = await office.asked()
    reference = await office.channel.send(record, office.now)
    assert reference == f"{CHANNEL}:1700000000.000001"
    (message,) = office.slack.of("chat.postMessage")
    shown = texts(message["blocks"])
    assert shown[0] == "Approval wanted: tool refund"
    assert '$.ticket_id\n"T-7"' in shown
    assert any(text.startswith("An approval covers\n") and "for 30 minutes" in text for text in shown)
    assert f"The agent says (not verified)\n{INJECTION}" in shown
    assert buttons(message) == ["Approve…", "Deny…", "Open page"]
    assert message["text"] == f"Approval wanted: request {record.rid}"
    assert "evil" not in message["text"], "the only text that Slack reads as mrkdwn"
    assert (message["mrkdwn"], message["link_names"], message["parse"]) == (False, False, "none")


async def test_approving_asks_for_how_long_and_why(office: Office) -> None:
    record = await office.asked()
    view = await office.dialogue("openmcp_approve", record.rid)
    (select,) = [block["element"] for block in view["blocks"] if block.get("block_id") == "duration"]
    assert select["initial_option"]["value"] == str(30 * MINUTE)
    assert select["options"][-1]["text"]["text"] == "4 hours"
    answer = await office.post(submitted(view, duration=str(15 * MINUTE), uses="3", reason=" fine\nby me "))
    assert answer == (200, b"")
    granted = await office.ask(spec(workflow=LEADS, why=INJECTION), arguments={"ticket_id": "T-7"})
    assert isinstance(granted, Granted)
    (vote,) = granted.record.votes
    assert (vote.approver, vote.duration, vote.uses, vote.reason) == ("slack:U0ANN", 15 * MINUTE, 3, "fine by me")
    assert granted.record.grant_until == office.now + 15 * MINUTE
    assert granted.record.uses_left == 3


async def test_denying_has_a_dialogue_too(office: Office) -> None:
    record = await office.asked()
    view = await office.dialogue("openmcp_deny", record.rid, user="U0BOB")
    assert [block.get("block_id") for block in view["blocks"]] == [None, "reason"]
    assert await office.post(submitted(view, user="U0BOB", reason="no")) == (200, b"")
    found = await office.service.find(record.rid)
    assert found is not None
    assert (found.status, found.ended_by, found.end_reason) == (Status.DENIED, "slack:U0BOB", "no")


async def test_the_message_says_in_place_what_became_of_it(office: Office) -> None:
    record = await office.asked()
    reference = await office.channel.send(record, office.now)
    found = await office.approve(record, by="slack:U0BOB", reason="seen")
    await office.channel.update(found, reference, office.now)
    (message,) = office.slack.of("chat.update")
    assert (message["channel"], message["ts"]) == (CHANNEL, "1700000000.000001")
    shown = texts(message["blocks"])
    assert shown[0] == "Approved: tool refund"
    assert any(text.startswith("slack:U0BOB approved at ") and text.endswith(": seen") for text in shown)
    assert buttons(message) == ["Open page"]


@pytest.mark.parametrize(("user", "team"), [("U0EVE", "T0ACME"), ("U0ANN", "T0OTHER")])
async def test_others_are_told_that_they_are_not_on_the_list(office: Office, user: str, team: str) -> None:
    record = await office.asked()
    view = await office.dialogue("openmcp_approve", record.rid, user=user, team=team)
    assert view["title"]["text"] == "Not possible"
    assert "submit" not in view
    mine = await office.dialogue("openmcp_approve", record.rid, 2)
    status, body = await office.post(submitted(mine, user=user, team=team))
    assert status == 200
    assert b"Not counted" in body
    assert await office.status(record) is Status.PENDING


async def test_who_has_left_the_list_is_refused(office: Office) -> None:
    record = await office.asked()
    view = await office.dialogue("openmcp_approve", record.rid)
    office.service.workflows = {"leads": ("slack:U0BOB",)}
    _, body = await office.post(submitted(view))
    assert b"You are not on the list of approvers any more." in body
    assert await office.status(record) is Status.PENDING


async def test_a_dialogue_that_is_sent_twice_counts_once(office: Office) -> None:
    two = Workflow(name="leads", approvers=LEADS.approvers, required=2)
    record = await office.asked(two)
    view = await office.dialogue("openmcp_approve", record.rid)
    assert await office.post(submitted(view)) == (200, b"")
    _, body = await office.post(submitted(view))
    assert b"You have approved this already." in body
    assert await office.status(record) is Status.PENDING


async def test_a_dialogue_about_what_is_over_changes_nothing(office: Office) -> None:
    record = await office.asked()
    view = await office.dialogue("openmcp_approve", record.rid)
    await office.deny(record, by="slack:U0BOB")
    _, body = await office.post(submitted(view))
    assert b"The request has ended already" in body
    assert await office.status(record) is Status.DENIED
    other = await office.dialogue("openmcp_approve", "apr_unknown", 2)
    assert other["blocks"][0]["text"]["text"].startswith("This request is over")


async def test_a_reason_is_wanted_where_the_workflow_says_so(office: Office) -> None:
    office.service.need_reason = {"leads"}
    record = await office.asked()
    view = await office.dialogue("openmcp_deny", record.rid)
    assert view["blocks"][-1]["optional"] is False
    _, body = await office.post(submitted(view, reason="  "))
    assert body == b'{"response_action":"errors","errors":{"reason":"A reason is required here."}}'
    assert await office.post(submitted(view, reason="no")) == (200, b"")


@pytest.mark.parametrize(("block", "said"), [("uses", "0"), ("uses", "21"), ("uses", "1e3"), ("uses", "-1")])
async def test_no_more_than_the_dialogue_offers(office: Office, block: str, said: str) -> None:
    record = await office.asked()
    view = await office.dialogue("openmcp_approve", record.rid)
    _, body = await office.post(submitted(view, **{block: said}))
    assert b'"response_action":"errors"' in body
    assert await office.status(record) is Status.PENDING


async def test_a_duration_that_was_not_offered_is_refused(office: Office) -> None:
    record = await office.asked()
    view = await office.dialogue("openmcp_approve", record.rid)
    payload = submitted(view)
    payload["view"]["state"]["values"]["duration"]["duration"]["selected_option"] = {"value": "99999999999"}
    _, body = await office.post(payload)
    assert b'"errors":{"duration"' in body
    assert await office.status(record) is Status.PENDING


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param({"ticket_id": "x" * 400}, id="a value that is cut"),
        pytest.param({"ticket_id": [f"{n}-{'y' * 40}" for n in range(100)]}, id="a list that is cut"),
    ],
)
async def test_what_is_not_shown_whole_is_not_approved_there(office: Office, arguments: Any) -> None:
    record = await office.asked(arguments=arguments)
    await office.channel.send(record, office.now)
    (message,) = office.slack.of("chat.postMessage")
    assert buttons(message) == ["Deny…", "Open page"]
    view = await office.dialogue("openmcp_approve", record.rid)
    assert view["blocks"][0]["text"]["text"] == "Not all of it can be shown here: open its page to approve it."
    view = await office.dialogue("openmcp_deny", record.rid, 2)
    assert await office.post(submitted(view)) == (200, b"")


async def test_what_has_too_many_values_is_not_approved_there(office: Office) -> None:
    names = [f"a{n}" for n in range(60)]
    paths = tuple(f"$.{name}" for name in names)
    record = await office.asked(arguments={name: "v" * 200 for name in names}, show=paths, bind=paths)
    await office.channel.send(record, office.now)
    (message,) = office.slack.of("chat.postMessage")
    assert buttons(message) == ["Deny…", "Open page"]


async def test_the_store_may_be_away(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    record = await office.asked()
    view = await office.dialogue("openmcp_approve", record.rid)

    async def away(*_: object) -> Any:
        raise StoreUnavailable("away")

    monkeypatch.setattr(office.store, "vote", away)
    _, body = await office.post(submitted(view))
    assert b"Nothing was counted: try again in a moment." in body


async def test_slack_is_answered_in_time_and_told_afterwards(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("openmcp.sidecar.approvals.channels.slack._AT_ONCE", 0.05)
    record = await office.asked()
    view = await office.dialogue("openmcp_approve", record.rid)
    go = asyncio.Event()

    async def slow(*_: object) -> Any:
        await go.wait()
        raise StoreUnavailable("away")

    monkeypatch.setattr(office.store, "vote", slow)
    assert await office.post(submitted(view)) == (200, b"")
    go.set()
    told = await office.slack.seen("chat.postEphemeral")
    assert (told["user"], told["channel"]) == ("U0ANN", CHANNEL)
    assert told["text"] == f"Your decision on request {record.rid} was not counted: press the button again."


def altered(request: Incoming, **headers: str) -> Incoming:
    return Incoming(request.method, request.path, request.query, request.headers | headers, request.body)


async def test_only_slack_is_listened_to(office: Office) -> None:
    record = await office.asked()
    good = signed(pressed("openmcp_approve", record.rid), office.now)
    without = {name: value for name, value in good.headers.items() if name != "x-slack-signature"}
    forged = [
        signed(pressed("openmcp_approve", record.rid), office.now, "another secret"),
        Incoming("POST", good.path, "", good.headers, good.body.replace(b"U0ANN", b"U0EVE")),
        Incoming("POST", good.path, "", without, good.body),
        altered(good, **{"x-slack-signature": "v0="}),
        altered(good, **{"x-slack-signature": "v0=é"}),
        altered(good, **{"x-slack-request-timestamp": str(office.now // 1000 + 1)}),
        altered(good, **{"x-slack-request-timestamp": "9" * 400}),
        altered(good, **{"x-slack-request-timestamp": "²"}),
        signed(pressed("openmcp_approve", record.rid), office.now - 301_000),
        signed(pressed("openmcp_approve", record.rid), office.now + 301_000),
    ]
    for request in forged:
        assert (await office.endpoint(request)).status == 401
    assert office.refused == len(forged)
    assert office.slack.calls == []
    assert (await office.endpoint(good)).status == 200
    await office.slack.seen("views.open")


async def test_what_was_overheard_is_of_no_use_later(office: Office) -> None:
    record = await office.asked()
    view = await office.dialogue("openmcp_approve", record.rid)
    overheard = signed(submitted(view), office.now)
    office.now += 299_000
    assert (await office.endpoint(overheard)).status == 200
    assert await office.status(record) is Status.APPROVED
    office.now += 2_000
    assert (await office.endpoint(overheard)).status == 401


@pytest.mark.parametrize(
    "payload",
    [
        {},
        {"type": "block_actions", "user": {"id": "U0ANN"}, "actions": []},
        {"type": "block_actions", "user": "U0ANN", "actions": 5},
        {"type": "block_actions", "user": {"id": "U0ANN"}, "actions": [{"action_id": "other", "value": "x"}]},
        {"type": "block_actions", "user": {"id": "U0ANN"}, "actions": [{"action_id": "openmcp_approve"}]},
        {"type": "view_submission", "user": {"id": "U0ANN"}, "view": {"callback_id": "other"}},
        {"type": "view_submission", "user": {"id": "U0ANN"}, "view": {"callback_id": "openmcp_decision"}},
        {"type": "view_closed", "user": {"id": "U0ANN"}},
        {"type": "shortcut", "user": {"id": "token:ann"}},
    ],
)
async def test_what_is_not_ours_is_answered_and_does_nothing(office: Office, payload: dict[str, Any]) -> None:
    assert await office.post(payload) == (200, b"")
    assert office.slack.calls == []


async def test_what_is_no_interaction_is_refused(office: Office) -> None:
    for body in (b"", b"payload=[]", b"payload=%7b", b"a=1&b=2&c=3&d=4&e=5&payload={}", b"\xff", b"x" * 300_000):
        made = signed({}, office.now)
        digest = signed_body(body, made.headers["x-slack-request-timestamp"])
        request = Incoming("POST", made.path, "", made.headers | {"x-slack-signature": digest}, body)
        assert (await office.endpoint(request)).status in (400, 413)


def signed_body(body: bytes, at: str) -> str:
    return f"v0={hmac.new(SECRET.encode(), f'v0:{at}:'.encode() + body, hashlib.sha256).hexdigest()}"


@pytest.mark.parametrize(
    ("answer", "lasting", "text"),
    [
        (lambda: web.json_response({"ok": False, "error": "ratelimited"}, status=429), False, "too many messages"),
        (lambda: web.Response(status=503), False, "HTTP 503"),
        (lambda: web.Response(text="<html>"), False, "cannot be read"),
        (lambda: web.json_response({"ok": False, "error": "internal_error"}), False, "internal_error"),
        (lambda: web.json_response({"ok": False, "error": "channel_not_found"}), True, "or the bot is not in it"),
        (lambda: web.json_response({"ok": False, "error": "invalid_auth"}), True, "the token is not accepted"),
    ],
)
async def test_what_slack_refuses_is_told(office: Office, answer: Any, lasting: bool, text: str) -> None:
    record = await office.asked()
    office.slack.answers["chat.postMessage"].append(answer())
    with pytest.raises(ChannelFailed, match=text) as failed:
        await office.channel.send(record, office.now)
    assert failed.value.lasting is lasting
    assert TOKEN not in str(failed.value)


@pytest.mark.parametrize(("word", "fails"), [("message_not_found", False), ("channel_not_found", True)])
async def test_a_message_that_somebody_has_deleted_is_no_fault(office: Office, word: str, fails: bool) -> None:
    record = await office.asked()
    office.slack.answers["chat.update"].append(web.json_response({"ok": False, "error": word}))
    with pytest.raises(ChannelFailed) if fails else nullcontext():
        await office.channel.update(record, f"{CHANNEL}:1.2", office.now)
    assert len(office.slack.of("chat.update")) == 1


async def test_slack_may_be_away() -> None:
    async with fake_slack() as slack:
        office = Office(slack)
        record = await office.asked()
    with pytest.raises(ChannelFailed, match="Slack does not answer: cannot connect"):
        await office.channel.send(record, office.now)
