"""The table of transitions: who may decide, for how long and how often, and what never happens."""

import itertools

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from openmcp.sidecar.state import lifecycle, records
from openmcp.sidecar.state.lifecycle import Conflict
from openmcp.sidecar.state.records import ApprovalRecord, Choice, Notice, Status, UnknownSchema, Vote
from tests.contracts.requests import HOUR, LEADS, MINUTE, NOW, no, request, yes

TWO = msgspec.structs.replace(LEADS, required=2)
MONEY = msgspec.structs.replace(LEADS, rule="money", workflow="money", approvers=("oidc:group:money",))


def vote(record, *votes, at=NOW):
    for one in votes:
        record = lifecycle.voted(record, record.rid, one, at)
    return record


def refusal(call, *arguments):
    with pytest.raises(Conflict) as refused:
        call(*arguments)
    return refused.value.reason


def grant(**changes):
    return vote(request(**changes), yes())


def test_two_different_people_are_two():
    asked = request(needs=(TWO,))
    assert vote(asked, yes()).status is Status.PENDING
    assert vote(asked, yes(), yes()).status is Status.PENDING
    assert vote(asked, yes(), yes("token:bob")).status is Status.APPROVED


def test_one_person_in_two_groups_is_one():
    need = msgspec.structs.replace(LEADS, approvers=("oidc:group:a", "oidc:group:b"), required=2)
    asked = vote(request(needs=(need,)), yes("oidc:user:ann", groups=("oidc:group:a", "oidc:group:b")))
    assert asked.status is Status.PENDING
    assert vote(asked, yes("oidc:user:bob", groups=("oidc:group:a",))).status is Status.APPROVED


def test_every_rule_needs_its_own_approvers():
    asked = request(needs=(LEADS, MONEY))
    assert vote(asked, yes(), yes("token:bob")).status is Status.PENDING
    assert vote(asked, yes("oidc:user:m", groups=("oidc:group:money",))).status is Status.PENDING
    assert vote(asked, yes(), yes("oidc:user:m", groups=("oidc:group:money",))).status is Status.APPROVED


def test_one_denial_ends_it_whoever_approved_before():
    denied = vote(request(needs=(TWO,)), yes(), no())
    assert (denied.status, denied.ended_by, denied.cooldown_until) == (Status.DENIED, "token:bob", NOW + 5 * MINUTE)


def test_who_approved_may_still_deny_while_it_is_open():
    denied = vote(request(needs=(TWO,)), yes(), no("token:ann"))
    assert denied.status is Status.DENIED
    assert [one.choice for one in denied.votes] == [Choice.DENY]


@pytest.mark.parametrize(
    ("voter", "reason"),
    [
        ("token:eve", "not_listed"),
        ("oidc:user:eve", "not_listed"),
        ("spiffe://acme.example/ns/support/sa/agent", "not_listed"),
        ("key:ann", "not_listed"),
        ("oidc:group:money", "not_listed"),
        ("", "not_listed"),
    ],
)
def test_who_is_not_listed_has_no_vote(voter, reason):
    need = msgspec.structs.replace(LEADS, approvers=("spiffe://acme.example/ns/support/sa/agent", "key:ann", ""))
    asked = request(needs=(LEADS, MONEY, need))
    assert refusal(vote, asked, yes(voter)) == reason
    assert refusal(vote, asked, no(voter)) == reason


@pytest.mark.parametrize(
    ("agent", "approver"),
    [("token:ann", "token:ann"), ("jwt:https://idp.example/#Ann", "oidc:user:ann"), ("jwt:https://i#a@b", "email:a@b")],
)
def test_nobody_approves_their_own_request(agent, approver):
    need = msgspec.structs.replace(LEADS, approvers=(approver,))
    assert refusal(vote, request(agent=agent, needs=(need,)), yes(approver)) == "self"


@pytest.mark.parametrize(
    ("rule", "chosen", "expected"),
    [
        ({"duration": HOUR}, [None], HOUR),
        ({"duration": HOUR}, [MINUTE], MINUTE),
        ({"duration": HOUR}, [2 * HOUR], HOUR),
        ({"duration": HOUR, "max_duration": 4 * HOUR}, [2 * HOUR], 2 * HOUR),
        ({"duration": HOUR, "max_duration": 4 * HOUR}, [9 * HOUR], 4 * HOUR),
        ({"duration": HOUR, "max_duration": 4 * HOUR}, [2 * HOUR, 3 * HOUR], 2 * HOUR),
        ({"duration": HOUR, "max_duration": 4 * HOUR}, [2 * HOUR, None], HOUR),
        ({"duration": HOUR, "max_duration": MINUTE}, [None], MINUTE),
    ],
)
def test_a_grant_is_as_short_as_the_most_careful_said(rule, chosen, expected):
    need = msgspec.structs.replace(LEADS, required=len(chosen))
    people = ("token:ann", "token:bob")
    votes = [yes(who, duration=one) for who, one in zip(people, chosen, strict=False)]
    assert vote(request(needs=(need,), **rule), *votes).grant_until == NOW + expected


