"""Asking, deciding, using: what an agent gets, what people may do, and what is told of it."""

import asyncio
import sqlite3
from contextlib import closing, nullcontext

import pytest

from openmcp.identity.principal import Principal
from openmcp.sidecar import errors
from openmcp.sidecar.approvals.asking import question_of
from openmcp.sidecar.approvals.card import card_of
from openmcp.sidecar.approvals.console.decisions import actions
from openmcp.sidecar.approvals.console.settings import Person
from openmcp.sidecar.approvals.fingerprint import canonical
from openmcp.sidecar.approvals.service import Denied, Granted, Pending, Refused
from openmcp.sidecar.approvals.values import Kind
from openmcp.sidecar.commands.approvaltexts import as_json
from openmcp.sidecar.mcp.values import Call
from openmcp.sidecar.stages.asking import pending
from openmcp.sidecar.state.lifecycle import Conflict
from openmcp.sidecar.state.memory import MemoryStore
from openmcp.sidecar.state.records import Choice, Status, UnknownSchema, Vote
from openmcp.sidecar.state.sqlite import SqliteStore
from openmcp.sidecar.state.store import StoreUnavailable
from openmcp.sidecar.types import MODERN, Request
from tests.approvals.scene import AGENT, LEADS, Scene, of, spec
from tests.contracts.requests import HOUR, MINUTE, NOW

MONEY = of(LEADS, name="money", approvers=("token:cfo",), pending_for=60.0)


async def test_the_whole_story():
    scene = Scene()
    pending = await scene.ask()
    assert isinstance(pending, Pending)
    assert pending.created
    again = await scene.ask()
    assert (again.record.rid, again.created, again.record.asked) == (pending.record.rid, False, 2)
    await scene.approve(pending.record, uses=2)
    granted = await scene.ask()
    assert isinstance(granted, Granted)
    assert (await granted.claim()).uses_left == 1
    assert (await (await scene.ask()).claim()).status is Status.EXHAUSTED
    with pytest.raises(Conflict):
        await granted.claim()
    assert isinstance(await scene.ask(), Pending)
    assert scene.kinds == [
        Kind.OPENED,
        Kind.ASKED_AGAIN,
        Kind.VOTED,
        Kind.APPROVED,
        Kind.USED,
        Kind.USED,
        Kind.EXHAUSTED,
        Kind.OPENED,
    ]


async def test_what_people_see():
    scene = Scene()
    record = (await scene.ask(spec(why="refunds need a human"), reason="the customer insists" * 100)).record
    assert (record.agent, record.identified_by, record.server) == (AGENT, "mtls", "tickets")
    assert (record.method, record.name) == ("tools/call", "refund")
    assert record.shown == (("$.ticket_id", '"T-7"'),)
    assert record.bound == (("$.ticket_id", '["T-7"]'),)
    assert record.why == ("refunds need a human",)
    assert len(record.agent_reason) == 500
    assert (record.opened, record.pending_until) == (NOW, NOW + 30 * MINUTE)
    assert len(record.arguments_digest) == 64


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({}, True),
        ({"arguments": {"amount": 99, "ticket_id": "T-7"}}, True),
        ({"identified_by": "jwtSvid"}, True),
        ({"reason": "other"}, True),
        ({"arguments": {"ticket_id": "T-8", "amount": 12}}, False),
        ({"arguments": {"amount": 12}}, False),
        ({"agent": "spiffe://acme.example/ns/support/sa/other"}, False),
        ({"server": "tickets2"}, False),
        ({"name": "refund_all"}, False),
        ({"method": "prompts/get"}, False),
    ],
)
async def test_a_grant_holds_for_its_own_question(changes, same):
    scene = Scene()
    await scene.granted()
    assert isinstance(await scene.ask(**changes), Granted) is same


async def test_a_grant_of_one_rule_is_none_of_another():
    scene = Scene()
    await scene.granted()
    assert isinstance(await scene.ask(spec("other")), Pending)
    assert isinstance(await scene.ask(spec(), spec("other")), Pending)


