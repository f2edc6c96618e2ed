"""What approvers see: whole cards as golden files, and that no text of others misleads them."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from openmcp.sidecar.approvals.card import CHANNEL, PAGE, Card, card_of
from openmcp.sidecar.approvals.fingerprint import canonical
from openmcp.sidecar.approvals.safetext import safe
from openmcp.sidecar.approvals.values import Limits
from openmcp.sidecar.state.lifecycle import consumed, revoked, voted
from openmcp.sidecar.state.records import ApprovalRecord, Choice, Need, Vote
from tests.contracts.requests import HOUR, MINUTE, request, yes
from tests.support.golden import check_golden

T0 = 1_795_271_400_000
"""2026-11-21 14:30 UTC."""

SECURITY = Need(policy="base", rule="money", workflow="security", approvers=("oidc:group:security",), required=2)
LEADS = Need(policy="tickets", rule="refunds", workflow="leads", approvers=("token:ann", "slack:U0123"))


def record(**changes: Any) -> ApprovalRecord:
    fields: dict[str, Any] = {
        "now": T0,
        "rid": "apr_" + "a" * 26,
        "needs": (LEADS,),
        "shown": (("$.ticket_id", '"T-7"'), ("$.amount", "120.5")),
        "agent_reason": "the customer was charged twice",
        "max_duration": 4 * HOUR,
        "max_uses": 20,
    }
    return request("0" * 64, **{**fields, **changes})


def golden(name: str, card: Card) -> None:
    check_golden(
        f"approvals/card-{name}.json", msgspec.json.format(msgspec.json.encode(card), indent=2).decode() + "\n"
    )


def test_a_request_that_waits() -> None:
    golden("pending", card_of(record(asked=3, last_asked=T0 + 5 * MINUTE), T0 + 6 * MINUTE))


def test_a_request_that_two_workflows_decide_and_one_person_has_approved() -> None:
    vote = Vote(
        approver="oidc:user:eve",
        choice=Choice.APPROVE,
        at=T0 + MINUTE,
        groups=("oidc:group:security",),
        reason="fine for an hour",
        duration=40 * MINUTE,
        uses=3,
    )
    both = record(needs=(LEADS, SECURITY), bound=None, why=("money leaves the house", "refunds need a human"))
    card = card_of(voted(both, both.rid, vote, T0 + MINUTE), T0 + 2 * MINUTE)
    golden("half-approved", card)
    assert card.missing == "1 more approval of leads, 1 more approval of security"
    assert [choice.milliseconds for choice in card.durations] == [5 * MINUTE, 15 * MINUTE, 30 * MINUTE, 40 * MINUTE]
    assert card.most_uses == 3


def test_a_grant_and_its_end() -> None:
    asked = record()
    granted = voted(asked, asked.rid, yes(at=T0 + MINUTE, duration=15 * MINUTE), T0 + MINUTE)
    used = consumed(granted, asked.rid, T0 + 2 * MINUTE)
    golden("granted", card_of(used, T0 + 3 * MINUTE))
    golden("revoked", card_of(revoked(used, asked.rid, "token:ann", "wrong customer", T0 + 4 * MINUTE), T0 + HOUR))


def test_hostile_texts_are_shown_as_what_they_are() -> None:
    hostile = "\u202egnp.exe\u200b\x1b[2J<b>&\n\u3164\ufe0fé日本ש\U000e0041\ud800 a\u0300\u0301\u0302\u0303"
    card = card_of(
        record(
            agent=f"jwt:https://idp#{hostile}",
            name=hostile,
            shown=(("$.a", canonical({hostile: [hostile, 1.0, None]})),),
            bound=(("$.a", canonical([hostile])), ("$.b", "[]"), ("$.c", "[1,2]"), ("$.d", "[[1,2]]")),
            agent_reason=hostile,
            why=(hostile,),
            identified_by=hostile,
            method=hostile,
        ),
        T0,
    )
    golden("hostile", card)
    assert [value.text for value in card.granted.values or ()][1:] == ["(absent)", "[1, 2]", "[1, 2]"]
    assert card.granted.values is not None
    assert card.granted.values[2].label == "$.c (2 values)"


def test_letters_that_look_alike_are_told_apart_in_names_and_in_what_is_granted() -> None:
    """Cyrillic letters in the name of the tool, and in a value that is bound and not among those shown."""
    card = card_of(record(name="r\u0435fund", shown=(), bound=(("$.to", canonical(["\u0430nn"])),)), T0)
    assert card.name == "r\u0435fund (exactly r\\u0435fund)"
    assert card.subject in card.granted.sentence
    assert '$.to = "\u0430nn" (exactly "\\u0430nn")' in card.granted.sentence
    assert card_of(record(name="\u0435" * 60), T0).page_only


@given(text=st.text(), most=st.integers(2, 60))
def test_safe_text_is_printable_and_bounded(text: str, most: int) -> None:
    shown, cut = safe(text, most)
    assert shown.isprintable()
    assert len(shown) <= most
    assert cut or len(shown) >= len(text)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner, max_size=3)))
def test_what_is_shown_of_a_value_is_that_value(value: Any) -> None:
    card = card_of(record(shown=(("$.v", canonical(value)),)), T0, PAGE)
    marks = any("\\" in text for text in (card.shown[0].text,))
    assert json.loads(card.shown[0].text) == value or marks
    assert json.loads(card.shown[0].exact or card.shown[0].text) == value


@pytest.mark.parametrize(
    "changes",
    [
        {"shown": (("$.a", canonical("x" * 400)),)},
        {"bound": (("$.a", canonical(["x" * 400])),)},
        {"name": "n" * 400},
        {"agent": "spiffe://acme.example/" + "n" * 400},
        {"server": "n" * 400},
    ],
)
def test_what_is_cut_is_approved_on_the_page_alone(changes: dict[str, Any]) -> None:
    assert not card_of(record(), T0).page_only
    assert card_of(record(**changes), T0).page_only
    assert not card_of(record(**changes), T0, PAGE).page_only


WHOLE = {"to": "ann@acme.example", "note": "1\n}\nstatus: safe\u202e", "items": [{"a": 1}, {"b": [1.0, None]}]}


@pytest.mark.parametrize("most", [CHANNEL, PAGE])
def test_all_arguments_are_laid_out_a_line_for_each(most: int) -> None:
    answers = canonical({"sure": {"action": "accept"}})
    asked = record(shown=(("$", canonical(WHOLE)), ("inputResponses", answers)), bound=None)
    card = card_of(asked, T0, most)
    assert [value.label for value in card.shown] == [
        "arguments",
        "the agent's answers (inputResponses, not verified)",
    ]
    assert card.shown[0].text.split("\n") == [
        "{",
        '  "items": [{"a": 1}, {"b": [1.0, null]}],',
        '  "note": "1\\n}\\nstatus: safe\\u202e",',
        '  "to": "ann@acme.example"',
        "}",
    ]
    assert not card.page_only
    assert card.granted.arguments == f"exactly these arguments (SHA-256 {asked.arguments_digest}) and these answers"


@pytest.mark.parametrize(
    ("whole", "cut"),
    [
        ({"a": "x" * 1900}, False),
        ({"a": "x" * 2100}, True),
        ({f"a{number}": 1 for number in range(150)}, False),
        ({f"a{number}": 1 for number in range(250)}, True),
        ({"a": "\U0001f600" * 160}, False),
        ({"a": "\U0001f600" * 180}, True),
        ([1] * 500, False),
        ([1] * 800, True),
    ],
)
def test_all_arguments_are_shown_in_2_kib_or_on_the_page(whole: Any, cut: bool) -> None:
    asked = record(shown=(("$", canonical(whole)),), bound=None)
    card = card_of(asked, T0)
    assert (card.page_only, card.shown[0].cut) == (cut, cut)
    assert len(card.shown[0].text) <= 2048
    page = card_of(asked, T0, PAGE)
    assert not page.page_only
    assert json.loads(page.shown[0].exact or page.shown[0].text) == whole


def test_a_long_reason_is_cut_without_further_ado() -> None:
    card = card_of(record(agent_reason="because " * 60), T0)
    assert card.reason_cut
    assert len(card.reason) == CHANNEL
    assert not card.page_only


def test_the_page_shows_the_largest_values_there_can_be_whole() -> None:
    most = Limits().value_bytes
    card = card_of(
        record(shown=(("$.a", canonical("\U0001f600" * (most // 12))), ("$.b", canonical("\0" * (most // 6))))),
        T0,
        PAGE,
    )
    assert not any(value.cut for value in card.shown)


def test_durations_never_widen_and_the_default_is_there() -> None:
    card = card_of(record(duration=20 * MINUTE, max_duration=None), T0)
    assert [(one.text, one.default) for one in card.durations] == [
        ("5 minutes", False),
        ("15 minutes", False),
        ("20 minutes", True),
    ]
