"""Whatever a request holds, Slack takes it, and nobody approves there what is not shown whole."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from openmcp.sidecar.approvals.card import card_of
from openmcp.sidecar.approvals.channels.slackblocks import chosen, dialogue, fits, message
from openmcp.sidecar.approvals.fingerprint import canonical
from openmcp.sidecar.state.lifecycle import voted
from openmcp.sidecar.state.records import ApprovalRecord, Choice, Need
from tests.contracts.requests import HOUR, NOW, request, yes
from tests.fakes.blockkit import message_faults, view_faults

TEXTS = st.text(max_size=500) | st.sampled_from(["", " ", "\x00", "<!here>", "x" * 4000, "\u202e", "\ud800", "é" * 400])
LABELS = TEXTS | st.sampled_from(["$", "inputResponses"])
VALUES = st.lists(
    st.tuples(LABELS, TEXTS.map(lambda text: msgspec.json.encode(text.encode("utf-8", "replace").decode()).decode())),
    max_size=40,
).map(tuple)


@st.composite
def records(draw: st.DrawFn) -> ApprovalRecord:
    """Requests of every kind and size."""
    names = tuple(f"slack:U{number:03}" for number in range(draw(st.integers(1, 60))))
    need = Need(policy=draw(TEXTS), rule=draw(TEXTS), workflow=draw(TEXTS), approvers=names, required=len(names))
    record = request(
        agent=draw(TEXTS),
        identified_by=draw(TEXTS),
        server=draw(TEXTS),
        method=draw(TEXTS),
        name=draw(TEXTS),
        needs=(need,) * draw(st.integers(1, 30)),
        why=tuple(draw(st.lists(TEXTS, max_size=30))),
        shown=draw(VALUES),
        bound=draw(st.none() | VALUES),
        agent_reason=draw(TEXTS),
        max_duration=draw(st.none() | st.integers(1, 1000 * HOUR)),
        max_uses=draw(st.none() | st.integers(1, 10**9)),
    )
    for name in names[: draw(st.integers(0, len(names)))]:
        record = voted(record, record.rid, yes(name, reason=draw(TEXTS), duration=draw(st.none() | st.just(HOUR))), NOW)
    return record


@given(record=records(), link=st.sampled_from(["", "https://approvals.example/requests/apr_x"]))
def test_slack_takes_it(record: ApprovalRecord, link: str) -> None:
    card = card_of(record, NOW)
    made = message(card, link)
    assert message_faults(made.blocks) == []
    for choice in Choice:
        assert view_faults(dialogue(card, choice, need_reason=True, metadata="{}")) == []
    assert made.page_only == (not fits(card))


WIDE = "v" * 250


@pytest.mark.parametrize(
    ("shown", "bound", "whole"),
    [
        pytest.param(10, 5, True, id="some"),
        pytest.param(18, 1, False, id="too much to show"),
        pytest.param(1, 15, False, id="too much to be bound to"),
        pytest.param(21, 1, False, id="too many"),
    ],
)
def test_what_is_too_much_for_a_message_is_left_to_the_page(shown: int, bound: int, whole: bool) -> None:
    text = "x" if shown > 20 else WIDE
    values = tuple((f"$.a{number}", msgspec.json.encode(text).decode()) for number in range(shown))
    held = tuple((f"$.a{number}", msgspec.json.encode([WIDE]).decode()) for number in range(bound))
    card = card_of(request(shown=values, bound=held), NOW)
    assert not card.page_only
    assert fits(card) is whole
    assert message(card, "").page_only is not whole


@pytest.mark.parametrize(("size", "whole"), [(1900, True), (2100, False)])
def test_all_arguments_are_in_a_message_whole_or_not_approved_there(size: int, whole: bool) -> None:
    shown = (("$", canonical({"a": "x" * size, "b": 1})), ("inputResponses", canonical({"q": {"c": 2}})))
    card = card_of(request(shown=shown, bound=None), NOW)
    made = message(card, "")
    assert message_faults(made.blocks) == []
    texts = [block["text"]["text"] for block in made.blocks if block["type"] == "section" and "text" in block]
    assert any(text.endswith('x",\n  "b": 1\n}') for text in texts) is whole
    assert any(text.endswith('{\n  "q": {"c": 2}\n}') for text in texts)
    assert made.page_only is not whole


@given(record=records())
def test_who_approves_there_has_seen_all_that_the_grant_is_bound_to(record: ApprovalRecord) -> None:
    card = card_of(record, NOW)
    view = dialogue(card, Choice.APPROVE, need_reason=False, metadata="{}")
    if fits(card):
        assert view["blocks"][0]["text"]["text"] == card.granted.sentence
        for value in card.granted.values or ():
            assert value.text in card.granted.sentence


@given(
    st.recursive(
        st.none() | st.text(max_size=3) | st.integers(),
        lambda one: (
            st.lists(one)
            | st.dictionaries(st.sampled_from(["reason", "duration", "uses", "value", "selected_option"]), one)
        ),
        max_leaves=8,
    )
)
def test_any_state_of_a_dialogue_is_read(values: object) -> None:
    said = chosen(values if isinstance(values, dict) else {})
    assert all(isinstance(text, str) for text in said)