async def test_without_bind_the_whole_arguments_are_granted():
    scene = Scene()
    await scene.granted(spec(bind=None))
    assert isinstance(await scene.ask(spec(bind=None)), Granted)
    assert isinstance(await scene.ask(spec(bind=None), arguments={"ticket_id": "T-7", "amount": 13}), Pending)


ANSWER = {"sure": {"action": "accept", "content": {"amount": 900}}}


async def test_answers_that_nobody_has_seen_need_an_approval_of_their_own():
    scene, whole = Scene(), spec(bind=None)
    granted = await scene.granted(whole)
    again = await scene.ask(whole, answers=ANSWER)
    assert isinstance(again, Pending)
    assert again.record.key != granted.record.key
    assert again.record.shown[-1] == ("inputResponses", canonical(ANSWER))
    await scene.approve(again.record)
    assert isinstance(await scene.ask(whole, answers=ANSWER), Granted)
    assert isinstance(await scene.ask(whole, answers={"sure": {"action": "accept"}}), Pending)
    assert isinstance(await scene.ask(whole), Granted)
    posing = {"ticket_id": "T-7", "amount": 12, "inputResponses": ANSWER}
    assert isinstance(await scene.ask(whole, arguments=posing), Pending)


async def test_with_bind_answers_are_as_free_as_other_arguments():
    scene = Scene()
    await scene.granted()
    granted = await scene.ask(answers=ANSWER)
    assert isinstance(granted, Granted)
    assert "inputResponses" not in dict(granted.record.shown)


@pytest.mark.parametrize("rule", [{"show": ()}, {"show": (), "bind": None}, {"show": (), "bind": ()}])
async def test_without_show_the_whole_arguments_are_seen(rule):
    record = (await Scene().ask(spec(**rule))).record
    assert record.shown == (("$", '{"amount":12,"ticket_id":"T-7"}'),)
    both = (await Scene().ask(spec(**rule), spec("money", MONEY))).record
    assert both.shown == record.shown


async def test_several_rules_are_one_request_as_strict_as_all_of_them():
    scene = Scene()
    rules = (
        spec(duration=3600.0, max_duration=7200.0, max_uses=9, show=("$.ticket_id",)),
        spec("money", MONEY, bind=("$.amount",), duration=600.0, show=("$.amount", "$.ticket_id")),
    )
    record = (await scene.ask(*rules)).record
    assert [path for path, _ in record.bound or ()] == ["$.amount", "$.ticket_id"]
    assert [path for path, _ in record.shown] == ["$.ticket_id", "$.amount"]
    assert [(need.rule, need.workflow) for need in record.needs] == [("refunds", "leads"), ("money", "money")]
    assert (record.duration, record.max_duration, record.max_uses) == (600_000, 600_000, 9)
    assert record.pending_until == NOW + MINUTE
    assert (await scene.approve(record)).status is Status.PENDING
    approved = await scene.approve(record, "token:cfo", duration=HOUR)
    assert approved.grant_until == NOW + 600_000
    assert (await scene.ask(spec(bind=None), *rules)).record.bound is None


async def test_an_approver_may_choose_up_to_the_most_that_the_rule_allows():
    scene = Scene()
    record = (await scene.ask(spec(duration=60.0, max_duration=120.0))).record
    assert (record.duration, record.max_duration) == (MINUTE, 2 * MINUTE)
    assert (await scene.approve(record, duration=HOUR)).grant_until == NOW + 2 * MINUTE


async def test_the_order_of_rules_does_not_matter():
    scene = Scene()
    one, two = spec(), spec("money", MONEY)
    assert (await scene.ask(one, two)).record.key == (await scene.ask(two, one)).record.key


async def test_a_denial_is_told_until_it_has_cooled_down():
    scene = Scene(cooldown=5 * MINUTE)
    await scene.deny((await scene.ask()).record, reason="no")
    scene.now += 5 * MINUTE - 1
    denied = await scene.ask()
    assert isinstance(denied, Denied)
    assert (denied.until, denied.record.end_reason) == (NOW + 5 * MINUTE, "no")
    scene.now += 1
    assert isinstance(await scene.ask(), Pending)
    assert scene.kinds == [Kind.OPENED, Kind.VOTED, Kind.DENIED, Kind.OPENED]