@pytest.mark.parametrize(
    ("most", "chosen", "expected"),
    [(None, [None], None), (5, [None], 5), (5, [9], 5), (5, [2], 2), (None, [7, 3], 3), (4, [None, None], 4)],
)
def test_a_grant_is_as_scarce_as_the_most_careful_said(most, chosen, expected):
    need = msgspec.structs.replace(LEADS, required=len(chosen))
    votes = [yes(who, uses=one) for who, one in zip(("token:ann", "token:bob"), chosen, strict=False)]
    assert vote(request(needs=(need,), max_uses=most), *votes).uses_left == expected


@pytest.mark.parametrize("changes", [{"duration": 0}, {"duration": -1}, {"uses": 0}, {"uses": -3}])
def test_a_grant_of_nothing_is_refused(changes):
    assert refusal(vote, request(), yes(**changes)) == "invalid"


def test_a_need_of_nobody_is_still_one():
    need = msgspec.structs.replace(LEADS, required=0)
    asked = request(needs=(need, msgspec.structs.replace(MONEY, required=0)))
    assert vote(asked, yes()).status is Status.PENDING


def test_an_unconfirmed_message_may_be_sent_again():
    asked = request()
    rid = asked.rid
    claimed = lifecycle.noted(asked, rid, Notice(channel="mail", at=NOW), NOW)
    soon, late = NOW + lifecycle.RESEND_AFTER - 1, NOW + lifecycle.RESEND_AFTER
    assert refusal(lifecycle.noted, claimed, rid, Notice(channel="mail", at=soon), soon) == "told"
    assert lifecycle.noted(claimed, rid, Notice(channel="mail", at=late), late).notified[0].at == late
    both = lifecycle.noted(claimed, rid, Notice(channel="slack", at=NOW), NOW)
    assert [one.channel for one in both.notified] == ["mail", "slack"]


ACTIONS = st.sampled_from(("yes", "yes2", "no", "use", "revoke", "cancel", "settle", "ask", "wait"))


def _act(record: ApprovalRecord, action: str, now: int) -> ApprovalRecord:
    rid = record.rid
    if action in ("yes", "yes2", "no"):
        choice = Choice.DENY if action == "no" else Choice.APPROVE
        who = "token:bob" if action == "yes2" else "token:ann"
        return lifecycle.voted(record, rid, Vote(approver=who, choice=choice, at=now), now)
    if action == "ask":
        return lifecycle.opened(record, request(record.key, rid=f"{rid}n", now=now), now)[0]
    if action == "wait":
        return lifecycle.current(record, now)
    verbs = {
        "use": lambda: lifecycle.consumed(record, rid, now),
        "revoke": lambda: lifecycle.revoked(record, rid, "token:ann", "", now),
        "cancel": lambda: lifecycle.cancelled(record, rid, "agent", now),
        "settle": lambda: lifecycle.settled(record, rid, now),
    }
    return verbs[action]()


@given(st.lists(st.tuples(ACTIONS, st.sampled_from((0, 1, MINUTE, 30 * MINUTE, HOUR))), max_size=12), st.integers(1, 2))
@example([("cancel", 0), ("ask", 0)], 1)
def test_no_way_but_those_of_the_table(actions, required):
    record = request(needs=(msgspec.structs.replace(LEADS, required=required),), max_uses=2)
    now = NOW
    for action, later in actions:
        now += later
        before = lifecycle.current(record, now)
        try:
            after = _act(record, action, now)
        except Conflict:
            continue
        fresh = after.rid != record.rid
        assert fresh or after.status is before.status or after.status in lifecycle.NEXT.get(before.status, ())
        assert after.version >= record.version or fresh
        assert after in (record, before) or after.version > record.version or fresh
        record = after


def test_the_table_has_no_way_back():
    ends = set(Status) - lifecycle.LIVE
    assert lifecycle.NEXT.keys() & ends == set()
    assert Status.PENDING not in set(itertools.chain(*lifecycle.NEXT.values()))


def test_a_record_is_written_and_read():
    record = vote(request(bound=None, max_uses=3), yes(reason="fine", duration=MINUTE))
    assert records.decode(records.encode(record)) == record


@pytest.mark.parametrize(
    "document",
    [
        records.encode(request()).replace(b'"schema":1', b'"schema":2'),
        records.encode(request()).replace(b'"pending"', b'"paused"'),
        b"{}",
        b"",
        b"[]",
        b'{"schema": 1}',
    ],
)
def test_a_record_of_another_version_is_refused(document):
    with pytest.raises(UnknownSchema):
        records.decode(document)


def test_a_mail_decides_once():
    need = msgspec.structs.replace(TWO, approvers=("email:ann@acme.example", "token:bob"))
    by, asked = "email:ann@acme.example", request(needs=(need,))
    half = vote(asked, yes(by))
    assert vote(half, yes(by)) == half
    assert refusal(vote, half, no(by)) == "used"
    turned = vote(vote(asked, yes("token:bob")), no("token:bob"))
    assert turned.status is Status.DENIED