async def test_a_denial_is_told_also_where_nothing_more_may_be_asked():
    scene = Scene(open_requests=1)
    await scene.deny((await scene.ask()).record)
    await scene.ask(arguments={"ticket_id": 2})
    assert isinstance(await scene.ask(), Denied)


async def test_a_vote_that_is_played_again_is_not_told_again():
    scene = Scene()
    record = (await scene.ask()).record
    await scene.approve(record)
    scene.now += 1
    await scene.approve(record)
    assert scene.kinds == [Kind.OPENED, Kind.VOTED, Kind.APPROVED]


async def test_who_was_taken_off_the_list_decides_nothing_any_more():
    scene = Scene()
    record = (await scene.ask()).record
    scene.service.workflows = {"leads": ("token:bob",)}
    with pytest.raises(Conflict, match="any more"):
        await scene.approve(record)
    with pytest.raises(Conflict, match="any more"):
        await scene.deny(record)
    approved = await scene.approve(record, "token:bob")
    with pytest.raises(Conflict, match="any more"):
        await scene.service.revoke(approved, "token:ann", (), "")
    assert (await scene.service.revoke(approved, "token:bob", (), "")).status is Status.REVOKED


async def test_who_could_not_have_approved_revokes_nothing():
    scene = Scene()
    granted = await scene.granted()
    for who in ("token:eve", AGENT, "oidc:user:eve"):
        with pytest.raises(Conflict, match="not on the list"):
            await scene.service.revoke(granted.record, who, ("oidc:group:other",), "")
    assert isinstance(await scene.ask(), Granted)


async def test_a_revocation_in_this_process_holds_at_once():
    scene = Scene()
    granted = await scene.granted()
    await granted.claim()
    await scene.service.revoke(granted.record, "token:ann", (), "oops")
    with pytest.raises(Conflict, match="revoked"):
        await granted.claim()
    assert isinstance(await scene.ask(), Pending)
    assert scene.kinds[-3:] == [Kind.USED, Kind.REVOKED, Kind.OPENED]


async def test_a_revocation_that_is_played_again_is_not_told_again():
    scene = Scene()
    granted = await scene.granted()
    await scene.service.revoke(granted.record, "token:ann", (), "oops")
    scene.now += 1
    await scene.service.revoke(granted.record, "token:ann", (), "oops")
    assert scene.kinds.count(Kind.REVOKED) == 1


async def test_an_older_grant_does_not_use_the_one_after_it():
    scene = Scene()
    old = await scene.granted()
    await scene.service.revoke(old.record, "token:ann", (), "")
    new = await scene.granted()
    await new.claim()
    with pytest.raises(Conflict, match="older"):
        await old.claim()
    await new.claim()


class Counting(MemoryStore):
    """Counts what it is asked."""

    def __init__(self):
        super().__init__()
        self.asked = []
        self.away = False

    def _note(self, verb):
        self.asked.append(verb)
        if self.away:
            raise StoreUnavailable("away")

    async def get(self, key, now):
        self._note("get")
        return await super().get(key, now)

    async def consume(self, key, rid, now, uses=1):
        self._note(f"consume {uses}")
        return await super().consume(key, rid, now, uses)


async def test_a_grant_without_a_number_is_trusted_for_a_moment():
    store = Counting()
    scene = Scene(store, trust=2000)
    granted = await scene.granted()
    store.asked.clear()
    for later in (0, 1, 1999, 2000):
        scene.now = NOW + later
        await (await scene.ask()).claim()
    assert store.asked == ["get", "consume 1", "get", "consume 3"]
    assert scene.kinds.count(Kind.USED) == 4
    found = await store.get(granted.record.key, scene.now)
    assert found is not None
    assert found.used == 4


async def test_the_record_of_another_question_grants_nothing(tmp_path):
    """A file that was written to by somebody else: the grant for one ticket in the place of another's request."""
    scene = Scene(SqliteStore(tmp_path / "approvals.db"))
    granted = await scene.granted()
    pending = (await scene.ask(arguments={"ticket_id": "T-8"})).record
    with closing(sqlite3.connect(tmp_path / "approvals.db")) as database, database:
        database.execute(
            "UPDATE records SET document = (SELECT document FROM records WHERE key = ?) WHERE key = ?",
            (granted.record.key, pending.key),
        )
    with pytest.raises(UnknownSchema, match="another question"):
        await scene.ask(arguments={"ticket_id": "T-8"})
    await scene.store.close()


async def test_what_is_trusted_ends_on_time_all_the_same():
    scene = Scene(trust=2 * HOUR)
    granted = await scene.granted(spec(duration=60.0))
    await granted.claim()
    scene.now = NOW + MINUTE - 1
    await granted.claim()
    scene.now = NOW + MINUTE
    with pytest.raises(Conflict, match="lapsed"):
        await granted.claim()
    assert isinstance(await scene.ask(spec(duration=60.0)), Pending)


async def test_a_grant_with_a_number_is_asked_for_every_time():
    store = Counting()
    scene = Scene(store)
    granted = await scene.granted(spec(max_uses=5))
    store.asked.clear()
    await granted.claim()
    await granted.claim()
    assert store.asked == ["consume 1", "consume 1"]


class Apart(MemoryStore):
    """Tells of no changes, as the store of another process."""

    def subscribe(self, callback):
        pass


async def test_a_clock_that_is_put_back_prolongs_no_trust():
    store = Apart()
    scene, other = Scene(store), Scene(store)
    granted = await scene.granted()
    await granted.claim()
    await other.service.revoke(granted.record, "token:ann", (), "")
    scene.now -= HOUR
    with pytest.raises(Conflict, match="revoked"):
        await granted.claim()


async def test_what_another_process_revoked_ends_within_the_trust():
    store = Apart()
    scene = Scene(store, trust=2000)
    granted = await scene.granted()
    await granted.claim()
    await store.revoke(granted.record.key, granted.record.rid, "token:ann", "", NOW)
    scene.now += 1999
    await granted.claim()
    scene.now += 1
    with pytest.raises(Conflict, match="revoked"):
        await granted.claim()
    assert isinstance(await scene.ask(), Pending)


async def test_uses_that_are_owed_are_written_at_the_end():
    store = Counting()
    scene = Scene(store)
    granted = await scene.granted()
    for _ in range(4):
        await granted.claim()
    await scene.service.close()
    found = await store.get(granted.record.key, NOW)
    assert found is not None
    assert found.used == 4


async def test_uses_that_are_owed_to_an_idle_grant_are_written_by_the_sweep():
    store = Counting()
    scene = Scene(store)
    granted = await scene.granted()
    for _ in range(4):
        await granted.claim()
    scene.now += 1_999
    await scene.service.sweep()
    assert (await scene.service.grants(1)).records[0].used == 1
    scene.now += 1
    await scene.service.sweep()
    assert (await scene.service.grants(1)).records[0].used == 4
    await scene.service.sweep()
    assert store.asked.count("consume 3") == 1


async def test_a_state_that_was_replaced_gives_a_new_key_within_a_minute(monkeypatch):
    scene = Scene()
    await scene.granted()
    monkeypatch.setattr(scene.store, "_key", b"n" * 32)
    scene.now += 59_999
    assert isinstance(await scene.ask(), Granted)
    scene.now += 1
    assert isinstance(await scene.ask(), Pending)


async def test_an_outage_denies_and_loses_no_count():
    store = Counting()
    scene = Scene(store)
    granted = await scene.granted()
    await granted.claim()
    await granted.claim()
    store.away = True
    scene.now += 2000
    with pytest.raises(StoreUnavailable):
        await granted.claim()
    with pytest.raises(StoreUnavailable):
        await scene.ask()
    store.away = False
    await granted.claim()
    found = await store.get(granted.record.key, scene.now)
    assert found is not None
    assert found.used == 3


async def test_open_requests_of_an_agent_are_capped():
    scene = Scene(open_requests=3)
    answers = await asyncio.gather(*(scene.ask(arguments={"ticket_id": n}) for n in range(9)))
    assert [type(one) for one in answers] == [Pending] * 3 + [Refused] * 6
    assert answers[3].reason == "cap"
    assert isinstance(await scene.ask(arguments={"ticket_id": 0}), Pending)
    assert isinstance(await scene.ask(agent="key:other", arguments={"ticket_id": 5}), Pending)
    await scene.approve(answers[0].record)
    assert isinstance(await scene.ask(arguments={"ticket_id": 7}), Pending)
    assert isinstance(await scene.ask(arguments={"ticket_id": 8}), Refused)
    scene.now += HOUR
    assert isinstance(await scene.ask(arguments={"ticket_id": 8}), Pending)
    assert scene.kinds.count(Kind.CAPPED) == 7


async def test_what_other_processes_opened_counts():
    store = MemoryStore()
    one, two = Scene(store, open_requests=2), Scene(store, open_requests=2)
    await one.ask(arguments={"ticket_id": 1})
    await two.ask(arguments={"ticket_id": 2})
    assert isinstance(await two.ask(arguments={"ticket_id": 3}), Refused)
    assert isinstance(await two.ask(arguments={"ticket_id": 1}), Pending)
    one.now += 30_000
    assert isinstance(await one.ask(arguments={"ticket_id": 4}), Refused)


async def test_what_was_refused_does_not_count():
    store = MemoryStore()
    one, two = Scene(store, open_requests=1), Scene(store, open_requests=1)
    pending = await one.ask(arguments={"ticket_id": 1})
    assert isinstance(await two.ask(arguments={"ticket_id": 2}), Refused)
    await one.service.cancel(pending.record)
    two.now += 2_000
    assert isinstance(await two.ask(arguments={"ticket_id": 3}), Pending)


async def test_pending_requests_are_not_counted_for_every_question(monkeypatch):
    scene = Scene()
    counted = []
    listed = scene.store.list_pending

    async def counting(now, limit, cursor=None):
        counted.append(now)
        return await listed(now, limit, cursor)

    monkeypatch.setattr(scene.store, "list_pending", counting)
    for ticket in range(10):
        scene.now += 4_000
        await scene.ask(arguments={"ticket_id": ticket})
    assert counted == [NOW + 4_000, NOW + 36_000]


async def test_a_request_that_could_not_be_opened_does_not_count(monkeypatch):
    scene = Scene(open_requests=1)

    async def away(request, now):
        raise StoreUnavailable("away")

    with monkeypatch.context() as patched:
        patched.setattr(scene.store, "open", away)
        with pytest.raises(StoreUnavailable):
            await scene.ask()
    assert isinstance(await scene.ask(arguments={"ticket_id": 2}), Pending)


async def test_channels_are_told_so_often_within_an_hour():
    scene = Scene(notifications_per_hour=2)
    for ticket in range(3):
        scene.now += MINUTE
        await scene.ask(arguments={"ticket_id": ticket})
    assert [event.notify for event in scene.events] == [True, True, False]
    await scene.ask(agent="key:other")
    scene.now = NOW + MINUTE + HOUR
    await scene.ask(arguments={"ticket_id": 9})
    assert [event.notify for event in scene.events[3:]] == [True, True]


@pytest.mark.parametrize("rule", [{"show": ()}, {"bind": ()}, {"bind": None}, {"show": (), "bind": None}])
@pytest.mark.parametrize("large", [{"arguments": {"ticket_id": "x" * 100}}, {"answers": {"q": "x" * 100}}])
async def test_what_is_too_large_to_be_read_is_not_asked(rule, large):
    scene = Scene(value_bytes=100)
    if "answers" in large:
        rule = {**rule, "bind": None}
    answer = await scene.ask(spec(**rule), **large)
    assert isinstance(answer, Refused)
    assert answer.reason == "too_large"


async def test_an_argument_that_is_not_given_is_not_shown_as_an_empty_list():
    """To a server that may be the difference between nobody and everybody."""
    scene, rule = Scene(), spec(show=("$.to", "$.ticket_id"))
    nobody = (await scene.ask(rule, arguments={"ticket_id": "T-8", "to": []})).record
    everybody = (await scene.ask(rule, arguments={"ticket_id": "T-9"})).record
    assert [card_of(one, scene.now).shown[0].text for one in (nobody, everybody)] == ["[]", "(absent)"]
    assert [as_json(one)["shown"] for one in (nobody, everybody)] == [
        {"$.to": [], "$.ticket_id": "T-8"},
        {"$.ticket_id": "T-9"},
    ]
    assert "refund(ticket_id=" in pending(everybody, scene.now).text


async def test_what_can_be_read_in_two_ways_is_not_asked():
    answer = await Scene().ask(arguments={"ticket_id": 1, "Ticket_id": 2})
    assert isinstance(answer, Refused)
    assert answer.reason == "ambiguous"


async def test_withdrawing_is_told_once():
    scene = Scene()
    record = (await scene.ask()).record
    await scene.service.cancel(record)
    scene.now += 1
    await scene.service.cancel(record)
    assert scene.kinds == [Kind.OPENED, Kind.CANCELLED]


async def test_ends_by_time_are_told_once_among_all_processes():
    store = MemoryStore()
    one, two = Scene(store), Scene(store)
    await one.granted(spec(duration=60.0))
    await one.ask(arguments={"ticket_id": 2})
    one.kinds  # noqa: B018 - forgets what was told so far
    one.now = two.now = NOW + HOUR
    done = await asyncio.gather(one.service.sweep(), two.service.sweep())
    assert sum(done) == 2
    assert sorted([*one.kinds, *two.kinds]) == [Kind.EXPIRED, Kind.LAPSED]
    assert await one.service.sweep() == 0
    page = await two.service.history(10)
    assert [record.status for record in page.records] == [Status.EXPIRED, Status.LAPSED]


async def test_an_end_that_two_processes_see_is_told_by_one(monkeypatch):
    store = MemoryStore()
    one, two = Scene(store), Scene(store)
    await one.ask()
    one.now = two.now = NOW + HOUR
    due = await store.list_due(one.now, 10)

    async def both_see_it(now, limit):
        return due

    monkeypatch.setattr(store, "list_due", both_see_it)
    assert (await one.service.sweep(), await two.service.sweep()) == (1, 0)
    assert (one.kinds[-1], two.kinds) == (Kind.EXPIRED, [])


async def test_lists_and_finding():
    scene = Scene()
    record = (await scene.ask()).record
    granted = await scene.granted(arguments={"ticket_id": 2})
    assert (await scene.service.pending(9)).records == (record,)
    assert (await scene.service.grants(9)).records == (granted.record,)
    assert await scene.service.find(record.rid) == record
    assert await scene.service.find("apr_none") is None


@pytest.mark.parametrize("rid", ["", "apr_", "x", "apr_" + "a" * 61, "apr_../x", "apr_A", "apr_a\n"])
async def test_what_is_no_id_is_not_looked_for(rid, monkeypatch):
    scene = Scene()

    async def asked(rid, now):
        raise AssertionError

    monkeypatch.setattr(scene.store, "by_rid", asked)
    assert await scene.service.find(rid) is None


async def test_a_channel_is_told_by_one():
    scene = Scene()
    record = (await scene.ask()).record
    await scene.service.note(record, "mail")
    with pytest.raises(Conflict, match="told"):
        await scene.service.note(record, "mail")
    assert (await scene.service.note(record, "mail", "id-1")).notified[0].reference == "id-1"


async def test_a_vote_has_the_time_of_the_service():
    scene = Scene()
    record = (await scene.ask()).record
    vote = Vote(approver="token:ann", choice=Choice.APPROVE, at=1, duration=MINUTE)
    assert (await scene.service.vote(record, vote)).votes[0].at == NOW


def test_a_call_as_a_question():
    params = {"name": "refund", "arguments": {"a": 1}, "_meta": {"x": 1}}
    call = Call(Request(1, "tools/call", params), MODERN, "2026-07-28", "refund", ())
    asked = question_of(Principal("key:a", "apiKey"), "tickets", call, "please")
    assert (asked.agent, asked.identified_by, asked.server, asked.reason) == ("key:a", "apiKey", "tickets", "please")
    assert (asked.method, asked.name, asked.arguments) == ("tools/call", "refund", {"a": 1})
    read = Call(Request(1, "resources/read", {"uri": "a://b", "_meta": {}}), MODERN, "2026-07-28", "a://b", ())
    assert question_of(Principal("key:a", "apiKey"), "t", read).arguments == {"uri": "a://b"}


@pytest.mark.parametrize("method", ["tools/call", "prompts/get", "resources/read"])
@pytest.mark.parametrize(
    ("given", "answers"),
    [({}, None), ({"inputResponses": {}}, None)] + [({"inputResponses": one}, one) for one in (ANSWER, [], 0, "")],
)
def test_a_question_has_the_answers_that_come_with_it(method, given, answers):
    params = {"name": "n", "uri": "a://b", "requestState": "s", **given}
    asked = question_of(Principal("key:a", "apiKey"), "t", Call(Request(1, method, params), MODERN, "", "n", ()))
    assert asked.answers == answers
    assert type(asked.answers) is type(answers)
    assert "inputResponses" not in asked.arguments


@pytest.mark.parametrize("key", ["InputResponses", "inputresponses", "Arguments"])
def test_what_a_server_may_take_for_answers_or_arguments_is_refused(key):
    call = Call(Request(1, "tools/call", {"name": "n", key: {"a": 1}}), MODERN, "2026-07-28", "n", ())
    with pytest.raises(errors.Refused, match="letter case"):
        question_of(Principal("key:a", "apiKey"), "t", call)


async def test_a_reason_is_given_where_the_workflow_wants_one():
    scene = Scene()
    scene.service.need_reason = {"leads"}
    pending = await scene.ask()
    for decide in (scene.approve, scene.deny):
        with pytest.raises(Conflict) as refused:
            await decide(pending.record, reason="  ")
        assert (refused.value.reason, str(refused.value)) == ("reason", "a reason is wanted")
    assert (await scene.approve(pending.record, reason="the customer called")).status is Status.APPROVED


async def test_who_has_left_one_of_two_lists_does_not_count_for_either():
    scene = Scene()
    money = of(LEADS, name="money", approvers=("token:ann", "token:cfo"))
    pending = await scene.ask(spec(), spec("payments", money))
    scene.service.workflows = {"leads": ("token:ann", "token:bob"), "money": ("token:cfo",)}
    with pytest.raises(Conflict, match="token:ann is not on the list of approvers any more"):
        await scene.approve(pending.record)
    assert (await scene.approve(pending.record, by="token:bob")).status is Status.PENDING
    assert (await scene.approve(pending.record, by="token:cfo")).status is Status.APPROVED


async def test_an_approval_does_not_outlive_its_place_on_the_list():
    """One of two approvers leaves: the other alone is not two."""
    scene = Scene()
    pending = (await scene.ask(spec(workflow=of(LEADS, required=2)))).record
    half = await scene.approve(pending)
    scene.service.workflows = {"leads": ("token:bob",)}
    with pytest.raises(Conflict, match="token:ann has approved this and is not on the list of approvers any more"):
        await scene.approve(half, by="token:bob")
    assert (await scene.ask(spec(workflow=of(LEADS, required=2)))).record.votes == half.votes
    assert actions(half, Person("token:bob"), scene.service.workflows, scene.now) == ["deny"]
    assert (await scene.deny(half, by="token:bob")).status is Status.DENIED


async def test_nothing_is_decided_while_it_could_not_be_recorded():
    scene = Scene()
    asked = await scene.ask()
    scene.service.recording = lambda: False
    with pytest.raises(StoreUnavailable, match="the record cannot be written"):
        await scene.approve(asked.record)
    scene.service.recording = lambda: True
    await scene.approve(asked.record)
    granted = await scene.ask()
    scene.service.recording = lambda: False
    with pytest.raises(StoreUnavailable):
        await scene.service.revoke(granted.record, "token:ann", (), "")
    assert isinstance(await scene.ask(), Granted)


async def test_a_value_is_not_shown_that_the_server_may_read_elsewhere():
    scene = Scene()
    exact = spec(bind=None, show=("$.amount",))
    assert isinstance(await scene.ask(exact), Pending)
    answer = await scene.ask(exact, arguments={"amount": 12, "Amount": 9999})
    assert isinstance(answer, Refused)
    assert answer.reason == "ambiguous"


@pytest.mark.parametrize("approved", [{}, {"to": []}, {"to": "ops@acme.example"}])
@pytest.mark.parametrize("used", [{"to": "eve@evil.example"}, {"to": {"x": "eve@evil.example"}}, {"cc": "eve"}])
async def test_a_grant_for_a_path_that_found_nothing_is_for_exactly_those_arguments(approved, used):
    scene = Scene()
    listed = spec(bind=("$.to[*].address",), show=())
    await scene.granted(listed, arguments=approved)
    assert isinstance(await scene.ask(listed, arguments=approved), Granted)
    assert isinstance(await scene.ask(listed, arguments=used), Pending)


async def test_nobody_approves_their_own_request_by_their_address_either():
    scene = Scene()
    asked = await scene.ask(
        spec(workflow=of(LEADS, approvers=("email:ann@acme.example", "oidc:user:17"))),
        agent="jwt:https://idp.acme.example#Ann@acme.example",
    )
    with pytest.raises(Conflict) as refused:
        await scene.approve(asked.record, by="oidc:user:17", groups=("email:ann@acme.example",))
    assert refused.value.reason == "self"
    assert (await scene.approve(asked.record, by="oidc:user:17")).status is Status.APPROVED


async def test_who_asks_under_an_address_of_theirs_gets_no_form():
    scene = Scene()
    listed = of(LEADS, approvers=("oidc:user:17", "oidc:group:leads"))
    asked = await scene.ask(spec(workflow=listed), agent="jwt:https://idp.acme.example#ann@acme.example")
    ann = Person("oidc:user:17", ("oidc:group:leads", "email:ann@acme.example"))
    bob = Person("oidc:user:18", ("oidc:group:leads", "email:bob@acme.example"))
    assert actions(asked.record, ann, {}, scene.now) == []
    assert actions(asked.record, bob, {}, scene.now) == ["approve", "deny"]


@pytest.mark.parametrize("changes", [{"name": "money"}, {"required": 2}])
async def test_a_grant_ends_with_the_workflow_that_gave_it(changes):
    scene = Scene()
    await scene.granted()
    assert isinstance(await scene.ask(spec(workflow=of(LEADS, approvers=("token:ann",)))), Granted), (
        "who is on the list"
    )
    answer = await scene.ask(spec(workflow=of(LEADS, **changes)))
    assert isinstance(answer, Pending)
    assert (answer.record.needs[0].workflow, answer.record.needs[0].required) == (
        changes.get("name", "leads"),
        changes.get("required", 1),
    )


@pytest.mark.parametrize("names", [("token:ann",), ("oidc:user:17", "oidc:group:leads")])
@pytest.mark.parametrize(
    ("workflows", "decides"),
    [
        ({}, True),
        ({"leads": ("token:ann", "oidc:group:leads")}, True),
        ({"leads": ("token:bob",)}, False),
        ({"other": ("token:bob",)}, True),
        ({"leads": ("token:ann", "oidc:group:leads"), "money": ("token:cfo",)}, False),
        ({"money": ("token:ann", "oidc:group:leads")}, True),
    ],
)
async def test_forms_are_offered_to_whom_the_service_heeds(names, workflows, decides):
    listed = of(LEADS, approvers=("token:ann", "oidc:group:leads", "token:bob"))
    money = of(listed, name="money")
    scene = Scene()
    record = (await scene.ask(spec(workflow=listed), spec("money", money))).record
    scene.service.workflows = workflows
    person = Person(names[0], (*names[1:], "oidc:group:others"))
    assert actions(record, person, workflows, scene.now) == (["approve", "deny"] if decides else [])
    vote = Vote(approver=names[0], choice=Choice.APPROVE, at=0, groups=names[1:])
    for act in (scene.service.vote(record, vote), scene.service.revoke(record, names[0], names[1:], "")):
        with nullcontext() if decides else pytest.raises(Conflict, match="any more"):
            found = await act
            assert found.version > record.version
